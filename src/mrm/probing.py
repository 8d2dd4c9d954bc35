"""What frozen features know of findings: linear probes, nearest neighbours; and which pictures lie far from known ones.

Features are standardised by the training records throughout. Settings (regularisation, number of neighbours) are chosen
by mean AUROC on validation records, never on test records.
"""

# Shapes: N records (T training, Q queries), C classes, D features, S seeds, B bootstrap draws, R directions kept
from __future__ import annotations

import base64
import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from mrm import intervals, metrics
from mrm.intervals import Array, Bootstrap, Estimate
from mrm.metrics import Ranked, draw_ranked

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn: the small ones regularise more
NEIGHBOURS = (1, 3, 5, 10, 20, 50, 100, 200)
SHARPNESS = 0.07  # a neighbour weighs exp(cosine / 0.07), as in DINO, arXiv:2104.14294, section 4.1
CELLS = 20_000_000  # cosines of queries and training records that are in memory at a time
DIRECTIONS, EXPLAINED = 32, 0.95  # of an outlier reference: at the most, and of the variance
FOLDS = 5


class ProbeError(ValueError):
    """Features or labels that nothing can be learned from. The message says why, and what to do."""


@dataclass(frozen=True)
class Labelled:
    """Features (N, D) with labels (N, C): 1, 0, NaN = not stated."""

    features_ND: Array
    labels_NC: Array

    def __post_init__(self) -> None:
        if self.features_ND.ndim != 2 or len(self.features_ND) != len(self.labels_NC):
            raise ProbeError(
                f"features {self.features_ND.shape} and labels {self.labels_NC.shape} are not (N, D) and (N, C)"
            )
        if not np.isfinite(self.features_ND).all():
            raise ProbeError("features with NaN or infinity: leave out the pictures that could not be read first")


@dataclass(frozen=True)
class Probe:
    """Scores (N, C) of the test records, the setting that validation chose, and the mean AUROC it had there.

    `untaught` are the numbers of classes with one label value in training: their score is 0 for every record.
    """

    scores_NC: Array
    setting: float
    val_auroc: float
    untaught: tuple[int, ...] = ()
    note: str = ""


# Linear probe and neighbours ----------------------------------------------------------------------------


def linear(train: Labelled, val: Labelled, test: Labelled) -> Probe:
    """Logistic regression of each class on standardised features (L-BFGS, L2), its strength chosen on validation.

    One strength for all classes. Scores are logits. Raises ProbeError where training or validation records have no
    class with both label values.
    """
    standard = standardised(train, val, test)
    untaught = _untaught(train, val)
    models: dict[int, LogisticRegression] = {}
    unfinished: list[float] = []

    def scores(strength: float) -> tuple[Array, Array]:
        found = np.zeros((len(val.labels_NC), train.labels_NC.shape[1])), np.zeros(test.labels_NC.shape)
        for c in set(range(train.labels_NC.shape[1])) - set(untaught):
            model = models.setdefault(c, LogisticRegression(max_iter=1000, warm_start=True))
            model.C = strength  # from the most regularised on, so that each start is near its end
            labels_T = train.labels_NC[:, c]
            stated_T = ~np.isnan(labels_T)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ConvergenceWarning)
                model.fit(standard[0][stated_T], labels_T[stated_T])
            if any(issubclass(w.category, ConvergenceWarning) for w in caught):
                unfinished.append(strength)
            for scores_NC, features_ND in zip(found, standard[1:], strict=True):
                scores_NC[:, c] = model.decision_function(features_ND)
        return found

    best = _best(STRENGTHS, scores, val.labels_NC, untaught)
    note = "the regression had not converged after 1,000 steps" if best.setting in unfinished else ""
    return Probe(best.scores_NC, best.setting, best.val_auroc, untaught, note)


def neighbours(train: Labelled, val: Labelled, test: Labelled) -> Probe:
    """The weighted share of positives among the nearest training records, their number chosen on validation.

    Nearest by the cosine of standardised features; a neighbour weighs exp(cosine / 0.07). Of each class only records
    with a stated label are neighbours. Raises ProbeError as `linear` does.
    """
    known_TD, val_ND, test_ND = (_unit(x) for x in standardised(train, val, test))
    untaught = _untaught(train, val)
    shares = [_shares(queries, known_TD, train.labels_NC, untaught) for queries in (val_ND, test_ND)]
    sizes = [k for k in NEIGHBOURS if k <= len(known_TD)]
    return _best(sizes, lambda k: (shares[0][int(k)], shares[1][int(k)]), val.labels_NC, untaught)


def _shares(queries_QD: Array, known_TD: Array, labels_TC: Array, untaught: Sequence[int]) -> dict[int, Array]:
    """For every number of neighbours, the weighted shares of positives (Q, C)."""
    shares = {k: np.zeros((len(queries_QD), labels_TC.shape[1])) for k in NEIGHBOURS if k <= len(known_TD)}
    patterns: dict[bytes, list[int]] = {}  # classes stated for the same records have the same neighbours
    for c in set(range(labels_TC.shape[1])) - set(untaught):
        patterns.setdefault((~np.isnan(labels_TC[:, c])).tobytes(), []).append(c)
    for classes in patterns.values():
        stated = np.flatnonzero(~np.isnan(labels_TC[:, classes[0]]))
        most, step = min(max(shares), len(stated)), max(1, CELLS // len(stated))
        for start in range(0, len(queries_QD), step):
            nearest_QK, cosine_QK = _nearest(queries_QD[start : start + step] @ known_TD[stated].T, most)
            weight_QK = np.exp((cosine_QK - cosine_QK[:, :1]) / SHARPNESS)  # less the first: no underflow
            total_QK = weight_QK.cumsum(axis=1)
            for c in classes:
                positive_QK = (weight_QK * labels_TC[stated, c][nearest_QK]).cumsum(axis=1)
                for k, shares_QC in shares.items():
                    at = min(k, most) - 1
                    shares_QC[start : start + step, c] = positive_QK[:, at] / total_QK[:, at]
    return shares


def _nearest(cosine_QT: Array, most: int) -> tuple[np.ndarray, Array]:
    """The places and cosines (Q, K) of the `most` largest, largest first."""
    places_QK = np.argpartition(-cosine_QT, most - 1, axis=1)[:, :most]
    cosine_QK = np.take_along_axis(cosine_QT, places_QK, 1)
    order_QK = np.argsort(-cosine_QK, axis=1, kind="stable")
    return np.take_along_axis(places_QK, order_QK, 1), np.take_along_axis(cosine_QK, order_QK, 1)


METHODS: dict[str, Callable[[Labelled, Labelled, Labelled], Probe]] = {"linear": linear, "neighbours": neighbours}


def standardised(train: Labelled, *others: Labelled) -> list[Array]:
    """The features of each with the mean and deviation of the training records; a constant feature stays 0."""
    mean_D, deviation_D = train.features_ND.mean(axis=0), train.features_ND.std(axis=0)
    constant_D = deviation_D <= 1e-9 * (np.abs(mean_D) + 1)
    scale_D = np.where(constant_D, 0.0, 1 / np.where(constant_D, 1.0, deviation_D))
    return [(one.features_ND - mean_D) * scale_D for one in (train, *others)]


def _unit(features_ND: Array) -> Array:
    length_N = np.linalg.norm(features_ND, axis=1, keepdims=True)
    return features_ND / np.where(length_N > 0, length_N, 1)


def _untaught(train: Labelled, val: Labelled) -> tuple[int, ...]:
    """The classes with one label value in training. Raises ProbeError where no class can be taught and validated."""
    both = {name: _both_values(part.labels_NC) for name, part in (("training", train), ("validation", val))}
    for name, classes in both.items():
        if not classes:
            raise ProbeError(f"the {name} records have no class with both positives and negatives")
    if not both["training"] & both["validation"]:
        raise ProbeError("no class has both positives and negatives in training and in validation")
    return tuple(sorted(set(range(train.labels_NC.shape[1])) - both["training"]))


def _both_values(labels_NC: Array) -> set[int]:
    return {c for c, labels_N in enumerate(labels_NC.T) if not metrics.one_value(labels_N[~np.isnan(labels_N)])}


def _best(
    settings: Sequence[float],
    scores: Callable[[float], tuple[Array, Array]],
    val_NC: Array,
    untaught: tuple[int, ...],
) -> Probe:
    """Of all settings the first with the best mean AUROC on validation, over classes that were taught."""
    chosen: Probe | None = None
    for setting in settings:
        val_scores_NC, test_NC = scores(setting)
        each = [metrics.auroc(val_NC[:, c], val_scores_NC[:, c]) for c in range(val_NC.shape[1]) if c not in untaught]
        found = float(np.nanmean(each))
        if chosen is None or found > chosen.val_auroc + 1e-12:
            chosen = Probe(test_NC.copy(), float(setting), found, untaught)
    assert chosen is not None
    return chosen


# Several seeds ------------------------------------------------------------------------------------------


def over_seeds(
    labels_NC: Array,
    scores_SNC: Array,
    classes: Sequence[str],
    groups: Iterable[Hashable] | None = None,
    against_SNC: Array | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """AUROC per class and of their mean, averaged over seeds: labels (N, C), scores (S, N, C).

    The 95 % interval has two parts. Test records: patients (`groups`, (N,)) are drawn with replacement, the same for
    all seeds, and each draw gives the mean over seeds. Seeds: to each draw is added s / sqrt(S) times a draw of
    Student's t with S - 1 degrees of freedom, where s is the deviation of the seeds' values; so few seeds give a wide
    interval, as they should. One seed: the first part alone, and the note says so. `against_SNC` are another model's
    scores with the same seeds: then it is the paired difference, first minus second. Raises ValueError as
    `metrics.classification_report` does.
    """
    labels_NC = metrics.check_labels(labels_NC)
    bootstrap = Bootstrap.over(groups, len(labels_NC), draws, seed)
    both = [scores_SNC] if against_SNC is None else [scores_SNC, against_SNC]
    values, drawn = zip(*(_of_seeds(labels_NC, scores, classes, bootstrap) for scores in both), strict=True)
    values_SC = values[0] - values[1] if len(both) > 1 else values[0]
    drawn_SCB = drawn[0] - drawn[1] if len(both) > 1 else drawn[0]
    ranked = [Ranked(labels_N, scores_SNC[0, :, c], bootstrap) for c, labels_N in enumerate(labels_NC.T)]
    rng = np.random.default_rng([seed, 1])
    bounded = len(both) == 1
    report = {"mean": _mean_class(classes, ranked, values_SC, drawn_SCB, labels_NC, bootstrap, rng, bounded)}
    for c, name in enumerate(classes):
        one, positives = ranked[c], int(ranked[c].positive_N.sum())
        if one.reason:
            report[name] = Estimate.undefined(int(one.stated_N.sum()), positives, one.reason)
            continue
        spread_B, remark = _with_seeds(values_SC[:, c], drawn_SCB[:, c], rng, bounded)
        report[name] = bootstrap.estimate(
            float(values_SC[:, c].mean()), spread_B, one.stated_N, positives, remark, one.rough, doubt=one.doubt
        )
    return report


def _of_seeds(labels_NC: Array, scores_SNC: Array, classes: Sequence[str], bootstrap: Bootstrap) -> tuple[Array, Array]:
    """AUROCs (S, C), and of the draws (S, C, B), NaN where undefined."""
    values, drawn = [], []
    for scores_NC in scores_SNC:
        metrics.check_table(labels_NC, metrics.check_scores(scores_NC), classes)
        pairs = list(zip(labels_NC.T, scores_NC.T, strict=True))
        values.append([metrics.auroc(*pair) for pair in pairs])
        drawn.append(draw_ranked([Ranked(*pair, bootstrap) for pair in pairs], ["auroc"], bootstrap)[:, 0])
    return np.array(values), np.array(drawn)


def _mean_class(classes, ranked, values_SC, drawn_SCB, labels_NC, bootstrap, rng, bounded) -> Estimate:
    kept = [c for c, one in enumerate(ranked) if not one.reason]
    if not kept:
        return Estimate.undefined(0, 0, "no class has both label values")
    value_S, drawn_SB = values_SC[:, kept].mean(axis=1), drawn_SCB[:, kept].mean(axis=1)
    spread_B, remark = _with_seeds(value_S, drawn_SB, rng, bounded)
    omitted = ", ".join(name for c, name in enumerate(classes) if c not in kept)
    without = f"mean of {len(kept)} of {len(classes)} classes, without {omitted}" if omitted else ""
    used_N = np.asarray((~np.isnan(labels_NC[:, kept])).any(axis=1))
    positives = int((labels_NC[:, kept] == 1).any(axis=1).sum())
    return bootstrap.estimate(float(value_S.mean()), spread_B, used_N, positives, remark, without)


def _with_seeds(value_S: Array, drawn_SB: Array, rng: np.random.Generator, bounded: bool) -> tuple[Array, str]:
    """The draws of the mean over seeds (B,), with what the choice of seeds adds, and what to say of it."""
    seeds, mean_B = len(value_S), drawn_SB.mean(axis=0)
    if seeds == 1:
        return mean_B, "one seed: what its choice adds is not in the interval"
    added_B = rng.standard_t(seeds - 1, mean_B.shape) * value_S.std(ddof=1) / math.sqrt(seeds)
    limits = (0.0, 1.0) if bounded else (-1.0, 1.0)
    return np.clip(mean_B + added_B, *limits), f"{seeds} seeds"


# Far from what is known ---------------------------------------------------------------------------------


def reference(
    features_ND: Array,
    groups: Iterable[Hashable] | None = None,
    held_out_ND: Array | None = None,
    share: float = 0.99,
    seed: int = 0,
) -> dict[str, Any]:
    """Where the features (N, D) of known pictures lie, as plain values for a model's card; see `outlying`.

    A Gaussian of their mean, of up to 32 directions that hold 95 % of the variance, and of one variance for all other
    directions (probabilistic PCA; Tipping and Bishop 1999, doi:10.1111/1467-9868.00196), so that fewer records than
    features will do. The threshold is passed by 1 - `share` of known pictures that the Gaussian has not seen:
    `held_out_ND` if given, else each fifth of the patients (`groups`, (N,)) from the other four. It is the score of
    rank (n + 1) share, rounded up, so that a new picture of the same kind passes it with at most that chance
    (Vovk et al. 2005, doi:10.1007/b106715, conformal). Rows with NaN are left out. Raises ProbeError for fewer
    patients than folds and for features that do not vary.
    """
    if not 0 < share < 1:
        raise ProbeError(f"the share of known pictures to accept must lie between 0 and 1, not {share:g}")
    read_N = ~np.isnan(features_ND).any(axis=1)
    known_ND = np.asarray(features_ND, dtype=np.float64)[read_N]
    numbers_N = intervals.group_numbers(groups, len(features_ND))[read_N]
    gaussian = _gaussian(known_ND)
    if held_out_ND is None:
        scores_N = _crossed(known_ND, numbers_N, seed)
    else:
        scores_N = outlying(held_out_ND[~np.isnan(held_out_ND).any(axis=1)], gaussian)
    n = len(scores_N)
    if not n:
        raise ProbeError("no picture that could be read is left to choose the threshold for outliers on")
    rank = min(n, math.ceil((n + 1) * share - 1e-9))
    unseen = "held out" if held_out_ND is not None else f"in {FOLDS} folds"
    return {
        **gaussian,
        "threshold": float(np.sort(scores_N)[rank - 1]),
        "share": share,
        "n": len(known_ND),
        "chosen_on": f"{n} records {unseen}"
        + ("" if rank < n else "; the largest of their scores: too few for the share"),
    }


def outlying(features_ND: Array, reference: Mapping[str, Any]) -> Array:
    """How far features (N, D) lie from those of known pictures: (N,), about 1 for those, NaN for rows with NaN.

    The Mahalanobis distance by the Gaussian of `reference`, over the square root of D. Lee et al. 2018,
    arXiv:1807.03888, for one class. Raises ProbeError for features of another width.
    """
    mean_D, directions_RD = _unpacked(reference["mean"]), _unpacked(reference["directions"])
    features_ND = np.asarray(features_ND, dtype=np.float64)
    if features_ND.ndim != 2 or features_ND.shape[1] != len(mean_D):
        raise ProbeError(
            f"features {features_ND.shape} do not fit the model's {len(mean_D)}; calibrate the model again"
        )
    away_ND = features_ND - mean_D
    along_NR = away_ND @ directions_RD.reshape(-1, len(mean_D)).T
    beside_N = np.maximum(0.0, (away_ND**2).sum(axis=1) - (along_NR**2).sum(axis=1))
    square_N = (along_NR**2 / np.asarray(reference["variances"])).sum(axis=1) + beside_N / reference["rest"]
    return np.sqrt(square_N / len(mean_D))


def _gaussian(known_ND: Array) -> dict[str, Any]:
    n, width = known_ND.shape
    if n < 2 or not (spread := float(known_ND.var(axis=0, ddof=1).sum())) > 1e-12:
        raise ProbeError(f"the features of {n} pictures do not vary, so nothing can be told of others; give more")
    mean_D = known_ND.mean(axis=0)
    _, singular, directions = np.linalg.svd(known_ND - mean_D, full_matrices=False)
    variances = singular**2 / (n - 1)
    needed = int(np.searchsorted(np.cumsum(variances), EXPLAINED * spread)) + 1
    kept = max(1, min(needed, DIRECTIONS, width - 1, (n - 1) // 2))
    rest = max(float(variances[kept:].sum()) / max(width - kept, 1), 1e-6 * spread / width)
    return {
        "mean": _packed(mean_D),
        "directions": _packed(directions[:kept]),
        "variances": [max(float(v), rest) for v in variances[:kept]],
        "rest": rest,
    }


def _crossed(known_ND: Array, numbers_N: np.ndarray, seed: int) -> Array:
    """Scores (N,) of each fold of the patients by the Gaussian of the others."""
    patients = np.unique(numbers_N)
    if len(patients) < FOLDS:
        raise ProbeError(f"{len(patients)} patients (or records), fewer than the {FOLDS} folds that outliers need")
    fold_of = dict(
        zip(np.random.default_rng(seed).permutation(patients), np.arange(len(patients)) % FOLDS, strict=True)
    )
    fold_N = np.array([fold_of[number] for number in numbers_N])
    scores_N = np.zeros(len(known_ND))
    for fold in range(FOLDS):
        scores_N[fold_N == fold] = outlying(known_ND[fold_N == fold], _gaussian(known_ND[fold_N != fold]))
    return scores_N


def _packed(values: Array) -> str:
    """Numbers as text for JSON: float32, little-endian, base64."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()


def _unpacked(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float64)
