"""A model for images of another size than it was trained at: the same weights, positions resampled as timm does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from mrm.models import noise
from mrm.models.bare_encoder import BareEncoder
from mrm.models.classifier import Classifier
from mrm.models.encoder import fit_positions
from mrm.models.ensemble import Ensemble
from mrm.models.mrm import MRM
from mrm.system.errors import ConfigError

Encoding = TypeVar("Encoding", bound=MRM | Classifier | BareEncoder)
ENCODER = "encoder."


def at_size(model: Encoding, image_size: int | None) -> Encoding:
    """The model for square images of `image_size` pixels; itself where that is None or its own size.

    In evaluation mode, on the CPU, with the card and tokenizer of `model`. Of a pre-trained MRM only the encoder is meant:
    its image decoder gets the fixed positions of the new size. Raises ConfigError for a size that patches do not divide, and
    for a model whose weights are for one size alone.
    """
    if image_size is None or image_size == model.config.image_size:
        return model
    if isinstance(model, Ensemble):
        raise ConfigError("an ensemble has the image size of its members; give one of these, or leave out --image-size")
    changes: dict[str, Any] = {"image_size": image_size}
    if isinstance(model, MRM):  # of fewer patches fewer can be kept
        patches = (image_size // model.encoder.patch_embed.patch_size[0]) ** 2
        changes |= {"keep": max(1, min(model.config.keep, patches - 1)), "predicted": None}
    with noise.seeded(0):  # every weight that depends on no size is replaced
        config: Any = replace(model.config, **changes)
        resized: Any = type(model)(config)
    own, weights = resized.state_dict(), model.state_dict()
    encoder = {name.removeprefix(ENCODER): value for name, value in weights.items() if name.startswith(ENCODER)}
    fitted = {f"{ENCODER}{name}": value for name, value in fit_positions(resized.encoder, encoder).items()}
    if unfit := [name for name, value in fitted.items() if name not in own or own[name].shape != value.shape]:
        raise ConfigError(
            f"{model.config.encoder} cannot take images of {image_size} pixels: {unfit[0]} is for {model.config.image_size}; "
            "leave out --image-size"
        )
    fits = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    resized.load_state_dict({**fits, **fitted}, strict=False)
    resized.card, resized.tokenizer = model.card, model.tokenizer
    return resized.eval().requires_grad_(False)
