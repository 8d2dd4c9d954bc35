"""What a probe found: AUROC by method, model and share of labels, with intervals, as a table and as curves."""

# Shapes: N records, C classes, S seeds
from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.records import Records
from mrm.pages.figures import Curve
from mrm.runs.encoder_facts import encoder_facts
from mrm.runs.kept_models import read_arrays
from mrm.runs.probe_plan import FLOOR, RANDOM, ProbeConfig, Unit
from mrm.runs.probe_units import unit_file
from mrm.statistics import seeds
from mrm.statistics.comparison import holm
from mrm.statistics.intervals import Estimate, finite_or_none
from mrm.system.text_table import WIDTH, estimate_cells, p_cell, text_table

INTERVAL = (
    "95 %: test patients are drawn with replacement (the same draws for all seeds and models); to the mean over seeds in "
    "each draw is added s / sqrt(S) times a draw of Student's t with S - 1 degrees of freedom, s the deviation over the S "
    "seeds, each of which draws its own labels. With one seed, test patients alone."
)
Key = tuple[str, str, float]  # method, model, share of the labels


def summarise(
    config: ProbeConfig,
    records: Mapping[str, Records],
    models: Mapping[str, Path | None],
    subsets_by_seed: Mapping[int, Mapping[float, np.ndarray]],
    units: Sequence[Unit],
    leaks: Sequence[str],
) -> dict[str, Any]:
    """Every row of the table: AUROC over seeds with its interval, and the difference from the first model."""
    arrays = {unit: read_arrays(unit_file(config, unit)) for unit in units}
    readable = np.ones(len(records["test"]), bool)
    for unit_arrays in arrays.values():  # the same records for all models, else they cannot be paired
        readable &= ~np.isnan(unit_arrays["scores"]).any(axis=1)
    tested = records["test"].select(np.flatnonzero(readable))
    groups = grouped(units)
    scores = {key: np.stack([arrays[unit]["scores"][readable] for unit in group]) for key, group in groups.items()}
    first, rows = next(iter(models)), []
    for key, group in groups.items():
        row = row_of(key, [arrays[unit] for unit in group], tested.classes)
        indices = [subsets_by_seed[unit.seed][unit.fraction] for unit in group]
        row["records"] = [len(chosen) for chosen in indices]
        row["positives"] = positives(records["train"], indices)
        row |= aurocs(key, scores, tested, first, config.draws)
        rows.append(row)
    correct_for_all(rows)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
    return {
        "settings": settings,
        "models": {name: str(path) if path else RANDOM for name, path in models.items()},
        "encoders": encoder_facts(models),
        "classes": list(tested.classes),
        "n": {name: len(part) for name, part in records.items()} | {"tested": len(tested)},
        "patients": {name: part.known_patients.count for name, part in records.items()},
        "patients_unknown": {name: part.known_patients.unknown for name, part in records.items()},
        "overlap": list(leaks),
        "interval": INTERVAL,
        "rows": rows,
    }


def grouped(units: Sequence[Unit]) -> dict[Key, list[Unit]]:
    """The units that differ only by seed."""
    groups: dict[Key, list[Unit]] = {}
    for unit in units:
        groups.setdefault((unit.method, unit.model, unit.fraction), []).append(unit)
    return groups


def row_of(key: Key, arrays: Sequence[Mapping[str, np.ndarray]], classes: Sequence[str]) -> dict[str, Any]:
    """What the units of one row have noted, seed by seed."""
    method, model, fraction = key
    return {
        "method": method,
        "model": model,
        "fraction": fraction,
        "seeds": len(arrays),
        "settings": [finite(unit["setting"]) for unit in arrays],
        "val_auroc": [finite(unit["val_auroc"]) for unit in arrays],
        "untaught": sorted({classes[c] for unit in arrays for c in unit["untaught"]}),
        "notes": sorted({str(unit["note"]) for unit in arrays} - {""}),
    }


def aurocs(
    key: Key, scores: Mapping[Key, np.ndarray], tested: Records, first: str, draws: int
) -> dict[str, dict[str, Any]]:
    """AUROC over seeds; and for an encoder other than the first, the paired difference of the first and this one."""
    method, model, fraction = key
    arguments: dict[str, Any] = {"groups": tested.patients, "draws": draws}
    labels_NC, classes = tested.labels_NC, tested.classes
    auroc = seeds.auroc_over_seeds(labels_NC, scores[key], classes, **arguments)
    values = {"auroc": {name: estimate.to_dict() for name, estimate in auroc.items()}}
    if model != first:
        of_first = scores["linear" if method == FLOOR else method, first, fraction]
        gaps = seeds.difference_over_seeds(labels_NC, of_first, scores[key], classes, **arguments)
        values["first_less_this"] = {name: gap.to_dict() for name, gap in gaps.items()}
    return values


def correct_for_all(rows: Sequence[dict[str, Any]]) -> None:
    """Give each difference its p value corrected by Holm for all of the table: those of the mean, and those of findings."""
    gaps = [(name, gap) for row in rows for name, gap in row.get("first_less_this", {}).items()]
    for family in ([gap for name, gap in gaps if name == "mean"], [gap for name, gap in gaps if name != "mean"]):
        corrected = holm([math.nan if gap["p"] is None else gap["p"] for gap in family])
        for gap, p in zip(family, corrected, strict=True):
            gap["p_holm"] = finite_or_none(p)


def positives(train: Records, indices: Sequence[np.ndarray]) -> dict[str, list[int]]:
    """Positive training records of each class, for each seed."""
    labels_NC = train.labels_NC
    counts = [(labels_NC[chosen] == 1).sum(axis=0).tolist() for chosen in indices]
    return {name: [count[c] for count in counts] for c, name in enumerate(train.classes)}


def finite(value: np.ndarray) -> float | None:
    """A number for JSON."""
    return float(value) if math.isfinite(float(value)) else None


def curves(results: Mapping[str, Any]) -> list[Curve]:
    """The mean AUROC of each method and model by share of labels, for the plot and the page."""
    points: dict[tuple[str, str], list[tuple[float, Estimate]]] = {}
    for row in results["rows"]:
        mean: dict[str, Any] = dict(row["auroc"]["mean"])
        mean |= {end: math.nan for end in ("value", "low", "high") if mean[end] is None}
        points.setdefault((row["method"], row["model"]), []).append((row["fraction"], Estimate(**mean)))
    return [Curve(method, model, tuple(pairs)) for (method, model), pairs in points.items()]


def table(results: Mapping[str, Any]) -> str:
    """Mean AUROC of every method, model and share, as text to print."""
    rows = []
    for row in results["rows"]:
        n = round(sum(row["records"]) / len(row["records"]))
        share = f"{100 * row['fraction']:g} %"
        mean = estimate_cells(row["auroc"]["mean"])[:2]
        rows.append([row["method"], row["model"], share, f"{n:,}", str(row["seeds"]), *mean, *_difference_cells(row)])
    head = (
        *("method", "encoder", "labels", "n", "seeds", "AUROC", "95 % interval"),
        *("first less", "95 % interval", "p (Holm)"),
    )
    tested = f"{results['n']['tested']:,} test records, {len(results['classes'])} classes"
    note = textwrap.fill(f"{tested}; intervals: {results['interval']}", WIDTH)
    return f"{text_table(head, rows, text_columns=2)}\n{note}"


def _difference_cells(row: Mapping[str, Any]) -> list[str]:
    """The difference of the first encoder and this one, its interval and its corrected p value; empty where there is none."""
    compared = row.get("first_less_this", {}).get("mean")
    gap = compared["difference"] if compared else {"low": None}
    if gap["low"] is None:
        return ["", "", ""]
    return [f"{gap['value']:+.3f}", f"{gap['low']:+.3f} to {gap['high']:+.3f}", p_cell(compared["p_holm"])]
