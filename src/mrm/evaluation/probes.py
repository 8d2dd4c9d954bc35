"""What frozen features tell about findings: linear probes and nearest neighbours.

Features are standardised by the training records throughout. Settings (regularisation, number of neighbours) are chosen
by mean AUROC on validation records, never on test records.
"""

# Shapes: N records (T training, Q queries), C classes, D features, K neighbours
from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from mrm.statistics import ranking
from mrm.statistics.intervals import Array
from mrm.system.errors import ProbeError

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of scikit-learn: the small ones regularise more
NEIGHBOURS = (1, 3, 5, 10, 20, 50, 100, 200)
SHARPNESS = 0.07  # a neighbour weighs exp(cosine / 0.07), as in DINO, arXiv:2104.14294, section 4.1
CELLS = 20_000_000  # cosines of queries and training records that are in memory at a time


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
            raise ProbeError("features with NaN or infinity: leave out the images that could not be read first")


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
        scores_of_both = np.zeros((len(val.labels_NC), train.labels_NC.shape[1])), np.zeros(test.labels_NC.shape)
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
            for scores_NC, features_ND in zip(scores_of_both, standard[1:], strict=True):
                scores_NC[:, c] = model.decision_function(features_ND)
        return scores_of_both

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
        largest, step = min(max(shares), len(stated)), max(1, CELLS // len(stated))
        for start in range(0, len(queries_QD), step):
            nearest_QK, cosine_QK = _nearest(queries_QD[start : start + step] @ known_TD[stated].T, largest)
            weight_QK = np.exp((cosine_QK - cosine_QK[:, :1]) / SHARPNESS)  # less the first: no underflow
            total_QK = weight_QK.cumsum(axis=1)
            for c in classes:
                positive_QK = (weight_QK * labels_TC[stated, c][nearest_QK]).cumsum(axis=1)
                for k, shares_QC in shares.items():
                    at = min(k, largest) - 1
                    shares_QC[start : start + step, c] = positive_QK[:, at] / total_QK[:, at]
    return shares


def _nearest(cosine_QT: Array, count: int) -> tuple[np.ndarray, Array]:
    """The places and cosines (Q, K) of the `count` largest, largest first."""
    places_QK = np.argpartition(-cosine_QT, count - 1, axis=1)[:, :count]
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


def within_span(known_TD: Array, other_ND: Array) -> tuple[Array, Array]:
    """Both in an orthonormal basis of what T known records span, where they are fewer than features.

    A regression with an L2 penalty scores them alike: what is orthogonal to all known records gets no weight.
    """
    if len(known_TD) >= known_TD.shape[1]:
        return known_TD, other_ND
    axes_RD = np.linalg.svd(known_TD, full_matrices=False)[2]
    return known_TD @ axes_RD.T, other_ND @ axes_RD.T


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
    return {c for c, labels_N in enumerate(labels_NC.T) if not ranking.undefined_reason(labels_N[~np.isnan(labels_N)])}


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
        each = [ranking.auroc(val_NC[:, c], val_scores_NC[:, c]) for c in range(val_NC.shape[1]) if c not in untaught]
        mean_auroc = float(np.nanmean(each))
        if chosen is None or mean_auroc > chosen.val_auroc + 1e-12:
            chosen = Probe(test_NC.copy(), float(setting), mean_auroc, untaught)
    assert chosen is not None
    return chosen
