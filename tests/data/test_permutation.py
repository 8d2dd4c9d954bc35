"""An order that is computed: every number once, and as an order that is drawn at random would be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrm.data.permutation import Permutation


def order(seed: int, n: int) -> np.ndarray:
    return Permutation(np.random.default_rng(seed), n).at(np.arange(n))


@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_every_number_comes_once(n, seed):
    assert np.array_equal(np.sort(order(seed, n)), np.arange(n))


@pytest.mark.parametrize("n", [2**16 - 1, 2**16, 2**16 + 1])
def test_every_number_comes_once_around_a_power_of_four(n):
    assert np.array_equal(np.bincount(order(1, n), minlength=n), np.ones(n))


def test_a_place_gives_the_same_number_alone_and_among_others():
    whole = order(3, 1000)
    computed = Permutation(np.random.default_rng(3), 1000)
    assert [computed.at(np.array([place])).item() for place in (0, 1, 500, 999)] == whole[[0, 1, 500, 999]].tolist()
    assert np.array_equal(computed.at(np.arange(400, 600)), whole[400:600])


def test_ten_million_are_in_an_order_without_being_held():
    large = Permutation(np.random.default_rng(0), 10**7)
    first = large.at(np.arange(10_000))
    assert len(np.unique(first)) == 10_000
    assert abs(first.mean() - 5e6) < 1.5e5  # five standard errors of the mean of 10,000 numbers


def test_fixed_points_and_pairs_are_as_rare_as_in_orders_that_are_drawn():
    """In a random order one number stays in its place and two neighbours follow one another, on average (1 +- 1 each)."""
    orders = [order(seed, 1000) for seed in range(200)]
    fixed = np.mean([(one == np.arange(1000)).sum() for one in orders])
    follow = np.mean([(np.diff(one) == 1).sum() for one in orders])
    assert abs(fixed - 1) < 0.36  # five standard errors of a mean of 200
    assert abs(follow - 1) < 0.36


def test_each_number_is_as_often_first_as_any_other():
    firsts = np.bincount(
        [Permutation(np.random.default_rng(seed), 10).at(np.zeros(1, int)).item() for seed in range(1000)]
    )
    assert ((firsts - 100) ** 2 / 100).sum() < 33.7  # chi-square with 9 degrees of freedom, P = 1e-4
