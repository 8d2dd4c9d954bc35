"""AUROC of cross-validation: pairs within folds by hand, DeLong's variance as a special case, and what has no value."""

import math

import numpy as np
import pytest

from mrm.statistics import comparison, ranking
from mrm.statistics.cross_validation import cross_validated_auroc, linked, variance


def test_only_pairs_within_a_fold_count_and_repeats_are_averaged():
    labels = np.array([[1.0], [0.0], [1.0], [0.0], [0.0]])
    first = [0.9, 0.1, 0.2, 0.8, 0.2]  # folds 0 0 1 1 1: 1 of 1 pair, then 0 and half of 2 pairs
    second = [0.9, 0.8, 0.7, 0.6, 0.5]  # folds 0 1 0 1 0: 2 of 2 pairs, and no positive in fold 1
    scores = np.array([first, second])[:, :, None]
    folds = np.array([[0, 0, 1, 1, 1], [0, 1, 0, 1, 0]])
    report = cross_validated_auroc(labels, scores, folds, ["x"])
    assert report["x"].value == pytest.approx((1.5 / 3 + 1.0) / 2)
    assert report["mean"].value == report["x"].value
    assert (report["x"].n, report["x"].positives) == (5, 2)


def test_one_fold_and_one_repeat_have_the_auroc_and_twice_the_variance_of_delong():
    rng = np.random.default_rng(0)
    labels, scores = (rng.random(80) < 0.4).astype(float), rng.normal(size=80)
    scores += labels
    report = cross_validated_auroc(labels[:, None], scores[None, :, None], np.zeros((1, 80), int), ["x"])["x"]
    areas, covariance = comparison.delong(labels, scores[:, None])
    assert report.value == pytest.approx(ranking.auroc(labels, scores), abs=1e-12)
    half = 1.959964 * math.sqrt(2 * covariance[0, 0]) / (areas[0] * (1 - areas[0]))
    middle = math.log(areas[0] / (1 - areas[0]))
    assert report.low == pytest.approx(1 / (1 + math.exp(half - middle)), abs=1e-6)
    assert report.high == pytest.approx(1 / (1 + math.exp(-half - middle)), abs=1e-6)
    assert "one repeat: the interval is wider" in report.note


def test_a_paired_difference_of_one_fold_and_one_repeat_has_twice_the_variance_of_delong():
    rng = np.random.default_rng(3)
    labels, scores = (rng.random(80) < 0.4).astype(float), rng.normal(size=(80, 2))
    scores += labels[:, None] * [1.0, 0.5]
    one, other = (scores[None, :, [m]] for m in range(2))
    report = cross_validated_auroc(labels[:, None], one, np.zeros((1, 80), int), ["x"], against=other)["x"]
    areas, covariance = comparison.delong(labels, scores)
    half = 1.959964 * math.sqrt(2 * (covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    gap = areas[0] - areas[1]
    assert (report.value, report.low, report.high) == pytest.approx((gap, gap - half, gap + half), abs=1e-6)


def test_the_note_says_of_what_an_interval_is():
    labels = np.tile([1.0, 0.0, 0.0], 8)[:, None]
    scores = np.random.default_rng(4).normal(size=(2, 24, 1))
    folds, patients = np.arange(48).reshape(2, 24) % 4, [f"p{i // 2}" for i in range(24)]
    twice = cross_validated_auroc(labels, scores, folds, ["x"], patients)
    assert twice["x"].note.startswith("cross-validated by 12 patients, 4 folds, 2 repeats; rough: only 8 positive")
    assert twice["mean"].note == "cross-validated by 12 patients, 4 folds, 2 repeats"
    once = cross_validated_auroc(labels, scores[:1], folds[:1], ["x"])["mean"]
    assert once.note == (
        "cross-validated of 24 records, 4 folds, 1 repeat; one repeat: the interval is wider than it need be"
    )


def test_variance_is_that_within_a_repeat_and_more_where_repeats_disagree():
    same = np.tile([0.1, -0.1, 0.2, -0.2], (3, 1))
    assert variance(same, 1.9) == pytest.approx(0.1)  # repeats that agree divide nothing
    differing = np.array([[0.1, -0.1], [-0.1, 0.1]])
    assert variance(differing, 1.9) == pytest.approx(0.02 + 1.9 * 0.04)  # each has variance 0.02; their mean is 0
    assert linked(400, 100) == 2 * linked(100, 100)  # four records a patient


def test_a_paired_difference_from_itself_is_nothing_and_from_chance_is_the_gain():
    rng = np.random.default_rng(1)
    labels = (rng.random((120, 2)) < 0.3).astype(float)
    scores = labels + rng.normal(size=(2, 120, 2))
    folds, patients = rng.integers(0, 3, (2, 120)), [str(i // 2) for i in range(120)]
    alone = cross_validated_auroc(labels, scores, folds, ["a", "b"], patients)
    other = cross_validated_auroc(labels, -scores, folds, ["a", "b"], patients)
    gap = cross_validated_auroc(labels, scores, folds, ["a", "b"], patients, against=-scores)
    for name in ("mean", "a", "b"):
        assert gap[name].value == pytest.approx(alone[name].value - other[name].value)
        assert gap[name].low < gap[name].value < gap[name].high
    itself = cross_validated_auroc(labels, scores, folds, ["a", "b"], patients, against=scores)["mean"]
    assert itself.value == 0
    assert not math.isfinite(itself.low)


def test_a_class_without_a_fold_of_both_values_and_a_perfect_ranking_say_so():
    labels = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    scores = np.array([[[2.0, 1.0], [1.0, 1.0], [2.0, 0.0], [1.0, 0.0]]])
    report = cross_validated_auroc(labels, scores, np.array([[0, 0, 1, 1]]), ["a", "b"])
    assert report["a"].value == 1.0
    assert not math.isfinite(report["a"].low)
    assert not report["b"].defined
    assert report["b"].note == "no fold has both positives and negatives"
    assert report["mean"].value == 1.0
    assert "without b" in report["mean"].note


def test_patients_widen_the_interval_and_shapes_are_checked():
    rng = np.random.default_rng(2)
    label_P, effect_P = (rng.random(60) < 0.4).astype(float), rng.normal(size=60)
    patients = np.repeat(np.arange(60), 4)
    labels = label_P[patients]
    scores = (labels + effect_P[patients] + 0.3 * rng.normal(size=(2, 240)))[:, :, None]
    folds = np.stack([rng.integers(0, 4, 60)[patients] for _ in range(2)])
    wide = cross_validated_auroc(labels[:, None], scores, folds, ["x"], patients.tolist())["x"]
    narrow = cross_validated_auroc(labels[:, None], scores, folds, ["x"])["x"]
    assert wide.value == narrow.value
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)
    with pytest.raises(ValueError, match=r"expected scores \(R, N, C\) and folds \(R, N\)"):
        cross_validated_auroc(labels[:, None], scores, folds[:1], ["x"])
