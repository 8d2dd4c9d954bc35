"""The values that a configuration or a card may hold.

Both come from files that may be someone else's, so every value is checked when the object is made: its type against the
annotation of its field, a number against LIMITS, and what is passed to timm against a list of names. What passes can
neither reach the network or another file, nor ask for more memory or time than a network needs.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mrm.system.errors import ConfigError

Levels = float | tuple[float, float, float]  # a mean or deviation of grey values: one, or one a channel
SHARE = (0.0, 1.0)
WIDTH, DEPTH, HEADS = (1, 16_384), (1, 128), (1, 1_024)
LIMITS: dict[str, tuple[float, float]] = {  # smallest and largest value of a number, by the name of its field
    "image_size": (1, 8_192),
    "target_scale": (1, 8),
    "keep": (1, 1_000_000),
    "decoder_width": WIDTH,
    "decoder_depth": DEPTH,
    "decoder_heads": HEADS,
    "predicted": (1, 1_000_000),
    "vocabulary": (1, 10_000_000),
    "report_length": (1, 65_536),
    "report_width": WIDTH,
    "report_depth": DEPTH,
    "report_heads": HEADS,
    "report_mlp": (1, 131_072),
    "report_dropout": SHARE,
    "context_gain": (-1e3, 1e3),
    "contrast_width": (0, 65_536),
    "feature_blocks": (0, DEPTH[1]),
    "mean": (-1e6, 1e6),
    "std": (1e-6, 1e6),
    "centre": (-1e30, 1e30),
    "spread": (1e-30, 1e30),
    "drop_path": SHARE,
    "head_dropout": SHARE,
    "layer_scale": (0.0, 1e6),
    "blocks": DEPTH,
    "channels": WIDTH,
    "auxiliary": (0, WIDTH[1]),
    # of a card
    "probability": SHARE,
    "area": SHARE,
    "share": SHARE,
    "thresholds": (0.0, 1.000001),  # one may lie just above the highest probability
    "temperatures": (1e-6, 1e6),
    "variances": (1e-30, 1e30),
    "rest": (1e-30, 1e30),
    "threshold": (0.0, 1e30),
    "n": (0, 10**12),
}
MOST_PATCHES = 16_384  # of an image: 2,048 pixels a side in patches of 16

ENCODER_NAME = re.compile(r"[A-Za-z0-9_.]{1,100}")  # of timm; with ":" or "/" it would be an address or a folder
FLAG = bool
ENCODER_OPTIONS: dict[str, Any] = {  # arguments of timm's encoders: smallest and largest, a choice, or FLAG
    "patch_size": (1, 256),
    "embed_dim": WIDTH,
    "depth": DEPTH,
    "num_heads": HEADS,
    "mlp_ratio": (0.01, 64.0),
    "init_values": (0.0, 1e6),
    "reg_tokens": (0, 256),
    "drop_rate": SHARE,
    "pos_drop_rate": SHARE,
    "patch_drop_rate": SHARE,
    "proj_drop_rate": SHARE,
    "attn_drop_rate": SHARE,
    "pos_embed": ("", "none", "learn"),
    "act_layer": ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu"),
    "norm_layer": ("layernorm", "rmsnorm"),
    "qkv_bias": FLAG,
    "qk_norm": FLAG,
    "proj_bias": FLAG,
    "scale_attn_norm": FLAG,
    "scale_mlp_norm": FLAG,
    "class_token": FLAG,
    "no_embed_class": FLAG,
    "pre_norm": FLAG,
    "final_norm": FLAG,
    "dynamic_img_size": FLAG,
    "dynamic_img_pad": FLAG,
    "norm_eps": (1e-12, 1e-2),  # of every LayerNorm; no argument of timm, see `mrm.models.encoder`
    # of EVA, with rotary positions
    "num_reg_tokens": (0, 256),
    "ref_feat_shape": (1, 512),
    "rope_temperature": (1.0, 1e9),
    "qkv_fused": FLAG,
    "swiglu_mlp": FLAG,
    "scale_mlp": FLAG,
    "scale_attn_inner": FLAG,
    "use_abs_pos_emb": FLAG,
    "use_rot_pos_emb": FLAG,
    # of ConvNeXt and Swin
    "depths": DEPTH,
    "dims": WIDTH,
    "window_size": (1, 256),
    "ls_init_value": (0.0, 1e6),
    "conv_mlp": FLAG,
    "use_grn": FLAG,
    "head_init_scale": (0.0, 1e6),
}
BY_STAGE = ("depths", "dims", "num_heads")  # options that may also be a list, with a number for each stage
STAGES = 8


def check_fields(instance: Any) -> None:
    """Raises ConfigError for a field of a dataclass whose value has another type or lies outside its limits."""
    for name, hint in _hints(type(instance)).items():  # type: ignore[arg-type]
        check_value(name, getattr(instance, name), hint)


def check_value(name: str, value: Any, hint: Any) -> None:
    """Raises ConfigError for a value that is not of the type `hint`, or a number that is not finite."""
    if not _fits(value, hint):
        raise ConfigError(f"{name} must be {_words(hint)}, not {_short(value)}")
    for number in _numbers(value):
        _check_number(name, number)


def check_encoder(name: str, options: Mapping[str, Any]) -> None:
    """Raises ConfigError for a name that is no timm model, and for an option that is not in ENCODER_OPTIONS."""
    if not ENCODER_NAME.fullmatch(name):
        raise ConfigError(
            f"encoder {_short(name)} is not the name of a timm model, such as vit_base_patch16_224; addresses and "
            "folders are not accepted: give weights with --init"
        )
    for option, value in options.items():
        allowed = ENCODER_OPTIONS.get(option)
        if allowed is None:
            raise ConfigError(
                f"encoder_options: {_short(option)} is not accepted; choose from {', '.join(ENCODER_OPTIONS)}"
            )
        each = value if option in BY_STAGE and isinstance(value, list | tuple) else [value]
        if not 1 <= len(each) <= STAGES or not all(_allowed(one, allowed) for one in each):
            expected = "true or false" if allowed is FLAG else _range(allowed)
            raise ConfigError(f"encoder_options: {option} must be {expected}, not {_short(value)}")


def as_levels(values: Any) -> Levels:
    """A mean or deviation: one number where all channels have the same. Raises ConfigError for other than three."""
    each = [float(value) for value in (values if isinstance(values, list | tuple) else [values])]
    if len(each) not in (1, 3):
        raise ConfigError(f"expected a value for each of three channels, found {len(each)}")
    return each[0] if len(set(each)) == 1 else (each[0], each[1], each[2])


def per_channel(level: Levels) -> list[float]:
    """A mean or deviation as a value for each of three channels."""
    return list(level) if isinstance(level, tuple) else [level] * 3


def check_classes(classes: Sequence[str]) -> None:
    """Raises ConfigError for names of classes that are empty, repeated, too long or cannot be printed."""
    for name in classes:
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise ConfigError(f"classes: {_short(name)} is not a name that can be shown; rename it")
    if len(set(classes)) < len(classes):
        repeated = next(name for name in classes if list(classes).count(name) > 1)
        raise ConfigError(f"classes: {repeated} occurs more than once; each class needs a name of its own")


def check_patches(image_size: int | Sequence[int], patch: Sequence[int]) -> None:
    """Raises ConfigError for images that patches do not divide, or of more than MOST_PATCHES patches."""
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    if any(side % p for side, p in zip(sides, patch, strict=True)):
        near = " x ".join(str(max(1, round(side / p)) * p) for side, p in zip(sides, patch, strict=True))
        raise ConfigError(
            f"image_size {' x '.join(map(str, sides))} does not divide into the encoder's patches of "
            f"{' x '.join(map(str, patch))} pixels; the nearest size that does is {near}"
        )
    if (count := math.prod(side // p for side, p in zip(sides, patch, strict=True))) > MOST_PATCHES:
        raise ConfigError(
            f"image_size {' x '.join(map(str, sides))} has {count:,} patches, but at most {MOST_PATCHES:,} are possible"
        )


@lru_cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, resolved."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; a list may stand for a tuple, and a whole number for any number."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in inner and not isinstance(value, bool)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis and isinstance(value, list | tuple) else inner
        return isinstance(value, list | tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return isinstance(value, hint)


def _numbers(value: Any) -> list[float]:
    """The numbers in a value: itself, or those that a sequence or the values of a mapping hold directly."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [value]
    return [item for item in items if isinstance(item, int | float) and not isinstance(item, bool)]


def _check_number(name: str, number: float) -> None:
    low, high = LIMITS.get(name, (-math.inf, math.inf))
    if not (low <= number <= high and abs(number) < math.inf):
        raise ConfigError(f"{name} must be {_range((low, high))}, not {_short(number)}")


def _allowed(value: Any, allowed: Any) -> bool:
    """Whether an option of the encoder is one of the choices, a truth value, or a number of this type and range."""
    if value is None:  # as the model of that name has it
        return True
    if allowed is FLAG or isinstance(value, bool):
        return allowed is FLAG and isinstance(value, bool)
    if isinstance(allowed[0], str):
        return isinstance(value, str) and value in allowed
    low, high = allowed
    return isinstance(value, type(low) | int) and low <= value <= high


def _range(allowed: Sequence[Any]) -> str:
    if isinstance(allowed[0], str):
        return f"one of {', '.join(repr(choice) for choice in allowed)}"
    if math.isinf(allowed[0]):
        return "a finite number"
    return f"a {'whole ' if isinstance(allowed[0], int) else ''}number from {allowed[0]:g} to {allowed[1]:g}"


def _words(hint: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_words(option) for option in inner)
    if origin in (tuple, list):
        return f"a list in which each item is {_words(inner[0])}"
    if origin in (dict, Mapping):
        return "a mapping of names to values" if inner[1] is Any else f"a mapping of names, each to {_words(inner[1])}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    return words.get(hint, f"a {getattr(hint, '__name__', hint)}")


def _short(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
