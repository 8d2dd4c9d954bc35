"""Whether a model performs equally well for women and men, for the old and the young, and at every site.

A group is small if fewer than 20 patients (records, if patients are unknown) have the finding, or fewer than 20 do not:
its value is shown with a warning, and it is left out of the gaps between groups.

Shapes: N records, C classes, G groups, B bootstrap draws.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mrm.data.records import Records
from mrm.statistics.comparison import bootstrap_p, holm
from mrm.statistics.intervals import Array, Bootstrap, Estimate, finite_or_none
from mrm.statistics.ranking import FEW, RankedScores, auroc, bootstrap_metrics, macro_mean, mean_degrees
from mrm.system.errors import RecordError
from mrm.system.tables import stated

AGES = ("age", "patientage", "ageyears", "ageinyears")  # names of a column of ages, in small letters only
BANDS = (0, 18, 40, 60, 80)  # the first year of each age band
MAX_AGE = 125  # a larger age is a mistake or a code, and counts as not stated
MAX_GROUPS = 20  # of one column
UNSTATED = "not stated"
PARTS = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}  # units of DICOM's ages (063Y, 018M) as parts of a year


@dataclass(frozen=True)
class Group:
    """One value of a column: AUROC per class and their mean over defined classes; `small` names the classes with few patients."""

    name: str
    n: int
    patients: int | None
    auroc: dict[str, Estimate]
    small: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "auroc": {c: e.to_dict() for c, e in self.auroc.items()}, "small": list(self.small)}


@dataclass(frozen=True)
class Gap:
    """The largest difference in AUROC between two groups that are not small: `better` minus `worse`.

    `p` is corrected by Holm's method over all pairs of groups, since the pair was not chosen beforehand; the interval is
    not corrected.
    """

    better: str
    worse: str
    difference: Estimate
    p: float
    pairs: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "difference": self.difference.to_dict(), "p": finite_or_none(self.p)}


@dataclass(frozen=True)
class Subgroups:
    """The performance of a model on the groups of one column; `gaps` has "mean" and the classes that can be compared."""

    column: str
    groups: tuple[Group, ...]
    gaps: dict[str, Gap]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        groups = [g.to_dict() for g in self.groups]
        return {"column": self.column, "groups": groups, "gaps": {c: g.to_dict() for c, g in self.gaps.items()}}


def values_of(records: Records, column: str) -> list[str]:
    """Each record's value of a column, with ages in bands.

    The column is `view` or any further column of the file; upper and lower case are the same. Raises RecordError for a
    column that does not exist, that has no values, or that has more than 20 different ones.
    """
    names = {k.lower(): k for r in records for k in r.extra}
    if column.lower() == "view":
        values = [r.view for r in records]
    elif column.lower() in names:
        values = [r.extra.get(names[column.lower()], "") for r in records]
    else:
        columns = ", ".join(["view", *names.values()])
        raise RecordError(f"{records.source}: no column {column!r} to group by; choose from {columns}")
    if re.sub(r"[^a-z]", "", column.lower()) in AGES:
        values = [age_band(value) for value in values]
    values = [stated(value) or UNSTATED for value in values]
    distinct = set(values) - {UNSTATED}
    if not distinct:
        raise RecordError(f"{records.source}: column {column} has no value in any tested record")
    if len(distinct) > MAX_GROUPS:
        raise RecordError(
            f"{records.source}: column {column} has {len(distinct):,} values, more than {MAX_GROUPS} groups; "
            "combine them into bands first"
        )
    return values


def age_in_years(text: str) -> float:
    """63, 63.0, 063Y or 018M in years; NaN for any other text, and for more than 125."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([YMWD]?)\s*", text.upper())
    years = float(match[1]) / PARTS.get(match[2], 1.0) if match else math.nan
    return years if years <= MAX_AGE else math.nan


def age_band(text: str) -> str:
    """The age band of an age: '40–59' for 53; '' for a text that is not an age."""
    years = age_in_years(text)
    if math.isnan(years):
        return ""
    band = max(i for i, start in enumerate(BANDS) if years >= start)
    return f"{BANDS[band]}–{BANDS[band + 1] - 1}" if band + 1 < len(BANDS) else f"{BANDS[band]} and older"


def subgroups(
    column: str,
    values_N: Sequence[str],
    labels_NC: Array,
    scores_NC: Array,
    classes: Sequence[str],
    groups: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Subgroups:
    """AUROC of labels and scores (N, C) in each group of `values_N`, with intervals, and the gaps between groups.

    Patients (`groups`, (N,)) are drawn once for all groups, so a patient with records in two groups counts in both.
    """
    bootstrap = Bootstrap.from_groups(groups, len(labels_NC), draws, seed)
    value_of_N = np.array(values_N)
    names = sorted(set(values_N), key=lambda v: (v == UNSTATED, _numeric(v), v))
    ranked = [
        [
            RankedScores(np.where(value_of_N == name, labels_NC[:, c], np.nan), scores_NC[:, c], bootstrap)
            for c in range(len(classes))
        ]
        for name in names
    ]
    drawn = bootstrap_metrics([one for row in ranked for one in row], ["auroc"], bootstrap)[:, 0]
    drawn_GCB = drawn.reshape(len(names), len(classes), draws)
    value_GC = np.array([[auroc(one.labels_N, one.scores_N) for one in row] for row in ranked])
    group_results = tuple(
        _group(name, value_of_N == name, ranked[g], value_GC[g], drawn_GCB[g], classes, bootstrap)
        for g, name in enumerate(names)
    )
    gaps = _gaps(names, ranked, value_GC, drawn_GCB, classes, bootstrap)
    return Subgroups(column, group_results, gaps)


def _gaps(names, ranked, value_GC, drawn_GCB, classes, bootstrap) -> dict[str, Gap]:
    """The widest gap between groups that are not small, for the mean ("mean") and for each class."""
    enough_GC = np.array([[not one.undefined and one.rarer_label[0] >= FEW for one in row] for row in ranked])
    stated = [g for g, name in enumerate(names) if name != UNSTATED]
    gaps = {}
    for gap_name, chosen in [("mean", list(range(len(classes)))), *((name, [c]) for c, name in enumerate(classes))]:
        pairs = [
            _pair(a, b, [c for c in chosen if enough_GC[a, c] and enough_GC[b, c]], value_GC, drawn_GCB)
            for a, b in combinations(stated, 2)
        ]
        gap = _widest([pair for pair in pairs if pair], names, ranked, chosen, bootstrap)
        if gap:
            gaps[gap_name] = gap
    return gaps


def _numeric(text: str) -> float:
    match = re.match(r"\d+", text)
    return float(match[0]) if match else math.inf


def _group(name, mask_N, ranked, value_C, drawn_CB, classes, bootstrap) -> Group:
    estimates = {c: one.estimate("auroc", drawn_CB[i]) for i, (c, one) in enumerate(zip(classes, ranked, strict=True))}
    defined = [i for i, one in enumerate(ranked) if not one.undefined]
    if defined:
        mean = macro_mean(classes, ranked, float(value_C[defined].mean()), drawn_CB[defined].mean(axis=0))
    else:
        mean = Estimate.undefined(int(mask_N.sum()), 0, "no class has both label values")
    small = tuple(c for c, one in zip(classes, ranked, strict=True) if one.undefined or one.rarer_label[0] < FEW)
    count = bootstrap.patients(mask_N & ~bootstrap.unknown_N) if bootstrap.unit == "patients" else None
    return Group(name, int(mask_N.sum()), count, {"mean": mean, **estimates}, small)


def _pair(a: int, b: int, chosen: list[int], value_GC: Array, drawn_GCB: Array) -> tuple[int, int, float, Array] | None:
    """Two groups, the better first, with the difference of their means over the chosen classes, and that of each draw."""
    if not chosen:
        return None
    gap = float(value_GC[a, chosen].mean() - value_GC[b, chosen].mean())
    gaps_B = drawn_GCB[a, chosen].mean(axis=0) - drawn_GCB[b, chosen].mean(axis=0)
    return (a, b, gap, gaps_B) if gap >= 0 else (b, a, -gap, -gaps_B)


def _widest(pairs, names, ranked, chosen, bootstrap) -> Gap | None:
    if not pairs:
        return None
    corrected = holm([bootstrap_p(gaps_B)[0] for *_, gaps_B in pairs])
    best = max(range(len(pairs)), key=lambda i: pairs[i][2])
    a, b, gap, gaps_B = pairs[best]
    both = [ranked[g][c] for g in (a, b) for c in chosen]
    used_N = np.logical_or.reduce([one.stated_N for one in both])
    positives = int(np.logical_or.reduce([one.positive_N for one in both]).sum())
    estimate = bootstrap.estimate(gap, gaps_B, used_N, positives, degrees=mean_degrees(both))
    return Gap(names[a], names[b], estimate, float(corrected[best]), len(pairs))
