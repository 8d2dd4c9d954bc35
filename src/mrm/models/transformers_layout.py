"""The layout of transformers' Vision Transformers (ViT, ViTMAE, DINOv2, RAD-DINO): their settings and names as timm's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrm.models.limits import Levels, as_levels
from mrm.models.sizes import IMAGENET, base_size, dinov2_name, mlp_ratio
from mrm.system.errors import CheckpointError
from mrm.system.files import read_json

DINOV2 = ("dinov2", "dinov2_with_registers")
MODEL_TYPES = {
    "vit": "ViT of transformers",
    "vit_mae": "ViTMAE of transformers",
    "dinov2": "DINOv2 of transformers",
    "dinov2_with_registers": "DINOv2 with registers of transformers",
}
ACTIVATIONS = {
    "gelu": None,  # timm's own
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}
TIMM_EPS = 1e-6
DEFAULTS: dict[str, tuple[Levels, Levels]] = {"vit": (0.5, 0.5)}  # mean and deviation where no file states them
BLOCK = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
THIRDS = ("query", "key", "value")
NAMES = {  # outside the blocks, by prefix
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "layernorm.": "norm.",
}
IN_BLOCK = {  # inside a block, by prefix
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "norm1.": "norm1.",
    "norm2.": "norm2.",
    "attention.output.dense.": "attn.proj.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.fc2.": "mlp.fc2.",
    "mlp.weights_in.": "mlp.fc1.",
    "mlp.weights_out.": "mlp.fc2.",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}


def architecture(settings: Mapping[str, Any], source: Path) -> tuple[str, dict[str, Any]]:
    """timm's name and options for the settings in a transformers `config.json`.

    Raises CheckpointError for kinds of models and settings that have no counterpart.
    """
    kind = settings.get("model_type")
    if kind not in MODEL_TYPES:
        raise CheckpointError(
            f"{source}: a model of the type {str(kind)[:60]!r} cannot be read; choose from {', '.join(MODEL_TYPES)}"
        )
    try:
        return _architecture(kind, settings, source)
    except CheckpointError:
        raise
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: not the settings of a Vision Transformer ({error!r})") from error


def _architecture(kind: str, settings: Mapping[str, Any], source: Path) -> tuple[str, dict[str, Any]]:
    width = int(settings["hidden_size"])
    patch, size = settings.get("patch_size", 14 if kind in DINOV2 else 16), base_size(width)
    if settings.get("num_channels", 3) != 3 or not isinstance(patch, int):
        raise CheckpointError(f"{source}: expected three channels and square patches")
    if kind in DINOV2:
        gated, ratio = bool(settings.get("use_swiglu_ffn")), settings["mlp_ratio"]
        name, size = dinov2_name(width, kind == "dinov2_with_registers", gated)
        hidden = (int(width * ratio) * 2 // 3 + 7) // 8 * 16 if gated else int(width * ratio)
        options = {"mlp_ratio": mlp_ratio(hidden, width)} if gated or ratio != 4 else {}
    else:
        size = base_size(768) if size.name == "giant" else size
        name = f"vit_{size.name}_patch{14 if size.name == 'huge' else 16}_224"
        hidden = int(settings.get("intermediate_size", 4 * width))
        options = {} if hidden == 4 * width else {"mlp_ratio": mlp_ratio(hidden, width)}
    options |= size.options(width, int(settings["num_hidden_layers"]), int(settings["num_attention_heads"]))
    if f"patch{patch}_" not in name:
        options["patch_size"] = patch
    if kind == "dinov2_with_registers" and (registers := settings.get("num_register_tokens", 4)) != 4:
        options["reg_tokens"] = registers
    if settings.get("qkv_bias") is False:
        options["qkv_bias"] = False
    if (eps := float(settings.get("layer_norm_eps", TIMM_EPS))) != TIMM_EPS:
        options["norm_eps"] = eps
    return name, options | _activation(settings, source)


def _activation(settings: Mapping[str, Any], source: Path) -> dict[str, str]:
    name = settings.get("hidden_act", "gelu")
    if name not in ACTIVATIONS:
        raise CheckpointError(f"{source}: activation {str(name)[:60]!r} is unknown; known are {', '.join(ACTIVATIONS)}")
    activation = ACTIVATIONS[name]
    return {} if activation is None or settings.get("use_swiglu_ffn") else {"act_layer": activation}


def preparation(folder: Path, settings: Mapping[str, Any]) -> tuple[int, Levels, Levels]:
    """The side of the images in pixels, and mean and deviation of the channels, that a folder asks for.

    From `preprocessor_config.json`; without it, the size is that of the positions, and mean and deviation are those that
    models of this type have by default. Raises CheckpointError.
    """
    file = folder / "preprocessor_config.json"
    try:
        size = _side(settings.get("image_size"), 224)
        mean, std = DEFAULTS.get(str(settings.get("model_type")), IMAGENET)
        if not file.is_file():
            return size, mean, std
        stated = read_json(file)
        if stated.get("do_normalize", True):
            mean, std = as_levels(stated.get("image_mean", mean)), as_levels(stated.get("image_std", std))
        else:
            mean, std = 0.0, 1.0
        shown = stated.get("crop_size") if stated.get("do_center_crop") else None
        return _side(shown or stated.get("size"), size), mean, std
    except (ArithmeticError, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: does not say how images are prepared ({error!r})") from error


def _side(stated: Any, default: int) -> int:
    """The side that a size in a `preprocessor_config.json` means."""
    if isinstance(stated, Mapping):
        stated = stated.get("height", stated.get("shortest_edge"))
    return default if stated is None else int(stated)


def timm_names(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by timm's names; those that the encoder has no place for keep their own."""
    prefix = next(
        (name.removesuffix("embeddings.cls_token") for name in stored if name.endswith("embeddings.cls_token")), ""
    )
    weights = {name.removeprefix(prefix): value for name, value in stored.items()}
    renamed = {_timm_name(name): value for name, value in weights.items() if ".attention.attention." not in name}
    for name in [name for name in weights if ".attention.attention.query." in name]:
        thirds = [name.replace(".query.", f".{third}.") for third in THIRDS]
        block = BLOCK.fullmatch(name)
        if block and all(third in weights for third in thirds):
            joined = f"blocks.{block[1]}.attn.qkv.{name.rpartition('.')[2]}"
            renamed[joined] = torch.cat([weights[third] for third in thirds])
    if "reg_token" in renamed:  # timm's models with registers have positions for patches alone
        positions = renamed["pos_embed"]
        renamed["cls_token"] = renamed["cls_token"] + positions[:, :1]
        renamed["pos_embed"] = positions[:, 1:]
    return renamed


def _timm_name(name: str) -> str:
    block = BLOCK.fullmatch(name)
    table, inside, before = (IN_BLOCK, block[2], f"blocks.{block[1]}.") if block else (NAMES, name, "")
    theirs = next((prefix for prefix in table if inside.startswith(prefix)), None)
    return name if theirs is None else f"{before}{table[theirs]}{inside.removeprefix(theirs)}"
