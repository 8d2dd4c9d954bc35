"""Conformal sets: of each finding "present", "absent", both or neither, right for a stated share of patients of either kind.

Positives and negatives are calibrated apart, so the share holds among records with the finding and among those without it
(label-conditional conformal prediction; Vovk 2012, arXiv:1209.2673). For a coverage c, "present" is in the set of a record if
its probability is at least the one that a share c of the positives reach; "absent" if it is at most the one that a share c of
the negatives stay below. The ranking alone decides, so a temperature changes nothing.

Records of one patient are not independent: the share is over patients, each of whom counts as one, with weights 1 / m for m
records, and one more patient of unknown probability is added (hierarchical conformal prediction; Lee, Barber and Willett 2023,
arXiv:2306.06342). With fewer than c / (1 - c) patients of a kind no cut is low enough, and the label is in every set.

Shapes: N records, G patients.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mrm.statistics.intervals import Array, Bootstrap, Estimate, wilson
from mrm.statistics.ranking import check_pair

ROUNDING = 1e-9  # ten weights of 0.1 reach 1 despite rounding


@dataclass(frozen=True)
class Cuts:
    """ "present" is in a set from this probability on, "absent" up to that one; 0 and 1 where nothing can be excluded."""

    present_from: float
    absent_to: float

    def contains(self, labels_N: Array, probabilities_N: Array) -> Array:
        """Whether the set of each record holds its label (N,), NaN for labels that are not stated."""
        held_N = np.where(labels_N == 1, probabilities_N >= self.present_from, probabilities_N <= self.absent_to)
        return np.where(np.isnan(labels_N), np.nan, held_N)


@dataclass(frozen=True)
class SetCoverage:
    """How often sets held the label among records with the finding and without it, and how often they named one label."""

    positives: Estimate
    negatives: Estimate
    single: Estimate

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {name: estimate.to_dict() for name, estimate in vars(self).items()}


def fit_cuts(labels: ArrayLike, probabilities: ArrayLike, groups: Iterable[Hashable] | None, coverage: float) -> Cuts:
    """The cuts for a coverage from labels (N,), probabilities (N,) and patients (N,) of calibration records.

    Raises ValueError for wrong lengths, labels, probabilities or groups, and a coverage outside 0 to 1.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"a coverage must be above 0 and below 1, not {coverage:g}")
    labels_N, probabilities_N = check_pair(labels, probabilities, probabilities=True)
    group_N = Bootstrap.from_groups(groups, len(labels_N), draws=0).group_N
    cuts = []
    for value, sign in ((1, -1.0), (0, 1.0)):
        mask_N = labels_N == value
        cuts.append(sign * _cut(sign * probabilities_N[mask_N], group_N[mask_N], coverage))
    present, absent = cuts
    return Cuts(max(present, 0.0), min(absent, 1.0))


def _cut(scores_M: Array, group_M: np.ndarray, coverage: float) -> float:
    """The smallest score that a share of the patients and one more stay at or below; infinite if they are too few."""
    patients, place_M, count_G = np.unique(group_M, return_inverse=True, return_counts=True)
    weight_M = 1 / (count_G[place_M] * (len(patients) + 1))
    order = np.argsort(scores_M, kind="stable")
    reached = np.flatnonzero(np.cumsum(weight_M[order]) >= coverage - ROUNDING)
    return float(scores_M[order][reached[0]]) if len(reached) else math.inf


def fewest_patients(coverage: float) -> int:
    """How many patients of a kind are needed for a cut that excludes anything."""
    return math.ceil(coverage / (1 - coverage) - ROUNDING)


def set_coverage(labels_N: Array, probabilities_N: Array, cuts: Cuts, groups: Iterable[Hashable] | None) -> SetCoverage:
    """How often the sets of test records hold their labels, with Wilson intervals by patient."""
    bootstrap = Bootstrap.from_groups(groups, len(labels_N))
    held_N = cuts.contains(labels_N, probabilities_N)
    positives = int((labels_N == 1).sum())

    def share(hits_N: Array, mask_N: np.ndarray, count: int) -> Estimate:
        if not mask_N.any():
            return Estimate.undefined(0, count, "no such records")
        return wilson(hits_N[mask_N].astype(np.float64), count, bootstrap.of(mask_N))

    single_N = (probabilities_N >= cuts.present_from) != (probabilities_N <= cuts.absent_to)
    stated_N = ~np.isnan(labels_N)
    return SetCoverage(
        share(held_N, labels_N == 1, positives), share(held_N, labels_N == 0, 0), share(single_N, stated_N, positives)
    )
