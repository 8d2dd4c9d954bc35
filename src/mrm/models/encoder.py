"""The encoder of every model: a Vision Transformer of timm, by its name and options, always with fresh weights.

Names and options may come from someone else's `config.json`, so only those of `mrm.models.limits` reach timm: no
address, no folder, no pretrained weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm

from mrm.models.limits import check_encoder, check_patches
from mrm.system.errors import ConfigError


def create(name: str, options: dict[str, Any], image_size: int | Sequence[int], **settings: Any) -> Any:
    """A timm VisionTransformer for images of this size. Raises ConfigError for names and options that are not accepted.

    `settings` are those that the code itself chooses, such as the pooling.
    """
    check_encoder(name, options)
    if not timm.is_model(name):
        raise ConfigError(f"encoder {name!r} is unknown to timm; `timm.list_models('vit_*')` lists Vision Transformers")
    encoder: Any = timm.create_model(name, pretrained=False, img_size=image_size, **settings, **options)
    check_patches(image_size, encoder.patch_embed.patch_size)
    return encoder
