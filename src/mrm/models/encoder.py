"""The encoder of every model: a Vision Transformer, ConvNeXt or Swin of timm, by its name, always with fresh weights.

Names and options may come from someone else's `config.json`, so only those of `mrm.models.limits` reach timm: no
address, no folder, no pretrained weights.

| family | timm's modules | what it can be |
| --- | --- | --- |
| vit | vision_transformer, vision_transformer_hybrid, deit | everything: pre-trained, fine-tuned, segmenting, probed |
| eva | eva (rotary positions; EVA-02, DINOv3) | fine-tuned, segmenting, probed |
| convnext, swin | convnext, swin_transformer, swin_transformer_v2 | fine-tuned, probed: its features are pooled |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
from timm.layers import resample_abs_pos_embed
from timm.models import is_model_in_modules
from torch import Tensor, nn

from mrm.models.limits import check_encoder, check_patches
from mrm.system.errors import ConfigError, first_line

FAMILIES = {
    "vit": ("vision_transformer", "vision_transformer_hybrid", "deit"),
    "eva": ("eva",),
    "convnext": ("convnext",),
    "swin": ("swin_transformer", "swin_transformer_v2"),
}
WITH_PATCHES = ("vit", "eva")  # families whose features are those of patches, all of one size
BODY = ("patch_embed.", "blocks.", "stem.", "stages.", "layers.")  # weights that make an encoder what it is


def family_of(name: str) -> str:
    """The family of a timm model. Raises ConfigError for one that is unknown, or of no family that is supported."""
    if not timm.is_model(name):
        raise ConfigError(f"encoder {name!r} is unknown to timm; `timm.list_models('vit_*')` lists Vision Transformers")
    for family, modules in FAMILIES.items():
        if is_model_in_modules(name, modules):
            return family
    raise ConfigError(
        f"encoder {name!r} is not supported; choose a Vision Transformer (vit, deit, eva), a ConvNeXt or a Swin of timm"
    )


def require_family(name: str, families: Sequence[str], purpose: str) -> None:
    """Raises ConfigError for an encoder of another family; `purpose` says for what it was to be used, and why not."""
    if (family := family_of(name)) not in families:
        raise ConfigError(f"encoder {name!r} ({family}) cannot be used for {purpose}")


def create(name: str, options: Mapping[str, Any], image_size: int | Sequence[int], **settings: Any) -> Any:
    """A timm encoder for images of this size. Raises ConfigError for names, options and sizes that are not accepted.

    `settings` are those that the code itself chooses, such as the pooling. The option `norm_eps` is the small number in
    every LayerNorm, which transformers' models choose and timm's do not.
    """
    check_encoder(name, options)
    family = family_of(name)
    given = {key: value for key, value in options.items() if key != "norm_eps"}
    size: dict[str, Any] = {} if family == "convnext" else {"img_size": image_size}
    try:
        encoder: Any = timm.create_model(name, pretrained=False, **size, **settings, **given)
    except TypeError as error:
        raise ConfigError(f"encoder {name!r} does not take these options ({first_line(error)})") from error
    if family != "convnext":
        check_patches(image_size, encoder.patch_embed.patch_size)
    for layer in encoder.modules() if options.get("norm_eps") else ():
        if isinstance(layer, nn.LayerNorm):
            layer.eps = options["norm_eps"]
    return encoder


def layer_groups(encoder: Any, coarse: bool = False) -> dict[str, Any]:
    """timm's layer groups of an encoder, for layer decay, as patterns for the names in the model that holds it."""
    groups: dict[str, Any] = {}
    for name, pattern in encoder.group_matcher(coarse=coarse).items():
        if isinstance(pattern, str):
            groups[name] = _in_model(pattern)
        else:
            groups[name] = [(_in_model(one), suffix) for one, suffix in pattern]
    return groups


def _in_model(pattern: str) -> str:
    return rf"^encoder\.(?:{pattern.replace('^', '')})"


def fit_positions(encoder: Any, weights: Mapping[str, Tensor], antialias: bool = True) -> dict[str, Tensor]:
    """Weights of an encoder, by timm's names, with learned positions resampled to the encoder's grid as timm does.

    `antialias` is what the program that trained them does when it resamples. Positions that do not fit stay as they are.
    """
    source, target = weights.get("pos_embed"), getattr(encoder, "pos_embed", None)
    if source is None or target is None or source.shape == target.shape or source.shape[-1] != target.shape[-1]:
        return dict(weights)
    prefix = target.shape[1] - encoder.patch_embed.num_patches
    if round((source.shape[1] - prefix) ** 0.5) ** 2 != source.shape[1] - prefix:  # with other prefix tokens
        return dict(weights)
    grid = encoder.patch_embed.grid_size
    resampled = resample_abs_pos_embed(source, new_size=grid, num_prefix_tokens=prefix, antialias=antialias)
    return {**weights, "pos_embed": resampled}
