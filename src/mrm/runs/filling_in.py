"""Blanks of a report filled in by a pre-trained model, and sentences that do not fit the image."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from mrm.data import images
from mrm.data.finding_files import records_at
from mrm.data.reports import Tokenizer
from mrm.inference import report_filling
from mrm.inference.report_filling import Blank, SentenceScore
from mrm.models import model_folder
from mrm.models.mrm import MRM
from mrm.runs.output_lock import alone_on
from mrm.runs.reading_options import device_named
from mrm.system.errors import ImageError, ReportError, RunError
from mrm.system.files import is_file, write_json

MAX_OTHERS = 64  # images of other patients that are compared with
MAX_BYTES = 1_000_000  # of a report file


@alone_on("json")
def fill_in(
    model: Path,
    image: Path,
    report: str,
    top: int = 5,
    others: Sequence[Path] = (),
    tokenizer: Path | None = None,
    json: Path | None = None,
    device: str = "auto",
) -> list[Blank]:
    """Fill in the blanks of a report (a file or the text itself), print the words, and write them to `json` if given.

    Raises ReportError for a text without blanks or with too many of them, RunError and ImageError.
    """
    network, text = load_mrm(model, tokenizer, device), report_text(report)
    blanks = report_filling.fill_in(network, images.read(image), text, top, other_images(others, image))
    print(blanks_table(text, blanks))
    if json:
        write_json(json, {"text": text, "blanks": [asdict(blank) for blank in blanks]})
    return blanks


@alone_on("json")
def surprise(
    model: Path,
    image: Path,
    report: str,
    others: Sequence[Path] = (),
    seed: int = 0,
    tokenizer: Path | None = None,
    json: Path | None = None,
    device: str = "auto",
) -> tuple[SentenceScore, list[SentenceScore]]:
    """Score a report and its sentences against other images, print the scores, write them to `json` if given.

    Raises ReportError for a text without words that the model knows, RunError and ImageError.
    """
    network, text = load_mrm(model, tokenizer, device), report_text(report)
    contexts_CIR = report_filling.contexts(network, images.read(image), other_images(others, image))
    words = report_filling.read_words(network, contexts_CIR, text, seed=seed)
    whole = report_filling.whole(words, text)
    scores = [report_filling.score_of(words, text, start, end) for start, end in report_filling.sentences(text)]
    print(surprise_table(whole, scores))
    if json:
        write_json(json, {"text": text, "report": asdict(whole), "sentences": [asdict(score) for score in scores]})
    return whole, scores


def load_mrm(path: Path, tokenizer: Path | None, device: str) -> MRM:
    """The MRM at `path`, with a tokenizer if one is given. Raises RunError for another kind of model."""
    model = model_folder.load_as(path, MRM)
    if tokenizer:
        model.tokenizer = Tokenizer.load(tokenizer)
    return model.to(device_named(device))


def report_text(report: str) -> str:
    """The text of a report file, or the text itself. Raises ReportError for a file that cannot be read as text."""
    if not is_file(report):
        if Path(report).suffix.lower() == ".txt" and not any(c.isspace() for c in report):
            raise ReportError(f"{report}: no such file; give a text file, or the text of the report itself")
        return report
    try:
        if Path(report).stat().st_size > MAX_BYTES:
            raise ReportError(f"{report}: larger than {MAX_BYTES:,} bytes, which is too large for a report")
        return Path(report).read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise ReportError(f"{report}: not a text file in UTF-8 ({error})") from error


def other_images(paths: Sequence[Path], image: Path) -> list[np.ndarray]:
    """Images to compare with, without `image` itself: at most 64, drawn at random but the same each time."""
    if not paths:
        return []
    records = [r for r in records_at(paths) if not (isinstance(r.image, Path) and r.image.resolve() == image.resolve())]
    if len(records) > MAX_OTHERS:
        chosen = np.sort(np.random.default_rng(0).permutation(len(records))[:MAX_OTHERS])
        records = [records[i] for i in chosen]
    others = []
    for record in records:
        try:
            others.append(images.read(record.image))
        except (ImageError, OSError) as error:
            warnings.warn(f"left out {record.name}: {error}", stacklevel=2)
    if not others:
        raise RunError(f"{', '.join(map(str, paths))}: none of the other images there can be read")
    return others


def blanks_table(text: str, blanks: Sequence[Blank]) -> str:
    """Each blank in its sentence, and its words with the image and without, as text to print."""
    lines = []
    for number, blank in enumerate(blanks, 1):
        before = " ".join(text[max(0, blank.start - 40) : blank.start].split())
        after = " ".join(text[blank.end : blank.end + 30].split())
        lines.append(f"{number}. ...{before} [{number}] {after}...")
        lines.append(f"   {'with the image':34}without")
        for with_image, without_image in itertools.zip_longest(blank.with_image, blank.without_image):
            lines.append(f"   {word_cell(with_image):34}{word_cell(without_image)}")
    return "\n".join(lines)


def word_cell(word: tuple[str, float] | None) -> str:
    """A word and its probability; empty for none."""
    return f"{word[0]:24} {word[1]:6.3f}" if word else ""


def surprise_table(whole: SentenceScore, scores: Sequence[SentenceScore]) -> str:
    """A line for each sentence, the most surprising first, and the whole report, as text to print."""
    lines = [f"{'surprise':>8} {'own':>7} {'without':>7} {'others':>7} {'others better':>13} {'words':>5}"]
    ordered = sorted(scores, key=lambda s: -s.surprise if s.words else math.inf)
    for score in [*ordered, replace(whole, sentence="(the whole report)")]:
        surprise = number_cell(score.surprise, 8, "+.3f")
        means = [number_cell(mean, 7, ".3f") for mean in (score.with_image, score.without_image, score.others)]
        better = number_cell(score.better, 13, ".0%")
        sentence = " ".join(score.sentence.split())
        lines.append(f"{surprise} {' '.join(means)} {better} {score.words:5}  {sentence}")
    lines.append(
        "Mean log probability of a word; a surprise above 0: other images explain the words better than this one."
    )
    return "\n".join(lines)


def number_cell(value: float, width: int, form: str) -> str:
    """A number at the right of its column; empty for NaN."""
    return "".rjust(width) if math.isnan(value) else format(value, form).rjust(width)
