"""Agreement of labels with true ones: values by hand and of scikit-learn, weights, patients, and what is undefined."""

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, f1_score, precision_score, recall_score

from mrm.statistics.agreement import MEASURES, agreement, decided, measures
from mrm.statistics.sampling import chances, systematic_sample

RNG = np.random.default_rng(0)
TRUTH = (RNG.random((400, 2)) < [0.3, 0.6]).astype(float)
LABELS = np.where(RNG.random((400, 2)) < 0.1, 1 - TRUTH, TRUTH)
WEIGHTS = RNG.uniform(0.5, 5, 400)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_values_are_those_of_scikit_learn(weights):
    report = agreement(TRUTH, LABELS, ["a", "b"], weights=weights, draws=200)
    functions = {"kappa": cohen_kappa_score, "sensitivity": recall_score, "precision": precision_score, "f1": f1_score}
    for c, name in enumerate("ab"):
        for measure, function in functions.items():
            expected = function(TRUTH[:, c], LABELS[:, c], sample_weight=weights)
            estimate = report[name][measure]
            assert estimate.value == pytest.approx(expected)
            assert estimate.low < expected < estimate.high
            assert estimate.positives == TRUTH[:, c].sum()
    for measure in MEASURES:
        assert report["mean"][measure].value == pytest.approx(np.mean([report[n][measure].value for n in "ab"]))


def test_values_by_hand_without_what_is_left_out():
    truth = np.array([[1, 1, 1, 0, 0, np.nan, 1]]).T
    labels = np.array([[1, 1, 0, 1, 0, 1, np.nan]]).T
    by = agreement(truth, labels, ["a"], draws=200)["a"]
    assert by["sensitivity"].value == pytest.approx(2 / 3)
    assert by["precision"].value == pytest.approx(2 / 3)
    assert by["f1"].value == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert by["kappa"].value == pytest.approx((3 / 5 - (9 + 4) / 25) / (1 - (9 + 4) / 25))
    assert by["f1"].n == 5


def test_records_of_one_patient_do_not_narrow_the_interval():
    once = agreement(TRUTH, LABELS, ["a", "b"], [str(i) for i in range(400)], draws=400)
    thrice = agreement(
        *(np.repeat(x, 3, 0) for x in (TRUTH, LABELS)), ["a", "b"], np.repeat(np.arange(400), 3), draws=400
    )
    for measure in MEASURES:
        widths = [report["a"][measure].high - report["a"][measure].low for report in (once, thrice)]
        assert widths[1] == pytest.approx(widths[0], rel=0.05)


def test_what_the_data_cannot_support_is_undefined():
    report = agreement(np.zeros((9, 1)), np.zeros((9, 1)), ["a"], draws=100)
    assert not any(report[name][m].defined for name in ("a", "mean") for m in MEASURES)
    perfect = agreement(TRUTH, TRUTH, ["a", "b"], draws=100)["a"]
    assert perfect["f1"].value == perfect["sensitivity"].value == 1
    assert math.isnan(perfect["f1"].low)
    assert 0.96 < perfect["sensitivity"].low < perfect["sensitivity"].high == 1


def test_the_sample_makes_estimates_unbiased():
    """Sensitivity from weighted samples of 120 of 2,000 records, on average, is that of all; without weights it is not."""
    rng = np.random.default_rng(1)
    truth = (rng.random((2000, 1)) < 0.1).astype(float)
    labels = np.where(truth == 1, rng.random((2000, 1)) < 0.6, rng.random((2000, 1)) < 0.02).astype(float)
    chance = chances(labels, 120)
    whole = agreement(truth, labels, ["a"], draws=0)["a"]["sensitivity"].value
    weighted, plain = [], []
    for seed in range(200):
        drawn = systematic_sample(chance, seed)
        for values, weights in ((weighted, 1 / chance[drawn]), (plain, None)):
            values.append(
                agreement(truth[drawn], labels[drawn], ["a"], weights=weights, draws=0)["a"]["sensitivity"].value
            )
    assert np.mean(weighted) == pytest.approx(whole, abs=0.04)
    assert np.mean(plain) > whole + 0.15


@pytest.mark.parametrize(
    ("truth", "labels", "weights", "message"),
    [
        (np.zeros((2, 1)), np.zeros((3, 1)), None, r"expected two arrays \(N, 1\)"),
        (np.full((2, 1), -1.0), np.zeros((2, 1)), None, "other than 1, 0 and NaN"),
        (np.zeros((2, 1)), np.zeros((2, 1)), [1, 0], "expected 2 weights above 0"),
    ],
)
def test_wrong_arrays_are_refused(truth, labels, weights, message):
    with pytest.raises(ValueError, match=message):
        agreement(truth, labels, ["a"], weights=weights)


def test_f1_and_accuracy_of_counts_by_hand():
    of = measures(np.array([3.0, 1.0, 2.0, 4.0]))  # true positives, false positives, false negatives, true negatives
    assert (of["f1"], of["accuracy"]) == pytest.approx((6 / 9, 7 / 10))
    assert np.isnan(measures(np.array([0.0, 0, 0, 5]))["f1"])


def test_records_without_a_true_value_are_no_decision():
    cells_NK = decided(np.array([1.0, 0.0, 1.0, 0.0, np.nan]), np.array([True, True, False, False, True]))
    assert cells_NK.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
