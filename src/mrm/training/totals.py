"""Sums and counts of the steps since the last log, from which its means are computed."""

from __future__ import annotations

import torch
from torch import Tensor


class Totals:
    """Sums by name, on the device. A step whose update is skipped is left out of them, and counted.

    Floats add up exactly in doubles, so the order of the ranks does not matter.
    """

    SKIPPED = "skipped.count"

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.step: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Add to the sums of the present step."""
        _add(self.step, name, value.double())

    def end_step(self, norm: Tensor, ranks: int) -> None:
        """Add the sums of the step to all, or count it where its gradient's `norm` is not finite. Waits for no device."""
        finite = norm.isfinite()
        for name, value in self.step.items():
            _add(self.sums, name, torch.where(finite, value, torch.zeros_like(value)))
        _add(self.sums, self.SKIPPED, (~finite).double() / ranks)  # added up over the ranks when it is logged
        self.step = {}


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value
