"""Whether one model is better than another on the same records: paired differences, intervals and p values.

Both models scored the same records, so the tests are paired: records that are hard for both cancel out. A comparison
also has a minimum detectable difference: a true difference of that size would have been found with 80 % probability, a
smaller one less often. A label is 1, 0 or NaN (not stated, and left out).

Shapes: N records, C classes, M models or metrics, G patients, P positives, Q negatives, D draws.
"""

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtr, ndtri, stdtr, stdtrit
from scipy.stats import rankdata

from mrm.statistics.intervals import CELLS, Array, Bootstrap, Estimate, finite_or_none, group_indices
from mrm.statistics.ranking import (
    RANKING_METRICS,
    RankedScores,
    bootstrap_metrics,
    check_labels,
    check_pair,
    check_scores,
    check_table,
    macro_mean,
    mean_or_nan,
    undefined_reason,
)

Numbers = NDArray[np.intp]

EXACT_LIMIT = 12  # with up to this many patients, all sign flips are enumerated
NEGLIGIBLE = 1e-9  # a standard error below this is a rounding error: the models rank alike


@dataclass(frozen=True)
class Comparison:
    """Two models on the same records; the difference is `first` minus `second`.

    `p` is two-sided, and `p_holm` is `p` corrected for all classes compared with this one. `minimum_detectable_difference`
    is the smallest true difference that a test at 5 % on these records finds with 80 % power. Values that the
    records cannot support are NaN, and `difference.note` states the reason.
    """

    first: float
    second: float
    difference: Estimate
    p: float = math.nan
    minimum_detectable_difference: float = math.nan
    p_holm: float = math.nan

    @classmethod
    def from_test(cls, first: float, second: float, difference: Estimate, p: float, se: float) -> "Comparison":
        """From a p value and a standard error, which are left out if the difference has no interval."""
        if not math.isfinite(difference.low):
            return cls(first, second, difference)
        detectable = minimum_detectable_difference(se) if se > NEGLIGIBLE else math.nan
        return cls(first, second, difference, p, detectable)

    def __str__(self) -> str:
        """'+0.021 (+0.004 to +0.038), p=0.014, n=812, 94 positive; minimum detectable difference 0.024'"""
        d = self.difference
        if not d.defined:
            return str(d)
        if not math.isfinite(d.low):
            return f"{d.value:+.3f} ({d.note or 'no interval'}), {d.size}"
        p = f"p{_p_text(self.p)}" + (f" (Holm{_p_text(self.p_holm)})" if math.isfinite(self.p_holm) else "")
        text = f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}), {p}, {d.size}"
        return text + (
            f"; minimum detectable difference {self.minimum_detectable_difference:.3f}"
            if math.isfinite(self.minimum_detectable_difference)
            else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the difference as a dict of its own; undefined values are None."""
        names = ("first", "second", "p", "minimum_detectable_difference", "p_holm")
        plain = {name: finite_or_none(getattr(self, name)) for name in names}
        return {**plain, "difference": self.difference.to_dict()}


def _p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"={p:.3f}"


def holm(p_values: ArrayLike) -> Array:
    """P values (C,) corrected for C tests, so that the probability of any false positive stays below the level.

    NaN (no test) stays NaN and is not counted. Raises ValueError outside 0 to 1. Holm 1979, Scandinavian
    Journal of Statistics 6:65-70.
    """
    p_C = np.asarray(p_values, dtype=np.float64)
    invalid = (p_C < 0) | (p_C > 1)
    if invalid.any():
        raise ValueError(f"p values must be from 0 to 1, not {p_C[invalid][0]:g}")
    tested = np.flatnonzero(~np.isnan(p_C))
    order = tested[np.argsort(p_C[tested], kind="stable")]
    steps = p_C[order] * np.arange(len(order), 0, -1)
    corrected_C = np.full(len(p_C), np.nan)
    corrected_C[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected_C


def minimum_detectable_difference(standard_error: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference that a two-sided test at `alpha` finds with this power.

    It is (z(1 - alpha / 2) + z(power)) times the standard error of the paired difference: 2.80 times.
    """
    return float((ndtri(1 - alpha / 2) + ndtri(power)) * standard_error)


# DeLong ------------------------------------------------------------------------------------------------


def delong(labels: ArrayLike, scores: ArrayLike, groups: Iterable[Hashable] | None = None) -> tuple[Array, Array]:
    """AUROCs (M,) of M models on the same records, and their covariance (M, M).

    `labels` (N,), `scores` (N, M). DeLong et al. 1988, doi:10.2307/2531595, by the midranks of Sun and Xu
    2014, doi:10.1109/LSP.2014.2337313, in N log N. `groups` (N,) names patients, whose records then need not be
    independent: Obuchowski 1997, doi:10.2307/2533958, which equals DeLong's with one record per patient. Everything is
    NaN if the labels have a single value; the covariance is NaN if one patient has all positives or all negatives.
    Raises ValueError for wrong labels, scores, groups or shapes.
    """
    labels_N, scores_NM = check_labels(labels), check_scores(scores)
    if labels_N.ndim != 1 or scores_NM.ndim != 2 or len(labels_N) != len(scores_NM):
        raise ValueError(f"expected labels (N,) and scores (N, M), got {labels_N.shape} and {scores_NM.shape}")
    group_N, positive_N, negative_N = group_indices(groups, len(labels_N)), labels_N == 1, labels_N == 0
    models = scores_NM.shape[1]
    if undefined_reason(labels_N[positive_N | negative_N]):
        return np.full(models, np.nan), np.full((models, models), np.nan)
    wins_PM, wins_QM = win_shares(scores_NM[positive_N], scores_NM[negative_N])
    aurocs_M, size = wins_PM.mean(axis=0), int(group_N.max()) + 1
    positive_GM = _by_patient(wins_PM - aurocs_M, group_N[positive_N], size)
    negative_GM = _by_patient(wins_QM - aurocs_M, group_N[negative_N], size)
    positive_MM = unbiased_factor(group_N[positive_N]) * positive_GM.T @ positive_GM
    negative_MM = unbiased_factor(group_N[negative_N]) * negative_GM.T @ negative_GM
    cross_MM = unbiased_factor(group_N[positive_N | negative_N]) * positive_GM.T @ negative_GM
    return aurocs_M, positive_MM + negative_MM + cross_MM + cross_MM.T


def win_shares(positive_PM: Array, negative_QM: Array) -> tuple[Array, Array]:
    """The share of negatives ranked below each positive (P, M), and of positives ranked above each negative (Q, M)."""
    p, q = len(positive_PM), len(negative_QM)
    among_all = rankdata(np.concatenate([positive_PM, negative_QM]), axis=0)
    wins_PM = (among_all[:p] - rankdata(positive_PM, axis=0)) / q
    wins_QM = 1 - (among_all[p:] - rankdata(negative_QM, axis=0)) / p
    return wins_PM, wins_QM


def _by_patient(excess_RM: Array, numbers_R: Numbers, size: int) -> Array:
    """The contribution (G, M) of each patient's positives, or negatives, to the error of the AUROCs."""
    return np.stack([np.bincount(numbers_R, excess_R, size) for excess_R in excess_RM.T], 1) / len(excess_RM)


def unbiased_factor(numbers_R: Numbers) -> float:
    """g / (g - 1) for g patients; NaN for a single patient, who has no variance."""
    patients = len(np.unique(numbers_R))
    return patients / (patients - 1) if patients > 1 else math.nan


def delong_interval(
    labels: ArrayLike, scores: ArrayLike, groups: Iterable[Hashable] | None = None, level: float = 0.95
) -> Estimate:
    """AUROC of labels (N,) and scores (N,) with DeLong's interval, on the logit scale so that it stays within 0 to 1.

    Nothing is resampled. `groups` (N,) names patients as in `delong`. A perfect ranking has no interval. Logit:
    Qin and Hotilovac 2008, doi:10.1177/0962280207087173. Raises ValueError for wrong labels, scores, groups or level.
    """
    labels_N, scores_N = check_pair(labels, scores)
    ranked = RankedScores(labels_N, scores_N, Bootstrap.from_groups(groups, len(labels_N), level=level))
    if ranked.undefined:
        return _delong_estimate(ranked, math.nan)
    aurocs, covariance = delong(labels_N, scores_N[:, None], ranked.bootstrap.group_N)
    area, se = float(aurocs[0]), math.sqrt(covariance[0, 0]) if covariance[0, 0] > 0 else 0.0
    if ranked.no_interval or se < NEGLIGIBLE:  # as of a perfect ranking
        no_interval = ranked.no_interval or "interval undefined: DeLong's variance is 0"
        return _delong_estimate(ranked, area, no_interval=no_interval)
    half = critical_value(ranked.degrees, ranked.bootstrap.level) * se / (area * (1 - area))
    return _delong_estimate(ranked, area, float(expit(logit(area) - half)), float(expit(logit(area) + half)))


def critical_value(degrees: float, level: float) -> float:
    """How many standard errors an interval reaches: by Student's t where patients have several records, else the normal.

    `degrees` are those of `Bootstrap.degrees`, infinite where each patient has one record.
    """
    upper = (1 + level) / 2
    return float(ndtri(upper) if math.isinf(degrees) else stdtrit(max(degrees - 1, 2.0), upper))


def _two_sided(ratio: float, ranked: RankedScores) -> float:
    """The p value of a difference of so many standard errors."""
    below = ndtr(-abs(ratio)) if math.isinf(ranked.degrees) else stdtr(max(ranked.degrees - 1, 2.0), -abs(ratio))
    return float(2 * below)


def _delong_estimate(
    ranked: RankedScores, value: float, low: float = math.nan, high: float = math.nan, no_interval: str = ""
) -> Estimate:
    """A value and interval by DeLong's method, with the counts of their class."""
    stated_N, bootstrap = ranked.stated_N, ranked.bootstrap
    n, positives = int(stated_N.sum()), int(ranked.positive_N.sum())
    if ranked.undefined:
        return Estimate.undefined(n, positives, ranked.undefined)
    method = f"DeLong {bootstrap.drawn_from(stated_N)}"
    return Estimate(value, low, high, n, positives, no_interval or method)


# Tests of two models -----------------------------------------------------------------------------------


def delong_test(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    groups: Iterable[Hashable] | None = None,
    level: float = 0.95,
) -> Comparison:
    """The difference in AUROC of two models' scores (N,) for the same labels (N,), by DeLong's covariance.

    Interval and p value are normal approximations; references and `groups` (N,) as in `delong`. Models that rank alike
    have p = 1. Raises ValueError for wrong labels, scores, groups or level.
    """
    labels_N, first_N, second_N = _check_models(labels, first, second)
    ranked = RankedScores(labels_N, first_N, Bootstrap.from_groups(groups, len(labels_N), level=level))
    if ranked.undefined:
        return Comparison(math.nan, math.nan, _delong_estimate(ranked, math.nan))
    both_N2 = np.stack([first_N, second_N], axis=1)
    (one, other), covariance = delong(labels_N, both_N2, ranked.bootstrap.group_N)
    gap, variance = float(one - other), covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    se = math.sqrt(variance) if variance > NEGLIGIBLE**2 else 0.0
    no_interval = ranked.no_interval or ("interval undefined: DeLong's variance is 0" if not se and gap else "")
    if no_interval:
        return Comparison(one, other, _delong_estimate(ranked, gap, no_interval=no_interval))
    half = critical_value(ranked.degrees, ranked.bootstrap.level) * se
    p = _two_sided(gap / se, ranked) if se else 1.0
    return Comparison.from_test(one, other, _delong_estimate(ranked, gap, gap - half, gap + half), p, se)


def bootstrap_test(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    metric: str = "auroc",
    groups: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """The difference in 'auroc' or 'average_precision' of two models' scores (N,) for the same labels (N,).

    Patients (`groups`, (N,)) are drawn once for both models. The p value is twice the share of draws on the
    other side of 0, and so at least 2 / (draws + 1): Efron and Tibshirani 1993, section 15.4. Raises ValueError
    for wrong labels, scores, groups or level.
    """
    labels_N, first_N, second_N = _check_models(labels, first, second)
    arrays = labels_N[:, None], first_N[:, None], second_N[:, None]
    comparison = compare(*arrays, ["class"], metric, groups, draws, seed, level)["class"]
    return replace(comparison, p_holm=math.nan)


def compare(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    classes: Sequence[str],
    metric: str = "auroc",
    groups: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Comparison]:
    """`bootstrap_test` per class of labels and scores (N, C), corrected over classes, and of their mean.

    Returns {"mean": Comparison, "Effusion": ...}. The mean is over classes with both label values, and drawn
    jointly; it is a single test and needs no correction. Raises ValueError as `bootstrap_test` does, for an unknown
    metric, and for class names that repeat or are not C.
    """
    if metric not in RANKING_METRICS:
        raise ValueError(f"unknown metric {metric!r}; choose from {', '.join(RANKING_METRICS)}")
    labels_NC, first_NC, second_NC = check_labels(labels), check_scores(first), check_scores(second)
    check_table(labels_NC, first_NC, classes)
    check_table(labels_NC, second_NC, classes)
    bootstrap = Bootstrap.from_groups(groups, len(labels_NC), draws, seed, level)
    pairs = [
        [RankedScores(labels_NC[:, c], scores_NC[:, c], bootstrap) for scores_NC in (first_NC, second_NC)]
        for c in range(len(classes))
    ]
    values_XD = bootstrap_metrics([ranked for pair in pairs for ranked in pair], [metric], bootstrap)[:, 0]
    gaps_CD = values_XD[0::2] - values_XD[1::2]
    comparisons = [
        _compare_class(one, other, metric, gaps_D) for (one, other), gaps_D in zip(pairs, gaps_CD, strict=True)
    ]
    corrected = holm([comparison.p for comparison in comparisons])
    report = {"mean": _compare_mean(classes, [pair[0] for pair in pairs], comparisons, gaps_CD)}
    for name, comparison, p in zip(classes, comparisons, corrected, strict=True):
        report[name] = replace(comparison, p_holm=float(p))
    return report


def _compare_class(first: RankedScores, second: RankedScores, metric: str, gaps_D: Array) -> Comparison:
    n, positives = int(first.stated_N.sum()), int(first.positive_N.sum())
    if first.undefined:
        return Comparison(math.nan, math.nan, Estimate.undefined(n, positives, first.undefined))
    one, other = (RANKING_METRICS[metric][0](ranked.labels_N, ranked.scores_N) for ranked in (first, second))
    bootstrap, gap = first.bootstrap, one - other
    if _alike(gap, gaps_D) and not first.no_interval:
        note = f"the models rank alike in every resample {bootstrap.drawn_from(first.stated_N)}"
        return Comparison.from_test(one, other, Estimate(gap, gap, gap, n, positives, note), 1.0, 0.0)
    estimate = bootstrap.estimate(
        gap, gaps_D, first.stated_N, positives, first.rough, no_interval=first.no_interval, degrees=first.degrees
    )
    return Comparison.from_test(one, other, estimate, *bootstrap_p(gaps_D))


def _compare_mean(
    classes: Sequence[str], ranked: Sequence[RankedScores], comparisons: Sequence[Comparison], gaps_CD: Array
) -> Comparison:
    defined = [c for c, scores in enumerate(ranked) if not scores.undefined]
    one = float(mean_or_nan(np.array([comparisons[c].first for c in defined])))
    other = float(mean_or_nan(np.array([comparisons[c].second for c in defined])))
    gaps_D = mean_or_nan(gaps_CD[defined])
    estimate = macro_mean(classes, ranked, one - other, gaps_D)
    if _alike(one - other, gaps_D) and not any(ranked[c].no_interval for c in defined):
        alike = replace(estimate, low=0.0, high=0.0, note="the models rank alike in every resample")
        return Comparison.from_test(one, other, alike, 1.0, 0.0)
    return Comparison.from_test(one, other, estimate, *bootstrap_p(gaps_D))


def _alike(gap: float, gaps_D: Array) -> bool:
    usable_D = gaps_D[np.isfinite(gaps_D)]
    return len(usable_D) > 0 and abs(gap) < NEGLIGIBLE and bool(np.abs(usable_D).max() < NEGLIGIBLE)


def bootstrap_p(gaps_D: Array) -> tuple[float, float]:
    """The two-sided p value and the standard error of bootstrap differences (D,)."""
    usable_D = gaps_D[np.isfinite(gaps_D)]
    if len(usable_D) < 2:
        return math.nan, math.nan
    rarer = min((usable_D <= 0).sum(), (usable_D >= 0).sum())
    return float(min(1.0, 2 * (rarer + 1) / (len(usable_D) + 1))), float(usable_D.std(ddof=1))


def sign_flip_test(
    first: ArrayLike,
    second: ArrayLike,
    groups: Iterable[Hashable] | None = None,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """The mean difference of two models' scores (N,) on the same images (Dice, say), by permutation.

    If the models were equal, the difference of each patient (`groups`, (N,)) or image could equally well have the
    opposite sign. The p value is the share of sign flips whose mean is at least as far from 0: of all flips for up to
    12 patients, otherwise of `draws` random ones and the observed one (never 0; Phipson and Smyth 2010,
    doi:10.2202/1544-6115.1585). An image with NaN in either array is left out. The interval is a bootstrap over
    patients. Raises ValueError for lengths or groups that differ, infinite scores, and a level outside 0-1.
    """
    first_N, second_N = (np.asarray(scores, dtype=np.float64) for scores in (first, second))
    if first_N.ndim != 1 or first_N.shape != second_N.shape:
        raise ValueError(f"expected two arrays (N,), got {first_N.shape} and {second_N.shape}")
    used_N = ~(np.isnan(first_N) | np.isnan(second_N))
    check_scores(first_N[used_N])
    check_scores(second_N[used_N])
    bootstrap = Bootstrap.from_groups(groups, len(first_N), draws, seed, level)
    if not used_N.any():
        return Comparison(math.nan, math.nan, Estimate.undefined(0, None, "no image with both scores"))
    gaps_N = first_N - second_N
    one, other, gap = (float(x[used_N].mean()) for x in (first_N, second_N, gaps_N))
    gaps_D = bootstrap.means(gaps_N, used_N)
    estimate = bootstrap.estimate(gap, gaps_D, used_N, None)
    sums_G = np.bincount(bootstrap.group_N[used_N], gaps_N[used_N], bootstrap.size)
    return Comparison.from_test(
        one, other, estimate, _sign_flip_p(sums_G[sums_G != 0], draws, seed), bootstrap_p(gaps_D)[1]
    )


def _sign_flip_p(sums_G: Array, draws: int, seed: int) -> float:
    """The share of sign flips of the patients' differences (G,) whose sum is at least as far from 0 as the observed one."""
    exact = len(sums_G) <= EXACT_LIMIT
    total, margin = abs(sums_G.sum()), 1e-9 * np.abs(sums_G).sum()
    flips = _all_signs(len(sums_G)) if exact else _random_signs(len(sums_G), draws, seed)
    far = sum(int((np.abs(signs_DG @ sums_G) >= total - margin).sum()) for signs_DG in flips)
    return far / 2 ** len(sums_G) if exact else (far + 1) / (draws + 1)


def _all_signs(size: int) -> Iterator[Array]:
    bits_DG = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
    yield 1 - 2 * bits_DG.astype(np.float64)


def _random_signs(size: int, draws: int, seed: int) -> Iterator[Array]:
    rng, step = np.random.default_rng(seed), max(1, CELLS // size)
    for start in range(0, draws, step):
        yield 1 - 2 * rng.integers(2, size=(min(step, draws - start), size)).astype(np.float64)


def _check_models(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> tuple[Array, Array, Array]:
    labels_N, first_N = check_pair(labels, first)
    return labels_N, first_N, check_pair(labels, second)[1]
