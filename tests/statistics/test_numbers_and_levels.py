"""Errors, correlations and agreement against scikit-learn and SciPy, and their intervals against simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, r2_score, root_mean_squared_error

from mrm.statistics.numbers_and_levels import agreement, confusion, number_report

NAN = float("nan")


def numbers(seed: int, patients: int, images: int, within: float = 1.0):
    """True and predicted numbers (N, 1) and patients; images of a patient share most of their error."""
    rng = np.random.default_rng(seed)
    group_N = np.repeat(np.arange(patients), images)
    true_N = rng.normal(50, 12, patients)[group_N]
    error_N = rng.normal(0, 5, patients)[group_N] + rng.normal(0, within, len(group_N))
    return true_N[:, None], (0.6 * true_N + 18 + error_N)[:, None], group_N


def test_measures_of_numbers_are_those_of_scikit_learn_and_scipy():
    true, predicted, groups = numbers(0, 40, 2)
    true[3] = NAN
    report = number_report(true, predicted, ["age"], groups, draws=200)
    y, x = true[~np.isnan(true)], predicted[~np.isnan(true)]
    expected = {
        "mae": mean_absolute_error(y, x),
        "rmse": root_mean_squared_error(y, x),
        "r2": r2_score(y, x),
        "pearson": stats.pearsonr(y, x).statistic,
        "spearman": stats.spearmanr(y, x).statistic,
    }
    assert {name: one.value for name, one in report["age"].items()} == pytest.approx(expected, rel=1e-9)
    assert report["mean"] == report["age"]
    assert all(one.n == 79 for one in report["age"].values())
    assert all(one.low < one.value < one.high for one in report["age"].values())


def test_ties_share_their_rank():
    y, x = np.array([[1.0], [1], [2], [3], [3]]), np.array([[2.0], [1], [1], [5], [2]])
    value = number_report(y, x, ["a"], draws=0)["a"]["spearman"].value
    assert value == pytest.approx(stats.spearmanr(y[:, 0], x[:, 0]).statistic)


def test_numbers_that_do_not_vary_have_no_correlation_and_no_r2():
    report = number_report(np.full((5, 1), 3.0), np.arange(5.0)[:, None], ["a"], draws=50)["a"]
    assert not report["r2"].defined
    assert not report["pearson"].defined
    assert report["mae"].defined
    assert "all values are alike" in report["r2"].note


def test_several_columns_have_a_mean_of_what_has_no_unit():
    true, predicted, _ = numbers(1, 60, 1)
    both = number_report(np.hstack([true, 10 * true]), np.hstack([predicted, 10 * predicted]), ["a", "b"], draws=50)
    assert set(both["mean"]) == {"r2", "pearson", "spearman"}
    assert both["mean"]["r2"].value == pytest.approx(both["a"]["r2"].value)


def test_wrong_tables_are_refused():
    with pytest.raises(ValueError, match=r"expected numbers \(N, 2\)"):
        number_report(np.zeros((3, 1)), np.zeros((3, 1)), ["a", "b"])
    with pytest.raises(ValueError, match="must be finite"):
        number_report(np.zeros((3, 1)), np.full((3, 1), NAN), ["a"])


def test_agreement_is_that_of_scikit_learn_and_leaves_out_what_is_not_stated():
    rng = np.random.default_rng(2)
    true = rng.integers(0, 4, 120)
    called = np.clip(true + rng.integers(-1, 2, 120), 0, 3)
    stated = np.append(true, -1), np.append(called, 2)
    plain, ordered = (agreement(*stated, 4, ordered, draws=100) for ordered in (False, True))
    assert plain["kappa"].value == pytest.approx(cohen_kappa_score(true, called))
    assert ordered["quadratic_kappa"].value == pytest.approx(cohen_kappa_score(true, called, weights="quadratic"))
    assert ordered["mae"].value == pytest.approx(np.abs(true - called).mean())
    assert ordered["mae"].n == 120
    assert confusion(*stated, 4).sum() == 120


def test_one_class_everywhere_has_no_kappa():
    assert not agreement([1, 1, 1], [1, 1, 1], 3, False, draws=20)["kappa"].defined


def test_intervals_of_few_measures_hold_the_truth_by_patient():
    """Two images a patient: 95 % intervals over patients hold R2, MAE and Spearman's correlation of a large population."""
    population = number_report(*numbers(99, 40_000, 1)[:2], ["a"], draws=0)["a"]
    held = dict.fromkeys(("mae", "r2", "spearman"), 0)
    for seed in range(120):
        true, predicted, groups = numbers(seed, 80, 2)
        report = number_report(true, predicted, ["a"], groups, draws=200, seed=seed)["a"]
        for name in held:
            held[name] += report[name].low <= population[name].value <= report[name].high
    low, high = stats.binom.ppf([0.001, 0.999], 120, 0.95)
    assert all(low <= count <= high for count in held.values()), held
