"""Randomness inside the model that belongs to the sample, not to the batch.

PyTorch's dropout draws from one generator a device, so a mask depends on what else is in the batch and
on all that was drawn before. Here a mask is a hash of (sample key, site, element): the same for a sample
in any batch, on any rank, after any restart. The hash is 32-bit integer arithmetic, equal on every device.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

_M32 = 0xFFFFFFFF


def uniform(keys_B: Tensor, site: str, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers in [0, 1), float32 of (B, *shape): a function of each sample's key and the site's name.

    Element i of a sample depends on i alone, so a longer shape only appends. The mixer is
    `lowbias32` (C. Wellons, "Prospecting for hash functions", 2018).
    """
    count = 1
    for extent in shape:
        count *= extent
    elements = torch.arange(count, dtype=torch.int64, device=keys_B.device)
    origin_B = _mix((keys_B.long() ^ zlib.crc32(site.encode())) & _M32)
    mixed = _mix((origin_B[:, None] + elements * 0x9E3779B9) & _M32)
    return ((mixed >> 8).float() / (1 << 24)).view(-1, *shape)


def dropout(x: Tensor, p: float, keys_B: Tensor | None, site: str) -> Tensor:
    """Inverted dropout on (B, ...) with each sample's own mask; no keys (evaluation) or p = 0 is the identity."""
    if keys_B is None or p == 0.0:
        return x
    keep = uniform(keys_B, site, tuple(x.shape[1:])) >= p
    return x * keep.to(x.dtype) / (1.0 - p)


class SampleKeys:
    """The keys of the batch now in the model, for layers inside encoders that take no further argument."""

    keys_B: Tensor | None = None


class DropPath(nn.Module):
    """Stochastic depth by sample key. Takes the place of timm's, which draws from the global generator."""

    def __init__(self, p: float, site: str, batch: SampleKeys) -> None:
        super().__init__()
        self.p, self.site, self.batch = p, site, batch

    def forward(self, x_BLD: Tensor) -> Tensor:
        """A sample's branch is kept with probability 1 - p, and scaled by its inverse."""
        if not self.training or self.p == 0.0:
            return x_BLD
        if self.batch.keys_B is None:
            raise RuntimeError("drop path in training needs the sample keys of the batch")
        keep = uniform(self.batch.keys_B, self.site, (1,) * (x_BLD.dim() - 1)) >= self.p
        return x_BLD * keep.to(x_BLD.dtype) / (1.0 - self.p)


def key_drop_paths(encoder: nn.Module, batch: SampleKeys) -> None:
    """Replace every timm DropPath inside `encoder` by one that draws from the keys in `batch`."""
    from timm.layers import DropPath as TimmDropPath

    for name, module in list(encoder.named_modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, TimmDropPath):
                setattr(module, child_name, DropPath(child.drop_prob, f"{name}.{child_name}", batch))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block, the creation of weights say, from `seed`, and leave the global generators as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
