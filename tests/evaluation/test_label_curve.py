"""Probes of few labels: the span that they need, their strength, and classes that they cannot learn."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from mrm.evaluation import label_curve
from mrm.evaluation.probes import Labelled, standardised


def separable(count: int, width: int, seed: int):
    rng = np.random.default_rng(seed)
    labels_NC = (rng.random((count, 2)) < 0.5).astype(float)
    features_ND = rng.normal(size=(count, width))
    features_ND[:, :2] += 3 * labels_NC
    return Labelled(features_ND, labels_NC)


def test_the_scores_are_those_of_a_regression_on_all_features(monkeypatch):
    """20 records with 60 features: scikit-learn on the features themselves, at the one strength there is."""
    train, test = separable(20, 60, 0), separable(30, 60, 1)
    monkeypatch.setattr(label_curve, "STRENGTHS", (0.01,))
    scores_NC = label_curve.probe(train, test, [str(i) for i in range(20)])
    known_TD, asked_ND = standardised(train, test)
    for c in range(2):
        model = LogisticRegression(C=0.01, tol=1e-8, max_iter=5000).fit(known_TD, train.labels_NC[:, c])
        np.testing.assert_allclose(scores_NC[:, c], model.decision_function(asked_ND), atol=1e-3)


def test_more_labels_are_the_first_ones_and_others(monkeypatch):
    train, test = separable(40, 10, 2), separable(20, 10, 3)
    patients = [str(i // 2) for i in range(40)]
    by_count = label_curve.scores_by_count(train, test, (20, 40), patients)
    first = Labelled(train.features_ND[:20], train.labels_NC[:20])
    np.testing.assert_array_equal(by_count[20], label_curve.probe(first, test, patients[:20]))
    assert not np.array_equal(by_count[20], by_count[40])


def test_a_class_of_one_value_gets_no_score():
    train, test = separable(20, 5, 4), separable(10, 5, 5)
    train.labels_NC[:, 1] = 0
    scores_NC = label_curve.probe(train, test, [str(i) for i in range(20)])
    assert (scores_NC[:, 1] == 0).all()
    assert (scores_NC[:, 0] != 0).all()
