"""Comparing two models on the same records: from their tables of predictions to differences, p values and a page."""

# Shapes: N records, C classes
from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.patients import patients_of
from mrm.evaluation.predictions import pair, read_dice, read_predictions, same_order, same_patients
from mrm.pages.comparison import TITLES, write_comparison_page
from mrm.runs.output_lock import alone_in
from mrm.statistics import comparison, ranking
from mrm.statistics.comparison import Comparison
from mrm.system.errors import RecordError
from mrm.system.files import read_json, write_json
from mrm.system.tables import read_csv_rows
from mrm.system.text_table import p_cell, text_table

DICE = ("dice_positive", "dice_published")
Compared = dict[str, dict[str, Comparison]]  # class: measure: comparison


@alone_in("out")
def compare(first: Path, second: Path, out: Path, draws: int = 2000, seed: int = 0) -> Compared:
    """Compare two `predictions.csv` (or two `images.csv`) of the same records. Writes `comparison.json` and a page.

    Returns the comparisons. Raises RecordError for files of different kinds or of different records.
    """
    first, second = table_at(first), table_at(second)
    kind = kind_of_table(first)
    if kind_of_table(second) != kind:
        raise RecordError(f"{first} holds {kind}, {second} holds {kind_of_table(second)}; they cannot be compared")
    compare_tables = compare_findings if kind == "predictions" else compare_masks
    compared, facts = compare_tables(first, second, draws, seed)
    facts = {"first": str(first), "second": str(second), "draws": draws, "seed": seed, **facts}
    facts["overlap"] = {"first": overlap_beside(first), "second": overlap_beside(second)}
    classes = {name: {m: difference.to_dict() for m, difference in by.items()} for name, by in compared.items()}
    write_json(Path(out) / "comparison.json", {**facts, "classes": classes})
    write_comparison_page(out, facts, compared)
    print(table(compared, facts))
    return compared


def overlap_beside(table: Path) -> list[str]:
    """The overlap of these records with the model's training that `mrm evaluate` wrote to results.json beside its table."""
    results = table.with_name("results.json")
    if not results.is_file():
        return [
            "there is no results.json beside its table, so overlap of its training with these records cannot be ruled out"
        ]
    try:
        overlap = read_json(results).get("overlap") or []
        return [str(line) for line in overlap]
    except (AttributeError, OSError, TypeError, ValueError) as error:
        raise RecordError(
            f"{results}: not the results of a test, or damaged ({error}); evaluate the model again"
        ) from error


def table_at(path: Path) -> Path:
    """The table at `path`: the file itself, or the one in a folder that `mrm evaluate` wrote. Raises RecordError."""
    if path.is_dir():
        for name in ("predictions.csv", "images.csv"):
            if (path / name).is_file():
                return path / name
        raise RecordError(f"{path}: no predictions.csv or images.csv in it; make one with `mrm evaluate`")
    if not path.is_file():
        raise RecordError(f"{path}: no such file; make one with `mrm evaluate`")
    return path


def kind_of_table(path: Path) -> str:
    """'images' if the header is that of a segmenter's test, else 'predictions'; its reader refuses anything else."""
    header, _ = read_csv_rows(path)
    return "images" if header[:2] == ["name", "class"] else "predictions"


def compare_findings(first: Path, second: Path, draws: int, seed: int) -> tuple[Compared, dict[str, Any]]:
    """AUROC by DeLong and by bootstrap, and average precision by bootstrap, for each class; and the mean of all."""
    p = pair(read_predictions(first), read_predictions(second), (str(first), str(second)))
    arrays = p.labels_NC, p.first_NC, p.second_NC
    by_bootstrap = {
        m: comparison.compare(*arrays, p.classes, m, p.patients, draws, seed) for m in ranking.RANKING_METRICS
    }
    by_delong = [
        comparison.delong_test(p.labels_NC[:, c], p.first_NC[:, c], p.second_NC[:, c], p.patients)
        for c in range(len(p.classes))
    ]
    corrected = comparison.holm([delong.p for delong in by_delong])
    compared = {"mean": {metric: by_class["mean"] for metric, by_class in by_bootstrap.items()}}
    for c, name in enumerate(p.classes):
        delong = replace(by_delong[c], p_holm=float(corrected[c]))
        compared[name] = {"delong": delong, **{metric: by_class[name] for metric, by_class in by_bootstrap.items()}}
    facts = {
        "kind": "predictions",
        "n": len(p.names),
        **patients_of(p.names, p.patients).facts(),
        "left_out": list(p.left_out),
    }
    return compared, facts


def compare_masks(first: Path, second: Path, draws: int, seed: int) -> tuple[Compared, dict[str, Any]]:
    """Dice by permutation of signs, for each class: of images with a lesion, and as published."""
    first_dice, second_dice = read_dice(first), read_dice(second)
    if set(first_dice) != set(second_dice):
        raise RecordError(f"{first} has the classes {', '.join(first_dice)}, {second} {', '.join(second_dice)}")
    compared: Compared = {}
    for name, one in first_dice.items():
        other, titles = second_dice[name], (f"{first}, {name}", f"{second}, {name}")
        order = same_order(one.names, other.names, titles)
        patients = same_patients(one.names, one.patients, [other.patients[i] for i in order], titles)
        compared[name] = {}
        for measure, first_N, second_N in (
            ("dice_positive", one.positive_N, other.positive_N[order]),
            ("dice_published", one.published_N, other.published_N[order]),
        ):
            if (np.isnan(first_N) != np.isnan(second_N)).any():
                raise RecordError(f"{first} and {second} do not agree which images show {name}: other masks?")
            compared[name][measure] = comparison.sign_flip_test(
                first_N, second_N, patients, draws=max(draws, 10_000), seed=seed
            )
    for measure in DICE:
        corrected = comparison.holm([compared[name][measure].p for name in compared])
        for name, p in zip(compared, corrected, strict=True):
            compared[name][measure] = replace(compared[name][measure], p_holm=float(p))
    facts = patients_of(one.names, patients).facts()
    return compared, {"kind": "images", "n": len(one.names), **facts, "left_out": []}


def table(compared: Compared, facts: dict[str, Any]) -> str:
    """Every difference, as text to print."""
    lines = [f"first {facts['first']}", f"second {facts['second']}", "difference: first less second", ""]
    head = ("measure", "first", "second", "diff.", "95 % interval", "p", "p (Holm)", "detectable")
    for name, measures in compared.items():
        size = next(iter(measures.values())).difference.size
        rows = [[TITLES[measure], *_cells(one)] for measure, one in measures.items()]
        lines += [f"{name} ({size})", text_table(head, rows), ""]
    lines += [f"the {which} model: {line}" for which, overlap in facts["overlap"].items() for line in overlap]
    if facts["left_out"]:
        lines.append(f"left out, since one model lacks them: {', '.join(facts['left_out'])}")
    return "\n".join(lines)


def _cells(one: Comparison) -> list[str]:
    """The cells of a comparison; empty where there is no number."""
    difference = one.difference
    if not difference.defined:
        return ["", "", "undefined", difference.note, "", "", ""]
    values = [f"{one.first:.3f}", f"{one.second:.3f}", f"{difference.value:+.3f}"]
    if not math.isfinite(difference.low):
        return [*values, difference.note or "no interval", "", "", ""]
    interval = f"{difference.low:+.3f} to {difference.high:+.3f}"
    detectable = one.minimum_detectable_difference
    smallest = f"{detectable:.3f}" if math.isfinite(detectable) else ""
    return [*values, interval, p_cell(one.p), p_cell(one.p_holm), smallest]
