"""Is one model better than another, on the same records? Arrays in; difference, interval and p value out.

Both models scored the same records, so the tests are paired: what is hard for both cancels out. A comparison
also tells the smallest difference that these records could have shown: a true difference of that size would
seldom have stayed hidden, a smaller one may well have. A label is 1, 0 or NaN (not stated: left out).

Shapes: N records, C classes, M models or metrics, G patients, P positives, Q negatives, D draws.
"""

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtr, ndtri
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

EXACT = 12  # up to this many patients, every way to swap the two models is counted
NOTHING = 1e-9  # a standard error below this is rounding: the models rank alike


@dataclass(frozen=True)
class Comparison:
    """Two models on the same records; the difference is `first` minus `second`.

    `p` is two-sided, and `p_holm` is `p` corrected for all classes compared with this one. `minimum_detectable_difference`
    is the smallest true difference that a test at 5 % on these records finds with 80 % power. What the records
    cannot give is NaN, and `difference.note` says why.
    """

    first: float
    second: float
    difference: Estimate
    p: float = math.nan
    minimum_detectable_difference: float = math.nan
    p_holm: float = math.nan

    @classmethod
    def from_test(cls, first: float, second: float, difference: Estimate, p: float, se: float) -> "Comparison":
        """From a p value and standard error: none where there is no interval, no power where se is 0."""
        if not math.isfinite(difference.low):
            return cls(first, second, difference)
        return cls(first, second, difference, p, minimum_detectable_difference(se) if se > NOTHING else math.nan)

    def __str__(self) -> str:
        """'+0.021 (+0.004 to +0.038), p=0.014, n=812, 94 positive; minimum detectable difference 0.024'"""
        d = self.difference
        if not d.defined:
            return str(d)
        if not math.isfinite(d.low):
            return f"{d.value:+.3f} ({d.note or 'no interval'}), {d.size}"
        p = f"p{_p(self.p)}" + (f" (Holm{_p(self.p_holm)})" if math.isfinite(self.p_holm) else "")
        span = f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}), {p}, {d.size}"
        return span + (
            f"; minimum detectable difference {self.minimum_detectable_difference:.3f}"
            if math.isfinite(self.minimum_detectable_difference)
            else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the difference in a dict of its own; what is undefined is None."""
        names = ("first", "second", "p", "minimum_detectable_difference", "p_holm")
        plain = {name: finite_or_none(getattr(self, name)) for name in names}
        return {**plain, "difference": self.difference.to_dict()}


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"={p:.3f}"


def holm(p_values: ArrayLike) -> Array:
    """P values (C,) corrected for being C: the chance of even one false alarm stays below the level.

    NaN (no test) stays NaN and is not counted. Raises ValueError outside 0 to 1. Holm 1979, Scandinavian
    Journal of Statistics 6:65-70.
    """
    p_C = np.asarray(p_values, dtype=np.float64)
    wrong = (p_C < 0) | (p_C > 1)
    if wrong.any():
        raise ValueError(f"p values must be from 0 to 1, not {p_C[wrong][0]:g}")
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
    2014, doi:10.1109/LSP.2014.2337313, in N log N. `groups` (N,) names patients, whose records need not then
    be independent: Obuchowski 1997, doi:10.2307/2533958, which for one record per patient is DeLong's. All is
    NaN where labels have one value; the covariance is, where one patient has all positives or all negatives.
    Raises ValueError for labels, scores, groups or shapes that are wrong.
    """
    labels_N, scores_NM = check_labels(labels), check_scores(scores)
    if labels_N.ndim != 1 or scores_NM.ndim != 2 or len(labels_N) != len(scores_NM):
        raise ValueError(f"labels (N,) and scores (N, M) needed, not {labels_N.shape} and {scores_NM.shape}")
    numbers_N, yes_N, no_N = group_indices(groups, len(labels_N)), labels_N == 1, labels_N == 0
    models = scores_NM.shape[1]
    if undefined_reason(labels_N[yes_N | no_N]):
        return np.full(models, np.nan), np.full((models, models), np.nan)
    wins_PM, wins_QM = _components(scores_NM[yes_N], scores_NM[no_N])
    aurocs_M, size = wins_PM.mean(axis=0), int(numbers_N.max()) + 1
    positive_GM = _by_patient(wins_PM - aurocs_M, numbers_N[yes_N], size)
    negative_GM = _by_patient(wins_QM - aurocs_M, numbers_N[no_N], size)
    own_MM = _unbiased(numbers_N[yes_N]) * positive_GM.T @ positive_GM
    other_MM = _unbiased(numbers_N[no_N]) * negative_GM.T @ negative_GM
    cross_MM = _unbiased(numbers_N[yes_N | no_N]) * positive_GM.T @ negative_GM
    return aurocs_M, own_MM + other_MM + cross_MM + cross_MM.T


def _components(positive_PM: Array, negative_QM: Array) -> tuple[Array, Array]:
    """The share of negatives that each positive beats (P, M), of positives that beat each negative (Q, M)."""
    p, q = len(positive_PM), len(negative_QM)
    among_all = rankdata(np.concatenate([positive_PM, negative_QM]), axis=0)
    wins_PM = (among_all[:p] - rankdata(positive_PM, axis=0)) / q
    wins_QM = 1 - (among_all[p:] - rankdata(negative_QM, axis=0)) / p
    return wins_PM, wins_QM


def _by_patient(excess_RM: Array, numbers_R: Numbers, size: int) -> Array:
    """What the positives, or the negatives, of each patient (G, M) add to the error of the AUROCs."""
    return np.stack([np.bincount(numbers_R, excess_R, size) for excess_R in excess_RM.T], 1) / len(excess_RM)


def _unbiased(numbers_R: Numbers) -> float:
    """g / (g - 1) for g patients; NaN for one, who has no variance."""
    patients = len(np.unique(numbers_R))
    return patients / (patients - 1) if patients > 1 else math.nan


def delong_interval(
    labels: ArrayLike, scores: ArrayLike, groups: Iterable[Hashable] | None = None, level: float = 0.95
) -> Estimate:
    """AUROC of labels (N,) and scores (N,) with DeLong's interval, on the logit scale to stay within 0 to 1.

    Nothing is drawn. `groups` (N,) names patients as in `delong`. A perfect ranking has no interval. Logit:
    Qin and Hotilovac 2008, doi:10.1177/0962280207087173. Raises ValueError for labels, scores, groups or a
    level that are wrong.
    """
    labels_N, scores_N = check_pair(labels, scores)
    ranked = RankedScores(labels_N, scores_N, Bootstrap.from_groups(groups, len(labels_N), level=level))
    if ranked.reason:
        return _difference(ranked, math.nan)
    aurocs, covariance = delong(labels_N, scores_N[:, None], ranked.bootstrap.group_N)
    area, se = float(aurocs[0]), math.sqrt(covariance[0, 0]) if covariance[0, 0] > 0 else 0.0
    if ranked.doubt or se < NOTHING or not 0 < area < 1:
        return _difference(ranked, area, doubt=ranked.doubt or "interval undefined: DeLong's variance is 0")
    half = ndtri((1 + level) / 2) * se / (area * (1 - area))
    return _difference(ranked, area, float(expit(logit(area) - half)), float(expit(logit(area) + half)))


def _difference(
    ranked: RankedScores, value: float, low: float = math.nan, high: float = math.nan, doubt: str = ""
) -> Estimate:
    """An estimate of DeLong's, with the counts of the class that it is about."""
    stated_N, bootstrap = ranked.stated_N, ranked.bootstrap
    n, positives = int(stated_N.sum()), int(ranked.positive_N.sum())
    if ranked.reason:
        return Estimate.undefined(n, positives, ranked.reason)
    how = f"DeLong {bootstrap.drawn_from(stated_N)}"
    return Estimate(value, low, high, n, positives, doubt or how)


# Tests of two models -----------------------------------------------------------------------------------


def delong_test(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    groups: Iterable[Hashable] | None = None,
    level: float = 0.95,
) -> Comparison:
    """The difference in AUROC of two models' scores (N,) for the same labels (N,), by DeLong's covariance.

    Normal interval and p value; sources and use of `groups` (N,) as in `delong`. Models that rank alike have
    p = 1. Raises ValueError for labels, scores, groups or a level that are wrong.
    """
    labels_N, first_N, second_N = _check_models(labels, first, second)
    ranked = RankedScores(labels_N, first_N, Bootstrap.from_groups(groups, len(labels_N), level=level))
    if ranked.reason:
        return Comparison(math.nan, math.nan, _difference(ranked, math.nan))
    both_N2 = np.stack([first_N, second_N], axis=1)
    (one, other), covariance = delong(labels_N, both_N2, ranked.bootstrap.group_N)
    gap, variance = float(one - other), covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    se = math.sqrt(variance) if variance > NOTHING**2 else 0.0
    doubt = ranked.doubt or ("interval undefined: DeLong's variance is 0" if not se and gap else "")
    if doubt:
        return Comparison(one, other, _difference(ranked, gap, doubt=doubt))
    half = ndtri((1 + level) / 2) * se
    p = float(2 * ndtr(-abs(gap) / se)) if se else 1.0
    return Comparison.from_test(one, other, _difference(ranked, gap, gap - half, gap + half), p, se)


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
    far side of 0, and so at least 2 / (draws + 1): Efron and Tibshirani 1993, section 15.4. Raises ValueError
    for labels, scores, groups or a level that are wrong.
    """
    labels_N, first_N, second_N = _check_models(labels, first, second)
    arrays = labels_N[:, None], first_N[:, None], second_N[:, None]
    found = compare(*arrays, ["class"], metric, groups, draws, seed, level)["class"]
    return replace(found, p_holm=math.nan)


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
    jointly; it is one test and needs no correction. Raises ValueError as `bootstrap_test` does, for a metric
    without that name, and for classes that repeat or are not C.
    """
    if metric not in RANKING_METRICS:
        raise ValueError(f"no metric {metric!r}; there are {', '.join(RANKING_METRICS)}")
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
    found = [_compared(pair[0], pair[1], metric, gaps_D) for pair, gaps_D in zip(pairs, gaps_CD, strict=True)]
    corrected = holm([one.p for one in found])
    report = {"mean": _compared_mean(classes, [pair[0] for pair in pairs], found, gaps_CD)}
    for name, one, p in zip(classes, found, corrected, strict=True):
        report[name] = replace(one, p_holm=float(p))
    return report


def _compared(first: RankedScores, second: RankedScores, metric: str, gaps_D: Array) -> Comparison:
    n, positives = int(first.stated_N.sum()), int(first.positive_N.sum())
    if first.reason:
        return Comparison(math.nan, math.nan, Estimate.undefined(n, positives, first.reason))
    one, other = (RANKING_METRICS[metric][0](ranked.labels_N, ranked.scores_N) for ranked in (first, second))
    bootstrap, gap = first.bootstrap, one - other
    if _alike(gap, gaps_D) and not first.doubt:
        how = f"the models rank alike in every resample {bootstrap.drawn_from(first.stated_N)}"
        return Comparison.from_test(one, other, Estimate(gap, gap, gap, n, positives, how), 1.0, 0.0)
    estimate = bootstrap.estimate(gap, gaps_D, first.stated_N, positives, first.rough, doubt=first.doubt)
    return Comparison.from_test(one, other, estimate, *bootstrap_p(gaps_D))


def _compared_mean(
    classes: Sequence[str], ranked: Sequence[RankedScores], found: Sequence[Comparison], gaps_CD: Array
) -> Comparison:
    kept = [c for c, one in enumerate(ranked) if not one.reason]
    one, other = (float(mean_or_nan(np.array([getattr(found[c], name) for c in kept]))) for name in ("first", "second"))
    gaps_D = mean_or_nan(gaps_CD[kept])
    estimate = macro_mean(classes, ranked, one - other, gaps_D)
    if _alike(one - other, gaps_D) and not any(ranked[c].doubt for c in kept):
        alike = replace(estimate, low=0.0, high=0.0, note="the models rank alike in every resample")
        return Comparison.from_test(one, other, alike, 1.0, 0.0)
    return Comparison.from_test(one, other, estimate, *bootstrap_p(gaps_D))


def _alike(gap: float, gaps_D: Array) -> bool:
    usable_D = gaps_D[np.isfinite(gaps_D)]
    return len(usable_D) > 0 and abs(gap) < NOTHING and bool(np.abs(usable_D).max() < NOTHING)


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

    If the models were equal, each patient's (`groups`, (N,)) or image's difference could as well have the
    other sign. The p value is the share of such swaps with a mean at least as far from 0: of all swaps for up
    to 12 patients, else of `draws` random ones and the real one (never 0; Phipson and Smyth 2010,
    doi:10.2202/1544-6115.1585). An image with NaN in either is left out. The interval is a bootstrap by
    patient. Raises ValueError for lengths or groups that differ, infinite scores, and a level outside 0-1.
    """
    first_N, second_N = (np.asarray(scores, dtype=np.float64) for scores in (first, second))
    if first_N.ndim != 1 or first_N.shape != second_N.shape:
        raise ValueError(f"two arrays (N,) needed, not {first_N.shape} and {second_N.shape}")
    used_N = ~(np.isnan(first_N) | np.isnan(second_N))
    check_scores(first_N[used_N]), check_scores(second_N[used_N])
    bootstrap = Bootstrap.from_groups(groups, len(first_N), draws, seed, level)
    if not used_N.any():
        return Comparison(math.nan, math.nan, Estimate.undefined(0, None, "no image with both scores"))
    gaps_N = np.where(used_N, first_N - second_N, 0.0)
    one, other, gap = (float(x[used_N].mean()) for x in (first_N, second_N, gaps_N))
    gaps_D = bootstrap.means(gaps_N, used_N)
    estimate = bootstrap.estimate(gap, gaps_D, used_N, None)
    sums_G = np.bincount(bootstrap.group_N[used_N], gaps_N[used_N], bootstrap.size)
    return Comparison.from_test(one, other, estimate, _swap_p(sums_G[sums_G != 0], draws, seed), bootstrap_p(gaps_D)[1])


def _swap_p(sums_G: Array, draws: int, seed: int) -> float:
    """The share of sign swaps of patients' differences (G,) with a sum as far from 0 as the real one."""
    exact = len(sums_G) <= EXACT
    total, margin = abs(sums_G.sum()), 1e-9 * np.abs(sums_G).sum()
    swaps = _all_signs(len(sums_G)) if exact else _random_signs(len(sums_G), draws, seed)
    far = sum(int((np.abs(signs_DG @ sums_G) >= total - margin).sum()) for signs_DG in swaps)
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
