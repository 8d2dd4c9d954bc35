"""Linear probes of ever more labels: what an encoder tells with 25 of them, with 50, and so on.

Whoever has few labels has no others to choose a setting with. So the strength of each probe is chosen within its own labels,
by cross-validation over patients.
"""

# Shapes: T training records, N test records, C classes, D features
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from mrm.evaluation.probes import Labelled, standardised, within_span
from mrm.statistics import ranking
from mrm.statistics.intervals import Array, group_indices

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of scikit-learn: the small ones regularise more
FOLDS = 5


def scores_by_count(
    train: Labelled, test: Labelled, counts: Sequence[int], patients: Sequence[str]
) -> dict[int, Array]:
    """Scores (N, C) of the test records from a probe of the first `count` training records, for each count.

    `patients` are those of the training records.
    """
    with threadpool_limits(1):  # threads wait for each other longer than so few numbers take
        return {
            count: probe(Labelled(train.features_ND[:count], train.labels_NC[:count]), test, patients[:count])
            for count in counts
        }


def probe(train: Labelled, test: Labelled, patients: Sequence[str]) -> Array:
    """Scores (N, C) of a logistic regression of each class on standardised features, 0 for a class of one label value.

    The strength, one for all classes, has the best mean AUROC in a cross-validation within the training records.
    """
    known_TD, asked_ND = within_span(*standardised(train, test))
    fold_T = group_indices(patients, len(patients)) % FOLDS

    def auroc_of(strength: float) -> float:
        scores_TC = np.zeros(train.labels_NC.shape)
        for fold in range(FOLDS):
            held_T = fold_T == fold
            scores_TC[held_T] = _fitted(known_TD[~held_T], train.labels_NC[~held_T], known_TD[held_T], strength)
        pairs = zip(train.labels_NC.T, scores_TC.T, strict=True)
        return float(ranking.mean_or_nan(np.array([ranking.auroc(*pair) for pair in pairs])))

    strength = max(STRENGTHS, key=lambda s: np.nan_to_num(auroc_of(s)))
    return _fitted(known_TD, train.labels_NC, asked_ND, strength)


def _fitted(known_TD: Array, labels_TC: Array, asked_ND: Array, strength: float) -> Array:
    scores_NC = np.zeros((len(asked_ND), labels_TC.shape[1]))
    for c, labels_T in enumerate(labels_TC.T):
        stated_T = ~np.isnan(labels_T)
        if len(asked_ND) and not ranking.undefined_reason(labels_T[stated_T]):
            model = LogisticRegression(C=strength, max_iter=1000).fit(known_TD[stated_T], labels_T[stated_T])
            scores_NC[:, c] = model.decision_function(asked_ND)
    return scores_NC
