"""Images in, numbers out: the logits of a classifier and the features of an encoder, a batch at a time."""

# Shapes: N records, C classes, B samples, H W pixels, L patches, D encoder width
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from mrm.data import loader, samples, sampling
from mrm.data.eval_view import EvalView
from mrm.data.reach import Reach
from mrm.data.records import Record, Records
from mrm.models.bare_encoder import BareEncoder
from mrm.models.classifier import Classifier
from mrm.models.encoder import BODY, WITH_PATCHES, family_of
from mrm.models.ensemble import Ensemble
from mrm.models.mrm import MRM, normalise
from mrm.models.segmenter import Segmenter
from mrm.system import hardware, int8_products
from mrm.system.errors import ConfigError, PredictError, UnreachableError

Encoding = MRM | Classifier | BareEncoder
Kind = Literal["pooled", "patches"]
NO_INT8_SEGMENTER = (
    "int8 is for classifiers and encoders: a segmenter's time goes into convolutions; choose another precision"
)


# Any computation ------------------------------------------------------------------------------------


class Computed(NamedTuple):
    """What a model computes of a batch: values (B, ...) float32 of the records `index_B`, and what could not be read."""

    index_B: np.ndarray
    values: np.ndarray
    skipped: list[samples.Skipped]
    warned: list[samples.Skipped]
    identities: dict[int, dict[str, str]]  # what DICOM headers say of patient and study, by the index of the record


def compute_over(
    model: Encoding,
    records: Sequence[Record],
    compute: Callable[[Tensor], Tensor],
    batches: Iterator[list[sampling.Sample]],
    workers: int | None = None,
    precision: hardware.Precision = "fp32",
    crop_borders: bool = False,
) -> Iterator[Computed]:
    """What `compute` returns for normalised images (B, 3, H, W), a batch at a time, on the model's device.

    Worker processes read the images meanwhile; only a few batches are in memory, however many images there are. On a CPU
    the process keeps the memory that a batch frees, for the next one. Raises UnreachableError where their folder is gone, or
    many in a row cannot be reached; and as `require_precision` does.
    """
    require_precision(model, precision)
    device = next(model.parameters()).device
    hardware.keep_freed_memory(device)
    data = samples.ImageData(records, EvalView.of(model.config, crop_borders))
    reach = Reach(records)
    for loaded in loader.loader(data, batches, workers, pin=device.type == "cuda"):
        _note_reach(reach, loaded.index_B.numpy(), loaded.skipped)
        yield compute_batch(model, loaded, compute, precision)


def compute_batch(
    model: Encoding, loaded: samples.ImageBatch, compute: Callable[[Tensor], Tensor], precision: hardware.Precision
) -> Computed:
    """What `compute` returns for the images of a batch, on the model's device."""
    values = values_of(model, loaded.image_BHW, compute, precision)
    return Computed(loaded.index_B.numpy(), values, loaded.skipped, loaded.warned, loaded.identities)


def values_of(
    model: Encoding, image_BHW: Tensor, compute: Callable[[Tensor], Tensor], precision: hardware.Precision = "fp32"
) -> np.ndarray:
    """What `compute` returns for images at the model's size (uint8), which it gets normalised: (B, ...) float32."""
    config, device = model.config, next(model.parameters()).device
    with torch.inference_mode(), hardware.autocast(device, precision):
        computed = compute(normalise(image_BHW.to(device, non_blocking=True), config.mean, config.std))
        return computed.float().cpu().numpy()


def require_precision(model: nn.Module, precision: hardware.Precision) -> None:
    """Raises ConfigError for a precision that the model's device does not have, or int8 where the model would gain nothing."""
    config: Any = model.config
    hardware.settled(precision, next(model.parameters()).device)
    if precision != "int8":
        return
    if isinstance(model, Segmenter):
        raise ConfigError(NO_INT8_SEGMENTER)
    body = tuple(f".{part}" for part in BODY)
    if not any(
        isinstance(layer, nn.Linear) and int8_products.gains(layer.weight) and any(part in name for part in body)
        for name, layer in model.named_modules()
    ):
        raise ConfigError(
            f"{config.encoder} has no linear layer of {int8_products.LEAST_WEIGHTS:,} weights or more in its blocks, as a ViT-S has, "
            "so int8 would not be faster; choose another precision"
        )


def _note_reach(reach: Reach, index_B: np.ndarray, skipped: Sequence[samples.Skipped]) -> None:
    """Count the images of a batch, in the order of the records. Raises UnreachableError as `Reach` does."""
    missed = {record.index: record.reason for record in skipped if record.again}
    for index in sorted([*index_B.tolist(), *(record.index for record in skipped)]):
        reach.miss(missed[index]) if index in missed else reach.reached()


def _all_values(
    model: Encoding,
    records: Sequence[Record],
    compute: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    batches: Iterator[list[sampling.Sample]],
    workers: int | None,
    precision: hardware.Precision = "fp32",
    crop_borders: bool = False,
    dtype: type = np.float64,
    complete: bool = False,
) -> tuple[np.ndarray, dict[str, str]]:
    """What `compute` returns for each image, (N, ...), NaN where it cannot be read; and why, by name.

    With `complete` an image that cannot be reached raises UnreachableError, since the values are to be kept.
    """
    values: np.ndarray = np.zeros((len(records), *shape), dtype)
    unreadable = {}
    for computed in compute_over(model, records, compute, batches, workers, precision, crop_borders):
        values[computed.index_B] = computed.values
        for record in computed.skipped:
            unreadable[record.name] = record.reason
            values[record.index] = np.nan
            if complete and record.again:
                raise UnreachableError(f"{record.reason}. Run the same command again when it can be reached")
        for record in computed.warned:
            warnings.warn(record.reason, stacklevel=3)
    return values, unreadable


def values_over(
    model: Encoding,
    records: Sequence[Record],
    compute: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    batch: int = 64,
    workers: int | None = None,
    precision: hardware.Precision = "fp32",
    crop_borders: bool = False,
) -> tuple[np.ndarray, dict[str, str]]:
    """What `compute` returns for all records, (N, ...), NaN where an image could not be read; and why, by name."""
    batches = sampling.in_order(len(records), batch)
    return _all_values(model, records, compute, shape, batches, workers, precision, crop_borders)


# Findings ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Logits of records, NaN where the image could not be read; `unreadable` says why, by name."""

    logits_NC: np.ndarray
    unreadable: dict[str, str]

    @property
    def probabilities_NC(self) -> np.ndarray:
        """Sigmoid of the logits."""
        return 1.0 / (1.0 + np.exp(-self.logits_NC))


def classify(
    model: Classifier,
    records: Records,
    batch: int = 64,
    workers: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    precision: hardware.Precision = "fp32",
    crop_borders: bool = False,
    complete: bool = False,
) -> Scores:
    """Score records on the model's device, in its test view. Each of several ranks leaves the others' rows zero.

    With `complete` an image that cannot be reached raises UnreachableError.
    """
    on_rank = (b for i, b in enumerate(sampling.in_order(len(records), batch)) if i % world_size == rank)
    shape = (len(model.config.classes),)
    options = workers, precision, crop_borders
    return Scores(*_all_values(model, records, model, shape, on_rank, *options, complete=complete))


# Features ---------------------------------------------------------------------------------------------


def features(
    model: Encoding,
    records: Records,
    kind: Kind = "pooled",
    batch: int = 64,
    workers: int | None = None,
    precision: hardware.Precision = "fp32",
    crop_borders: bool = False,
    complete: bool = False,
) -> tuple[np.ndarray, dict[str, str]]:
    """The encoder's features of records, NaN where the image could not be read; and why, by name.

    "pooled" is (N, D), the mean of the patch tokens; "patches" is (N, L, D) float32, rows of patches from the top
    left. Both after the encoder's last norm, the class token left out (see `feature_function`). All are held in
    memory; `compute_over` yields them a batch at a time. Raises PredictError for another kind; with `complete`, an
    image that cannot be reached raises UnreachableError.
    """
    shape = feature_shape(model, kind)
    batches = sampling.in_order(len(records), batch)
    dtype = np.float64 if kind == "pooled" else np.float32
    return _all_values(
        model, records, feature_function(model, kind), shape, batches, workers, precision, crop_borders, dtype, complete
    )


def feature_function(model: Encoding, kind: Kind) -> Callable[[Tensor], Tensor]:
    """Normalised images (B, 3, H, W) to "pooled" (B, D) or "patches" (B, L, D).

    A classifier's last norm follows its mean (timm's `fc_norm`): pooled is what its head sees, and patches are normed
    by the same layer one by one. Of a classifier that pools for each class, pooled is the mean over its classes. A
    pre-trained encoder's norm comes before the mean, as MAE's does. ConvNeXt and Swin have pooled features only. Raises
    PredictError.
    """
    _require_kind(model, kind)
    if isinstance(model, Ensemble) and kind == "pooled":
        functions = [feature_function(member, kind) for member in model.members]  # type: ignore[arg-type]
        return lambda image_BCHW: torch.cat([function(image_BCHW) for function in functions], dim=1)
    encoder = model.encoder
    prefix = getattr(encoder, "num_prefix_tokens", 0)
    if isinstance(model, MRM):
        if kind == "patches":
            return lambda image_BCHW: model.encode(image_BCHW)[:, prefix:]
        return lambda image_BCHW: model.encode(image_BCHW)[:, prefix:].mean(1)
    if kind == "patches":
        return lambda image_BCHW: encoder.fc_norm(encoder.forward_features(image_BCHW)[:, prefix:])
    return lambda image_BCHW: _of_image(encoder.forward_head(encoder.forward_features(image_BCHW), pre_logits=True))


def _of_image(pooled: Tensor) -> Tensor:
    """One vector an image, (B, D), where the head sees one for each class, (B, C, D)."""
    return pooled.mean(1) if pooled.dim() == 3 else pooled


def feature_shape(model: Encoding, kind: Kind) -> tuple[int, ...]:
    """The shape of one image's features: (D,) or (L, D). Raises PredictError."""
    _require_kind(model, kind)
    if isinstance(model, Ensemble) and kind == "pooled":
        return (sum(member.encoder.num_features for member in model.members),)  # type: ignore[union-attr, misc]
    encoder = model.encoder
    return (encoder.num_features,) if kind == "pooled" else (encoder.patch_embed.num_patches, encoder.num_features)


def _require_kind(model: Encoding, kind: str) -> None:
    """Raises PredictError for a kind of features that is unknown, or that the model does not have."""
    if kind not in get_args(Kind):
        raise PredictError(f"unknown kind of features {kind!r}; choose from {', '.join(get_args(Kind))}")
    if kind == "patches" and (family := family_of(model.config.encoder)) not in WITH_PATCHES:
        raise PredictError(
            f"{model.config.encoder} ({family}) has no features of patches, all of one size; choose pooled"
        )


def with_mirrored(compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `compute` returns for images and for their mirror images, averaged: (B, ...)."""
    return lambda image_BCHW: (compute(image_BCHW) + compute(image_BCHW.flip(-1))) / 2


def scores_and_features(model: Classifier) -> Callable[[Tensor], Tensor]:
    """Normalised images to logits and, from the same pass, the pooled features they are made of: (B, C + D).

    Of an ensemble, the mean logits and the features of all members.
    """
    if isinstance(model, Ensemble):
        of_members, classes = [scores_and_features(member) for member in model.members], len(model.config.classes)  # type: ignore[arg-type]

        def all_of(image_BCHW: Tensor) -> Tensor:
            values = [both(image_BCHW) for both in of_members]
            logits_BC = torch.stack([value[:, :classes] for value in values]).mean(dim=0)
            return torch.cat([logits_BC, *(value[:, classes:] for value in values)], dim=1)

        return all_of
    encoder = model.encoder

    def both(image_BCHW: Tensor) -> Tensor:
        pooled = encoder.forward_head(encoder.forward_features(image_BCHW), pre_logits=True)
        return torch.cat([encoder.get_classifier()(pooled), _of_image(pooled)], dim=1)

    return both
