"""Conformal sets: cuts by hand, patients who count once, and coverage by class on simulated sets."""

import math

import numpy as np
import pytest

from mrm.statistics.conformal import Cuts, fewest_patients, fit_cuts, set_coverage


def test_cuts_are_the_probabilities_that_a_share_of_either_kind_reaches():
    """Nine positives and nine negatives: with one more patient each, 90 % are all nine, 80 % are eight."""
    positive, negative = np.arange(0.1, 0.95, 0.1), np.arange(0.05, 0.9, 0.1)
    labels = np.repeat([1.0, 0.0], 9)
    probabilities = np.concatenate([positive, negative])
    assert fit_cuts(labels, probabilities, None, 0.9) == Cuts(pytest.approx(0.1), pytest.approx(0.85))
    assert fit_cuts(labels, probabilities, None, 0.8) == Cuts(pytest.approx(0.2), pytest.approx(0.75))
    assert fit_cuts(labels, probabilities, None, 0.95) == Cuts(0.0, 1.0)  # nineteen would be needed
    assert [fewest_patients(c) for c in (0.8, 0.9, 0.95)] == [4, 9, 19]


def test_a_patient_counts_once_however_many_images_there_are():
    """A patient with 100 low images moves the cut no further than a patient with one."""
    labels = np.ones(109)
    probabilities = np.concatenate([np.full(100, 0.01), np.linspace(0.5, 0.9, 9)])
    patients = ["many"] * 100 + [f"p{i}" for i in range(9)]
    assert fit_cuts(labels, probabilities, patients, 0.8).present_from == pytest.approx(0.5)  # nine of eleven
    assert fit_cuts(labels, probabilities, None, 0.8).present_from == pytest.approx(0.01)


def test_a_label_that_is_not_stated_is_left_out_and_a_coverage_out_of_range_refused():
    labels, probabilities = np.array([1.0, np.nan] * 10), np.linspace(0.1, 0.9, 20)
    assert fit_cuts(labels, probabilities, None, 0.9) == fit_cuts(labels[::2], probabilities[::2], None, 0.9)
    held = Cuts(0.5, 0.4).contains(np.array([1.0, 1.0, 0.0, 0.0, np.nan]), np.array([0.5, 0.4, 0.4, 0.5, 0.9]))
    assert held[:4].tolist() == [1, 0, 1, 0]
    assert math.isnan(held[4])
    for wrong in (0.0, 1.0):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            fit_cuts(labels, probabilities, None, wrong)


@pytest.mark.parametrize("largest", [1, 4])
def test_coverage_by_class_is_as_stated_on_a_thousand_simulated_sets(largest):
    """A new patient of either kind is covered as often as stated, within the binomial error of 1,000 sets.

    Of n patients the rank of the cut is ceil(0.9 (n + 1)), so that the true coverage is that over n + 1: 0.9 to 0.92 for 60.
    """
    hits, total = {0: 0, 1: 0}, 1_000
    for seed in range(total):
        rng = np.random.default_rng([7, seed])
        sizes = rng.integers(1, largest + 1, 122)
        patients = np.repeat(np.arange(122), sizes)
        labels = (np.arange(122) % 2)[patients].astype(float)
        logits = labels + (rng.normal(size=122)[patients] + rng.normal(size=len(patients))) / 2
        probabilities = 1 / (1 + np.exp(-logits))
        known = patients < 120
        cuts = fit_cuts(labels[known], probabilities[known], patients[known].tolist(), 0.9)
        for value, patient in ((0, 120), (1, 121)):
            first = np.flatnonzero(patients == patient)[:1]
            hits[value] += int(cuts.contains(labels[first], probabilities[first])[0])
    error = 2.6 * math.sqrt(0.9 * 0.1 / total)  # 99 % of sets of 1,000
    for value in (0, 1):
        assert 0.9 - error <= hits[value] / total <= 0.92 + error


def test_a_test_counts_held_labels_of_either_kind_and_sets_of_one_answer():
    labels = np.array([1.0, 1.0, 1.0, 0.0, 0.0, np.nan])
    probabilities = np.array([0.9, 0.45, 0.2, 0.1, 0.8, 0.5])
    one = set_coverage(labels, probabilities, Cuts(0.4, 0.5), None)
    assert (one.positives.value, one.positives.n) == (pytest.approx(2 / 3), 3)
    assert (one.negatives.value, one.negatives.n) == (0.5, 2)
    assert (one.single.value, one.single.n) == (0.8, 5)
    assert str(set_coverage(labels[:3], probabilities[:3], Cuts(0.4, 0.5), None).negatives) == (
        "undefined (no such records, n=0)"
    )
