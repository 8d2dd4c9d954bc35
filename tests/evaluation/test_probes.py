"""Probes: a regression and the nearest neighbours on features."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mrm.evaluation import probes
from mrm.evaluation.probes import Labelled
from mrm.statistics import ranking
from mrm.system.errors import ProbeError


def made(n, seed, width=12, classes=2, told=1.0):
    """Features of which the first tell the labels, one for each class."""
    rng = np.random.default_rng(seed)
    labels_NC = (rng.random((n, classes)) < 0.4).astype(float)
    features_ND = rng.normal(size=(n, width)) * 5 + 100
    features_ND[:, :classes] += 5 * told * labels_NC
    return Labelled(features_ND, labels_NC)


def test_the_linear_probe_is_the_regression_that_ranks_validation_best():
    train, val, test = made(120, 0), made(200, 1), made(150, 2)
    found = probes.linear(train, val, test)
    mean, deviation = train.features_ND.mean(0), train.features_ND.std(0)
    standard = [(one.features_ND - mean) / deviation for one in (train, val, test)]
    by_strength = {}
    for strength in probes.STRENGTHS:
        models = [LogisticRegression(C=strength, max_iter=1000).fit(standard[0], y) for y in train.labels_NC.T]
        by_strength[strength] = [np.stack([m.decision_function(x) for m in models], 1) for x in standard[1:]]
    aurocs = {
        s: np.mean([ranking.auroc(y, x) for y, x in zip(val.labels_NC.T, scores[0].T, strict=True)])
        for s, scores in by_strength.items()
    }
    best = max(aurocs, key=aurocs.get)
    assert found.setting == best
    assert found.val_auroc == pytest.approx(aurocs[best], abs=1e-3)
    np.testing.assert_allclose(found.scores_NC, by_strength[best][1], atol=0.02)
    assert ranking.auroc(test.labels_NC[:, 0], found.scores_NC[:, 0]) > 0.7


def test_neighbours_are_weighted_by_cosine_and_only_those_with_a_label_count():
    train, val, test = made(60, 0), made(80, 1), made(40, 2)
    labels_NC = train.labels_NC.copy()
    labels_NC[::3, 1] = np.nan
    train = replace(train, labels_NC=labels_NC)
    found = probes.neighbours(train, val, test)
    known, _, queries = probes.standardised(train, val, test)
    for c in range(2):
        stated = ~np.isnan(labels_NC[:, c])
        for q in range(0, 40, 7):
            cosine = known[stated] @ queries[q]
            cosine /= np.linalg.norm(known[stated], axis=1) * np.linalg.norm(queries[q])
            near = np.argsort(-cosine)[: int(found.setting)]
            weight = np.exp(cosine[near] / probes.SHARPNESS)
            share = (weight * labels_NC[stated, c][near]).sum() / weight.sum()
            assert found.scores_NC[q, c] == pytest.approx(share, abs=1e-9)


def test_many_queries_are_divided_without_a_difference(monkeypatch):
    parts = made(60, 0), made(80, 1), made(40, 2)
    whole = probes.neighbours(*parts)
    monkeypatch.setattr(probes, "CELLS", 130)
    np.testing.assert_allclose(probes.neighbours(*parts).scores_NC, whole.scores_NC, rtol=1e-12)


@pytest.mark.parametrize("method", probes.METHODS)
def test_a_class_with_one_value_in_training_is_told_and_scores_alike(method):
    train, val, test = made(60, 0), made(80, 1), made(40, 2)
    train.labels_NC[:, 1] = 0
    found = probes.METHODS[method](train, val, test)
    assert found.untaught == (1,)
    assert (found.scores_NC[:, 1] == 0).all()
    assert ranking.auroc(test.labels_NC[:, 1], found.scores_NC[:, 1]) == 0.5
    assert found.scores_NC[:, 0].std() > 0


@pytest.mark.parametrize("method", probes.METHODS)
@pytest.mark.parametrize("which", ["training", "validation"])
def test_one_label_value_only_is_refused(method, which):
    train, val = made(60, 0), made(80, 1)
    (train if which == "training" else val).labels_NC[:] = 1
    with pytest.raises(ProbeError, match=f"the {which} records have no class with both"):
        probes.METHODS[method](train, val, made(40, 2))


@pytest.mark.parametrize("method", probes.METHODS)
def test_features_that_are_all_the_same_rank_nothing(method):
    train, val, test = (replace(made(n, n), features_ND=np.full((n, 5), 3.0)) for n in (30, 40, 50))
    found = probes.METHODS[method](train, val, test)
    assert ranking.auroc(test.labels_NC[:, 0], found.scores_NC[:, 0]) == 0.5


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ProbeError, match="NaN or infinity"):
        Labelled(np.array([[1.0, np.nan]]), np.array([[1.0]]))
