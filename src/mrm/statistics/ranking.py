"""How well scores rank findings: AUROC and average precision, with 95 % intervals.

A label is 1 (present), 0 (absent) or NaN (not stated, and left out of its class). A class with a single label value has
no AUROC.

Many bootstrap draws are computed at once: scores are sorted once into levels, and the positive and negative weights on
every level, for all draws, are one sparse product `levels_LG @ weights_GD`.

Shapes: N records, C classes, M metrics, G patients (or records, if no patients are given), D bootstrap draws,
L levels of score, highest first; records with equal scores share a level.

scikit-learn and scipy.stats are imported where they are used: predictions need neither, and they take a second.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from mrm.statistics.intervals import Array, Bootstrap, Estimate, Mask

Metric = Callable[[Array, Array], float]  # (labels_N, scores_N) -> value

FEW = 20  # with fewer patients of one label value, a note calls the interval rough; 20 of 200 cover 92 %


# Checks of the inputs ---------------------------------------------------------------------------------


def check_labels(labels: ArrayLike) -> Array:
    """Labels as float64, of any shape. Raises ValueError, with count and first index, for all but 0, 1, NaN."""
    array = np.asarray(labels, dtype=np.float64)
    wrong = ~(np.isnan(array) | (array == 0) | (array == 1))
    if wrong.any():
        raise ValueError(
            f"{wrong.sum():,} of {array.size:,} labels are not 0, 1 or NaN (not stated); "
            f"the first is {array[wrong][0]:g} at {first_place(wrong)}"
        )
    return array


def check_scores(scores: ArrayLike, probabilities: bool = False) -> Array:
    """Scores as float64, of any shape.

    Raises ValueError, with count and first index, for scores that are not finite or, with `probabilities`, are outside
    0 to 1.
    """
    array = np.asarray(scores, dtype=np.float64)
    wrong = ~np.isfinite(array)
    if wrong.any():
        raise ValueError(
            f"{wrong.sum():,} of {array.size:,} scores are not finite; "
            f"the first is {array[wrong][0]} at {first_place(wrong)}"
        )
    wrong = (array < 0) | (array > 1)
    if probabilities and wrong.any():
        raise ValueError(
            f"{wrong.sum():,} of {array.size:,} probabilities are outside 0 to 1; the first is "
            f"{array[wrong][0]:g} at {first_place(wrong)} (are these logits?)"
        )
    return array


def check_pair(labels: ArrayLike, scores: ArrayLike, probabilities: bool = False) -> tuple[Array, Array]:
    """Labels (N,) and scores (N,) as float64. Raises ValueError if they are invalid or differ in length."""
    labels_N, scores_N = check_labels(labels), check_scores(scores, probabilities)
    for name, array in (("labels", labels_N), ("scores", scores_N)):
        if array.ndim != 1:
            raise ValueError(f"{name} must have shape (N,), not {array.shape}")
    if len(labels_N) != len(scores_N):
        raise ValueError(f"{len(labels_N):,} labels, but {len(scores_N):,} scores")
    return labels_N, scores_N


def check_table(labels_NC: Array, scores_NC: Array, classes: Sequence[str]) -> None:
    """Raise ValueError unless labels and scores are both (N, C) and the names of the C classes differ."""
    if labels_NC.shape != scores_NC.shape:
        raise ValueError(f"labels have shape {labels_NC.shape}, but scores {scores_NC.shape}")
    if labels_NC.ndim != 2 or labels_NC.shape[1] != len(classes):
        raise ValueError(f"{len(classes)} classes need arrays (N, {len(classes)}), not {labels_NC.shape}")
    if len(set(classes)) != len(classes) or "mean" in classes:
        raise ValueError(f"class names must differ, and 'mean' is reserved: {list(classes)}")


def first_place(wrong: Mask) -> str:
    """The place of the first True in a mask: 'index 3', or 'row 3, column 1'."""
    place = np.argwhere(wrong)[0]
    return f"row {place[0]}, column {place[1]}" if len(place) == 2 else f"index {', '.join(map(str, place))}"


# Metrics -----------------------------------------------------------------------------------------------


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of labels (N,) and scores (N,).

    This is the probability that a positive ranks above a negative; ties count one half (midranks; Mann and Whitney
    1947, doi:10.1214/aoms/1177730491). NaN if the stated labels have a single value. Raises ValueError for wrong
    lengths, labels or scores.
    """
    labels_N, scores_N = _stated(*check_pair(labels, scores))
    positives = int(labels_N.sum())
    negatives = len(labels_N) - positives
    if not positives or not negatives:
        return math.nan
    from scipy.stats import rankdata

    rank_sum = rankdata(scores_N)[labels_N == 1].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision of labels (N,) and scores (N,): precision, averaged over steps of recall.

    Not interpolated, for the reasons of Davis and Goadrich 2006, doi:10.1145/1143844.1143874; records with equal scores
    enter together. Chance level is the prevalence. NaN if the stated labels have a single value. Raises ValueError for
    wrong lengths, labels or scores.
    """
    labels_N, scores_N = _stated(*check_pair(labels, scores))
    if undefined_reason(labels_N):
        return math.nan
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels_N, scores_N))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Array, Array, Array]:
    """For plots: (false positive rate, sensitivity, threshold), each (K,), from the highest threshold to the lowest.

    A record is called positive if score >= threshold. Empty if the stated labels have a single value.
    """
    labels_N, scores_N = _stated(*check_pair(labels, scores))
    if undefined_reason(labels_N):
        return np.empty(0), np.empty(0), np.empty(0)
    from sklearn import metrics

    return metrics.roc_curve(labels_N, scores_N)


def pr_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Array, Array, Array]:
    """For plots: (recall, precision, threshold), each (K,), from the highest threshold to the lowest.

    Starts at recall 0, precision 1, threshold infinity. Empty if the stated labels have a single value.
    """
    labels_N, scores_N = _stated(*check_pair(labels, scores))
    if undefined_reason(labels_N):
        return np.empty(0), np.empty(0), np.empty(0)
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(labels_N, scores_N)
    return recall[::-1], precision[::-1], np.append(thresholds, np.inf)[::-1]


def undefined_reason(labels_N: Array) -> str:
    """The reason why stated labels (N,) have no ranking metric, such as 'only negatives'; '' if they have one."""
    if not len(labels_N):
        return "no stated label"
    if labels_N.all():
        return "only positives"
    return "" if labels_N.any() else "only negatives"


def _stated(labels_N: Array, scores_N: Array) -> tuple[Array, Array]:
    stated = ~np.isnan(labels_N)
    return labels_N[stated], scores_N[stated]


# Intervals --------------------------------------------------------------------------------------------


def interval(
    labels: ArrayLike,
    scores: ArrayLike,
    metric: str | Metric = "auroc",
    groups: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """A metric of labels (N,) and scores (N,) with its percentile bootstrap interval over patients.

    `metric` is 'auroc', 'average_precision', or any function (labels_N, scores_N) -> number, which gets the stated
    labels only and is slower, as it runs once per draw. `groups` (N,) names each record's patient; None draws
    records, which makes the interval too narrow if patients have several. `draws=0` gives the value alone. Raises
    ValueError for wrong lengths, labels or scores, an unknown metric, or a level outside 0-1.
    """
    labels_N, scores_N = check_pair(labels, scores)
    bootstrap = Bootstrap.from_groups(groups, len(labels_N), draws, seed, level)
    name = next((name for name, (function, _) in RANKING_METRICS.items() if metric in (name, function)), "")
    if name:
        ranked = RankedScores(labels_N, scores_N, bootstrap)
        return ranked.estimate(name, bootstrap_metrics([ranked], [name], bootstrap)[0, 0])
    if not callable(metric):
        raise ValueError(f"unknown metric {metric!r}; choose from {', '.join(RANKING_METRICS)}, or pass a function")
    return _interval_of_function(labels_N, scores_N, metric, bootstrap)


def classification_report(
    labels: ArrayLike,
    scores: ArrayLike,
    classes: Sequence[str],
    groups: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, dict[str, Estimate]]:
    """AUROC and average precision of labels (N, C) and scores (N, C), per class and as their mean.

    Returns {"mean": {"auroc": Estimate, "average_precision": Estimate}, "Effusion": {...}, ...}. The mean
    (macro) is over the defined classes, and its interval comes from drawing patients once for all classes together.
    Its `n` counts records with a stated label in one of these classes, its `positives` those with at least one
    finding. Each class equals `interval` of its own column. Raises ValueError as `interval` does, and for class names
    that repeat, are 'mean' or are not C.
    """
    labels_NC, scores_NC = check_labels(labels), check_scores(scores)
    check_table(labels_NC, scores_NC, classes)
    bootstrap = Bootstrap.from_groups(groups, len(labels_NC), draws, seed, level)
    ranked = [
        RankedScores(labels_N, scores_N, bootstrap) for labels_N, scores_N in zip(labels_NC.T, scores_NC.T, strict=True)
    ]
    values_CMD = bootstrap_metrics(ranked, list(RANKING_METRICS), bootstrap)
    report: dict[str, dict[str, Estimate]] = {"mean": {}}
    for name, one, values_MD in zip(classes, ranked, values_CMD, strict=True):
        report[name] = {metric: one.estimate(metric, values_MD[i]) for i, metric in enumerate(RANKING_METRICS)}
    defined = [c for c, one in enumerate(ranked) if not one.undefined]
    small = [classes[c] for c in defined if ranked[c].rarer_label[0] < FEW]
    rough = f"rough: few patients in {', '.join(small)}" if small else ""
    for i, metric in enumerate(RANKING_METRICS):
        value = float(mean_or_nan(np.array([report[classes[c]][metric].value for c in defined])))
        report["mean"][metric] = macro_mean(classes, ranked, value, mean_or_nan(values_CMD[defined, i]), rough)
    return report


class RankedScores:
    """Labels (N,) and scores (N,) of one class, sorted into levels to compute many bootstrap draws at once.

    `undefined` is the reason why the class has no value, `no_interval` why it has no interval; '' if it has one.
    """

    def __init__(self, labels_N: Array, scores_N: Array, bootstrap: Bootstrap) -> None:
        self.labels_N, self.scores_N, self.bootstrap = labels_N, scores_N, bootstrap
        self.stated_N, self.positive_N, self.negative_N = ~np.isnan(labels_N), labels_N == 1, labels_N == 0
        self.kinds = {"positive": self.positive_N, "negative": self.negative_N}
        self.undefined = undefined_reason(labels_N[self.stated_N])
        reasons = [bootstrap.no_interval(mask_N, f"{name} ") for name, mask_N in self.kinds.items()]
        self.no_interval = next(filter(None, reasons), "")

    @cached_property
    def level_N(self) -> NDArray[np.intp]:
        """The level of each record with a stated label."""
        return _levels(self.positive_N[self.stated_N], self.scores_N[self.stated_N])

    @cached_property
    def levels(self) -> int:
        """How many there are; asked only of a class with stated labels."""
        return int(self.level_N.max()) + 1

    @cached_property
    def positives_LG(self) -> sparse.csr_matrix:
        """The number of positive records of each patient on each level."""
        return self._matrix(self.positive_N)

    @cached_property
    def negatives_LG(self) -> sparse.csr_matrix:
        """The number of negative records of each patient on each level."""
        return self._matrix(self.negative_N)

    @property
    def degrees(self) -> float:
        """The degrees of freedom of a variance that comes from the positives and from the negatives."""
        return self.bootstrap.degrees(*self.kinds.values())

    @property
    def rarer_label(self) -> tuple[int, str]:
        """The number of patients with the rarer label value, and its name."""
        return min((self.bootstrap.patients(mask_N), name) for name, mask_N in self.kinds.items())

    @property
    def rough(self) -> str:
        """A note for an interval that rests on few patients of one label value; '' for others."""
        count, label = self.rarer_label
        return f"rough: only {count} {label} {self.bootstrap.unit}" if count < FEW and not self.no_interval else ""

    def _matrix(self, mask_N: Mask) -> sparse.csr_matrix:
        """The number of masked records of each patient on each level (L, G)."""
        places = self.level_N[mask_N[self.stated_N]], self.bootstrap.group_N[mask_N]
        return sparse.csr_matrix((np.ones(mask_N.sum()), places), shape=(self.levels, self.bootstrap.size))

    def metrics(self, weights_GD: Array, names: Sequence[str]) -> Array:
        """The named metrics (M, D) of every draw."""
        positives_LD, negatives_LD = self.positives_LG @ weights_GD, self.negatives_LG @ weights_GD
        return np.stack([RANKING_METRICS[name][1](positives_LD, negatives_LD) for name in names])

    def estimate(self, name: str, values_D: Array) -> Estimate:
        """The named metric with the interval of its draws (D,)."""
        n, positives = int(self.stated_N.sum()), int(self.positive_N.sum())
        if self.undefined:
            return Estimate.undefined(n, positives, self.undefined)
        value = RANKING_METRICS[name][0](self.labels_N, self.scores_N)
        return self.bootstrap.estimate(
            value, values_D, self.stated_N, positives, self.rough, no_interval=self.no_interval, degrees=self.degrees
        )


def mean_or_nan(values_CX: Array) -> Array:
    """The mean over classes; NaN if there are none."""
    return values_CX.mean(axis=0) if len(values_CX) else np.full(values_CX.shape[1:], np.nan)


def macro_mean(
    classes: Sequence[str], ranked: Sequence[RankedScores], value: float, values_D: Array, *remarks: str
) -> Estimate:
    """An estimate of the macro mean of the defined classes, from its value and its draws (D,).

    Its `n` counts records with a stated label in one of these classes, its `positives` those with a finding; the note
    names the classes that are left out. There is no interval if one of the classes has none: a single positive patient,
    who is the same in every draw, may be the main source of uncertainty in the mean.
    """
    defined = [one for one in ranked if not one.undefined]
    if not defined:
        return Estimate.undefined(0, 0, "no class has both label values")
    used_N = np.logical_or.reduce([one.stated_N for one in defined])
    positives = int(np.logical_or.reduce([one.positive_N for one in defined]).sum())
    omitted = ", ".join(name for name, one in zip(classes, ranked, strict=True) if one.undefined)
    classes_used = f"mean of {len(defined)} of {len(ranked)} classes, without {omitted}" if omitted else ""
    reasons = [
        f"{one.no_interval} in {name}"
        for name, one in zip(classes, ranked, strict=True)
        if one.no_interval and not one.undefined
    ]
    no_interval = reasons[0] if reasons else ""
    bootstrap = defined[0].bootstrap
    degrees = mean_degrees(defined)
    return bootstrap.estimate(
        value, values_D, used_N, positives, classes_used, *remarks, no_interval=no_interval, degrees=degrees
    )


def mean_degrees(ranked: Sequence[RankedScores]) -> float:
    """The degrees of freedom of a mean over classes: the harmonic mean of theirs, as the same patients are in all."""
    share = sum(1 / one.degrees for one in ranked)
    return len(ranked) / share if share else math.inf


def bootstrap_metrics(ranked: Sequence[RankedScores], names: Sequence[str], bootstrap: Bootstrap) -> Array:
    """The named metrics (C, M, D) of all classes in the same draws of patients; NaN where undefined."""
    values_CMD = np.full((len(ranked), len(names), bootstrap.draws), np.nan)
    defined = [c for c, one in enumerate(ranked) if not one.undefined]
    if not defined:
        return values_CMD
    start = 0
    for weights_GD in bootstrap.weights(rows=max(ranked[c].levels for c in defined)):
        stop = start + weights_GD.shape[1]
        for c in defined:
            values_CMD[c, :, start:stop] = ranked[c].metrics(weights_GD, names)
        start = stop
    return values_CMD


def _levels(positive_N: Mask, scores_N: Array) -> NDArray[np.intp]:
    """The level (N,) of each record; 0 is the highest score, and equal scores share a level.

    A run of neighbouring scores without a positive is also one level: neither metric depends on the order inside it,
    and rare findings then need few levels.
    """
    distinct, place_N = np.unique(-scores_N, return_inverse=True)
    has_positive = np.bincount(place_N, weights=positive_N, minlength=len(distinct)) > 0
    starts_level = has_positive | np.append(True, has_positive[:-1])[: len(has_positive)]
    return (np.cumsum(starts_level) - 1)[place_N]


def _weighted_auroc(positives_LD: Array, negatives_LD: Array) -> Array:
    """AUROC (D,) from the positive and negative weights on each level; NaN for a draw that lacks either."""
    above_LD = np.cumsum(negatives_LD, axis=0)
    pairs_D = positives_LD.sum(axis=0) * above_LD[-1]
    beaten_LD = above_LD[-1] - above_LD + negatives_LD / 2
    won_D = np.einsum("ld,ld->d", positives_LD, beaten_LD)
    return np.divide(won_D, pairs_D, out=np.full_like(won_D, np.nan), where=pairs_D > 0)


def _weighted_average_precision(positives_LD: Array, negatives_LD: Array) -> Array:
    """Average precision (D,) from the weights on each level; NaN for a draw with a single label value."""
    hits_LD = np.cumsum(positives_LD, axis=0)
    called_LD = np.cumsum(negatives_LD, axis=0)
    both_D = (hits_LD[-1] > 0) & (called_LD[-1] > 0)
    called_LD += hits_LD
    precision_LD = hits_LD / np.maximum(called_LD, 1)  # weights are counts, so only 0 / 0 is changed
    sum_D = np.einsum("ld,ld->d", positives_LD, precision_LD)
    return np.divide(sum_D, hits_LD[-1], out=np.full_like(sum_D, np.nan), where=both_D)


# name: (the metric of labels and scores, the same metric from weights on levels)
RANKING_METRICS: dict[str, tuple[Metric, Callable[[Array, Array], Array]]] = {
    "auroc": (auroc, _weighted_auroc),
    "average_precision": (average_precision, _weighted_average_precision),
}


def _interval_of_function(labels_N: Array, scores_N: Array, metric: Metric, bootstrap: Bootstrap) -> Estimate:
    stated_N = ~np.isnan(labels_N)
    labels, scores, numbers = labels_N[stated_N], scores_N[stated_N], bootstrap.group_N[stated_N]
    value = float(metric(labels, scores)) if len(labels) else math.nan
    if not math.isfinite(value):
        reason = "the metric is undefined" if len(labels) else "no stated label"
        return Estimate.undefined(len(labels), int(labels.sum()), reason)
    values_D = np.full(bootstrap.draws, np.nan)
    columns = (weights_G for weights_GD in bootstrap.weights() for weights_G in weights_GD.T)
    for d, weights_G in enumerate(columns):
        times = weights_G[numbers].astype(np.intp)
        if times.any():
            values_D[d] = metric(np.repeat(labels, times), np.repeat(scores, times))
    return bootstrap.estimate(value, values_D, stated_N, int(labels.sum()))
