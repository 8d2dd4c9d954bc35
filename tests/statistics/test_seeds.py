"""Intervals over seeds against their parts."""

import math

import numpy as np
import pytest

from mrm.statistics import comparison, ranking, seeds

CLASSES = ("effusion", "cardiomegaly")


def seeded(count=3, n=80, spread=0.0):
    rng = np.random.default_rng(0)
    labels_NC = (rng.random((n, 2)) < 0.4).astype(float)
    base = labels_NC + rng.normal(size=labels_NC.shape)
    return labels_NC, np.stack([base + spread * rng.normal(size=base.shape) for _ in range(count)])


def test_one_seed_has_the_interval_of_the_test_records():
    labels_NC, scores = seeded(1)
    groups = [i // 2 for i in range(80)]
    found = seeds.auroc_over_seeds(labels_NC, scores, CLASSES, groups, draws=400)
    plain = ranking.classification_report(labels_NC, scores[0], CLASSES, groups, draws=400)
    for name in ("mean", *CLASSES):
        expected = plain[name]["auroc"]
        assert (found[name].value, found[name].low, found[name].high) == (expected.value, expected.low, expected.high)
        assert "one seed" in found[name].note


def test_seeds_that_differ_widen_the_interval_and_equal_ones_do_not():
    labels_NC, same = seeded(3)
    _, differing = seeded(3, spread=1.0)
    equal, wide = (seeds.auroc_over_seeds(labels_NC, s, CLASSES)["mean"] for s in (same, differing))
    alone = seeds.auroc_over_seeds(labels_NC, same[:1], CLASSES)["mean"]
    assert (equal.low, equal.high) == pytest.approx((alone.low, alone.high))
    assert wide.high - wide.low > 1.3 * (equal.high - equal.low)
    each = [ranking.auroc(labels_NC[:, c], s[:, c]) for s in differing for c in range(2)]
    assert wide.value == pytest.approx(np.mean(each))


def test_the_interval_covers_the_truth():
    """A mean of three seeds that all are 0.01 off by the test set they share, and 0.02 each by themselves."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        value_S = 0.8 + rng.normal(0, 0.01) + rng.normal(0, 0.02, 3)
        drawn_SD = value_S[:, None] + rng.normal(0, 0.01, 400)
        low, high = np.quantile(seeds.with_seed_variance(value_S, drawn_SD, rng), [0.025, 0.975])
        covered += low <= 0.8 <= high
    assert 0.93 <= covered / 1000 <= 0.99


def test_values_stay_within_their_limits():
    """Two seeds of 0 and 1: s is 0.707, so half of the added numbers reach beyond 0.5 either way (t of 1 degree)."""
    values, drawn = np.array([0.0, 1.0]), np.full((2, 400), 0.5)
    for limits in ((0.0, 1.0), (-1.0, 1.0)):
        mean_D = seeds.with_seed_variance(values, drawn, np.random.default_rng(0), limits)
        assert (mean_D.min(), mean_D.max()) == limits
    usual = seeds.with_seed_variance(values, drawn, np.random.default_rng(0))
    assert (usual.min(), usual.max()) == (0, 1)


def test_a_difference_is_paired_and_signed():
    labels_NC, scores = seeded(3, spread=0.5)
    compared = seeds.difference_over_seeds(labels_NC, scores, scores * 0.0, CLASSES)["mean"]
    own = seeds.auroc_over_seeds(labels_NC, scores, CLASSES)["mean"].value
    assert compared.difference.value == pytest.approx(own - 0.5)
    assert (compared.first, compared.second) == (pytest.approx(own), 0.5)
    nothing = seeds.difference_over_seeds(labels_NC, scores, scores, CLASSES)["mean"]
    assert nothing.difference.value == 0
    assert "every resample gave the same value" in nothing.difference.note


def test_of_one_seed_the_difference_is_that_of_two_models():
    """The same draws of patients, and nothing added for seeds: what `comparison.compare` tests."""
    labels_NC, scores = seeded(2, spread=0.5)
    groups = [f"p{i // 2}" for i in range(len(labels_NC))]
    ours = seeds.difference_over_seeds(labels_NC, scores[:1], scores[1:], CLASSES, groups, draws=400)
    theirs = comparison.compare(labels_NC, scores[0], scores[1], CLASSES, "auroc", groups, draws=400)
    for name in ("mean", *CLASSES):
        for value in ("p", "first", "second"):
            assert getattr(ours[name], value) == pytest.approx(getattr(theirs[name], value)), (name, value)
        for value in ("value", "low", "high"):
            one, other = getattr(ours[name].difference, value), getattr(theirs[name].difference, value)
            assert one == pytest.approx(other), (name, value)


def test_a_large_difference_has_a_small_p_value_and_another_order_of_seeds_has_none():
    labels_NC, scores = seeded(3, spread=0.5)
    p = [
        seeds.difference_over_seeds(labels_NC, scores, other, CLASSES)["mean"].p
        for other in (scores[::-1], scores * 0.0)
    ]
    assert p[0] > 0.3
    assert p[1] < 0.05


def test_a_class_absent_from_the_test_set_is_undefined_and_left_out_of_the_mean():
    labels_NC, scores = seeded()
    labels_NC[:, 1] = 0
    found = seeds.auroc_over_seeds(labels_NC, scores, CLASSES)
    assert not found["cardiomegaly"].defined
    assert found["mean"].value == found["effusion"].value
    assert "mean of 1 of 2 classes, without cardiomegaly" in found["mean"].note


def test_one_patient_has_no_interval_and_ties_are_chance():
    labels_NC, scores = seeded()
    assert not math.isfinite(seeds.auroc_over_seeds(labels_NC, scores, CLASSES, ["p"] * 80)["mean"].low)
    tied = seeds.auroc_over_seeds(labels_NC, scores * 0, CLASSES)["mean"]
    assert tied.value == 0.5
