"""Do probabilities mean what they say, and where to cut them: calibration, temperature, operating points.

A model may rank well and still call 0.9 what comes true half of the time. Fit temperatures and choose
thresholds on validation records, and report what they do on test records. A label is 1, 0 or NaN (not
stated: left out).

Shapes: N records, C classes, B bins, G patients, D bootstrap draws.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from mrm.statistics.intervals import Array, Bootstrap, Estimate, proportion
from mrm.statistics.ranking import check_labels, check_pair, check_scores, check_table, undefined_reason

BINS = 10
ROUNDING = 1e-12  # a goal of 0.7 is reached by 1 - 3 / 10
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0  # temperatures are sought between these
MAX_SCALED_LOGIT = 20.0  # logit / temperature at the most: beyond, probabilities of float64 near 1 begin to tie
Spacing = Literal["width", "mass"]


# Calibration -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reliability:
    """To plot: for each bin that holds records, arrays (B,), from low to high probability.

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

    Bins are of equal 'width', or of equal 'mass' (records), which shows more where most probabilities are
    small. DeGroot and Fienberg 1983, doi:10.2307/2987588. Empty where the stated labels have one value.
    Raises ValueError for lengths, labels or probabilities that are wrong, and fewer than one bin.
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

    Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2. NaN where the stated labels have one
    value. Raises ValueError for lengths, labels or probabilities that are wrong.
    """
    labels_N, probabilities_N = _stated(labels, probabilities)
    return math.nan if undefined_reason(labels_N) else float(np.mean((probabilities_N - labels_N) ** 2))


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = BINS, spacing: Spacing = "width"
) -> float:
    """Mean gap between probability and share of positives over bins, weighted by records: 0 is best.

    Of labels (N,) and probabilities (N,); bins as in `reliability`. Guo et al. 2017, arXiv:1706.04599, for
    the probability of a finding. It is too high by chance in small sets, also for a perfect model. NaN where
    the stated labels have one value. Raises ValueError as `reliability` does.
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
    over patients, `groups` (N,). Chance raises the calibration error, and once more in a resample; the usual
    interval would leave out a true error of 0. So the squared draws are mirrored at the squared value and
    cut at 0 (basic bootstrap on the square; Davison and Hinkley 1997, section 5.2): in simulation 95 %
    intervals cover 90 to 100 %. Raises ValueError as `reliability` does, and for tables, groups, draws or a
    level that are wrong.
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
    """The bin (N,) of each probability, from 0; records of equal probability share one."""
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

    Each makes sigmoid(logit / temperature) most likely (least binary cross-entropy); above 1 the model was
    too sure of itself. Order, and so AUROC, does not change. Guo et al. 2017, arXiv:1706.04599, per finding.
    Sought from `lowest_temperature` to 20; NaN, not fitted, where the stated labels have one value. Raises ValueError for
    shapes that differ, and labels or logits that are wrong.
    """
    labels_NC, logits_NC = check_labels(labels), check_scores(logits)
    check_table(labels_NC, logits_NC, [str(c) for c in range(labels_NC.shape[-1] if labels_NC.ndim else 0)])
    return np.array([_temperature(*pair) for pair in zip(labels_NC.T, logits_NC.T, strict=True)])


def lowest_temperature(logits: ArrayLike) -> Array:
    """The lowest temperature (C,) for logits (N, C): 0.05, or what keeps the largest apart from its neighbours once it
    is a probability (|logit| / temperature <= 20), though never above 1."""
    return np.clip(np.abs(check_scores(logits)).max(axis=0, initial=0.0) / MAX_SCALED_LOGIT, MIN_TEMPERATURE, 1.0)


def _temperature(labels_N: Array, logits_N: Array) -> float:
    least, stated_N = float(lowest_temperature(logits_N)), ~np.isnan(labels_N)
    labels_N, logits_N = labels_N[stated_N], logits_N[stated_N]
    if undefined_reason(labels_N):
        return math.nan

    def cross_entropy(log_temperature: float) -> float:
        scaled_N = logits_N * math.exp(-log_temperature)
        return float(np.mean(np.logaddexp(0.0, scaled_N) - labels_N * scaled_N))

    bounds = (math.log(least), math.log(MAX_TEMPERATURE))
    from scipy.optimize import minimize_scalar

    best = minimize_scalar(cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return math.exp(best.x)


def calibrated_probabilities(logits: ArrayLike, temperatures: ArrayLike) -> Array:
    """Probabilities (N, C) from logits (N, C) and temperatures (C,), where one not fitted (NaN) counts as 1.

    Raises ValueError for logits that are not finite and temperatures that are not above 0.
    """
    temperatures_C = np.asarray(temperatures, dtype=np.float64)
    if (temperatures_C <= 0).any():
        raise ValueError(f"temperatures must be above 0, not {temperatures_C[temperatures_C <= 0][0]:g}")
    return expit(check_scores(logits) / np.where(np.isnan(temperatures_C), 1.0, temperatures_C))


# Operating points --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OperatingPoint:
    """What calling every score >= `threshold` positive does to a set of records."""

    threshold: float
    sensitivity: Estimate
    specificity: Estimate
    positive_predictive_value: Estimate
    negative_predictive_value: Estimate

    def __str__(self) -> str:
        return f"at {self.threshold:.4g}: sensitivity {self.sensitivity}; specificity {self.specificity}"

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; what is undefined is None."""
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

    Of those that reach it, the one that costs the other least; neither given, the one with the highest sum of
    both (Youden 1950, doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3). It is one of the
    scores, or just above the highest where only calling nothing is specific enough. NaN where the stated
    labels have one value. Raises ValueError for two goals, and for lengths, labels, scores or a goal that are
    wrong.
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
    """Every threshold that matters (K,), from strict to lenient, with its sensitivity and specificity."""
    distinct, place_N = np.unique(-scores_N, return_inverse=True)
    hits_K = np.append(0, np.cumsum(np.bincount(place_N, labels_N)))
    alarms_K = np.append(0, np.cumsum(np.bincount(place_N, 1 - labels_N)))
    thresholds_K = np.append(np.nextafter(-distinct[0], np.inf), -distinct)
    return thresholds_K, hits_K / hits_K[-1], 1 - alarms_K / alarms_K[-1]


def operating_point(
    labels: ArrayLike,
    scores: ArrayLike,
    threshold: float,
    groups: Iterable[Hashable] | None = None,
    level: float = 0.95,
) -> OperatingPoint:
    """What a threshold chosen elsewhere does to labels (N,) and scores (N,): shares with Wilson intervals.

    Patients, `groups` (N,), widen the intervals as in `intervals.proportion`. A share of no records is
    undefined (the predictive value of a positive call, where none is made), and all are for a NaN threshold.
    On the records that the threshold was chosen on, the shares look better than they are. Raises ValueError
    for lengths, labels, scores, groups or a level that are wrong.
    """
    labels_N, scores_N = check_pair(labels, scores)
    numbers_N = Bootstrap.from_groups(groups, len(labels_N), level=level).group_N
    stated_N, yes_N, called_N = ~np.isnan(labels_N), labels_N == 1, scores_N >= threshold

    def share(hit_N: np.ndarray, of_N: np.ndarray, lacking: str) -> Estimate:
        used_N = of_N & stated_N
        n, positives = int(used_N.sum()), int((used_N & yes_N).sum())
        if not n or math.isnan(threshold):
            return Estimate.undefined(n, positives, "no threshold" if math.isnan(threshold) else lacking)
        return proportion(hit_N[used_N], positives, None if groups is None else numbers_N[used_N], level)

    return OperatingPoint(
        float(threshold),
        share(called_N, yes_N, "no positives"),
        share(~called_N, ~yes_N, "no negatives"),
        share(yes_N, called_N, "nothing called positive"),
        share(~yes_N, ~called_N, "nothing called negative"),
    )
