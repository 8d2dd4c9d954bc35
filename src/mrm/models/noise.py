"""Randomness inside the model that belongs to the sample, not to the batch.

PyTorch's dropout draws from one generator a device, so a mask depends on what else is in the batch and
on all that was drawn before. Here a mask is a hash of (sample key, site, element): the same for a sample
in any batch, on any rank, after any restart. The hash is 32-bit integer arithmetic, equal on every device.
"""

from __future__ import annotations

import contextlib
import math
import sys
import zlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

GOLDEN, FIRST, SECOND = -0x61C88647, 0x7FEB352D, -0x7B935975  # 32-bit constants, as signed numbers


@torch.no_grad()
def keep_mask(keys_B: Tensor, site: str, shape: tuple[int, ...], p: float) -> Tensor:
    """Which elements to keep, each with probability 1 - p: bool (B, *shape), by sample key and site name.

    Element i of a sample depends on i alone, so a longer shape only appends. int32 arithmetic wraps the
    same everywhere. The mixer is `lowbias32` (C. Wellons, "Prospecting for hash functions", 2018).
    """
    elements = torch.arange(math.prod(shape), dtype=torch.int32, device=keys_B.device)
    origin_B = _mix(keys_B.to(torch.int32) ^ site_number(site))
    mixed = _mix(origin_B[:, None] + elements * GOLDEN)
    return (mixed >= round(p * 2**32) - 2**31).view(-1, *shape)


def site_number(site: str) -> int:
    """The site's name as a signed 32-bit number. A function of its own: a compiler may take its result as given."""
    return zlib.crc32(site.encode()) - 2**31


def _mix(x: Tensor) -> Tensor:
    """Spread every bit of 32-bit numbers over all. A shift of a signed number drags its sign in: mask it off."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x.mul_(FIRST)
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(SECOND)
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


def dropout(x: Tensor, p: float, keys_B: Tensor | None, site: str) -> Tensor:
    """Inverted dropout on (B, ...) with each sample's own mask; no keys (evaluation) or p = 0 is the identity."""
    if keys_B is None or p == 0.0:
        return x
    keep = keep_mask(keys_B, site, tuple(x.shape[1:]), p)
    return x * (keep * (1.0 / (1.0 - p))).to(x.dtype)


def dropout_rows(x_NR: Tensor, p: float, keys_B: Tensor | None, site: str, rows_N: Tensor, length: int) -> Tensor:
    """`dropout` on (B, length, R) of which only the rows `rows_N` of the flattened (B, length) are at hand."""
    if keys_B is None or p == 0.0:
        return x_NR
    keep = keep_mask(keys_B, site, (length, x_NR.shape[-1]), p).flatten(0, 1)[rows_N]
    return x_NR * (keep * (1.0 / (1.0 - p))).to(x_NR.dtype)


class SampleKeys:
    """The keys of the batch now in the model, for layers inside encoders that take no further argument."""

    keys_B: Tensor | None = None


class DropPath(nn.Module):
    """Stochastic depth by sample key. Takes the place of timm's, which draws from the global generator."""

    parts = 1  # leading dimensions of a sample whose elements are kept or dropped one by one; here the whole sample

    def __init__(self, p: float, site: str, batch: SampleKeys) -> None:
        super().__init__()
        self.p, self.site, self.batch = p, site, batch

    def forward(self, x: Tensor) -> Tensor:
        """Each part of a sample (B, ...) is kept with probability 1 - p, and scaled by its inverse."""
        if not self.training or self.p == 0.0:
            return x
        if self.batch.keys_B is None:
            raise RuntimeError(f"{type(self).__name__} in training needs the sample keys of the batch")
        parts = min(self.parts, x.dim())
        shape = (*x.shape[1:parts], *(1,) * (x.dim() - parts))
        keep = keep_mask(self.batch.keys_B, self.site, shape, self.p)
        return x * keep.to(x.dtype) / (1.0 - self.p)


class ChannelDropout(DropPath):
    """Dropout of whole channels of (B, C, H, W) by sample key. Takes the place of PyTorch's Dropout2d."""

    parts = 2


class ElementDropout(DropPath):
    """Dropout of single values by sample key. Takes the place of PyTorch's Dropout."""

    parts = sys.maxsize  # all of them


def draw_by_key(module: nn.Module, batch: SampleKeys) -> None:
    """Replace every timm DropPath, Dropout2d and Dropout inside `module` by one that draws from the keys in `batch`."""
    from timm.layers import DropPath as TimmDropPath

    for name, parent in list(module.named_modules()):
        for child_name, child in list(parent.named_children()):
            site = f"{name}.{child_name}"
            if isinstance(child, TimmDropPath):
                setattr(parent, child_name, DropPath(child.drop_prob, site, batch))
            elif isinstance(child, nn.Dropout2d):
                setattr(parent, child_name, ChannelDropout(child.p, site, batch))
            elif isinstance(child, nn.Dropout):
                setattr(parent, child_name, ElementDropout(child.p, site, batch))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block, the creation of weights say, from `seed`, and leave the global generators as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
