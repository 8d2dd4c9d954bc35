"""AUROC of cross-validation: out-of-fold scores of several repeats pooled into one number with one interval.

A record is scored by the model of its own fold, which has not been trained on it. Scores of different models are not
comparable, and pooling them as if they were biases AUROC downwards (Forman and Scholz 2010, doi:10.1145/1882471.1882479).
So a positive is compared with the negatives of its own fold alone, and the pairs of all folds and repeats are pooled.

The interval is for the AUROC that models trained on so many records have on new patients. Its variance has two parts:

1. The variance over patients within a repeat, by DeLong's components (LeDell et al. 2015, doi:10.1214/15-EJS1035).
   Further repeats show the same patients again, so they do not divide it.
2. Every patient serves twice: to test some models, and to train the others. That links the folds, and makes the first part
   too small (Bates et al. 2023, doi:10.1080/01621459.2023.2197686). How much a patient's contribution depends on the
   training records shows in how it differs between repeats; `LINKED` times that variance is added, and more where patients
   have several records: by the square root of their mean number. With one repeat the variance is unknown, and the first
   part is doubled, which is too wide for most models.

`benchmarks/crossval_coverage.py` simulates how often these intervals hold the truth. `LINKED` and the square root were chosen
on 12 kinds of simulated sets; the benchmark draws others.

Shapes: N records, C classes, R repeats, G patients.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from mrm.statistics.comparison import NEGLIGIBLE, critical_value, unbiased_factor, win_shares
from mrm.statistics.intervals import Array, Bootstrap, Estimate
from mrm.statistics.ranking import RankedScores, check_labels, check_scores, check_table, mean_degrees

Folds = NDArray[np.intp]

LINKED = 1.9  # where a patient has one record


def cross_validated_auroc(
    labels: ArrayLike,
    scores: ArrayLike,
    folds: ArrayLike,
    classes: Sequence[str],
    groups: Iterable[Hashable] | None = None,
    against: ArrayLike | None = None,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """AUROC of each class and of their mean from out-of-fold scores: labels (N, C), scores (R, N, C), folds (R, N).

    `groups` (N,) names the patients. With another method's scores of the same folds in `against` (R, N, C) it is the
    paired difference, `scores` minus `against`. Returns {"mean": Estimate, "Effusion": ...}; a class without a fold that
    has both label values is undefined. Raises ValueError for wrong shapes, labels, scores, groups or level.
    """
    labels_NC, scores_RNC, folds_RN = check_labels(labels), check_scores(scores), np.asarray(folds, dtype=np.intp)
    others_RNC = None if against is None else check_scores(against)
    for one_RNC in (scores_RNC, *(() if others_RNC is None else (others_RNC,))):
        if one_RNC.ndim != 3 or one_RNC.shape[:2] != folds_RN.shape:
            raise ValueError(f"expected scores (R, N, C) and folds (R, N), got {one_RNC.shape} and {folds_RN.shape}")
        check_table(labels_NC, one_RNC[0], classes)
    bootstrap = Bootstrap.from_groups(groups, len(labels_NC), draws=1, level=level)
    spreads = [_Spread.of(labels_N, scores_RNC[:, :, c], folds_RN, bootstrap) for c, labels_N in enumerate(labels_NC.T)]
    if others_RNC is not None:
        pairs = zip(spreads, labels_NC.T, np.moveaxis(others_RNC, 2, 0), strict=True)
        spreads = [one.less(_Spread.of(labels_N, others_RN, folds_RN, bootstrap)) for one, labels_N, others_RN in pairs]
    paired = against is not None
    report = {"mean": _mean(classes, spreads, folds_RN, paired)}
    return report | {name: _of_class(one, folds_RN, paired) for name, one in zip(classes, spreads, strict=True)}


@dataclass(frozen=True)
class _Spread:
    """AUROC of a class, and what each patient contributes to its error in each repeat (R, G)."""

    ranked: RankedScores
    value: float
    contribution_RG: Array

    @classmethod
    def of(cls, labels_N: Array, scores_RN: Array, folds_RN: Folds, bootstrap: Bootstrap) -> "_Spread":
        """From the scores of one method."""
        repeats = [
            _contributions(labels_N, *pair, bootstrap.group_N, bootstrap.size)
            for pair in zip(scores_RN, folds_RN, strict=True)
        ]
        ranked = RankedScores(labels_N, scores_RN[0], bootstrap)
        return cls(ranked, float(np.mean([value for value, _ in repeats])), np.stack([each for _, each in repeats]))

    def less(self, other: "_Spread") -> "_Spread":
        """The paired difference from another method."""
        return _Spread(self.ranked, self.value - other.value, self.contribution_RG - other.contribution_RG)

    @property
    def undefined(self) -> str:
        """Why there is no AUROC; '' if there is one."""
        if self.ranked.undefined or math.isfinite(self.value):
            return self.ranked.undefined
        return "no fold has both positives and negatives"


def _contributions(
    labels_N: Array, scores_N: Array, fold_N: Folds, group_N: NDArray[np.intp], size: int
) -> tuple[float, Array]:
    """AUROC over the pairs within folds, and each patient's part (G,) in its error; NaN without such a pair."""
    parts = []
    for fold in np.unique(fold_N):
        positive_N, negative_N = ((fold_N == fold) & (labels_N == value) for value in (1, 0))
        if positive_N.any() and negative_N.any():
            wins_P1, wins_Q1 = win_shares(scores_N[positive_N, None], scores_N[negative_N, None])
            parts.append((positive_N, negative_N, wins_P1[:, 0], wins_Q1[:, 0]))
    pairs = sum(len(p) * len(q) for _, _, p, q in parts)
    if not pairs:
        return math.nan, np.full(size, np.nan)
    auroc, contribution_G = 0.0, np.zeros(size)
    factors = [unbiased_factor(group_N[labels_N == value]) for value in (1, 0)]
    for positive_N, negative_N, wins_P, wins_Q in parts:
        weight, of_fold = len(wins_P) * len(wins_Q) / pairs, float(wins_P.mean())
        auroc += weight * of_fold
        for mask_N, wins, factor in ((positive_N, wins_P, factors[0]), (negative_N, wins_Q, factors[1])):
            error = weight * (wins - of_fold) / len(wins) * math.sqrt(factor)
            contribution_G += np.bincount(group_N[mask_N], error, size)
    return auroc, contribution_G


def linked(records: int, patients: int) -> float:
    """How many times the variance between repeats is added (see the module)."""
    return LINKED * math.sqrt(records / patients)


def variance(contribution_RG: Array, times: float) -> float:
    """The variance of a cross-validated AUROC from the contributions of patients in each repeat (see the module)."""
    repeats = len(contribution_RG)
    within = float((contribution_RG**2).sum(axis=1).mean())
    if repeats == 1:
        return 2 * within
    of_mean = float((contribution_RG.mean(axis=0) ** 2).sum())
    between = (within - of_mean) * repeats / (repeats - 1)
    return within + times * between


def _of_class(one: _Spread, folds_RN: Folds, paired: bool) -> Estimate:
    ranked = one.ranked
    n, positives = int(ranked.stated_N.sum()), int(ranked.positive_N.sum())
    if one.undefined:
        return Estimate.undefined(n, positives, one.undefined)
    return _estimate(
        one, ranked.stated_N, positives, ranked.degrees, ranked.no_interval, folds_RN, paired, ranked.rough
    )


def _mean(classes: Sequence[str], spreads: Sequence[_Spread], folds_RN: Folds, paired: bool) -> Estimate:
    """The mean over the defined classes, whose patients are the same."""
    defined = [one for one in spreads if not one.undefined]
    if not defined:
        return Estimate.undefined(0, 0, "no class has positives and negatives in one fold")
    used_N = np.logical_or.reduce([one.ranked.stated_N for one in defined])
    positives = int(np.logical_or.reduce([one.ranked.positive_N for one in defined]).sum())
    omitted = ", ".join(name for name, one in zip(classes, spreads, strict=True) if one.undefined)
    remark = f"mean of {len(defined)} of {len(spreads)} classes, without {omitted}" if omitted else ""
    ranked = [one.ranked for one in defined]
    whole = _Spread(
        ranked[0],
        float(np.mean([one.value for one in defined])),
        np.mean([one.contribution_RG for one in defined], axis=0),
    )
    reason = next(filter(None, (one.no_interval for one in ranked)), "")
    return _estimate(whole, used_N, positives, mean_degrees(ranked), reason, folds_RN, paired, remark)


def _estimate(
    one: _Spread,
    used_N: NDArray[np.bool_],
    positives: int,
    degrees: float,
    no_interval: str,
    folds_RN: Folds,
    paired: bool,
    remark: str,
) -> Estimate:
    """The value with its interval: on the logit scale for an AUROC, so that it stays within 0 to 1."""
    bootstrap, n, low, high = one.ranked.bootstrap, int(used_N.sum()), math.nan, math.nan
    spread = 0.0 if no_interval else variance(one.contribution_RG, linked(n, bootstrap.patients(used_N)))
    error = math.sqrt(spread) if spread > 0 else 0.0
    inside = paired or 0 < one.value < 1
    if not no_interval and (error < NEGLIGIBLE or not inside):
        no_interval = "interval undefined: no contribution of a patient differs from the others"
    if not no_interval:
        half = critical_value(degrees, bootstrap.level) * error
        if paired:
            low, high = one.value - half, one.value + half
        else:
            middle, scaled = logit(one.value), half / (one.value * (1 - one.value))
            low, high = float(expit(middle - scaled)), float(expit(middle + scaled))
    repeats = len(folds_RN)
    how = f"cross-validated {bootstrap.drawn_from(used_N)}, {len(np.unique(folds_RN))} folds, {repeats} repeat{'s' * (repeats > 1)}"
    alone = "one repeat: the interval is wider than it need be" if repeats == 1 and not no_interval else ""
    notes = [no_interval] if no_interval else [how, alone]
    return Estimate(one.value, low, high, n, positives, "; ".join(filter(None, [*notes, remark])))
