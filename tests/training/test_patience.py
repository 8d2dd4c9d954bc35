"""When a run ends for want of a gain."""

import math

import pytest

from mrm.training.patience import Patience


def ended_at(scores, validations, gain=0.0, total=5) -> int | None:
    """The number of the validation after which a run ends, one each 5 steps; it is stopped and resumed after each.

    Of a run of `total` steps: by default so few that every validation counts.
    """
    state = Patience().state()
    for number, score in enumerate(scores, 1):
        patience = Patience(validations, gain)
        patience.load(state)
        patience.note(5 * number, score)
        if patience.is_exhausted(5 * number, every=5, total=total):
            return number
        state = patience.state()
    return None


@pytest.mark.parametrize(
    ("scores", "validations", "gain", "end"),
    [
        ([0.5, 0.6, 0.7, 0.8], 1, 0.0, None),
        ([0.5, 0.6, 0.6, 0.8], 1, 0.0, 3),  # an equal score is no gain
        ([0.5, 0.6, 0.4, 0.5, 0.6], 3, 0.0, 5),
        ([0.5, 0.55, 0.6, 0.65], 2, 0.08, None),  # 0.6 is a gain over 0.5
        ([0.5, 0.55, 0.6, 0.65, 0.66], 2, 0.08, 5),
        ([math.nan, math.nan], 2, 0.0, 2),
        ([0.9, 0.1, 0.1, 0.1], None, 0.0, None),
    ],
)
def test_a_run_ends_after_so_many_validations_without_a_gain(scores, validations, gain, end):
    assert ended_at(scores, validations, gain) == end


@pytest.mark.parametrize(
    ("scores", "validations", "total", "end"),
    [
        ([0.6, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 2, 50, 7),  # 30 and 35 are the first two steps above 25
        ([0.6, 0.6, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7], 2, 50, 8),  # it stood still for half of the steps, then learned
        ([0.6, 0.7, 0.8, 0.9, 0.91, 0.92, 0.93], 2, 50, None),
        ([0.6, 0.5, 0.5, 0.5], 1, 24, 3),  # the half is between two validations
    ],
)
def test_validations_of_the_first_half_do_not_count(scores, validations, total, end):
    assert ended_at(scores, validations, total=total) == end
