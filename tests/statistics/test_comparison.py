"""DeLong against hand counts, its own definition and simulation; permutation against counting."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mrm.statistics import comparison
from mrm.statistics.comparison import (
    Comparison,
    bootstrap_p,
    bootstrap_test,
    compare,
    critical_value,
    delong,
    delong_interval,
    delong_test,
    holm,
    minimum_detectable_difference,
    sign_flip_test,
)
from mrm.statistics.intervals import Estimate
from mrm.statistics.ranking import auroc, interval

NAN = math.nan


def two_models(rng, n=200, shift=1.19, share=0.5, likeness=0.7):
    """Labels, and the scores of two equally good models that err alike."""
    labels = (rng.random(n) < share).astype(float)
    common = rng.normal(size=n) * math.sqrt(likeness)
    own = rng.normal(size=(2, n)) * math.sqrt(1 - likeness)
    return labels, common + own[0] + shift * labels, common + own[1] + shift * labels


def structural_components(labels, scores_NM):
    """DeLong's covariance from its definition, pair by pair."""
    positive, negative = scores_NM[labels == 1], scores_NM[labels == 0]
    won = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)  # (P, Q, M)
    of_positives, of_negatives = np.cov(won.mean(1).T), np.cov(won.mean(0).T)
    return won.mean((0, 1)), of_positives / len(positive) + of_negatives / len(negative)


# DeLong
def test_delong_by_hand():
    # positives 3, 1; negatives 2, 0: 3 beats both (1), 1 beats one (1/2); 2 is beaten by one (1/2), 0 by both
    # (1); variance (1/8) / 2 + (1/8) / 2
    aurocs, covariance = delong([1, 1, 0, 0], np.array([[3], [1], [2], [0]]))
    assert aurocs == pytest.approx([0.75])
    assert covariance == pytest.approx(np.array([[0.125]]))


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(-3, 3)), min_size=4, max_size=30).filter(
        lambda rows: 1 < sum(row[0] for row in rows) < len(rows) - 1
    )
)
def test_delong_equals_its_definition(rows):
    table = np.array(rows, float)
    aurocs, covariance = delong(table[:, 0], table[:, 1:])
    expected = structural_components(table[:, 0], table[:, 1:])
    assert aurocs == pytest.approx([auroc(table[:, 0], table[:, 1]), auroc(table[:, 0], table[:, 2])])
    np.testing.assert_allclose(aurocs, expected[0], atol=1e-12)
    np.testing.assert_allclose(covariance, expected[1], atol=1e-12)


def test_patients_of_one_record_change_nothing():
    labels, first, second = two_models(np.random.default_rng(0))
    both = np.stack([first, second], 1)
    np.testing.assert_allclose(delong(labels, both)[1], delong(labels, both, range(200))[1], rtol=1e-12)


def test_copies_of_a_radiograph_add_nothing():
    labels, first, _ = two_models(np.random.default_rng(1))
    patients = np.arange(200)
    once = delong(labels, first[:, None])[1][0, 0]
    assert delong(np.tile(labels, 3), np.tile(first, 3)[:, None])[1][0, 0] < 0.4 * once
    thrice = delong(np.tile(labels, 3), np.tile(first, 3)[:, None], np.tile(patients, 3))[1][0, 0]
    assert thrice == pytest.approx(once)


def test_patients_with_both_labels_agree_with_the_bootstrap():
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(150), 4)
    labels = (rng.random(600) < 0.4).astype(float)
    scores = rng.normal(size=600) + labels + 1.5 * rng.normal(size=150)[patients]
    exact, drawn = delong_interval(labels, scores, patients), interval(labels, scores, groups=patients)
    assert exact.high - exact.low == pytest.approx(drawn.high - drawn.low, rel=0.1)
    assert exact.note == "DeLong by 150 patients"


def test_labels_not_stated_are_left_out():
    labels, first, second = two_models(np.random.default_rng(3), n=40)
    more = np.append(labels, [NAN, NAN]), np.append(first, [9, -9]), np.append(second, [9, -9])
    assert delong_test(*more) == delong_test(labels, first, second)
    assert delong_interval(*more[:2]) == delong_interval(labels, first)
    drawn = bootstrap_test(*more, groups=[*range(40), 0, 1], draws=100)
    assert drawn == bootstrap_test(labels, first, second, groups=range(40), draws=100)


def test_the_logit_interval_stays_within_bounds():
    found = delong_interval(np.arange(30) > 14, np.arange(30) + 3 * (np.arange(30) == 14))
    assert 0.9 < found.value < 1
    assert found.value - found.low > found.high - found.value
    assert found.high < 1


@pytest.mark.parametrize(
    ("labels", "scores", "groups", "words"),
    [
        ([0, 0, 0], [1, 2, 3], None, "undefined (only negatives, n=3)"),
        ([0, 1, 0, 1], [1, 2, 1, 2], None, "1.000 (interval undefined: DeLong's variance is 0)"),
        ([0, 1, 0, 1], [2, 1, 2, 1], None, "0.000 (interval undefined: DeLong's variance is 0)"),
        ([0, 1, 0, 0], [1, 2, 3, 1], None, "only one positive record"),
        ([0, 1, 0, 1], [1, 2, 3, 1], "aaaa", "only one positive patient"),
        ([0, 1, 0, 1], [1, 2, 3, 1], "abac", "only one negative patient"),
        ([], [], None, "undefined (no stated label, n=0)"),
    ],
)
def test_what_delong_cannot_tell(labels, scores, groups, words):
    assert words in str(delong_interval(labels, scores, groups))
    compared = delong_test(labels, scores, -np.asarray(scores), groups)
    assert math.isnan(compared.p)
    assert math.isnan(compared.minimum_detectable_difference)
    assert words.removeprefix("1.000 (").removeprefix("0.000 (") in str(compared)


def test_scores_that_are_all_equal_have_no_interval_and_differ_from_no_others_of_their_kind():
    labels, scores = [0, 1, 0, 1], np.ones(4)
    assert str(delong_interval(labels, scores)) == (
        "0.500 (interval undefined: DeLong's variance is 0), n=4, 2 positive"
    )
    compared = delong_test(labels, scores, 2 * scores)
    assert (compared.difference.value, compared.difference.low, compared.difference.high, compared.p) == (0, 0, 0, 1)


def test_a_variance_that_rounding_makes_negative_is_0():
    """Each patient has a positive and a negative of one score: what the one wins, the other loses."""
    labels, scores, groups = [1, 0, 1, 0, 1, 0], [2, 2, 1, 1, 1, 1], list("aabbcc")
    areas, covariance = delong(labels, np.array(scores)[:, None], groups)
    assert (areas[0], covariance[0, 0]) == (0.5, pytest.approx(0, abs=1e-15))  # -7e-18 where this was written
    assert "variance is 0" in str(delong_interval(labels, scores, groups))


def test_the_interval_of_delong_by_hand():
    """Area 0.75 and variance 0.125: on the logit scale 1.0986 give or take 1.96 x 0.35355 / (0.75 x 0.25)."""
    found = delong_interval([1, 1, 0, 0], [3, 1, 2, 0])
    half = 1.959964 * math.sqrt(0.125) / (0.75 * 0.25)
    assert (found.low, found.high) == pytest.approx(
        (1 / (1 + math.exp(half) / 3), 1 / (1 + math.exp(-half) / 3)), abs=1e-6
    )
    assert (found.n, found.positives) == (4, 2)
    z = stats.norm.ppf(0.9) * math.sqrt(0.125) / (0.75 * 0.25)
    assert delong_interval([1, 1, 0, 0], [3, 1, 2, 0], level=0.8).high == pytest.approx(1 / (1 + math.exp(-z) / 3))


def test_the_critical_value_is_normal_or_students():
    """t of 10 and of 2 degrees of freedom from the tables: one degree less than patients, and never below 2."""
    assert critical_value(math.inf, 0.95) == pytest.approx(1.959964, abs=1e-6)
    assert critical_value(11.0, 0.95) == pytest.approx(2.228139, abs=1e-6)
    assert critical_value(11.0, 0.99) == pytest.approx(3.169273, abs=1e-6)
    for few in (3.0, 2.5, 1.0):
        assert critical_value(few, 0.95) == pytest.approx(4.302653, abs=1e-6)


@pytest.mark.parametrize("groups", [None, np.arange(60) // 6, np.arange(60) // 24])
def test_the_p_value_of_delong_is_the_level_whose_interval_ends_at_0(groups):
    labels, first, second = two_models(np.random.default_rng(20), n=60)
    labels[::7] = 1 - labels[::7]
    found = delong_test(labels, first, second - 0.3 * labels, groups)
    assert 0.001 < found.p < 0.9
    at_p = delong_test(labels, first, second - 0.3 * labels, groups, level=1 - found.p).difference
    assert min(abs(at_p.low), abs(at_p.high)) == pytest.approx(0, abs=1e-9)


# Two models
def test_the_two_tests_agree():
    labels, first, second = two_models(np.random.default_rng(4), n=400)
    exact, drawn = (
        delong_test(labels, first, second + 0.3 * first),
        bootstrap_test(labels, first, second + 0.3 * first),
    )
    assert exact.difference.value == pytest.approx(drawn.difference.value)
    assert exact.difference.low == pytest.approx(drawn.difference.low, abs=0.004)
    assert exact.difference.high == pytest.approx(drawn.difference.high, abs=0.004)
    assert exact.minimum_detectable_difference == pytest.approx(drawn.minimum_detectable_difference, rel=0.1)
    assert exact.p == pytest.approx(drawn.p, abs=0.05)


def test_pairing_makes_the_test_sharper():
    labels, first, second = two_models(np.random.default_rng(5), n=400, likeness=0.95)
    alone = delong_interval(labels, first)
    together = delong_test(labels, first, second)
    assert together.difference.high - together.difference.low < 0.5 * (alone.high - alone.low)


def test_models_that_rank_alike():
    labels, first, _ = two_models(np.random.default_rng(6))
    for found in (
        delong_test(labels, first, 2 * first - 1),
        bootstrap_test(labels, first, np.exp(first), draws=50),
    ):
        assert (found.difference.value, found.p) == pytest.approx((0, 1))
        assert math.isnan(found.minimum_detectable_difference)  # they differ nowhere: nothing to tell power from
        assert str(found).startswith("+0.000 (+0.000 to +0.000), p=1.000, n=200, 94 positive")


def test_swapped_models_swap_the_sign():
    labels, first, second = two_models(np.random.default_rng(7))
    for test in (delong_test, bootstrap_test):
        one, other = test(labels, first, second), test(labels, second, first)
        assert one.difference.low == pytest.approx(-other.difference.high)
        assert one.p == pytest.approx(other.p)


@pytest.mark.parametrize(
    ("gaps", "p"),
    [
        ([-1, 1, 2, 3], 2 * (1 + 1) / 5),  # one of four is on the other side
        ([-1, -2, -3, 1], 2 * (1 + 1) / 5),
        ([0, 1, 2, 3], 2 * (1 + 1) / 5),  # a draw of 0 is on both sides
        ([0, 0, 0], 1.0),
        ([2, NAN, 1], 2 * 1 / 3),
        ([1], NAN),
        ([NAN, NAN], NAN),
    ],
)
def test_the_p_value_of_draws_by_hand(gaps, p):
    value, error = bootstrap_p(np.array(gaps, float))
    assert value == pytest.approx(p, nan_ok=True)
    usable = [gap for gap in gaps if not math.isnan(gap)]
    assert error == pytest.approx(np.std(usable, ddof=1) if len(usable) > 1 else NAN, nan_ok=True)


def test_small_p_values_are_bounded_in_words():
    texts = [str(Comparison(0.8, 0.7, Estimate(0.1, 0.0, 0.2, 9, 3), p)) for p in (0.001, 0.0009)]
    assert texts == [f"+0.100 (+0.000 to +0.200), p{p}, n=9, 3 positive" for p in ("=0.001", "<0.001")]


def test_a_comparison_reads_as_a_sentence():
    labels, first, second = two_models(np.random.default_rng(8))
    found = delong_test(labels, first, second - 0.5 * labels)
    assert str(found) == (
        f"{found.difference.value:+.3f} ({found.difference.low:+.3f} to {found.difference.high:+.3f}), "
        f"p<0.001, n=200, {int(labels.sum())} positive; minimum detectable difference {found.minimum_detectable_difference:.3f}"
    )
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["difference"]["n"] == 200
    assert plain["p_holm"] is None


def test_the_detectable_difference_is_found_with_the_power_told():
    assert minimum_detectable_difference(1) == pytest.approx(1.959964 + 0.841621, abs=1e-6)
    assert minimum_detectable_difference(0.5, power=0.9, alpha=0.01) == pytest.approx(
        (2.575829 + 1.281552) / 2, abs=1e-6
    )
    rng, shown = np.random.default_rng(9), []
    for _ in range(400):  # the true difference is 0.0554: Phi(1.19 / sqrt 2) - Phi(0.93 / sqrt 2)
        labels, first, second = two_models(rng, n=300)
        found = delong_test(labels, first, second - 0.26 * labels)
        shown.append((found.p < 0.05, found.minimum_detectable_difference))
    power, detectable = np.mean(shown, axis=0)
    se = detectable / minimum_detectable_difference(1)
    z = 0.0554 / se - 1.96
    assert power == pytest.approx(0.5 * (1 + math.erf(z / math.sqrt(2))), abs=0.06)


# Classes
def test_holm_by_hand():
    # sorted 0.01 x 3, 0.02 x 2, 0.04 x 1, each at least the one before; NaN is no test
    assert holm([0.04, 0.01, NAN, 0.02]) == pytest.approx([0.04, 0.03, NAN, 0.04], nan_ok=True)
    assert holm([0.6, 0.9]) == pytest.approx([1, 1])
    assert len(holm([])) == 0
    with pytest.raises(ValueError, match=r"0 to 1, not 1\.5"):
        holm([0.5, 1.5])


def test_classes_are_compared_and_corrected():
    rng = np.random.default_rng(10)
    parts = [two_models(rng, n=250) for _ in range(3)]
    labels, first, second = (np.stack([part[i] for part in parts], 1) for i in range(3))
    labels[:, 2] = 0
    second[:, 0] -= labels[:, 0]
    patients = np.arange(250) // 2
    found = compare(labels, first, second, ["a", "b", "c"], groups=patients, draws=400)
    assert list(found) == ["mean", "a", "b", "c"]
    assert found["a"].p_holm == pytest.approx(2 * found["a"].p)
    assert "Holm" in str(found["b"])
    assert str(found["c"]) == "undefined (only negatives, n=250)"
    assert math.isnan(found["c"].p_holm)
    gaps = [found[name].difference.value for name in "ab"]
    assert found["mean"].difference.value == pytest.approx(np.mean(gaps))
    assert found["mean"].first - found["mean"].second == pytest.approx(np.mean(gaps))
    assert "mean of 2 of 3 classes" in found["mean"].difference.note
    alone = bootstrap_test(labels[:, 0], first[:, 0], second[:, 0], groups=patients, draws=400)
    assert found["a"].difference == alone.difference
    precision = compare(labels, first, second, ["a", "b", "c"], "average_precision", draws=100)
    assert precision["a"].difference.value != found["a"].difference.value


def test_no_class_has_both_labels():
    found = compare(np.zeros((4, 1)), np.zeros((4, 1)), np.ones((4, 1)), ["a"])
    assert str(found["mean"]) == "undefined (no class has both label values, n=0)"


def test_models_of_one_auroc_that_err_on_other_records_do_not_rank_alike():
    """Each model has 3 of 4 pairs right, not the same: the difference is 0, and differs from 0 in a resample."""
    labels, first, second = (np.tile(one, 4) for one in ([1, 1, 0, 0], [3, 1, 2, 0], [1, 3, 2, 0]))
    found = bootstrap_test(labels, first, second, draws=200)
    assert found.difference.value == 0
    assert found.difference.low < 0 < found.difference.high
    assert "rank alike" not in found.difference.note
    assert found.minimum_detectable_difference > 0


def test_the_mean_of_models_that_rank_alike_has_p_one():
    labels, first, _ = two_models(np.random.default_rng(6))
    table, scores = np.stack([labels] * 2, 1), np.stack([first, first**3], 1)
    found = compare(table, scores, np.exp(scores), ["a", "b"], draws=50)
    for name in ("mean", "a", "b"):
        assert (found[name].difference.value, found[name].difference.low, found[name].difference.high) == (0, 0, 0)
        assert found[name].p == 1
        assert math.isnan(found[name].minimum_detectable_difference)
        assert found[name].difference.note.startswith("the models rank alike in every resample")
    assert found["a"].p_holm == 1


# Permutation
@pytest.mark.parametrize("groups", [None, [0, 0, 1, 2, 3, 3, 4]])
def test_sign_flips_equal_counting_them_all(groups):
    gaps = np.array([0.1, 0.05, -0.02, 0.2, 0.0, 0.07, 0.03])
    numbers = np.arange(7) if groups is None else np.array(groups)
    means = [np.mean(gaps * np.array(s)[numbers]) for s in itertools.product([1, -1], repeat=numbers.max() + 1)]
    found = sign_flip_test(0.5 + gaps, np.full(7, 0.5), groups)
    assert found.p == pytest.approx(np.mean(np.abs(means) >= gaps.mean() - 1e-12))
    assert found.difference.value == pytest.approx(gaps.mean())


def test_many_sign_flips_are_drawn():
    rng = np.random.default_rng(11)
    gaps = rng.normal(0.02, 0.1, size=100)
    found = sign_flip_test(gaps, np.zeros(100))
    z = gaps.mean() / (np.sqrt((gaps**2).sum()) / 100)  # the normal limit of the permutation distribution
    assert found.p == pytest.approx(2 * (1 - 0.5 * (1 + math.erf(z / math.sqrt(2)))), abs=0.02)
    assert found.difference.low < gaps.mean() < found.difference.high
    assert sign_flip_test(gaps + 1, np.zeros(100)).p == pytest.approx(1 / 10_001)
    assert str(found).endswith(f"n=100; minimum detectable difference {found.minimum_detectable_difference:.3f}")


def test_up_to_twelve_patients_all_sign_flips_are_counted():
    """Of differences above 0 only all signs alike are as far from 0: 2 of 4,096. Differences of 0 have no sign."""
    gaps = np.linspace(1, 1.2, 13)
    assert sign_flip_test(gaps[:12], np.zeros(12)).p == 2 / 2**12
    assert sign_flip_test(np.append(gaps[:12], [0, 0]), np.zeros(14)).p == 2 / 2**12
    drawn = sign_flip_test(gaps, np.zeros(13), draws=500).p * 501  # the observed one, and those drawn
    assert drawn == pytest.approx(round(drawn))
    assert 1 <= drawn <= 4
    balanced = np.tile([1.0, -1.0], 7)  # whatever the signs, the sum is at least as far from 0 as 0
    assert sign_flip_test(balanced, np.zeros(14), draws=500).p == 1


def test_random_sign_flips_do_not_depend_on_the_chunks(monkeypatch):
    gaps = np.random.default_rng(21).normal(0.03, 0.1, size=40)
    whole = sign_flip_test(gaps, np.zeros(40), draws=301).p
    monkeypatch.setattr(comparison, "CELLS", 40 * 50)
    assert sign_flip_test(gaps, np.zeros(40), draws=301).p == whole


def test_equal_scores_have_p_one():
    found = sign_flip_test([0.1, 0.2, NAN], [0.1, 0.2, 0.3])
    assert found.difference.n == 2
    assert "every resample gave the same value" in str(found)
    assert str(sign_flip_test([NAN], [1])) == "undefined (no image with both scores, n=0)"


# Errors
@pytest.mark.parametrize("test", [delong_test, bootstrap_test])
def test_wrong_models_are_named(test):
    with pytest.raises(ValueError, match="3 labels, but 2 scores"):
        test([0, 1, 1], [1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="1 of 3 scores are not finite"):
        test([0, 1, 1], [1, 2, 3], [1, 2, NAN])
    with pytest.raises(ValueError, match="3 records, but 1 groups"):
        test([0, 1, 1], [1, 2, 3], [1, 2, 3], groups=["a"])


def test_other_errors_are_named():
    with pytest.raises(ValueError, match="unknown metric 'dice'"):
        bootstrap_test([0, 1], [1, 2], [1, 2], "dice")
    with pytest.raises(ValueError, match=r"expected two arrays \(N,\), got \(2,\) and \(3,\)"):
        sign_flip_test([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"expected labels \(N,\) and scores \(N, M\), got"):
        delong([0, 1], [1, 2])
    with pytest.raises(ValueError, match="not finite"):
        sign_flip_test([1, math.inf], [1, 2])


@pytest.mark.parametrize(("share", "least"), [(0.5, 930), (0.1, 915)])  # 20 positives are few
def test_delong_interval_covers_the_truth(share, least):
    covered = 0
    for seed in range(1000):
        labels, scores, _ = two_models(np.random.default_rng([13, seed]), shift=1.1902, share=share)
        found = delong_interval(labels, scores)
        covered += found.low <= 0.8 <= found.high
    assert least <= covered <= 970, covered


def test_the_test_of_equal_models_is_right_one_time_in_twenty():
    alarms = sum(delong_test(*two_models(np.random.default_rng([14, seed]))).p < 0.05 for seed in range(1000))
    assert 35 <= alarms <= 65, alarms
