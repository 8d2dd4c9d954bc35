"""How well scores rank findings: arrays in; value and 95 % interval out.

A label is 1 (present), 0 (absent) or NaN (not stated: left out of its class). A class with one label value has
no AUROC.

Many draws of the bootstrap are weighed at once: scores are sorted once into levels, and the positive and negative
weight on every level, for all draws, is one sparse product `levels_LG @ weights_GD`.

Shapes: N records, C classes, M metrics, G patients (or records, where no patients are given), D bootstrap draws,
L levels of score, highest first; records that tie share a level.

scikit-learn and scipy.stats are imported where they are used: predictions need neither, and they take a second.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from mrm.statistics.intervals import Array, Bootstrap, Estimate, Mask

Metric = Callable[[Array, Array], float]  # (labels_N, scores_N) -> value

FEW = 20  # fewer patients of one kind: called rough. With 20 positives of 200, 95 % intervals cover 92 %


# What goes in is checked once, here --------------------------------------------------------------------


def check_labels(labels: ArrayLike) -> Array:
    """Labels as float64, any shape. Raises ValueError, with count and first place, for all but 0, 1, NaN."""
    array = np.asarray(labels, dtype=np.float64)
    wrong = ~(np.isnan(array) | (array == 0) | (array == 1))
    if wrong.any():
        raise ValueError(
            f"{wrong.sum():,} of {array.size:,} labels are not 0, 1 or NaN (not stated); "
            f"the first is {array[wrong][0]:g} at {first_place(wrong)}"
        )
    return array


def check_scores(scores: ArrayLike, probabilities: bool = False) -> Array:
    """Scores as float64, any shape. Raises ValueError, with count and first place, for those that are not
    finite or, where `probabilities` are needed, lie outside 0 to 1."""
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
    """Labels (N,) and scores (N,) as float64. Raises ValueError where they are wrong or differ in length."""
    labels_N, scores_N = check_labels(labels), check_scores(scores, probabilities)
    for name, array in (("labels", labels_N), ("scores", scores_N)):
        if array.ndim != 1:
            raise ValueError(f"{name} must have shape (N,), not {array.shape}")
    if len(labels_N) != len(scores_N):
        raise ValueError(f"{len(labels_N):,} labels, but {len(scores_N):,} scores")
    return labels_N, scores_N


def check_table(labels_NC: Array, scores_NC: Array, classes: Sequence[str]) -> None:
    """Raises ValueError unless labels and scores are both (N, C) and the names of C classes differ."""
    if labels_NC.shape != scores_NC.shape:
        raise ValueError(f"labels have shape {labels_NC.shape}, but scores {scores_NC.shape}")
    if labels_NC.ndim != 2 or labels_NC.shape[1] != len(classes):
        raise ValueError(f"{len(classes)} classes need arrays (N, {len(classes)}), not {labels_NC.shape}")
    if len(set(classes)) != len(classes) or "mean" in classes:
        raise ValueError(f"class names must differ, and 'mean' is taken: {list(classes)}")


def first_place(wrong: Mask) -> str:
    """The first True of a mask in words: 'index 3', or 'row 3, column 1'."""
    place = np.argwhere(wrong)[0]
    return f"row {place[0]}, column {place[1]}" if len(place) == 2 else f"index {', '.join(map(str, place))}"


# One number --------------------------------------------------------------------------------------------


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of labels (N,) and scores (N,).

    This is the chance that a positive outranks a negative; ties count one half (midranks; Mann and Whitney
    1947, doi:10.1214/aoms/1177730491). NaN where the stated labels have one value only. Raises ValueError for
    lengths, labels or scores that are wrong.
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

    Not interpolated; records that tie enter together. Chance level is the prevalence. NaN where the stated
    labels have one value only. Raises ValueError for lengths, labels or scores that are wrong.
    Davis and Goadrich 2006, doi:10.1145/1143844.1143874, tell why not to interpolate.
    """
    labels_N, scores_N = _stated(*check_pair(labels, scores))
    if undefined_reason(labels_N):
        return math.nan
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels_N, scores_N))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Array, Array, Array]:
    """To plot: (false positive rate, sensitivity, threshold), each (K,), from strict to lenient; a record is
    called positive where score >= threshold. Empty where the stated labels have one value only."""
    labels_N, scores_N = _stated(*check_pair(labels, scores))
    if undefined_reason(labels_N):
        return np.empty(0), np.empty(0), np.empty(0)
    from sklearn import metrics

    return metrics.roc_curve(labels_N, scores_N)


def pr_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Array, Array, Array]:
    """To plot: (recall, precision, threshold), each (K,), from strict to lenient, starting at recall 0,
    precision 1, threshold infinity. Empty where the stated labels have one value only."""
    labels_N, scores_N = _stated(*check_pair(labels, scores))
    if undefined_reason(labels_N):
        return np.empty(0), np.empty(0), np.empty(0)
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(labels_N, scores_N)
    return recall[::-1], precision[::-1], np.append(thresholds, np.inf)[::-1]


def undefined_reason(labels_N: Array) -> str:
    """Why stated labels (N,) have no ranking metric: 'only negatives', say; '' where they have."""
    if not len(labels_N):
        return "no stated label"
    return "only positives" if labels_N.all() else "" if labels_N.any() else "only negatives"


def _stated(labels_N: Array, scores_N: Array) -> tuple[Array, Array]:
    stated = ~np.isnan(labels_N)
    return labels_N[stated], scores_N[stated]


# With its interval ------------------------------------------------------------------------------------


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

    `metric` is 'auroc', 'average_precision', or any function (labels_N, scores_N) -> number, given stated
    labels only (slower: it runs once per draw). `groups` (N,) names each record's patient; None draws
    records, which is too narrow where patients have several. `draws=0` gives the value alone. Raises
    ValueError for lengths, labels or scores that are wrong, a metric without that name, a level outside 0-1.
    """
    labels_N, scores_N = check_pair(labels, scores)
    bootstrap = Bootstrap.from_groups(groups, len(labels_N), draws, seed, level)
    name = next((name for name, (function, _) in RANKING_METRICS.items() if metric in (name, function)), "")
    if name:
        ranked = RankedScores(labels_N, scores_N, bootstrap)
        return ranked.estimate(name, bootstrap_metrics([ranked], [name], bootstrap)[0, 0])
    if not callable(metric):
        raise ValueError(f"no metric {metric!r}; there are {', '.join(RANKING_METRICS)}, or give a function")
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
    (macro) is over the classes that are defined, and its interval comes from drawing patients once for all
    classes together. Its `n` counts records with a stated label in one of these classes, its `positives`
    those with at least one finding. Each class equals `interval` of its own column. Raises ValueError as
    `interval` does, and for classes that repeat, are called 'mean' or are not C.
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
    kept = [c for c, one in enumerate(ranked) if not one.reason]
    thin = [classes[c] for c in kept if ranked[c].few[0] < FEW]
    rough = f"rough: few patients in {', '.join(thin)}" if thin else ""
    for i, metric in enumerate(RANKING_METRICS):
        value = float(mean_or_nan(np.array([report[classes[c]][metric].value for c in kept])))
        report["mean"][metric] = macro_mean(classes, ranked, value, mean_or_nan(values_CMD[kept, i]), rough)
    return report


class RankedScores:
    """One class, labels (N,) and scores (N,), sorted into levels so that many draws are weighed at once.

    `reason` tells why the class is undefined, `doubt` why it has no interval; both are '' otherwise.
    """

    def __init__(self, labels_N: Array, scores_N: Array, bootstrap: Bootstrap) -> None:
        self.labels_N, self.scores_N, self.bootstrap = labels_N, scores_N, bootstrap
        self.stated_N, self.positive_N, self.negative_N = ~np.isnan(labels_N), labels_N == 1, labels_N == 0
        self.kinds = {"positive": self.positive_N, "negative": self.negative_N}
        self.reason = undefined_reason(labels_N[self.stated_N])
        doubts = (bootstrap.doubt(mask_N, f"{name} ") for name, mask_N in self.kinds.items())
        self.doubt = next(filter(None, doubts), "")
        level_N = _levels(self.positive_N[self.stated_N], scores_N[self.stated_N])
        self.levels = int(level_N.max(initial=-1)) + 1
        self.positives_LG = self._matrix(level_N, self.positive_N)
        self.negatives_LG = self._matrix(level_N, self.negative_N)

    @property
    def few(self) -> tuple[int, str]:
        """The rarer label value: how many patients have it, and its name."""
        return min((self.bootstrap.patients(mask_N), name) for name, mask_N in self.kinds.items())

    @property
    def rough(self) -> str:
        """A remark for an interval that rests on few patients of one kind, or ''."""
        few, what = self.few
        return f"rough: only {few} {what} {self.bootstrap.unit}" if few < FEW and not self.doubt else ""

    def _matrix(self, level_N: NDArray[np.intp], mask_N: Mask) -> sparse.csr_matrix:
        """How many records of the mask each patient has on each level (L, G)."""
        places = level_N[mask_N[self.stated_N]], self.bootstrap.group_N[mask_N]
        return sparse.csr_matrix((np.ones(mask_N.sum()), places), shape=(self.levels, self.bootstrap.size))

    def weigh(self, weights_GD: Array, names: Sequence[str]) -> Array:
        """The named metrics (M, D) in every draw."""
        positives_LD, negatives_LD = self.positives_LG @ weights_GD, self.negatives_LG @ weights_GD
        return np.stack([RANKING_METRICS[name][1](positives_LD, negatives_LD) for name in names])

    def estimate(self, name: str, values_D: Array) -> Estimate:
        n, positives = int(self.stated_N.sum()), int(self.positive_N.sum())
        if self.reason:
            return Estimate.undefined(n, positives, self.reason)
        value = RANKING_METRICS[name][0](self.labels_N, self.scores_N)
        return self.bootstrap.estimate(value, values_D, self.stated_N, positives, self.rough, doubt=self.doubt)


def mean_or_nan(values_CX: Array) -> Array:
    """The mean over classes; NaN where there are none."""
    return values_CX.mean(axis=0) if len(values_CX) else np.full(values_CX.shape[1:], np.nan)


def macro_mean(
    classes: Sequence[str], ranked: Sequence[RankedScores], value: float, values_D: Array, *remarks: str
) -> Estimate:
    """The macro mean of the defined classes, of which the value and its draws (D,) are given, as an estimate.

    Its `n` counts records with a stated label in one of these classes, its `positives` those with a finding; the note
    names the classes that are left out. There is no interval where one of the classes has none: a single positive
    patient, the same in every draw, may be most of what is not known of the mean.
    """
    able = [one for one in ranked if not one.reason]
    if not able:
        return Estimate.undefined(0, 0, "no class has both label values")
    used_N = np.logical_or.reduce([one.stated_N for one in able])
    positives = int(np.logical_or.reduce([one.positive_N for one in able]).sum())
    omitted = ", ".join(name for name, one in zip(classes, ranked, strict=True) if one.reason)
    kept = f"mean of {len(able)} of {len(ranked)} classes, without {omitted}" if omitted else ""
    doubts = (
        f"{one.doubt} in {name}" for name, one in zip(classes, ranked, strict=True) if one.doubt and not one.reason
    )
    doubt = next(doubts, "")
    return able[0].bootstrap.estimate(value, values_D, used_N, positives, kept, *remarks, doubt=doubt)


def bootstrap_metrics(ranked: Sequence[RankedScores], names: Sequence[str], bootstrap: Bootstrap) -> Array:
    """The named metrics (C, M, D) of all classes in the same draws of patients; NaN where undefined."""
    values_CMD = np.full((len(ranked), len(names), bootstrap.draws), np.nan)
    able = [c for c, one in enumerate(ranked) if not one.reason]
    if not able:
        return values_CMD
    start = 0
    for weights_GD in bootstrap.weights(rows=max(ranked[c].levels for c in able)):
        stop = start + weights_GD.shape[1]
        for c in able:
            values_CMD[c, :, start:stop] = ranked[c].weigh(weights_GD, names)
        start = stop
    return values_CMD


def _levels(positive_N: Mask, scores_N: Array) -> NDArray[np.intp]:
    """The level (N,) of each record, 0 the highest score; ties share a level.

    A run of neighbouring scores without a positive is one level too: neither metric looks inside it, and
    rare findings then need few levels.
    """
    distinct, place_N = np.unique(-scores_N, return_inverse=True)
    holds = np.bincount(place_N, weights=positive_N, minlength=len(distinct)) > 0
    opens = holds | np.append(True, holds[:-1])[: len(holds)]
    return (np.cumsum(opens) - 1)[place_N]


def _weighted_auroc(positives_LD: Array, negatives_LD: Array) -> Array:
    """AUROC (D,) from the positive and negative weight on each level; NaN for a draw without either."""
    above_LD = np.cumsum(negatives_LD, axis=0)
    pairs_D = positives_LD.sum(axis=0) * above_LD[-1]
    beaten_LD = above_LD[-1] - above_LD + negatives_LD / 2
    won_D = np.einsum("ld,ld->d", positives_LD, beaten_LD)
    return np.divide(won_D, pairs_D, out=np.full_like(won_D, np.nan), where=pairs_D > 0)


def _weighted_average_precision(positives_LD: Array, negatives_LD: Array) -> Array:
    """Average precision (D,) from the weights on each level; NaN for a draw with one label value."""
    hits_LD = np.cumsum(positives_LD, axis=0)
    called_LD = np.cumsum(negatives_LD, axis=0)
    both_D = (hits_LD[-1] > 0) & (called_LD[-1] > 0)
    called_LD += hits_LD
    precision_LD = hits_LD / np.maximum(called_LD, 1)  # weights are counts, so only 0 / 0 is changed
    sum_D = np.einsum("ld,ld->d", positives_LD, precision_LD)
    return np.divide(sum_D, hits_LD[-1], out=np.full_like(sum_D, np.nan), where=both_D)


# name: (the plain metric, the same from weights on levels)
RANKING_METRICS: dict[str, tuple[Metric, Callable[[Array, Array], Array]]] = {
    "auroc": (auroc, _weighted_auroc),
    "average_precision": (average_precision, _weighted_average_precision),
}


def _interval_of_function(labels_N: Array, scores_N: Array, metric: Metric, bootstrap: Bootstrap) -> Estimate:
    stated_N = ~np.isnan(labels_N)
    labels, scores, numbers = labels_N[stated_N], scores_N[stated_N], bootstrap.group_N[stated_N]
    value = float(metric(labels, scores)) if len(labels) else math.nan
    if not math.isfinite(value):
        reason = "the metric is undefined here" if len(labels) else "no stated label"
        return Estimate.undefined(len(labels), int(labels.sum()), reason)
    values_D = np.full(bootstrap.draws, np.nan)
    columns = (weights_G for weights_GD in bootstrap.weights() for weights_G in weights_GD.T)
    for d, weights_G in enumerate(columns):
        times = weights_G[numbers].astype(np.intp)
        if times.any():
            values_D[d] = metric(np.repeat(labels, times), np.repeat(scores, times))
    return bootstrap.estimate(value, values_D, stated_N, int(labels.sum()))
