"""Two models on the same records: files of predictions in; differences, p values, a page out."""

# Shapes: N records, C classes
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mrm.evaluation.predictions import pair, read_dice, read_predictions, same_order
from mrm.pages.comparison import TITLES, write_comparison_page
from mrm.statistics import comparison, ranking
from mrm.statistics.comparison import Comparison
from mrm.system.errors import RecordError
from mrm.system.files import write_json
from mrm.system.tables import read_csv_rows

DICE = ("dice_positive", "dice_published")
Compared = dict[str, dict[str, Comparison]]  # class: measure: comparison


def compare(first: Path, second: Path, out: Path, draws: int = 2000, seed: int = 0) -> Compared:
    """Compare two `predictions.csv` (or two `images.csv`) of the same records: `comparison.json` and a page.

    Raises RecordError for files of different kinds or that do not cover the same records.
    """
    paths = {name: _file(path) for name, path in (("first", first), ("second", second))}
    kinds = [kind_of_table(path) for path in paths.values()]
    if kinds[0] != kinds[1]:
        raise RecordError(f"{paths['first']} is {kinds[0]}, {paths['second']} is {kinds[1]}; they cannot be compared")
    compare_tables = compare_findings if kinds[0] == "predictions" else compare_masks
    compared, facts = compare_tables(paths["first"], paths["second"], draws, seed)
    facts = {"first": str(paths["first"]), "second": str(paths["second"]), "draws": draws, "seed": seed, **facts}
    facts["overlap"] = {which: overlap_beside(path) for which, path in paths.items()}
    plain = {c: {m: one.to_dict() for m, one in per.items()} for c, per in compared.items()}
    write_json(Path(out) / "comparison.json", {**facts, "classes": plain})
    write_comparison_page(out, facts, compared)
    print(table(compared, facts))
    return compared


def overlap_beside(table: Path) -> list[str]:
    """What `mrm evaluate` found that the model had seen of these records, from the results.json beside its table."""
    results = table.with_name("results.json")
    if not results.is_file():
        return [
            "no results.json lies beside its table, so overlap of its training with these records cannot be ruled out"
        ]
    return list(json.loads(results.read_bytes()).get("overlap") or [])


def _file(path: Path) -> Path:
    """The file itself, or the one in a folder that `mrm evaluate` wrote."""
    if path.is_dir():
        there = [path / name for name in ("predictions.csv", "images.csv") if (path / name).is_file()]
        if not there:
            raise RecordError(f"{path}: no predictions.csv or images.csv in it; make one with `mrm evaluate`")
        return there[0]
    if not path.is_file():
        raise RecordError(f"{path}: no such file; make one with `mrm evaluate`")
    return path


def kind_of_table(path: Path) -> str:
    """'predictions' or 'images', by the header; what else it is, the reader of predictions says."""
    header, _ = read_csv_rows(path)
    return "images" if header[:2] == ["name", "class"] else "predictions"


def compare_findings(first: Path, second: Path, draws: int, seed: int) -> tuple[Compared, dict[str, Any]]:
    """AUROC by DeLong and by bootstrap, and average precision by bootstrap, for each class; and the mean of all."""
    p = pair(read_predictions(first), read_predictions(second), (str(first), str(second)))
    arrays = p.labels_NC, p.first_NC, p.second_NC
    drawn = {m: comparison.compare(*arrays, p.classes, m, p.patients, draws, seed) for m in ranking.RANKING_METRICS}
    by_delong = [
        comparison.delong_test(p.labels_NC[:, c], p.first_NC[:, c], p.second_NC[:, c], p.patients)
        for c in range(len(p.classes))
    ]
    corrected = comparison.holm([one.p for one in by_delong])
    compared = {"mean": {metric: found["mean"] for metric, found in drawn.items()}}
    for c, name in enumerate(p.classes):
        delong = replace(by_delong[c], p_holm=float(corrected[c]))
        compared[name] = {"delong": delong, **{metric: found[name] for metric, found in drawn.items()}}
    facts = {
        "kind": "predictions",
        "n": len(p.names),
        "patients": len(set(p.patients)) if p.patients else None,
        "left_out": list(p.left_out),
    }
    return compared, facts


def compare_masks(first: Path, second: Path, draws: int, seed: int) -> tuple[Compared, dict[str, Any]]:
    """Dice by permutation of signs, for each class: of images with a lesion, and as published."""
    one, other = read_dice(first), read_dice(second)
    if set(one) != set(other):
        raise RecordError(f"{first} has the classes {', '.join(one)}, {second} {', '.join(other)}")
    compared: Compared = {}
    for name in one:
        order = same_order(one[name][0], other[name][0], (f"{first}, {name}", f"{second}, {name}"))
        compared[name] = {}
        for measure, mine, unordered in zip(DICE, one[name][1:], other[name][1:], strict=True):
            theirs = unordered[order]
            if ((mine == mine) != (theirs == theirs)).any():
                raise RecordError(f"{first} and {second} do not agree which images show {name}: other masks?")
            compared[name][measure] = comparison.sign_flip_test(mine, theirs, draws=max(draws, 10_000), seed=seed)
    for measure in DICE:
        corrected = comparison.holm([compared[name][measure].p for name in compared])
        for name, p in zip(compared, corrected, strict=True):
            compared[name][measure] = replace(compared[name][measure], p_holm=float(p))
    n = len(next(iter(one.values()))[0])
    return compared, {"kind": "images", "n": n, "patients": None, "left_out": []}


def table(compared: Compared, facts: dict[str, Any]) -> str:
    """Every difference, to print."""
    lines = [f"first {facts['first']}", f"second {facts['second']}", "difference: first less second"]
    for name, per in compared.items():
        for measure, one in per.items():
            values = f"{one.first:.3f} {one.second:.3f}" if one.difference.defined else "-     -    "
            lines.append(f"{name:24} {TITLES[measure]:32} {values} {one}")
    lines += [f"the {which} model: {line}" for which, found in facts["overlap"].items() for line in found]
    if facts["left_out"]:
        lines.append(f"left out, since one model lacks them: {', '.join(facts['left_out'])}")
    return "\n".join(lines)
