"""Networks with shapes and no values: what a file is compared with before memory or time is spent on its model.

And networks whose weights are still to be loaded, without the seconds that their initial weights take.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mrm.models import noise

FILLS = frozenset(
    getattr(owner, name)
    for owner, names in {
        torch.Tensor: ("add_", "clamp_", "copy_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_"),
        nn.init: ("constant_", "kaiming_uniform_", "normal_", "uniform_"),
    }.items()
    for name in names
)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Networks that are built within have shapes and no values; filling a tensor with initial weights does nothing."""
    with torch.device("meta"), _Unfilled(torch.Tensor):
        yield


@contextmanager
def weights_to_come() -> Iterator[None]:
    """Networks that are built within have no initial weights: every weight must be loaded afterwards.

    What a network computes beside its weights, such as the windows of its patches, it has. Nothing is drawn from the global
    generator.
    """
    with noise.seeded(0), _Unfilled(nn.Parameter):
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills a tensor of a class in place: most of the time of an outline, and of a model that is loaded."""

    def __init__(self, left_out: type[torch.Tensor]) -> None:
        super().__init__()
        self.left_out = left_out

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FILLS:
            tensor = args[0] if args else kwargs["tensor"]
            if isinstance(tensor, self.left_out):
                return tensor
        return func(*args, **(kwargs or {}))
