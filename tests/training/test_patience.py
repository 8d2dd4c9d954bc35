"""When a run ends for want of a gain."""

import math

import pytest

from mrm.training.patience import Patience


def ended_at(scores, validations, gain=0.0) -> int | None:
    """The number of the validation after which a run ends, one each 5 steps; it is stopped and resumed after each."""
    state = Patience().state()
    for number, score in enumerate(scores, 1):
        patience = Patience(validations, gain)
        patience.load(state)
        patience.note(5 * number, score)
        if patience.is_exhausted(5 * number, every=5):
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
