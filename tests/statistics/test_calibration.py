"""Calibration and thresholds against hand counts and scikit-learn; temperatures against known ones."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import brier_score_loss, log_loss

from mrm.statistics.calibration import (
    brier_score,
    calibrated_probabilities,
    calibration_report,
    choose_threshold,
    expected_calibration_error,
    fit_temperatures,
    operating_point,
    reliability,
)
from mrm.statistics.ranking import auroc, interval

NAN = math.nan
LABELS = [0, 0, 1, 0, 1, 1]
PROBABILITIES = [0.05, 0.15, 0.15, 0.62, 0.68, 1.0]
GOALS = st.floats(0.01, 1)


def calibrated(rng, n, temperature=1.0):
    """Labels drawn from probabilities, and logits that are too sure by the temperature."""
    logits = rng.normal(scale=2, size=n)
    return (rng.random(n) < expit(logits)).astype(float), temperature * logits


# Calibration
def test_scores_by_hand():
    assert brier_score(LABELS, PROBABILITIES) == pytest.approx(brier_score_loss(LABELS, PROBABILITIES))
    # bins: 0.05 | 0.15, 0.15 | 0.62, 0.68 | 1.0, with gaps of sums 0.05, 0.3 - 1, 1.3 - 1, 0
    assert expected_calibration_error(LABELS, PROBABILITIES) == pytest.approx((0.05 + 0.7 + 0.3) / 6)
    # two bins of equal mass: 0.05, 0.15, 0.15 | 0.62, 0.68, 1.0
    by_mass = expected_calibration_error(LABELS, PROBABILITIES, bins=2, spacing="mass")
    assert by_mass == pytest.approx((0.65 + 0.3) / 6)


def test_the_diagram_by_hand():
    found = reliability(LABELS, PROBABILITIES)
    np.testing.assert_allclose(found.predicted, [0.05, 0.15, 0.65, 1.0])
    np.testing.assert_allclose(found.observed, [0, 0.5, 0.5, 1])
    np.testing.assert_array_equal(found.count, [1, 2, 2, 1])
    assert np.all((found.low <= found.observed) & (found.observed <= found.high))
    even = reliability(LABELS, PROBABILITIES, bins=3, spacing="mass")
    assert even.count.sum() == 6
    one = reliability(LABELS, PROBABILITIES, bins=1)
    assert (one.predicted.tolist(), one.observed.tolist()) == ([pytest.approx(np.mean(PROBABILITIES))], [0.5])


@pytest.mark.parametrize("spacing", ["width", "mass"])
def test_the_error_is_that_of_the_diagram(spacing):
    rng = np.random.default_rng(0)
    labels, logits = calibrated(rng, 500, 3)
    found = reliability(labels, expit(logits), spacing=spacing)
    gap = np.abs(found.predicted - found.observed) @ found.count / 500
    assert expected_calibration_error(labels, expit(logits), spacing=spacing) == pytest.approx(gap)


def test_probabilities_that_are_all_the_same():
    for spacing in ("width", "mass"):
        assert expected_calibration_error([0, 1, 1, 0], [0.3] * 4, spacing=spacing) == pytest.approx(0.2)


def test_the_report_has_values_and_intervals():
    rng = np.random.default_rng(1)
    labels, logits = calibrated(rng, 600, 2)
    table = np.stack([labels, np.zeros(600)], 1)
    table[:50, 0] = NAN
    probabilities = np.stack([expit(logits)] * 2, 1)
    patients = np.arange(600) // 2
    report = calibration_report(table, probabilities, ["a", "b"], groups=patients, draws=500)
    for name, metric in (("brier", brier_score), ("calibration_error", expected_calibration_error)):
        found = report["a"][name]
        assert found.value == pytest.approx(metric(table[:, 0], probabilities[:, 0]))
        assert found.low < found.value
        assert found.value < found.high or name == "calibration_error"
        assert (found.n, found.positives) == (550, int((table[:, 0] == 1).sum()))
        assert found.note == "bootstrap by 275 patients"
        assert str(report["b"][name]) == "undefined (only negatives, n=600)"
    slow = interval(table[:, 0], probabilities[:, 0], brier_score, groups=patients, draws=500)
    assert (report["a"]["brier"].low, report["a"]["brier"].high) == pytest.approx((slow.low, slow.high))


def test_a_draw_with_one_stated_record_counts_and_one_with_none_is_left_out():
    """Two of four records are stated: (1 / 2)^4 of the draws, 6.25 %, have none."""
    labels = np.array([[1.0], [0.0], [NAN], [NAN]])
    found = calibration_report(labels, np.full((4, 1), 0.3), ["a"])["a"]
    for estimate in found.values():
        left_out = float(estimate.note.split("; ")[1].removesuffix("% of resamples left out"))
        assert left_out == pytest.approx(6.25, abs=1.6)  # three standard errors of 2,000 draws
    assert (found["brier"].low, found["brier"].high) == pytest.approx((0.3**2, 0.7**2))  # one record alone


def test_the_interval_of_the_calibration_error_is_mirrored_at_its_square():
    """Low is the square root of twice the squared error minus the square of the upper end of the plain draws, and so on."""
    rng = np.random.default_rng(7)
    labels, logits = calibrated(rng, 300, 2)
    found = calibration_report(labels[:, None], expit(logits)[:, None], ["a"], draws=999)["a"]["calibration_error"]
    plain = interval(labels, expit(logits), expected_calibration_error, draws=999)
    mirrored = [math.sqrt(max(0.0, 2 * plain.value**2 - end**2)) for end in (plain.high, plain.low)]
    assert (found.low, found.high) == pytest.approx(mirrored, rel=1e-2)


def test_a_calibrated_model_is_not_called_otherwise():
    """The true error is 0; the plain percentile interval would leave it out nearly always."""
    held = 0
    for seed in range(100):
        labels, logits = calibrated(np.random.default_rng([2, seed]), 400)
        report = calibration_report(labels[:, None], expit(logits)[:, None], ["a"], draws=200)
        held += report["a"]["calibration_error"].low < 0.005
    assert held >= 93


@pytest.mark.parametrize("metric", [brier_score, expected_calibration_error])
@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1, NAN]])
def test_one_label_value_is_undefined(metric, labels):
    assert math.isnan(metric(labels, np.full(len(labels), 0.5)))
    assert len(reliability(labels, np.full(len(labels), 0.5)).count) == 0


# Temperature
def test_temperatures_are_found_again():
    rng = np.random.default_rng(3)
    pairs = [calibrated(rng, 20_000, temperature) for temperature in (0.5, 1, 3)]
    labels, logits = (np.stack([pair[i] for pair in pairs], 1) for i in range(2))
    temperatures = fit_temperatures(labels, logits)
    assert temperatures == pytest.approx([0.5, 1, 3], rel=0.05)
    probabilities = calibrated_probabilities(logits, temperatures)
    for c in range(3):
        assert auroc(labels[:, c], probabilities[:, c]) == pytest.approx(auroc(labels[:, c], logits[:, c]))
        loss = log_loss(labels[:, c], probabilities[:, c])
        for nearby in (0.97, 1.03):
            assert loss < log_loss(labels[:, c], expit(logits[:, c] / (nearby * temperatures[c])))


def test_temperatures_that_cannot_be_fitted():
    labels = np.array([[0, 0, 0, NAN], [0, 1, 1, NAN], [0, 1, 0, 1]])
    logits = np.array([[-1, -2, 2, 0], [1, 2, -1, 0], [0.5, 1, 1, 3]])
    temperatures = fit_temperatures(labels, logits)
    assert np.isnan(temperatures[[0, 3]]).all()
    assert temperatures[1] == pytest.approx(0.05, rel=1e-3)  # perfect: as cold as allowed
    assert temperatures[2] == pytest.approx(20, rel=1e-3)  # upside down: as hot as allowed
    np.testing.assert_allclose(calibrated_probabilities(logits, temperatures)[:, 0], expit(logits[:, 0]))


@pytest.mark.parametrize("outlier", [7.4, 40.0, -40.0, 600.0])
@pytest.mark.parametrize("stated", [True, False])
def test_one_large_logit_does_not_keep_the_others_from_being_sharpened(outlier, stated):
    """The best temperature by a search over a grid, with log loss from scikit-learn."""
    labels, logits = calibrated(np.random.default_rng(6), 2000, 0.37)
    truth = float(outlier > 0)
    grid = np.concatenate([np.geomspace(0.05, 20, 60), np.geomspace(0.33, 0.42, 60)])
    best = min(grid, key=lambda t: log_loss(np.append(labels, truth), expit(np.append(logits, outlier) / t)))
    assert best == pytest.approx(0.37, abs=0.03)
    found = fit_temperatures(np.append(labels, truth if stated else NAN)[:, None], np.append(logits, outlier)[:, None])[
        0
    ]
    assert found == pytest.approx(best, rel=5e-3)


def test_no_large_logits_become_equal_and_no_probability_moves():
    logits = np.array([[-800.0], [-60.0], [-3.0], [5.0], [19.9], [20.1], [45.0], [45.001], [800.0], [1e4]])
    probabilities = calibrated_probabilities(logits, [0.05])
    assert (np.diff(probabilities[:, 0]) > 0).all()
    np.testing.assert_allclose(probabilities, expit(logits / 0.05), atol=2.1e-9)
    np.testing.assert_array_equal(calibrated_probabilities(logits[2:5], [1.0]), expit(logits[2:5]))


@pytest.mark.parametrize("scale", [0.1, 1, 5, 30])
def test_no_temperature_makes_logits_tie(scale):
    labels, logits = np.repeat([0.0, 1.0], 20)[:, None], scale * np.linspace(-2, 2, 40, dtype=np.float32)[:, None]
    temperatures = fit_temperatures(labels, logits)  # perfectly ranked: as cold as allowed
    others = 1.1 * logits  # a test set, where the model is surer yet
    assert len(np.unique(calibrated_probabilities(others, temperatures))) == len(np.unique(others))
    assert temperatures[0] == pytest.approx(0.05, rel=1e-3)


# Operating points
def test_thresholds_by_hand():
    # cuts: below 1.0 (1/3, 1), below 0.68 (2/3, 1), below 0.62 (2/3, 2/3), below 0.15 (1, 1/3), below 0.05 (1, 0)
    assert choose_threshold(LABELS, PROBABILITIES, sensitivity=0.6) == pytest.approx((0.68 + 0.62) / 2)
    assert choose_threshold(LABELS, PROBABILITIES, sensitivity=0.9) == pytest.approx((0.15 + 0.05) / 2)
    assert choose_threshold(LABELS, PROBABILITIES, specificity=0.9) == pytest.approx((0.68 + 0.62) / 2)
    assert choose_threshold(LABELS, PROBABILITIES, specificity=0.6) == pytest.approx((0.62 + 0.15) / 2)
    assert choose_threshold(LABELS, PROBABILITIES) == pytest.approx((0.68 + 0.62) / 2)
    assert choose_threshold([1, 0], [1, 2], specificity=1) == 2.5  # half of the way to one more than the highest
    assert choose_threshold([1, 0], [1, 2]) == 2.5  # of equal sums the highest
    assert math.isnan(choose_threshold([1, 1, NAN], [1, 2, 3]))


def test_thresholds_at_the_ends_lie_midway_to_0_and_1():
    assert choose_threshold([1, 0], [0.2, 0.6], sensitivity=1) == pytest.approx(0.1)  # everything is called positive
    assert choose_threshold([1, 0], [0.2, 0.6], specificity=1) == pytest.approx(0.8)  # nothing is
    assert choose_threshold([1, 0], [0.2, 1.0], specificity=1) > 1
    assert choose_threshold([1, 0], [0.0, 0.5], sensitivity=1) == 0.0
    assert choose_threshold([0, 1], [-3.0, 2.0], sensitivity=1) == pytest.approx(-0.5)  # logits
    assert choose_threshold([1, 0, 0], [-3.0, 0.0, 2.0], sensitivity=1) == -3.5
    assert choose_threshold([1, 0], [-3.0, 1e17], specificity=1) == np.nextafter(1e17, np.inf)  # 1 more is lost


@pytest.mark.parametrize(("apart", "threshold"), [(1e-7, 0.65), (2e-6, 0.5)])
def test_scores_that_rounding_may_swap_are_called_alike(apart, threshold):
    """No threshold lies between a negative and a positive that differ by a ten millionth, however well it would divide."""
    found = choose_threshold([0, 0, 1, 1], [0.2, 0.5, 0.5 + apart, 0.8])
    assert found == pytest.approx(threshold, abs=2e-6)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_scores_near_0_and_near_1_are_told_apart_by_their_distance_from_it(end):
    """They are 5e-7 apart and within 1e-5 of the end, so no rounding of a probability or of what is left to 1 joins them."""
    scores = sorted((abs(end - 1e-5), abs(end - 0.95e-5)))
    assert choose_threshold([0, 1], scores) == pytest.approx(sum(scores) / 2, abs=1e-9)


@pytest.mark.parametrize("goal", [{}, {"sensitivity": 0.8}, {"sensitivity": 0.95}, {"specificity": 0.9}])
@pytest.mark.parametrize("rare", [0.5, 1e-5])
def test_rounding_turns_no_decision(goal, rare):
    """The same records in a batch of another size: their scores differ by the rounding of float32, relative 1.2e-7."""
    for seed in range(20):
        rng = np.random.default_rng([5, seed])
        labels = (np.arange(101) < 21).astype(float)
        probabilities = expit(rng.normal(size=101) + 2 * labels + np.log(rare))
        probabilities[50:60] = probabilities[:10] * (1 + 1e-7)  # neighbours that rounding alone separates
        threshold = choose_threshold(labels, probabilities, **goal)
        called = probabilities >= threshold
        for _ in range(10):
            rounded = probabilities * (1 + rng.uniform(-2.4e-7, 2.4e-7, 101))
            assert ((rounded >= threshold) == called).all()
        point = operating_point(labels, probabilities, threshold)
        for name, reached in goal.items():
            assert getattr(point, name).value >= reached


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9)), min_size=2, max_size=40).filter(
        lambda rows: len({row[0] for row in rows}) == 2
    ),
    GOALS,
)
def test_thresholds_reach_their_goal(rows, goal):
    labels, scores = np.array(rows, float).T
    at = operating_point(labels, scores, choose_threshold(labels, scores, sensitivity=goal))
    assert at.sensitivity.value >= goal - 1e-12
    called = scores[scores >= at.threshold]
    if len(called):
        assert operating_point(labels, scores, called.min() + 0.5).sensitivity.value < goal
    at = operating_point(labels, scores, choose_threshold(labels, scores, specificity=goal))
    assert at.specificity.value >= goal - 1e-12


def test_an_operating_point_by_hand():
    found = operating_point([*LABELS, NAN], [*PROBABILITIES, 0.9], 0.62)
    assert (found.sensitivity.value, found.sensitivity.n, found.sensitivity.positives) == (2 / 3, 3, 3)
    assert (found.specificity.value, found.specificity.n, found.specificity.positives) == (2 / 3, 3, 0)
    assert (found.positive_predictive_value.value, found.positive_predictive_value.n) == (2 / 3, 3)
    assert (found.negative_predictive_value.value, found.negative_predictive_value.positives) == (2 / 3, 1)
    assert found.sensitivity.low < 2 / 3 < found.sensitivity.high
    assert str(found).startswith("at 0.62: sensitivity 0.667 (0.208–0.939), n=3, 3 positive; specificity")
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["specificity"]["n"] == 3


def test_an_operating_point_without_records():
    found = operating_point([0, 0], [0.1, 0.2], 0.5)
    assert str(found.sensitivity) == "undefined (no positives, n=0)"
    assert str(found.positive_predictive_value) == "undefined (nothing called positive, n=0)"
    assert found.specificity.value == 1
    assert str(operating_point([0, 1], [0, 1], NAN).specificity) == "undefined (no threshold, n=1)"


def test_patients_widen_an_operating_point():
    rng = np.random.default_rng(4)
    labels, scores = rng.integers(0, 2, 100).astype(float), rng.random(100)
    once = operating_point(labels, scores, 0.5)
    again = operating_point(np.tile(labels, 4), np.tile(scores, 4), 0.5, groups=np.tile(np.arange(100), 4))
    assert again.sensitivity.low == pytest.approx(once.sensitivity.low, abs=0.01)


# Errors
@pytest.mark.parametrize("function", [brier_score, expected_calibration_error, reliability])
def test_wrong_probabilities_are_named(function):
    with pytest.raises(ValueError, match=r"1 of 2 probabilities are outside 0 to 1; the first is -0\.5"):
        function([0, 1], [0.5, -0.5])
    with pytest.raises(ValueError, match="2 labels, but 1 scores"):
        function([0, 1], [0.5])


def test_other_errors_are_named():
    with pytest.raises(ValueError, match="bins must be >= 1"):
        reliability(LABELS, PROBABILITIES, bins=0)
    with pytest.raises(ValueError, match="'width' or 'mass', not 10 and 'log'"):
        expected_calibration_error(LABELS, PROBABILITIES, spacing="log")
    with pytest.raises(ValueError, match="not both"):
        choose_threshold(LABELS, PROBABILITIES, sensitivity=0.9, specificity=0.9)
    with pytest.raises(ValueError, match="at most 1, not 90"):
        choose_threshold(LABELS, PROBABILITIES, sensitivity=90)
    for goal in ({"sensitivity": 0}, {"specificity": 0}, {"specificity": 1.01}):
        with pytest.raises(ValueError, match="must be above 0 and at most 1"):
            choose_threshold(LABELS, PROBABILITIES, **goal)
    for temperature in (-1, 0):
        with pytest.raises(ValueError, match=f"above 0, not {temperature}"):
            calibrated_probabilities([[1.0]], [temperature])
    with pytest.raises(ValueError, match="labels have shape"):
        fit_temperatures(np.zeros((2, 1)), np.zeros((3, 1)))
    for shape in ((), (3,), (3, 1, 1)):
        with pytest.raises(ValueError, match=r"classes need arrays \(N, \d\), not \("):
            fit_temperatures(np.zeros(shape), np.zeros(shape))
    with pytest.raises(ValueError, match="not finite"):
        fit_temperatures(np.zeros((1, 1)), np.full((1, 1), NAN))
