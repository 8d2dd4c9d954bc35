"""From logits to decisions: one meaning of a missing temperature, threshold and outlier reference."""

import numpy as np
import pytest
import torch

from mrm.inference.decisions import DecisionRules
from mrm.inference.outliers import outlying, reference
from mrm.models.card import Card, SetCuts

CLASSES = ("nodule", "effusion", "oedema")
LOGITS = np.array([[2.0, -1.0, 0.0], [0.5, 3.0, -2.0]])


def rules(**known) -> DecisionRules:
    return DecisionRules.of(Card("classifier", {}, **known), CLASSES)


def test_a_class_without_a_temperature_keeps_its_plain_probability():
    some = rules(temperatures={"nodule": 4.0})
    assert some.temperatures == {"nodule": 4.0, "effusion": 1.0, "oedema": 1.0}
    np.testing.assert_allclose(some.probabilities(LOGITS), 1 / (1 + np.exp(-LOGITS / [4.0, 1.0, 1.0])))
    np.testing.assert_array_equal(DecisionRules.of(None, CLASSES).probabilities(LOGITS), rules().probabilities(LOGITS))


def test_what_the_logits_mean_is_said_by_the_card():
    """Of one class in three the probabilities sum to 1; of numbers the logits are in the spread of the labels."""
    one = DecisionRules.of(Card("classifier", {"target": "multiclass"}), CLASSES).probabilities(LOGITS)
    np.testing.assert_allclose(one, np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True))
    numbers = {"target": "regression", "centre": (1.0, 2.0, 3.0), "spread": (2.0, 1.0, 0.5)}
    found = DecisionRules.of(Card("classifier", numbers), CLASSES).probabilities(LOGITS)
    np.testing.assert_allclose(found, [[5.0, 1.0, 3.0], [2.0, 5.0, 2.0]])


def test_a_class_without_a_threshold_gets_no_decision():
    decisions = rules(temperatures={"nodule": 4.0}, thresholds={"nodule": 0.6, "effusion": 0.9}).decide(LOGITS)
    np.testing.assert_array_equal(decisions.decision_BC, [[1, 0, np.nan], [0, 1, np.nan]])
    assert decisions.outlier_B is None
    assert decisions.abstain_B is None


def test_a_probability_at_its_threshold_is_positive():
    half = rules(thresholds={"oedema": 0.5})
    assert half.thresholds == {"oedema": 0.5}
    assert half.decide(LOGITS).decision_BC[0, 2] == 1


def test_an_outlier_keeps_its_probabilities_and_gets_no_decision():
    features = np.random.default_rng(0).normal(size=(200, 8))
    known = reference(features)
    values = np.hstack([LOGITS, np.stack([features[0], features[1] + 100])])
    wary = rules(thresholds={"nodule": 0.6}, outliers=known)
    decisions = wary.decide(values)
    np.testing.assert_array_equal(decisions.probability_BC, rules().probabilities(LOGITS))
    np.testing.assert_array_equal(decisions.outlier_B, outlying(values[:, 3:], known))
    assert decisions.abstain_B.tolist() == [False, True]
    assert decisions.decision_BC[0, 0] == 1
    assert np.isnan(decisions.decision_BC[1]).all()


def test_logits_are_needed_and_features_after_them_where_outliers_are_known(classifier):
    known = reference(np.random.default_rng(0).normal(size=(200, 8)))
    assert rules().needed_from(classifier) is classifier
    image_BCHW = torch.randn(2, 3, *[classifier.config.image_size] * 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        both = rules(outliers=known).needed_from(classifier)(image_BCHW)
        logits, classes = classifier(image_BCHW), len(classifier.config.classes)
    torch.testing.assert_close(both[:, :classes], logits)
    assert both.shape[1] > classes


def test_a_temperature_that_is_not_above_0_is_refused():
    for temperature in (0.0, -2.0):
        with pytest.raises(ValueError, match=f"temperatures must be above 0, not {temperature:g}"):
            rules(temperatures={"effusion": temperature}).probabilities(LOGITS)


@pytest.mark.parametrize(
    ("cuts", "answers"),
    [
        ((0.4, 0.5), {0.39: "absent", 0.4: "either", 0.5: "either", 0.51: "present"}),
        ((0.6, 0.3), {0.3: "absent", 0.31: "neither", 0.59: "neither", 0.6: "present"}),
        ((0.0, 1.0), {0.0: "either", 1.0: "either"}),
    ],
)
def test_a_set_holds_the_answers_up_to_its_cuts(cuts, answers):
    sets = rules(sets={"nodule": SetCuts(*cuts, 0.9)})
    assert {probability: sets.set_of("nodule", probability) for probability in answers} == answers


def test_only_an_image_beyond_the_threshold_is_abstained_on_and_none_without_one():
    known = reference(np.random.default_rng(0).normal(size=(200, 8)))
    edge = np.array([known.threshold, np.nextafter(known.threshold, np.inf)])
    assert rules(outliers=known).abstains(edge).tolist() == [False, True]
    assert rules().abstains(edge).tolist() == [False, False]
    assert rules().outlier_scores(np.zeros((2, 8))) is None
