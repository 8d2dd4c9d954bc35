"""Sums of steps by hand: what a skipped step adds, and that ranks count it once together."""

import math

import torch

from mrm.training.totals import Totals


def after(*steps: tuple[float, float], ranks: int = 1) -> dict[str, float]:
    """The sums after steps of (loss, gradient norm)."""
    totals = Totals()
    for loss, norm in steps:
        totals.add("image.sum", torch.tensor(loss / 2))
        totals.add("image.sum", torch.tensor(loss / 2))
        totals.end_step(torch.tensor(norm), ranks)
    return {name: value.item() for name, value in totals.sums.items()}


def test_steps_are_added_up():
    assert after((3.0, 1.0), (5.0, 0.0)) == {"image.sum": 8.0, Totals.SKIPPED: 0.0}
    assert after() == {}


def test_a_skipped_step_adds_nothing_but_its_number_whatever_its_loss():
    for bad in (math.nan, math.inf):
        assert after((3.0, 1.0), (bad, bad), (7.0, bad), (5.0, 1.0)) == {"image.sum": 8.0, Totals.SKIPPED: 2.0}


def test_the_numbers_of_all_ranks_add_up_to_that_of_the_steps():
    assert 4 * after((1.0, math.nan), (1.0, 1.0), ranks=4)[Totals.SKIPPED] == 1.0


def test_sums_are_doubles():
    """16,777,216 + 1 is not a float of 32 bits."""
    assert after((2.0**24, 1.0), (1.0, 1.0))["image.sum"] == 2**24 + 1
