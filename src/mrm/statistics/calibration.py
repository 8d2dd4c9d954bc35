"""Calibration of probabilities, temperatures and operating points.

A model may rank well and still give a probability of 0.9 to what is true half of the time. Fit temperatures and choose
thresholds on validation records, and report their effect on test records. A label is 1, 0 or NaN (not stated, and left
out).

Shapes: N records, C classes, B bins, G patients, D bootstrap draws.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from mrm.statistics.intervals import Array, Bootstrap, Estimate, proportion, wilson
from mrm.statistics.ranking import check_labels, check_pair, check_scores, check_table, undefined_reason

BINS = 10
ROUNDING = 1e-12  # 1 - 3 / 10 reaches a goal of 0.7 despite rounding
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0  # the range of temperatures
FULL_SCALE = (
    20.0  # of logit / temperature: beyond it, probabilities are within 2e-9 of 0 or 1, and must not become equal
)
SAME_SCORE = 1e-6  # scores that are relatively nearer may change places when the size of a batch changes
Spacing = Literal["width", "mass"]


# Calibration -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reliability:
    """The data of a reliability diagram: arrays (B,) of the bins that have records, from low to high probability.

    `predicted` is the mean probability and `observed` the share of positives, with its 95 % Wilson interval
    from `low` to `high`; `count` is the number of records.
    """

    predicted: Array
    observed: Array
    low: Array
    high: Array
    count: Array


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS, spacing: Spacing = "width"
) -> Reliability:
    """The reliability diagram of labels (N,) and probabilities (N,).

    Bins have equal 'width', or equal 'mass' (numbers of records), which shows more detail if most probabilities are
    small. DeGroot and Fienberg 1983, doi:10.2307/2987588. Empty if the stated labels have a single value.
    Raises ValueError for wrong lengths, labels or probabilities, and fewer than one bin.
    """
    labels_N, probabilities_N = _stated(labels, probabilities)
    if undefined_reason(labels_N):
        return Reliability(*np.empty((5, 0)))
    bin_N = _bins(probabilities_N, bins, spacing)
    rows = []
    for b in np.unique(bin_N):
        share = proportion(labels_N[bin_N == b], int(labels_N[bin_N == b].sum()))
        rows.append((probabilities_N[bin_N == b].mean(), share.value, share.low, share.high, share.n))
    return Reliability(*np.array(rows).T)


def brier_score(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared difference of probabilities (N,) and labels (N,): 0 is best.

    Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2. NaN if the stated labels have a single
    value. Raises ValueError for wrong lengths, labels or probabilities.
    """
    labels_N, probabilities_N = _stated(labels, probabilities)
    return math.nan if undefined_reason(labels_N) else float(np.mean((probabilities_N - labels_N) ** 2))


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS, spacing: Spacing = "width"
) -> float:
    """Mean gap between probability and share of positives over bins, weighted by records: 0 is best.

    Takes labels (N,) and probabilities (N,); bins as in `reliability`. Guo et al. 2017, arXiv:1706.04599, for
    the probability of a finding. It is biased upwards in small sets, even for a perfect model. NaN if the stated labels
    have a single value. Raises ValueError as `reliability` does.
    """
    labels_N, probabilities_N = _stated(labels, probabilities)
    if undefined_reason(labels_N):
        return math.nan
    gaps_B = np.bincount(_bins(probabilities_N, bins, spacing), probabilities_N - labels_N)
    return float(np.abs(gaps_B).sum() / len(labels_N))


def calibration_report(
    labels: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    groups: Iterable[Hashable] | None = None,
    bins: int = BINS,
    spacing: Spacing = "width",
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, Estimate]]:
    """Brier score and expected calibration error of labels (N, C) and probabilities (N, C), per class.

    Returns {"Effusion": {"brier": Estimate, "calibration_error": Estimate}, ...}, with bootstrap intervals
    over patients, `groups` (N,). Chance raises the calibration error, and raises it again in a resample, so the usual
    interval would exclude a true error of 0. Therefore the squared draws are mirrored at the squared value and
    truncated at 0 (basic bootstrap on the square; Davison and Hinkley 1997, section 5.2): in simulation, 95 %
    intervals cover 90 to 100 %. Raises ValueError as `reliability` does, and for wrong tables, groups, draws or level.
    """
    labels_NC, probabilities_NC = check_labels(labels), check_scores(probabilities, probabilities=True)
    check_table(labels_NC, probabilities_NC, classes)
    bootstrap = Bootstrap.from_groups(groups, len(labels_NC), draws, seed, level)
    return {
        name: _calibration(labels_NC[:, c], probabilities_NC[:, c], bootstrap, bins, spacing)
        for c, name in enumerate(classes)
    }


def _calibration(
    labels_N: Array, probabilities_N: Array, bootstrap: Bootstrap, bins: int, spacing: Spacing
) -> dict[str, Estimate]:
    stated_N = ~np.isnan(labels_N)
    n, positives = int(stated_N.sum()), int((labels_N == 1).sum())
    if reason := undefined_reason(labels_N[stated_N]):
        return dict.fromkeys(("brier", "calibration_error"), Estimate.undefined(n, positives, reason))
    bin_N = np.full(len(labels_N), -1)
    bin_N[stated_N] = _bins(probabilities_N[stated_N], bins, spacing)
    gap_N = np.where(stated_N, probabilities_N - labels_N, 0.0)
    columns = [stated_N, gap_N**2, *(gap_N * (bin_N == b) for b in np.unique(bin_N[stated_N]))]
    columns_NK = np.stack(columns, axis=1).astype(np.float64)
    (brier,), (error,) = _scores(columns_NK.sum(axis=0)[:, None])
    brier_D, error_D = _scores(bootstrap.sums(columns_NK))
    mirrored_D = np.sqrt(np.maximum(0.0, 2 * error**2 - error_D**2))
    return {
        "brier": bootstrap.estimate(float(brier), brier_D, stated_N, positives),
        "calibration_error": bootstrap.estimate(float(error), mirrored_D, stated_N, positives),
    }


def _scores(sums_KD: Array) -> tuple[Array, Array]:
    """Brier score and calibration error (D,) from the sums of records, of squares, and of gaps by bin."""
    n_D = np.where(sums_KD[0] > 0, sums_KD[0], np.nan)
    return sums_KD[1] / n_D, np.abs(sums_KD[2:]).sum(axis=0) / n_D


def _bins(probabilities_N: Array, bins: int, spacing: Spacing) -> np.ndarray:
    """The bin (N,) of each probability, counted from 0; records of equal probability share a bin."""
    if bins < 1 or spacing not in ("width", "mass"):
        raise ValueError(f"bins must be >= 1 and spacing 'width' or 'mass', not {bins} and {spacing!r}")
    shares = np.linspace(0, 1, bins + 1)[1:-1]
    edges = shares if spacing == "width" else np.unique(np.quantile(probabilities_N, shares))
    return np.searchsorted(edges, probabilities_N, side="right")


def _stated(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Array, Array]:
    labels_N, probabilities_N = check_pair(labels, probabilities, probabilities=True)
    stated_N = ~np.isnan(labels_N)
    return labels_N[stated_N], probabilities_N[stated_N]


# Temperature -------------------------------------------------------------------------------------------


def fit_temperatures(labels: ArrayLike, logits: ArrayLike) -> Array:
    """One temperature (C,) per finding from validation labels (N, C) and logits (N, C).

    Each minimizes the binary cross-entropy of sigmoid(logit / temperature); a temperature above 1 means that the model
    was overconfident. The order, and so AUROC, does not change. Guo et al. 2017, arXiv:1706.04599, per finding. The range
    is 0.05 to 20; NaN (not fitted) if the stated labels have a single value. Raises ValueError for shapes that differ,
    and wrong labels or logits.
    """
    labels_NC, logits_NC = check_labels(labels), check_scores(logits)
    check_table(labels_NC, logits_NC, [str(c) for c in range(labels_NC.shape[-1] if labels_NC.ndim else 0)])
    return np.array([_temperature(*pair) for pair in zip(labels_NC.T, logits_NC.T, strict=True)])


def _temperature(labels_N: Array, logits_N: Array) -> float:
    stated_N = ~np.isnan(labels_N)
    labels_N, logits_N = labels_N[stated_N], logits_N[stated_N]
    if undefined_reason(labels_N):
        return math.nan

    def cross_entropy(log_temperature: float) -> float:
        scaled_N = logits_N * math.exp(-log_temperature)
        return float(np.mean(np.logaddexp(0.0, scaled_N) - labels_N * scaled_N))

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    from scipy.optimize import minimize_scalar

    best = minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return math.exp(best.x)


def calibrated_probabilities(logits: ArrayLike, temperatures: ArrayLike) -> Array:
    """Probabilities (N, C) from logits (N, C) and temperatures (C,); one that is not fitted (NaN) counts as 1.

    They are sigmoid(logit / temperature). Above 20, where the sigmoid of large logits would round to 1 and their order
    would be lost, logit / temperature counts as 20 + log(logit / temperature / 20), and below -20 alike. No probability
    moves by more than 2.1e-9.
    Raises ValueError for logits that are not finite and temperatures that are not above 0.
    """
    temperatures_C = np.asarray(temperatures, dtype=np.float64)
    if (temperatures_C <= 0).any():
        raise ValueError(f"temperatures must be above 0, not {temperatures_C[temperatures_C <= 0][0]:g}")
    scaled_NC = check_scores(logits) / np.where(np.isnan(temperatures_C), 1.0, temperatures_C)
    within_NC = np.clip(scaled_NC, -FULL_SCALE, FULL_SCALE)
    beyond_NC = np.log(np.maximum(np.abs(scaled_NC) / FULL_SCALE, 1.0))
    return expit(within_NC + np.sign(scaled_NC) * beyond_NC)


# Operating points --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OperatingPoint:
    """The performance on a set of records if every score >= `threshold` is called positive."""

    threshold: float
    sensitivity: Estimate
    specificity: Estimate
    positive_predictive_value: Estimate
    negative_predictive_value: Estimate

    def __str__(self) -> str:
        return f"at {self.threshold:.4g}: sensitivity {self.sensitivity}; specificity {self.specificity}"

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; undefined ones are None."""
        values = vars(self).items()
        return {name: value.to_dict() if isinstance(value, Estimate) else value for name, value in values}


def choose_threshold(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    sensitivity: float | None = None,
    specificity: float | None = None,
) -> float:
    """The threshold on validation labels (N,) and scores (N,) that reaches a sensitivity or a specificity.

    Of the thresholds that reach it, this is the one with the best value of the other. If neither is given, it is the one
    with the highest sum of both (Youden 1950, doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3), and of
    equal sums the highest. The threshold lies midway between two neighbouring scores, so that rounding turns no decision: a score changes in its last
    digits with the size of a batch, and scores that differ by no more than that are called positive or negative together.
    Above the highest score and below the lowest it lies midway to 1 and to 0 where all scores are probabilities. NaN if
    the stated labels have a single value. Raises ValueError for two goals, and for wrong lengths, labels, scores or goal.
    """
    if sensitivity is not None and specificity is not None:
        raise ValueError("give a sensitivity or a specificity, not both")
    for goal in (sensitivity, specificity):
        if goal is not None and not 0 < goal <= 1:
            raise ValueError(f"a sensitivity or specificity must be above 0 and at most 1, not {goal}")
    labels_N, scores_N = check_pair(labels, scores)
    labels_N, scores_N = labels_N[~np.isnan(labels_N)], scores_N[~np.isnan(labels_N)]
    if undefined_reason(labels_N):
        return math.nan
    thresholds_K, sensitivity_K, specificity_K = _cuts(labels_N, scores_N)
    if sensitivity is not None:
        return float(thresholds_K[np.argmax(sensitivity_K >= sensitivity - ROUNDING)])
    if specificity is not None:
        return float(thresholds_K[np.flatnonzero(specificity_K >= specificity - ROUNDING)[-1]])
    return float(thresholds_K[np.argmax(np.round(sensitivity_K + specificity_K, 12))])


def _cuts(labels_N: Array, scores_N: Array) -> tuple[Array, Array, Array]:
    """Every threshold between two distinct scores (K,), from the highest to the lowest, with sensitivity and specificity."""
    distinct_L, level_N = np.unique(-scores_N, return_inverse=True)
    distinct_L = -distinct_L  # from the highest to the lowest
    shares = bool(distinct_L[0] <= 1 and distinct_L[-1] >= 0)  # all scores are probabilities
    size_L = np.minimum(distinct_L, 1 - distinct_L) if shares else np.maximum(np.abs(distinct_L), 1.0)
    apart_L = distinct_L[:-1] - distinct_L[1:] > SAME_SCORE * np.maximum(size_L[:-1], size_L[1:])
    last_K = np.append(np.flatnonzero(apart_L), len(distinct_L) - 1)  # the lowest score that each cut calls positive
    hits_K = np.append(0, np.cumsum(np.bincount(level_N, labels_N))[last_K])
    alarms_K = np.append(0, np.cumsum(np.bincount(level_N, 1 - labels_N))[last_K])
    top, bottom = (1.0, 0.0) if shares else (distinct_L[0] + 1, distinct_L[-1] - 1)
    above_K = np.append(top, distinct_L[last_K])  # the cut of place k lies between these two scores
    below_K = np.append(distinct_L[np.append(0, last_K[:-1] + 1)], bottom)
    thresholds_K = (above_K + below_K) / 2
    thresholds_K[0] = max(thresholds_K[0], np.nextafter(distinct_L[0], np.inf))  # nothing is called positive
    return thresholds_K, hits_K / hits_K[-1], 1 - alarms_K / alarms_K[-1]


def operating_point(
    labels: ArrayLike,
    scores: ArrayLike,
    threshold: float,
    groups: Iterable[Hashable] | None = None,
    level: float = 0.95,
) -> OperatingPoint:
    """The performance of a threshold on labels (N,) and scores (N,): shares with Wilson intervals.

    Patients, `groups` (N,), widen the intervals as in `intervals.proportion`. A share of no records is undefined, such as
    the positive predictive value if nothing is called positive; all shares are undefined for a NaN threshold. On the
    records that the threshold was chosen on, the shares are too optimistic. Raises ValueError for wrong lengths, labels,
    scores, groups or level.
    """
    labels_N, scores_N = check_pair(labels, scores)
    bootstrap = Bootstrap.from_groups(groups, len(labels_N), level=level)
    stated_N, positive_N, called_N = ~np.isnan(labels_N), labels_N == 1, scores_N >= threshold

    def share(hit_N: np.ndarray, of_N: np.ndarray, reason: str) -> Estimate:
        used_N = of_N & stated_N
        n, positives = int(used_N.sum()), int((used_N & positive_N).sum())
        if not n or math.isnan(threshold):
            return Estimate.undefined(n, positives, "no threshold" if math.isnan(threshold) else reason)
        return wilson(hit_N[used_N].astype(np.float64), positives, bootstrap.of(used_N))

    return OperatingPoint(
        float(threshold),
        share(called_N, positive_N, "no positives"),
        share(~called_N, ~positive_N, "no negatives"),
        share(positive_N, called_N, "nothing called positive"),
        share(~positive_N, ~called_N, "nothing called negative"),
    )
