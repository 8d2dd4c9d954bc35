"""Stratified samples: the chances by hand, and that each record is drawn with its chance."""

import numpy as np
import pytest

from mrm.statistics.sampling import chances, systematic_sample


def test_half_is_spread_evenly_and_half_over_the_values_of_classes():
    """By hand: 10 records, one positive. 0.5 / 10 each, and 0.25 for each of the two values."""
    labels = np.array([[1.0], *[[np.nan]] * 9])
    sizes = np.array([0.05 + 0.25, *[0.05 + 0.25 / 9] * 9])
    assert chances(labels, 3) == pytest.approx(3 * sizes)
    assert chances(labels, 4).tolist() == pytest.approx([1.0, *[3 / 9] * 9])  # 4 x 0.3 exceeds 1
    assert chances(np.zeros((5, 2)), 2) == pytest.approx([0.4] * 5)


def test_every_record_is_drawn_with_its_chance_and_the_sample_has_its_size():
    rng = np.random.default_rng(0)
    labels = rng.choice([1.0, 0.0, -1.0, np.nan], size=(60, 3), p=[0.1, 0.3, 0.05, 0.55])
    chance = chances(labels, 12)
    assert chance.sum() == pytest.approx(12)
    draws = [systematic_sample(chance, seed) for seed in range(3000)]
    assert {len(set(drawn.tolist())) for drawn in draws} == {12}
    share = np.bincount(np.concatenate(draws), minlength=60) / 3000
    assert np.abs(share - chance).max() < 0.04  # four standard errors of a share of 0.5
    assert systematic_sample(chance, 7).tolist() == systematic_sample(chance, 7).tolist()


def test_a_sample_of_all_is_all():
    assert systematic_sample(chances(np.eye(5), 5)).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [0, 6])
def test_a_sample_larger_than_the_records_is_refused(count):
    with pytest.raises(ValueError, match="a sample of"):
        chances(np.zeros((5, 1)), count)
