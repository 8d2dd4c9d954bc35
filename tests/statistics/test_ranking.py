"""Values against hand counts and scikit-learn; their intervals against plain loops; errors by their words."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from mrm.statistics import ranking
from mrm.statistics.comparison import delong_interval
from mrm.statistics.intervals import Bootstrap, proportion
from mrm.statistics.ranking import auroc, average_precision, classification_report, interval

NAN = math.nan
ROWS = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(-5, 5)), min_size=2, max_size=40)
FLOATS = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.floats(-1e6, 1e6)), min_size=2, max_size=40)


def binormal(rng, n=200, shift=1.19, share=0.5):
    """Labels and scores with AUROC Phi(shift / sqrt 2): 0.8 for 1.19."""
    labels = (rng.random(n) < share).astype(float)
    return labels, rng.normal(size=n) + shift * labels


def two_values(rows):
    return len({label for label, _ in rows}) == 2


BOTH = st.one_of(ROWS, FLOATS).filter(two_values)


def split(rows):
    labels, scores = zip(*rows, strict=True)
    return np.array(labels), np.array(scores, float)


# One number


def test_auroc_by_hand():
    # pairs (positive, negative): (3, 1) won, (3, 2) won, (2, 1) won, (2, 2) tied: 3.5 of 4
    assert auroc([1, 0, 1, 0], [3, 1, 2, 2]) == 3.5 / 4


def test_average_precision_by_hand():
    # at 3: recall 1/2, precision 1; at 2 (two tie): recall 1, precision 2/3
    assert average_precision([1, 0, 1, 0], [3, 1, 2, 2]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@given(BOTH)
def test_values_equal_scikit_learn(rows):
    labels, scores = split(rows)
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@given(BOTH)
def test_turned_scores_turn_the_auroc(rows):
    labels, scores = split(rows)
    assert auroc(labels, scores) == pytest.approx(1 - auroc(labels, -scores), abs=1e-12)


@given(ROWS.filter(two_values))
def test_only_the_order_of_scores_counts(rows):
    labels, scores = split(rows)
    for changed in (3 * scores - 7, np.exp(scores), scores**3):
        assert auroc(labels, changed) == auroc(labels, scores)
        assert average_precision(labels, changed) == pytest.approx(average_precision(labels, scores))


@pytest.mark.parametrize("metric", [auroc, average_precision])
@pytest.mark.parametrize("labels", [[], [0, 0, 0], [1, 1], [NAN, NAN], [NAN, 1]])
def test_one_label_value_is_undefined(metric, labels):
    assert math.isnan(metric(labels, np.zeros(len(labels))))


def test_labels_not_stated_are_left_out():
    assert auroc([1, NAN, 0, NAN], [2, -9, 1, 9]) == 1


def test_ties_everywhere_are_chance():
    assert auroc([0, 1, 1, 0, 1], np.full(5, 0.3)) == 0.5
    assert average_precision([0, 1, 1, 0, 1], np.full(5, 0.3)) == pytest.approx(3 / 5)


def test_curves_have_the_area_of_the_metrics():
    labels, scores = binormal(np.random.default_rng(0))
    false_positives, sensitivity, thresholds = ranking.roc_curve(labels, scores)
    assert np.trapezoid(sensitivity, false_positives) == pytest.approx(auroc(labels, scores))
    assert np.all(np.diff(thresholds) < 0)
    recall, precision, thresholds = ranking.pr_curve(labels, scores)
    assert (recall[0], precision[0], thresholds[0]) == (0, 1, np.inf)
    assert np.sum(np.diff(recall) * precision[1:]) == pytest.approx(average_precision(labels, scores))
    assert len(recall) == len(precision) == len(thresholds)


@pytest.mark.parametrize("curve", [ranking.roc_curve, ranking.pr_curve])
def test_an_undefined_curve_is_empty(curve):
    assert [len(part) for part in curve([1, 1], [0.1, 0.2])] == [0, 0, 0]


# With its interval


@given(BOTH)
def test_unit_weights_give_the_plain_metrics(rows):
    labels, scores = split(rows)
    ranked = ranking.RankedScores(labels, scores, Bootstrap.from_groups(None, len(labels)))
    found = ranked.metrics(np.ones((len(labels), 1)), ["auroc", "average_precision"])[:, 0]
    assert found == pytest.approx([auroc(labels, scores), average_precision(labels, scores)], abs=1e-12)


@settings(max_examples=30)
@given(BOTH, st.integers(1, 8), st.integers(0, 99))
def test_weighted_draws_equal_repeated_records(rows, patients, seed):
    labels, scores = split(rows)
    bootstrap = Bootstrap.from_groups(np.arange(len(rows)) % patients, len(rows), draws=5, seed=seed)
    weights_GD = next(bootstrap.weights())
    found = ranking.RankedScores(labels, scores, bootstrap).metrics(weights_GD, ["auroc", "average_precision"])
    for d, weights_G in enumerate(weights_GD.T):
        times = weights_G[bootstrap.group_N].astype(int)
        again = np.repeat(labels, times), np.repeat(scores, times)
        assert found[:, d] == pytest.approx([auroc(*again), average_precision(*again)], nan_ok=True, abs=1e-12)


@settings(max_examples=20)
@given(BOTH, st.integers(1, 12), st.sampled_from([0.5, 0.8, 0.95]))
def test_intervals_lie_within_bounds_and_contain_their_value(rows, patients, level):
    labels, scores = split(rows)
    groups = np.arange(len(rows)) % patients
    for metric in ("auroc", "average_precision"):
        drawn = interval(labels, scores, metric, groups, draws=100, level=level)
        if math.isfinite(drawn.low):
            assert 0 <= drawn.low <= drawn.high <= 1
    for exact in (
        delong_interval(labels, scores, groups, level),
        delong_interval(labels, scores, None, level),
        proportion(scores > 0, 0, groups, level),
        proportion(labels, 0, None, level),
    ):
        if math.isfinite(exact.low):
            assert 0 <= exact.low <= exact.value + 1e-12
            assert exact.value - 1e-12 <= exact.high <= 1


def test_a_metric_may_be_named_or_given():
    labels, scores = binormal(np.random.default_rng(1), n=80)
    named = interval(labels, scores, "auroc", draws=200)
    assert named == interval(labels, scores, auroc, draws=200)
    slow = interval(labels, scores, lambda labels, scores: auroc(labels, scores), draws=200)
    assert (slow.low, slow.high) == pytest.approx((named.low, named.high))
    specificity = interval(np.zeros(50), np.linspace(0, 1, 50), lambda _, s: float(np.mean(s < 0.5)), draws=200)
    assert specificity.value == 0.5
    assert 0.3 < specificity.low < 0.5 < specificity.high < 0.7


def test_interval_is_that_of_theory():
    labels, scores = binormal(np.random.default_rng(2), n=2000)
    found = interval(labels, scores)
    a, p = found.value, labels.sum()
    # Hanley and McNeil 1982, equation 1, doi:10.1148/radiology.143.1.7063747
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    n = len(labels) - p
    se = math.sqrt((a * (1 - a) + (p - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (p * n))
    assert found.high - found.low == pytest.approx(2 * 1.96 * se, rel=0.1)
    assert found.note == "bootstrap of 2,000 records"
    assert (found.n, found.positives) == (2000, p)


def test_several_radiographs_of_a_patient_widen_the_interval():
    labels, scores = binormal(np.random.default_rng(3), n=100)
    labels, scores, patients = (np.repeat(x, 9) for x in (labels, scores, [f"p{i}" for i in range(100)]))
    by_record, by_patient = interval(labels, scores), interval(labels, scores, groups=patients)
    assert by_patient.note == "bootstrap by 100 patients"
    assert (by_patient.high - by_patient.low) / (by_record.high - by_record.low) == pytest.approx(3, rel=0.15)


def test_what_has_no_value_says_why():
    assert str(interval(np.zeros(44), np.arange(44))) == "undefined (only negatives, n=44)"
    assert str(interval([1, 1], [0.1, 0.2])) == "undefined (only positives, n=2)"
    assert str(interval([], [])) == "undefined (no stated label, n=0)"
    found = interval([1, 0, NAN], [1, 2, 3], lambda labels, scores: NAN)
    assert (str(found), found.positives) == ("undefined (the metric is undefined, n=2)", 1)
    assert str(interval([NAN], [3], lambda labels, scores: 1.0)) == "undefined (no stated label, n=0)"


def test_seed_and_level_are_obeyed():
    labels, scores = binormal(np.random.default_rng(4))
    assert interval(labels, scores, seed=1) == interval(labels, scores, seed=1)
    assert interval(labels, scores, seed=1) != interval(labels, scores, seed=2)
    narrow, wide = interval(labels, scores, level=0.8), interval(labels, scores, level=0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert narrow.note.startswith("0.8 interval; bootstrap")


@pytest.mark.parametrize(
    ("labels", "groups", "why"),
    [
        ([0, 1, 0, 1], "aaaa", "only one patient"),
        ([0, 1, 0, 1], "abac", "only one negative patient"),
        ([0, 1, 0, 0], None, "only one positive record"),
        ([0, 1, NAN, NAN], "aabc", "only one patient"),
    ],
)
def test_too_few_patients_have_no_interval(labels, groups, why):
    found = interval(labels, [0.1, 0.5, 0.3, 0.05], groups=groups)
    assert found.value == auroc(labels, [0.1, 0.5, 0.3, 0.05])
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert why in found.note
    assert why in str(found)


def test_resamples_that_all_agree_have_no_interval():
    for scores in (np.arange(20), np.zeros(20)):  # a perfect ranking; ties everywhere
        found = interval(np.arange(20) > 9, scores)
        assert found.defined
        assert "every resample gave the same value" in str(found)


def test_what_is_rough_is_called_rough():
    labels = np.zeros(60)
    labels[[3, 30]] = 1
    found = interval(labels, np.cos(np.arange(60)))
    assert "rough: only 2 positive records" in found.note
    assert "% of resamples left out" in found.note  # (58 / 60) ** 60 = 13 % have no positive
    assert float(found.note.split("; ")[1].split("%")[0]) == pytest.approx(13.1, abs=2.5)


@pytest.mark.parametrize(("count", "rough"), [(19, True), (20, False)])
def test_fewer_than_twenty_of_either_label_are_rough(count, rough):
    scores = np.cos(np.arange(60.0))
    for labels in (np.arange(60.0) < count, np.arange(60.0) >= count):
        label = "positive" if labels[0] else "negative"
        assert (f"rough: only {count} {label} records" in interval(labels, scores, draws=60).note) == rough
        both = np.stack([labels, np.arange(60) % 2], axis=1)
        mean = classification_report(both, np.stack([scores] * 2, 1), ["a", "b"], draws=60)["mean"]["auroc"]
        assert ("rough: few patients in a" in mean.note) == rough


def test_scores_without_a_positive_between_them_are_one_level():
    """One positive amid 1,000 records: those above it, itself, and those below it."""
    labels = np.arange(1000) == 500
    assert ranking.RankedScores(labels.astype(float), np.arange(1000.0), Bootstrap.from_groups(None, 1000)).levels == 3


def test_no_draws_give_values_alone():
    found = interval([0, 1, 1], [1, 2, 0], draws=0)
    assert (found.value, found.note) == (0.5, "no interval requested")


# The report over classes


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(6)
    labels = (rng.random((300, 4)) < [0.5, 0.2, 0.1, 0.0]).astype(float)
    scores = rng.normal(size=(300, 4)) + labels
    labels[rng.random((300, 4)) < 0.2] = NAN
    return labels, scores, rng.integers(120, size=300)


def test_report_has_every_class_and_their_mean(table):
    labels, scores, patients = table
    report = classification_report(labels, scores, ["a", "b", "c", "d"], groups=patients, draws=300)
    assert list(report) == ["mean", "a", "b", "c", "d"]
    for c, name in enumerate("abcd"):
        for metric in ("auroc", "average_precision"):
            alone = interval(labels[:, c], scores[:, c], metric, groups=patients, draws=300)
            assert str(report[name][metric]) == str(alone)
            assert report[name][metric].note == alone.note
    assert str(report["d"]["auroc"]).startswith("undefined (only negatives, n=")
    mean = report["mean"]["auroc"]
    assert mean.value == pytest.approx(np.mean([report[name]["auroc"].value for name in "abc"]))
    assert "mean of 3 of 4 classes, without d" in mean.note
    assert "rough" not in mean.note
    assert mean.n == (~np.isnan(labels[:, :3])).any(axis=1).sum()
    assert mean.positives == (labels[:, :3] == 1).any(axis=1).sum()


def test_the_mean_tells_of_classes_with_few_patients():
    labels, scores = binormal(np.random.default_rng(8), n=60)
    rare = np.where(np.arange(60) % 20 == 0, 1.0, 0.0)
    report = classification_report(np.stack([labels, rare], 1), np.stack([scores] * 2, 1), ["a", "b"], draws=200)
    assert report["mean"]["auroc"].note.endswith("rough: few patients in b")


def test_the_mean_has_no_interval_where_one_of_its_classes_has_none():
    labels, scores = binormal(np.random.default_rng(8), n=60)
    lone = (np.arange(60) == 7).astype(float)  # what its AUROC would be with another patient, no draw can tell
    report = classification_report(np.stack([labels, lone], 1), np.stack([scores] * 2, 1), ["a", "b"], draws=200)
    mean = report["mean"]["auroc"]
    assert mean.defined
    assert math.isnan(mean.low)
    assert mean.note.startswith("interval undefined: only one positive record in b")


def test_the_mean_is_drawn_jointly():
    labels, scores = binormal(np.random.default_rng(7))
    twice = classification_report(np.stack([labels] * 2, 1), np.stack([scores] * 2, 1), ["a", "b"], draws=500)
    alone = twice["a"]["auroc"]  # two equal classes: their mean is as uncertain as one of them
    assert (twice["mean"]["auroc"].low, twice["mean"]["auroc"].high) == pytest.approx((alone.low, alone.high))


def test_a_report_without_any_defined_class():
    report = classification_report(np.zeros((3, 2)), np.zeros((3, 2)), ["a", "b"])
    assert str(report["mean"]["auroc"]) == "undefined (no class has both label values, n=0)"
    assert str(report["b"]["average_precision"]) == "undefined (only negatives, n=3)"
    assert not classification_report(np.zeros((0, 1)), np.zeros((0, 1)), ["a"])["mean"]["auroc"].defined


# Errors


@pytest.mark.parametrize("function", [auroc, average_precision, ranking.roc_curve, ranking.pr_curve, interval])
@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 1, 1], [0.1, 0.2], "3 labels, but 2 scores"),
        ([0, 1, 2, -1], [1, 2, 3, 4], "2 of 4 labels are not 0, 1 or NaN .* the first is 2 at index 2"),
        ([0, 1, 1], [0, NAN, math.inf], "2 of 3 scores are not finite; the first is nan at index 1"),
        ([[0, 1]], [[0, 1]], r"labels must have shape \(N,\), not \(1, 2\)"),
    ],
)
def test_wrong_input_is_named(function, labels, scores, words):
    with pytest.raises(ValueError, match=words):
        function(labels, scores)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"groups": ["a", "b"]}, "3 records, but 2 groups"),
        ({"groups": ["a", "b", "c", "d"]}, "3 records, but 4 groups"),
        ({"metric": "accuracy"}, "unknown metric 'accuracy'; choose from auroc, average_precision"),
        ({"draws": -1}, "draws must be"),
        ({"level": 95}, "0 < level < 1, not 2000 and 95"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        interval([0, 1, 1], [1, 2, 3], **arguments)


@pytest.mark.parametrize(
    ("shape", "classes", "words"),
    [
        ((3, 2), ["a"], r"1 classes need arrays \(N, 1\), not \(3, 2\)"),
        ((3, 2), ["a", "a"], "class names must differ"),
        ((3, 2), ["a", "mean"], "'mean' is reserved"),
        ((3,), ["a"], "1 classes need arrays"),
    ],
)
def test_a_wrong_table_is_named(shape, classes, words):
    with pytest.raises(ValueError, match=words):
        classification_report(np.zeros(shape), np.zeros(shape), classes)
    with pytest.raises(ValueError, match="labels have shape"):
        classification_report(np.zeros(shape), np.zeros((4, 2)), classes)


def test_the_place_in_a_table_is_told():
    scores = np.zeros((3, 2))
    scores[2, 1] = NAN
    with pytest.raises(ValueError, match="1 of 6 scores are not finite; the first is nan at row 2, column 1"):
        classification_report(np.zeros((3, 2)), scores, ["a", "b"])


def test_probabilities_are_checked_where_they_are_needed():
    with pytest.raises(ValueError, match="1 of 2 probabilities are outside 0 to 1; the first is 3 at index 1"):
        ranking.check_scores([0.5, 3], probabilities=True)


def test_bootstrap_interval_covers_the_truth():
    truth, covered = 0.8, 0
    for seed in range(400):
        labels, scores = binormal(np.random.default_rng([9, seed]), shift=1.1902)  # sqrt(2) * Phi^-1(0.8)
        found = interval(labels, scores, draws=500, seed=seed)
        covered += found.low <= truth <= found.high
    assert 367 <= covered <= 393, covered  # 380, and three deviations of what chance allows
