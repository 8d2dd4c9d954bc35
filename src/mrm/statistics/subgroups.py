"""Does a model do as well for women as for men, for the old as for the young, at one site as at another?

A group is small where fewer than 20 patients (records, where patients are unknown) have the finding, or fewer than 20
lack it: its number is shown with a warning, and it takes no part in the gaps between groups.

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
from mrm.statistics.ranking import FEW, RankedScores, auroc, bootstrap_metrics, macro_mean
from mrm.system.errors import RecordError

AGES = ("age", "patientage", "ageyears", "ageinyears")  # what a column of ages is called, its letters alone
BANDS = (0, 18, 40, 60, 80)  # years at which a band starts
OLDEST = 125  # a larger age is a mistake or a code, and counts as not stated
MOST = 20  # groups of one column
UNSTATED = "not stated"
PARTS = {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}  # of a year, in DICOM's ages: 063Y, 018M


@dataclass(frozen=True)
class Group:
    """One value of a column: AUROC per class and their mean over defined classes; `small` names the small classes."""

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
    """The widest difference in AUROC between two groups that are not small: `better` less `worse`.

    `p` is Holm's over all pairs of groups, since the widest pair was not chosen beforehand; the interval is not
    corrected.
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
    """How a model does on the groups of one column; `gaps` has "mean" and classes where two groups can be compared."""

    column: str
    groups: tuple[Group, ...]
    gaps: dict[str, Gap]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        groups = [g.to_dict() for g in self.groups]
        return {"column": self.column, "groups": groups, "gaps": {c: g.to_dict() for c, g in self.gaps.items()}}


def values_of(records: Records, column: str) -> list[str]:
    """Each record's value of a column (`view`, or any further one of its file; capitals do not matter), ages in bands.

    Raises RecordError for a column that is not there, that has no value, or that has more than 20.
    """
    names = {k.lower(): k for r in records for k in r.extra}
    if column.lower() == "view":
        values = [r.view for r in records]
    elif column.lower() in names:
        values = [r.extra.get(names[column.lower()], "") for r in records]
    else:
        there = ", ".join(["view", *names.values()])
        raise RecordError(f"{records.source}: no column {column!r} to group by; there are {there}")
    if re.sub(r"[^a-z]", "", column.lower()) in AGES:
        values = [age_band(value) for value in values]
    values = [value.strip() or UNSTATED for value in values]
    found = set(values) - {UNSTATED}
    if not found:
        raise RecordError(f"{records.source}: column {column} has no value in any record that was tested")
    if len(found) > MOST:
        raise RecordError(
            f"{records.source}: column {column} has {len(found):,} values, more than {MOST} groups; band them first"
        )
    return values


def age_in_years(text: str) -> float:
    """63, 63.0, 063Y or 018M in years; NaN for anything else, and for more than 125."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([YMWD]?)\s*", text.upper())
    years = float(found[1]) / PARTS.get(found[2], 1.0) if found else math.nan
    return years if years <= OLDEST else math.nan


def age_band(text: str) -> str:
    """'40–59' for 53; '' for what is no age."""
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

    Patients (`groups`, (N,)) are drawn once for all groups, so a patient in two groups counts in both.
    """
    bootstrap = Bootstrap.from_groups(groups, len(labels_NC), draws, seed)
    value_of_N = np.array(values_N)
    names = sorted(set(values_N), key=lambda v: (v == UNSTATED, _numeric(v), v))
    ranked = [
        [
            RankedScores(np.where(value_of_N == name, labels_NC[:, c], np.nan), scores_NC[:, c], bootstrap)
            for c in _all(classes)
        ]
        for name in names
    ]
    drawn = bootstrap_metrics([one for row in ranked for one in row], ["auroc"], bootstrap)[:, 0]
    drawn_GCB = drawn.reshape(len(names), len(classes), draws)
    value_GC = np.array([[auroc(one.labels_N, one.scores_N) for one in row] for row in ranked])
    enough_GC = np.array([[not one.reason and one.few[0] >= FEW for one in row] for row in ranked])
    found = tuple(
        _group(name, value_of_N == name, ranked[g], value_GC[g], drawn_GCB[g], classes, bootstrap, groups is not None)
        for g, name in enumerate(names)
    )
    stated = [g for g, name in enumerate(names) if name != UNSTATED]
    gaps = {}
    for what, kept in [("mean", list(_all(classes))), *((name, [c]) for c, name in enumerate(classes))]:
        pairs = [
            _pair(a, b, [c for c in kept if enough_GC[a, c] and enough_GC[b, c]], value_GC, drawn_GCB)
            for a, b in combinations(stated, 2)
        ]
        gap = _widest([pair for pair in pairs if pair], names, ranked, kept, bootstrap)
        if gap:
            gaps[what] = gap
    return Subgroups(column, found, gaps)


def _all(classes: Sequence[str]) -> range:
    return range(len(classes))


def _numeric(text: str) -> float:
    found = re.match(r"\d+", text)
    return float(found[0]) if found else math.inf


def _group(name, mask_N, ranked, value_C, drawn_CB, classes, bootstrap, patients) -> Group:
    estimates = {c: one.estimate("auroc", drawn_CB[i]) for i, (c, one) in enumerate(zip(classes, ranked, strict=True))}
    kept = [i for i, one in enumerate(ranked) if not one.reason]
    if kept:
        mean = macro_mean(classes, ranked, float(value_C[kept].mean()), drawn_CB[kept].mean(axis=0))
    else:
        mean = Estimate.undefined(int(mask_N.sum()), 0, "no class has both label values")
    small = tuple(c for c, one in zip(classes, ranked, strict=True) if one.reason or one.few[0] < FEW)
    count = bootstrap.patients(mask_N) if patients else None
    return Group(name, int(mask_N.sum()), count, {"mean": mean, **estimates}, small)


def _pair(a: int, b: int, kept: list[int], value_GC: Array, drawn_GCB: Array) -> tuple[int, int, float, Array] | None:
    """Two groups, the better first, and the difference of their means over the classes kept, in all draws."""
    if not kept:
        return None
    gap = float(value_GC[a, kept].mean() - value_GC[b, kept].mean())
    gaps_B = drawn_GCB[a, kept].mean(axis=0) - drawn_GCB[b, kept].mean(axis=0)
    return (a, b, gap, gaps_B) if gap >= 0 else (b, a, -gap, -gaps_B)


def _widest(pairs, names, ranked, kept, bootstrap) -> Gap | None:
    if not pairs:
        return None
    corrected = holm([bootstrap_p(gaps_B)[0] for *_, gaps_B in pairs])
    best = max(range(len(pairs)), key=lambda i: pairs[i][2])
    a, b, gap, gaps_B = pairs[best]
    both = [ranked[g][c] for g in (a, b) for c in kept]
    used_N = np.logical_or.reduce([one.stated_N for one in both])
    positives = int(np.logical_or.reduce([one.positive_N for one in both]).sum())
    return Gap(
        names[a], names[b], bootstrap.estimate(gap, gaps_B, used_N, positives), float(corrected[best]), len(pairs)
    )
