"""The usual sizes of Vision Transformers: what a width says of depth and heads, which no file of weights states."""

from __future__ import annotations

from typing import Any, NamedTuple

from mrm.models.limits import Levels

IMAGENET: tuple[Levels, Levels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of its colours


class Size(NamedTuple):
    """A usual size: its name in timm, and its width, blocks and attention heads."""

    name: str
    width: int
    depth: int
    heads: int

    def options(self, width: int, depth: int, heads: int) -> dict[str, Any]:
        """timm's options for a Vision Transformer of these numbers, where they differ from this size."""
        stated = {"embed_dim": width, "depth": depth, "num_heads": heads}
        usual = {"embed_dim": self.width, "depth": self.depth, "num_heads": self.heads}
        return {name: value for name, value in stated.items() if value != usual[name]}


SIZES = (
    Size("tiny", 192, 12, 3),
    Size("small", 384, 12, 6),
    Size("base", 768, 12, 12),
    Size("large", 1024, 24, 16),
    Size("huge", 1280, 32, 16),
    Size("giant", 1536, 40, 24),
)


def size_of(width: int) -> Size | None:
    """The usual size of this width; None where there is none."""
    return next((size for size in SIZES if size.width == width), None)


def base_size(width: int) -> Size:
    """The usual size of this width, else "base"."""
    return size_of(width) or SIZES[2]


def dinov2_name(width: int, registers: bool, gated: bool) -> tuple[str, Size]:
    """timm's name of the DINOv2 that is nearest to this one, and its size; `gated` is SwiGLU, which the giant one has."""
    size = base_size(1536 if gated else width)
    if not gated and size.name not in ("small", "base", "large"):
        size = base_size(768)
    return f"vit_{size.name}_patch14_{'reg4_' if registers else ''}dinov2", size


def mlp_ratio(hidden: int, width: int) -> float:
    """What timm multiplies a width by, and rounds down, to have so many hidden units."""
    return hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width
