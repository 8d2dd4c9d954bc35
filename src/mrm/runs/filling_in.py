"""Blanks of a report filled in by a pre-trained model, and sentences that do not fit the image."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from mrm.data import images
from mrm.data.finding_files import records_at
from mrm.inference import report_filling
from mrm.inference.report_filling import Blank, SentenceScore
from mrm.runs.reconstructing import load_mrm
from mrm.system.errors import ImageError, ReportError, RunError
from mrm.system.files import write_json

MAX_OTHERS = 64  # other images that are looked at
MAX_BYTES = 1_000_000  # of a file with a report


def fill_in(
    model: Path,
    image: Path,
    report: str,
    top: int = 5,
    others: Sequence[Path] = (),
    tokenizer: Path | None = None,
    json: Path | None = None,
) -> list[Blank]:
    """Fill in the blanks of a report (a file, or the text itself), print the words, write them to `json` if given.

    Raises ReportError for a text without blanks or with too many, RunError and ImageError.
    """
    network, text = load_mrm(model, tokenizer), report_text(report)
    blanks = report_filling.fill_in(network, images.read(image), text, top, other_images(others, image))
    print(blanks_table(text, blanks))
    if json:
        write_json(json, {"text": text, "blanks": [asdict(blank) for blank in blanks]})
    return blanks


def surprise(
    model: Path,
    image: Path,
    report: str,
    others: Sequence[Path] = (),
    seed: int = 0,
    tokenizer: Path | None = None,
    json: Path | None = None,
) -> tuple[SentenceScore, list[SentenceScore]]:
    """Score a report and its sentences against other images, print the scores, write them to `json` if given.

    Raises ReportError for a text without words that the model knows, RunError and ImageError.
    """
    network, text = load_mrm(model, tokenizer), report_text(report)
    contexts_CR = report_filling.contexts(network, images.read(image), other_images(others, image))
    reading = report_filling.read_words(network, contexts_CR, text, seed=seed)
    whole = report_filling.whole(reading, text)
    scores = [report_filling.score_of(reading, text, start, end) for start, end in report_filling.sentences(text)]
    print(surprise_table(whole, scores))
    if json:
        found = {"text": text, "report": asdict(whole), "sentences": [asdict(score) for score in scores]}
        write_json(json, found)
    return whole, scores


def report_text(given: str) -> str:
    """The text of a report file, or the text itself. Raises ReportError for a file that is none, or no text."""
    try:
        path = Path(given)
        if not path.is_file():
            if path.suffix.lower() == ".txt" and not any(c.isspace() for c in given):
                raise ReportError(f"{given}: no such file; give a text file, or the text of the report itself")
            return given
    except (OSError, ValueError) as error:  # too long for a name, or with a NUL: a text
        if isinstance(error, ReportError):
            raise
        return given
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ReportError(f"{given}: more than {MAX_BYTES:,} bytes, which is no report")
        return path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise ReportError(f"{given}: not a text file in UTF-8 ({error})") from error


def other_images(paths: Sequence[Path], own: Path) -> list[np.ndarray]:
    """Other images, 64 of them at the most (drawn, the same each time), without the own file."""
    if not paths:
        return []
    records = [r for r in records_at(paths) if not (isinstance(r.image, Path) and r.image.resolve() == own.resolve())]
    if len(records) > MAX_OTHERS:
        chosen = np.sort(np.random.default_rng(0).permutation(len(records))[:MAX_OTHERS])
        records = [records[i] for i in chosen]
    found = []
    for record in records:
        try:
            found.append(images.read(record.image))
        except (ImageError, OSError) as error:
            warnings.warn(f"left out {record.name}: {error}", stacklevel=2)
    if not found:
        raise RunError(f"{', '.join(map(str, paths))}: no other image in it that can be read")
    return found


def blanks_table(text: str, blanks: Sequence[Blank]) -> str:
    """Each blank in its sentence, and its words with the image and without."""
    lines = []
    for number, blank in enumerate(blanks, 1):
        before, after = text[max(0, blank.start - 40) : blank.start], text[blank.end : blank.end + 30]
        lines += [f"{number}. ...{' '.join(before.split())} [{number}] {' '.join(after.split())}..."]
        lines += [f"   {'with the image':34}without"]
        for i in range(max(len(blank.with_image), len(blank.without_image))):
            cells = [
                f"{w[i][0]:24} {w[i][1]:6.3f}" if i < len(w) else "" for w in (blank.with_image, blank.without_image)
            ]
            lines += [f"   {cells[0]:34}{cells[1]}"]
    return "\n".join(lines)


def surprise_table(whole: SentenceScore, scores: Sequence[SentenceScore]) -> str:
    """A line for each sentence, the most surprising first, and the whole report."""
    lines = [f"{'surprise':>8} {'own':>7} {'without':>7} {'others':>7} {'others better':>13} {'words':>5}"]
    ordered = sorted(scores, key=lambda s: -s.surprise if s.words else math.inf)
    for score in [*ordered, replace(whole, sentence="(the whole report)")]:
        cells = [score.surprise, score.with_image, score.without_image, score.others]
        shown = " ".join(f"{c:{'+' if i == 0 else ''}{8 if i == 0 else 7}.3f}" if c == c else " " * (7 + (i == 0)) for i, c in enumerate(cells))  # fmt: skip
        better = f"{score.better:13.0%}" if score.better == score.better else " " * 13
        lines.append(f"{shown} {better} {score.words:5}  {' '.join(score.sentence.split())}")
    return "\n".join([*lines, "ln p a word; surprise above 0: other images explain the words better than the own one"])
