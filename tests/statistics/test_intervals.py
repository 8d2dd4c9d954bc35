"""Estimates by their words; draws of patients against plain loops; shares against published intervals."""

import importlib
import inspect
import json
import math

import numpy as np
import pytest
from scipy import stats

from mrm.statistics import intervals
from mrm.statistics.dice import PixelCounts
from mrm.statistics.intervals import Bootstrap, Estimate, mean, proportion

NAN = math.nan

# Estimates


def test_an_estimate_reads_as_a_sentence():
    assert str(Estimate(0.9131, 0.871, 0.948, 812, 94)) == "0.913 (0.871–0.948), n=812, 94 positive"
    assert str(Estimate.undefined(44, 0, "only negatives")) == "undefined (only negatives, n=44)"
    assert str(Estimate(0.5, NAN, NAN, 4, 2)) == "0.500 (no interval), n=4, 2 positive"
    assert str(Estimate(NAN, NAN, NAN, 4, 2)) == "undefined (n=4)"


def test_patients_that_are_numbers_are_grouped_as_names_are():
    numbers = np.random.default_rng(0).integers(-40, 40, 300)
    expected = intervals.group_indices([f"patient {n}" for n in numbers], 300)
    assert intervals.group_indices(numbers, 300).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="299 records, but 300 groups"):
        intervals.group_indices(numbers, 299)


def test_an_estimate_goes_to_json():
    found = json.loads(json.dumps(Estimate.undefined(2, 2, "only positives").to_dict(), allow_nan=False))
    assert found == {
        "value": None,
        "low": None,
        "high": None,
        "n": 2,
        "positives": 2,
        "note": "only positives",
    }


# The bootstrap


def test_draws_do_not_depend_on_the_chunks(monkeypatch):
    bootstrap = Bootstrap.from_groups(None, 37, draws=101, seed=5)
    whole = np.hstack(list(bootstrap.weights()))
    monkeypatch.setattr(intervals, "CELLS", 37 * 8)
    parts = list(bootstrap.weights())
    assert len(parts) == 13
    np.testing.assert_array_equal(np.hstack(parts), whole)
    np.testing.assert_array_equal(whole.sum(axis=0), 37)


def test_sums_are_those_of_the_drawn_records():
    rng = np.random.default_rng(12)
    values, patients = rng.normal(size=(30, 2)), rng.integers(7, size=30)
    bootstrap = Bootstrap.from_groups(patients, 30, draws=4)
    times = np.hstack(list(bootstrap.weights()))[bootstrap.group_N].astype(int)
    expected = [[np.repeat(values[:, k], times[:, d]).sum() for d in range(4)] for k in range(2)]
    np.testing.assert_allclose(bootstrap.sums(values), expected)
    assert Bootstrap.from_groups(None, 0).sums(np.zeros((0, 3))).shape == (3, 2000)


def test_means_are_over_the_drawn_records_of_the_mask():
    rng = np.random.default_rng(13)
    values, patients, used = rng.normal(size=20), rng.integers(4, size=20), np.arange(20) % 3 == 0
    bootstrap = Bootstrap.from_groups(patients, 20, draws=50)
    times = np.hstack(list(bootstrap.weights()))[bootstrap.group_N]
    expected = [np.average(values[used], weights=w) if (w := times[used, d]).any() else NAN for d in range(50)]
    with np.errstate(invalid="raise"):
        np.testing.assert_allclose(bootstrap.means(np.where(used, values, NAN), used), expected)
    rare = np.arange(20) == patients.argmin()  # one record: in no draw, in one, or more often
    counts = times[rare].ravel()
    assert {0, 1, 2} <= set(counts)
    with np.errstate(invalid="raise"):
        np.testing.assert_allclose(bootstrap.means(values, rare), np.where(counts, values[rare], NAN))


def test_records_of_unknown_patient_are_patients_of_their_own():
    """The same draws as if each had an id that no other has; the note counts them."""
    values = np.random.default_rng(14).normal(size=(9, 1))
    some = ["a", "", "b", None, "a", NAN, "b", "", "c"]
    own = ["a", "u1", "b", "u2", "a", "u3", "b", "u4", "c"]
    mixed, stated = Bootstrap.from_groups(some, 9), Bootstrap.from_groups(own, 9)
    np.testing.assert_array_equal(mixed.sums(values), stated.sums(values))
    every = np.ones(9, dtype=bool)
    assert mixed.drawn_from(every) == "by 3 patients and 4 records of unknown patient"
    assert stated.drawn_from(every) == "by 7 patients"
    assert mixed.drawn_from(np.arange(9) < 3) == "by 2 patients and 1 record of unknown patient"
    hits = [1, 0, 1, 1, 1, 0, 1, 0, 1]
    assert (proportion(hits, 6, some).low, proportion(hits, 6, some).high) == (
        proportion(hits, 6, own).low,
        proportion(hits, 6, own).high,
    )


@pytest.mark.parametrize("groups", [None, [""] * 6, [None] * 6, [NAN] * 6])
def test_without_any_patient_records_are_drawn(groups):
    bootstrap = Bootstrap.from_groups(groups, 6)
    assert (bootstrap.unit, bootstrap.size) == ("records", 6)
    assert bootstrap.drawn_from(np.ones(6, dtype=bool)) == "of 6 records"


def test_one_blank_id_does_not_give_up_the_patients_of_all_others():
    """40 patients of 10 equal records: the interval is that of 40 records, whether or not one more has no id."""
    labels = np.repeat(np.random.default_rng(15).random(40) < 0.5, 10).astype(float)
    patients = np.repeat([f"p{i}" for i in range(40)], 10).tolist()
    known = proportion(labels, 0, patients)
    blank = proportion(np.append(labels, 1), 0, [*patients, ""])
    ignored = proportion(np.append(labels, 1), 0)
    assert blank.high - blank.low == pytest.approx(known.high - known.low, rel=0.02)
    assert ignored.high - ignored.low < 0.4 * (known.high - known.low)


def test_patients_with_many_records_are_worth_fewer_degrees_of_freedom():
    """By hand: 2 patients of 3 records and 4 of 1: (2 x 9 + 4)^2 / (2 x 81 + 4) = 484 / 166."""
    groups = [*"aaabbb", *"cdef"]
    bootstrap, every = Bootstrap.from_groups(groups, 10), np.ones(10, dtype=bool)
    assert bootstrap.degrees(every) == pytest.approx(484 / 166)
    assert bootstrap.degrees(np.arange(10) >= 6) == math.inf
    first, others = np.arange(10) < 6, np.arange(10) >= 6  # parts 18 / 36 with 2 degrees, and 4 / 16 without a limit
    assert bootstrap.degrees(first, others) == pytest.approx((0.5 + 0.25) ** 2 / (0.5**2 / 2))
    assert Bootstrap.from_groups(np.arange(20) // 2, 20).degrees(np.ones(20, dtype=bool)) == 10


def test_the_tail_is_that_of_the_expanded_percentile_interval():
    """Hesterberg 2015, section 4.4: Phi(-sqrt(n / (n - 1)) t), and 2.5 % without a limit."""
    bootstrap = Bootstrap.from_groups(None, 4)
    assert bootstrap.tail(math.inf) == pytest.approx(0.025)
    for n in (5, 10, 40):
        expected = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
        assert bootstrap.tail(n) == pytest.approx(expected)
    assert bootstrap.tail(1.0) == bootstrap.tail(3.0) > 0


@pytest.mark.parametrize(
    ("without", "note"),
    [
        (1, "bootstrap of 4 records"),
        (3, "bootstrap of 4 records; 1.5% of resamples left out"),
        (100, "bootstrap of 4 records; 50.0% of resamples left out"),
        (101, "interval undefined: 50% of resamples have no value"),
    ],
)
def test_an_interval_is_that_of_the_draws_with_a_value_if_these_are_half_or_more(without, note):
    values_D = np.append(np.linspace(0, 1, 200 - without), np.full(without, NAN))
    found = Bootstrap.from_groups(None, 4, draws=200).estimate(0.4, values_D, np.ones(4, dtype=bool), 2)
    assert (found.value, found.n, found.positives, found.note) == (0.4, 4, 2, note)
    low, high = (NAN, NAN) if without == 101 else (0.025, 0.975)
    assert (found.low, found.high) == pytest.approx((low, high), nan_ok=True)


def test_draws_that_differ_by_rounding_alone_have_no_interval():
    bootstrap, every = Bootstrap.from_groups(None, 4, draws=2), np.ones(4, dtype=bool)
    assert math.isnan(bootstrap.estimate(0.4, np.array([0.4, 0.4 + 4e-16]), every, 2).low)
    assert math.isfinite(bootstrap.estimate(0.4, np.array([0.4, 0.4 + 1e-9]), every, 2).low)


@pytest.mark.parametrize(
    ("draws", "level", "right"), [(0, 0.5, True), (-1, 0.5, False), (5, 0.0, False), (5, 1.0, False)]
)
def test_draws_and_level_have_their_range(draws, level, right):
    if right:
        assert Bootstrap.from_groups(None, 3, draws, level=level).draws == draws
        return
    with pytest.raises(ValueError, match=f"not {draws} and {level}"):
        Bootstrap.from_groups(None, 3, draws, level=level)


LABELS, SCORES, CLASSES = np.array([0.0, 1, 0, 1, 1, 0]), np.array([0.1, 0.4, 0.5, 0.9, 0.3, 0.2]), ["a"]
TABLE = LABELS[:, None], SCORES[:, None], CLASSES
CALLS = {  # every function of the room that has an interval, and what it takes
    "agreement": {"agreement": (LABELS[:, None], LABELS[::-1, None], CLASSES)},
    "calibration": {"calibration_report": TABLE, "operating_point": (LABELS, SCORES, 0.3)},
    "comparison": {
        "bootstrap_test": (LABELS, SCORES, SCORES**2),
        "compare": (LABELS[:, None], SCORES[:, None], -SCORES[:, None], CLASSES),
        "delong_interval": (LABELS, SCORES),
        "delong_test": (LABELS, SCORES, -SCORES),
        "sign_flip_test": (SCORES, LABELS),
    },
    "cross_validation": {
        "cross_validated_auroc": (LABELS[:, None], SCORES[None, :, None], np.zeros((1, 6), int), CLASSES)
    },
    "dice": {"overlap_report": (PixelCounts([1, 2], [2, 3], [3, 4], [9, 9]),)},
    "intervals": {"proportion": (LABELS, 3)},
    "numbers_and_levels": {
        "agreement": (np.array([0, 1, 2]), np.array([0, 2, 2]), 3, True),
        "number_report": TABLE,
    },
    "ranking": {"classification_report": TABLE, "interval": (LABELS, SCORES)},
    "seeds": {
        "auroc_over_seeds": (LABELS[:, None], SCORES[None, :, None], CLASSES),
        "difference_over_seeds": (LABELS[:, None], SCORES[None, :, None], LABELS[None, :, None], CLASSES),
    },
    "subgroups": {"subgroups": ("sex", ["F"] * 6, *TABLE)},
}


@pytest.mark.parametrize("name", CALLS)
def test_every_interval_is_of_2000_draws_at_95_percent_unless_another_is_asked_for(name):
    module = importlib.import_module(f"mrm.statistics.{name}")
    usual, seen = {"draws": 2000, "seed": 0, "level": 0.95}, set()
    for of, function in inspect.getmembers(module, inspect.isfunction):
        parameters = inspect.signature(function).parameters.values()
        stated = {p.name: p.default for p in parameters if p.name in usual and p.default is not p.empty}
        if function.__module__ == module.__name__ and stated:
            expected = {**usual, "draws": 10_000} if of == "sign_flip_test" else usual  # flips of signs, for a p value
            assert stated == {each: expected[each] for each in stated}
            arguments = CALLS[name][of]
            assert repr(function(*arguments)) == repr(function(*arguments, **stated))
            seen.add(of)
    assert seen == CALLS[name].keys()


def test_a_bootstrap_is_of_2000_draws_at_95_percent_unless_another_is_asked_for():
    bootstrap = Bootstrap.from_groups(None, 3)
    assert (bootstrap.draws, bootstrap.seed, bootstrap.level) == (2000, 0, 0.95)


def test_a_mean_has_the_interval_of_the_means_of_its_draws_and_that_of_nothing_is_undefined():
    """Two records of one patient each: a draw has the mean 0, 1 or 2, so a 95 % interval is from 0 to 2."""
    found = mean(np.array([0.0, 2.0]), Bootstrap.from_groups(None, 2))
    assert (found.value, found.low, found.high, found.n, found.positives) == (1.0, 0.0, 2.0, 2, None)
    assert not mean(np.array([]), Bootstrap.from_groups(None, 0)).defined


# Shares


def test_proportions_have_wilson_intervals():
    found = proportion([1] * 8 + [0] * 2, 10)  # 8 of 10: 0.490 to 0.943 (Newcombe 1998, method 3)
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    none = proportion(np.zeros(20), 20)  # upper end z^2 / (n + z^2)
    assert (none.low, none.high) == pytest.approx((0, 3.8415 / 23.8415), abs=1e-4)
    assert str(proportion([], 0)) == "undefined (no records, n=0)"


def test_proportions_count_patients_not_radiographs():
    hits, patients = [1] * 8 + [0] * 2, list(range(10))
    once, thrice = proportion(hits, 0, patients), proportion(hits * 3, 0, patients * 3)
    assert thrice.low == pytest.approx(once.low, abs=0.02)
    assert proportion([1] * 9, 9, list("aaabbbccc")).low == proportion([1] * 3, 3).low
    assert thrice.note == "Wilson by 10 patients"


def wilson_by_hand(share, n, z=1.959964):
    """The ends of Wilson's interval of a share of n records."""
    middle, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return pytest.approx(((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)), abs=1e-6)


def test_records_of_a_patient_that_disagree_are_worth_as_many_as_their_variance_says():
    """Patients of two records with 1, 2 and 0 hits: deviations 0, 1 and -1, so 2 / 36, times (3 / 2) / (6 / 5), is 1 / 14.4."""
    found = proportion([1, 0, 1, 1, 0, 0], 3, list("aabbcc"))
    assert found.value == 0.5
    assert (found.low, found.high) == wilson_by_hand(0.5, 0.25 * 14.4)


def test_records_that_disagree_within_each_patient_are_worth_no_more_than_themselves():
    """Each of three patients has a hit and a miss: their shares do not differ, and four records would be worth infinitely many."""
    found = proportion([1, 0, 1, 0, 1, 1], 3, list("aabbcd"))
    deviations = 2 * (1 / 3) ** 2 + 2 * (1 / 3) ** 2  # twice (1 - 4 / 3) and twice 1 / 3
    spread = deviations / 36 * (4 / 3) / (6 / 5)
    assert (found.low, found.high) == wilson_by_hand(2 / 3, min(6, 2 / 9 / spread))


def test_unequal_weights_are_worth_fewer_records_by_kish():
    """Weights 1, 2 and 3 of three hits: 36 / 14 records, and the lower end is n / (n + z^2)."""
    found = intervals.wilson(np.ones(3), 3, Bootstrap.from_groups(None, 3), np.array([1.0, 2.0, 3.0]))
    n = 36 / 14
    assert (found.low, found.high) == pytest.approx((n / (n + 1.959964**2), 1), abs=1e-6)
    patients = intervals.wilson(np.ones(4), 4, Bootstrap.from_groups(list("aabc"), 4), np.array([1.0, 1.0, 2.0, 3.0]))
    assert patients.low == pytest.approx(found.low)  # the records of a patient count once, by their mean weight
