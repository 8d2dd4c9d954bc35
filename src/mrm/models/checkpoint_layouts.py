"""Published checkpoints of Vision Transformers, which hold tensors and no settings: what their names and shapes say.

| checkpoint | its tensors are | preparation |
| --- | --- | --- |
| MAE, Medical MAE, DeiT | a plain ViT, and a decoder that is left out | that of radiographs, as the file states none |
| MGCA | under `img_encoder_q.model.` of a Lightning checkpoint | mean and deviation 0.5, as in its code |
| MoCo v3 | under `module.base_encoder.`; ViT-S has 12 heads | that of radiographs |
| DINOv2 | with `mask_token`, layer scales, registers, SwiGLU | ImageNet's |
| EVA-02, EVA-X | separate or joined queries, SwiGLU, rotary positions | mean and deviation 0.5 |

Attention heads are in no file: they follow from the width. Anything else is named by `timm:NAME=FILE`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

from torch import Tensor

from mrm.models.config import ModelConfig
from mrm.models.limits import Levels
from mrm.models.name_prefixes import example_name
from mrm.models.sizes import IMAGENET, Size, dinov2_name, mlp_ratio, size_of
from mrm.system.errors import CheckpointError

PATCHES, POSITIONS = "patch_embed.proj.weight", "pos_embed"
NUMBERED = re.compile(r"blocks\.(\d+)\.")
RADIOGRAPHS: tuple[Levels, Levels] = (ModelConfig.mean, ModelConfig.std)
HALF: tuple[Levels, Levels] = (0.5, 0.5)
MOCO_SMALL_HEADS = 12  # of MoCo v3's ViT-S, where others have 6


@dataclass(frozen=True)
class Guess:
    """What a checkpoint is taken for."""

    layout: str
    name: str  # of timm
    image_size: int
    weights: Mapping[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    preparation: tuple[Levels, Levels] = RADIOGRAPHS

    @property
    def note(self) -> str:
        """What is assumed since the file does not say it."""
        return ", those of radiographs, as the file states none" if self.preparation == RADIOGRAPHS else ""


def guess(weights: Mapping[str, Tensor], stored: Mapping[str, Tensor], path: Path) -> Guess | None:
    """What the weights are of, by their names without prefixes; `stored` has the names in the file.

    None for a Vision Transformer of an unusual width, which can start a model of its own architecture all the same. Raises
    CheckpointError for a file without a Vision Transformer.
    """
    weights = {name.removeprefix("encoder."): value for name, value in weights.items()}
    projection = weights.get(PATCHES)
    if any("embeddings.patch_embeddings." in name for name in stored):
        raise CheckpointError(f"{path}: weights of transformers; give the folder that has its config.json too")
    if projection is None or projection.ndim != 4 or not any(NUMBERED.match(name) for name in weights):
        raise CheckpointError(
            f"{path}: no Vision Transformer in it; the file has names such as {example_name(stored)}. If it is of another "
            "family, give its name in timm: timm:NAME=FILE"
        )
    width, channels, patch, _ = projection.shape
    size = size_of(width)
    if size is None or channels != 3:
        return None
    depth = 1 + max(int(match[1]) for name in weights if (match := NUMBERED.match(name)))
    image_size = patch * _grid(weights, path)
    inside = {name.partition("blocks.0.")[2] for name in weights}
    if {"attn.q_proj.weight", "attn.q_bias", "mlp.w1.weight", "mlp.fc1_g.weight"} & inside:
        return _eva(weights, inside, size, depth, patch, image_size)
    if "mask_token" in weights and "ls1.gamma" in inside:
        return _dinov2(weights, size, depth, patch, image_size)
    return _vit(weights, stored, inside, size, depth, patch, image_size)


def _grid(weights: Mapping[str, Tensor], path: Path) -> int:
    """Patches a side, from the positions, with or without those of a class token."""
    positions = weights.get(POSITIONS)
    count = positions.shape[1] if positions is not None and positions.ndim == 3 else 0
    for patches in (count - 1, count):
        if patches > 1 and isqrt(patches) ** 2 == patches:
            return isqrt(patches)
    raise CheckpointError(
        f"{path}: no positions of a square image in it; give the model's name in timm: timm:NAME=FILE"
    )


def _vit(
    weights: Mapping[str, Tensor],
    stored: Mapping[str, Tensor],
    inside: set[str],
    size: Size,
    depth: int,
    patch: int,
    image_size: int,
) -> Guess:
    layout, preparation, heads = "a Vision Transformer", RADIOGRAPHS, size.heads
    if any(name.startswith("img_encoder_q.model.") for name in stored):
        layout, preparation = "the image encoder of MGCA", HALF
    elif any("base_encoder." in name for name in stored):
        layout, heads = "the encoder of MoCo", MOCO_SMALL_HEADS if size.name == "small" else size.heads
    elif any(name.startswith("decoder_blocks.") for name in weights):
        layout = "the encoder of a masked autoencoder (MAE)"
    usual = 14 if size.name == "huge" else 16
    name = f"vit_{size.name}_patch{usual}_224" if size.name != "giant" else "vit_giant_patch14_dinov2"
    options = size.options(size.width, depth, heads) | ({} if patch == usual else {"patch_size": patch})
    if "ls1.gamma" in inside:
        options["init_values"] = 1e-5
    return Guess(layout, name, image_size, weights, options, preparation)


def _dinov2(weights: Mapping[str, Tensor], size: Size, depth: int, patch: int, image_size: int) -> Guess:
    registers, gated = weights.get("register_tokens"), weights.get("blocks.0.mlp.w12.weight")
    name, usual = dinov2_name(size.width, registers is not None, gated is not None)
    options = usual.options(size.width, depth, size.heads) | ({} if patch == 14 else {"patch_size": patch})
    if gated is not None:
        options["mlp_ratio"] = mlp_ratio(len(gated), size.width)
    if registers is not None and registers.shape[1] != 4:
        options["reg_tokens"] = registers.shape[1]
    return Guess("DINOv2", name, image_size, weights, options, IMAGENET)


def _eva(weights: Mapping[str, Tensor], inside: set[str], size: Size, depth: int, patch: int, image_size: int) -> Guess:
    options: dict[str, Any] = size.options(size.width, depth, size.heads)
    if patch != 14:
        options |= {"patch_size": patch, "ref_feat_shape": 224 // patch}
    options |= {
        "qkv_fused": "attn.qkv.weight" in inside,
        "scale_mlp": bool({"mlp.ffn_ln.weight", "mlp.norm.weight"} & inside),
        "scale_attn_inner": bool({"attn.inner_attn_ln.weight", "attn.norm.weight"} & inside),
    }
    return Guess("EVA-02 (EVA-X)", f"eva02_{size.name}_patch14_224", image_size, weights, options, HALF)
