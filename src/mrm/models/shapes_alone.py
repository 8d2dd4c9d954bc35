"""Networks with shapes and no values: what a file is compared with before memory or time is spent on its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

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
    with torch.device("meta"), _Unfilled():
        yield


class _Unfilled(TorchFunctionMode):
    """Leaves out what fills a tensor in place: PyTorch takes most of the time of an outline to find out its shape."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))
