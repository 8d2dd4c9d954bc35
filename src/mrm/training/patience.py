"""When a run has stopped getting better."""

from __future__ import annotations

import math
from typing import Any


class Patience:
    """The last validation whose score was a gain over the last one before it that was, and how long ago it was.

    A score that is better by less than `gain` still chooses the best checkpoint, but does not prolong the run, which ends
    after so many `validations` in a row without a gain; None goes on to the last step. Only validations of the second half of
    the steps count: until then the learning rate is above half of its peak, scores go up and down, and a run may stand still
    before it has learned anything.
    """

    def __init__(self, validations: int | None = None, gain: float = 0.0) -> None:
        self.validations, self.gain = validations, gain
        self.step, self.score = 0, -math.inf

    def note(self, step: int, score: float) -> None:
        """Take in the score of a validation; NaN is no gain."""
        if score > self.score and score - self.score >= self.gain:
            self.step, self.score = step, score

    def is_exhausted(self, step: int, every: int, total: int) -> bool:
        """Whether so many validations, one each `every` steps, brought no gain, as far as they count in a run of `total` steps."""
        last_before_half = total // 2 // every * every
        return self.validations is not None and step - max(self.step, last_before_half) >= self.validations * every

    def state(self) -> list[Any]:
        """What a run resumes from."""
        return [self.step, self.score]

    def load(self, state: list[Any]) -> None:
        """Resume from `state`."""
        self.step, self.score = state
