"""A model put to use: scores and features of images, restored images, blanks of a report filled in."""

# Shapes: N records, C classes, B samples, H W pixels, L patches, D encoder width, T tokens
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from mrm.data import images, loader, samples, sampling
from mrm.data.records import Record, Records
from mrm.data.reports import MASK
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM, complement, normalise, normalise_patches, patchify, take, unpatchify
from mrm.system.errors import PredictError

Encoding = MRM | Classifier
Kind = Literal["pooled", "patches"]


# Images in, numbers out -----------------------------------------------------------------------------


class Computed(NamedTuple):
    """What a model makes of a batch: values (B, ...) float32 of the records `index_B`, and what could not be read."""

    index_B: np.ndarray
    values: np.ndarray
    skipped: list[samples.Skipped]
    warned: list[samples.Skipped]


def compute_over(
    model: Encoding,
    records: Sequence[Record],
    compute: Callable[[Tensor], Tensor],
    wanted: Iterator[list[sampling.Sample]],
    workers: int | None = None,
    precision: str = "fp32",
    crop_borders: bool = False,
) -> Iterator[Computed]:
    """What `compute` gives of normalised images (B, 3, H, W), a batch at a time, on the model's device.

    Images are read by other processes meanwhile; no more than some batches are in memory, however many there are.
    """
    config, device = model.config, next(model.parameters()).device
    data = samples.ImageData(records, config.image_size, getattr(config, "view", "whole"), crop_borders)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for loaded in loader.loader(data, wanted, workers, pin=device.type == "cuda"):
            index_B = loaded.index_B.numpy()
            images_BHW = loaded.image_BHW.to(device, non_blocking=True)
            computed = compute(normalise(images_BHW, config.mean, config.std))
            yield Computed(index_B, computed.float().cpu().numpy(), loaded.skipped, loaded.warned)


def _each(
    model: Encoding,
    records: Sequence[Record],
    compute: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    wanted: Iterator[list[sampling.Sample]],
    workers: int | None,
    precision: str = "fp32",
    crop_borders: bool = False,
    dtype: type = np.float64,
) -> tuple[np.ndarray, dict[str, str]]:
    """What `compute` gives of each image, (N, ...), NaN where it cannot be read; and why, by name."""
    values: np.ndarray = np.zeros((len(records), *shape), dtype)
    unreadable = {}
    for done in compute_over(model, records, compute, wanted, workers, precision, crop_borders):
        values[done.index_B] = done.values
        for record in done.skipped:
            unreadable[record.name] = record.reason
            values[record.index] = np.nan
        for record in done.warned:
            warnings.warn(record.reason, stacklevel=3)
    return values, unreadable


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
    world: int = 1,
    precision: str = "fp32",
    crop_borders: bool = False,
) -> Scores:
    """Score records on the model's device, in its test view. A rank of several leaves the others' rows zero."""
    mine = (b for i, b in enumerate(sampling.in_order(len(records), batch)) if i % world == rank)
    shape = (len(model.config.classes),)
    return Scores(*_each(model, records, model, shape, mine, workers, precision, crop_borders))


def fit_head(model: Classifier, records: Records, batch: int = 64, workers: int | None = None) -> None:
    """Start fine-tuning from a linear probe: fit the head to the encoder's features as they are.

    Features are standardised, each class gets a regularised logistic regression over its stated labels, and
    both are folded into the head. A class with one label value keeps its head. LP-FT, arXiv:2202.10054.
    Raises PredictError where not one image can be read.
    """
    encoder = model.encoder
    features_ND, unreadable = features(model, records, batch=batch, workers=workers)
    read = ~np.isnan(features_ND).any(axis=1)
    if not read.any():
        name, reason = next(iter(unreadable.items()))
        raise PredictError(f"not one of {len(records)} images could be read; the first, {name}: {reason}")
    mean_D, std_D = features_ND[read].mean(0), features_ND[read].std(0) + 1e-6
    for c, labels_N in enumerate(records.labels_NC.T):
        stated = read & ~np.isnan(labels_N)
        if len(np.unique(labels_N[stated])) < 2:
            continue
        probe = LogisticRegression(C=0.01, max_iter=500)
        probe.fit((features_ND[stated] - mean_D) / std_D, labels_N[stated])
        weight_D = probe.coef_[0] / std_D
        with torch.no_grad():
            encoder.head.weight[c] = torch.from_numpy(weight_D)
            encoder.head.bias[c] = float(probe.intercept_[0] - weight_D @ mean_D)


# Features ---------------------------------------------------------------------------------------------


def features(
    model: Encoding,
    records: Records,
    kind: Kind = "pooled",
    batch: int = 64,
    workers: int | None = None,
    precision: str = "fp32",
    crop_borders: bool = False,
) -> tuple[np.ndarray, dict[str, str]]:
    """The encoder's features of records, NaN where the image could not be read; and why, by name.

    "pooled" is (N, D), the mean of the patch tokens; "patches" is (N, L, D) float32, rows of patches from the top
    left. Both after the encoder's last norm, the class token left out (see `feature_function`). All are held in
    memory; `compute_over` gives them a batch at a time. Raises PredictError for another kind.
    """
    shape = feature_shape(model, kind)
    wanted = sampling.in_order(len(records), batch)
    dtype = np.float64 if kind == "pooled" else np.float32
    return _each(model, records, feature_function(model, kind), shape, wanted, workers, precision, crop_borders, dtype)


def feature_function(model: Encoding, kind: Kind) -> Callable[[Tensor], Tensor]:
    """Normalised images (B, 3, H, W) to "pooled" (B, D) or "patches" (B, L, D).

    A classifier's last norm follows its mean (timm's `fc_norm`): pooled is what its head sees, and patches are normed
    by the same layer one by one. A pre-trained encoder's norm comes before the mean, as MAE's does.
    """
    if kind not in get_args(Kind):
        raise PredictError(f"no features of the kind {kind!r}; there are {', '.join(get_args(Kind))}")
    encoder = model.encoder
    prefix = encoder.num_prefix_tokens
    if isinstance(model, MRM):
        patches = lambda x: model.encode(x)[:, prefix:]  # noqa: E731
        return patches if kind == "patches" else lambda x: patches(x).mean(1)
    if kind == "patches":
        return lambda x: encoder.fc_norm(encoder.forward_features(x)[:, prefix:])
    return lambda x: encoder.forward_head(encoder.forward_features(x), pre_logits=True)


def feature_shape(model: Encoding, kind: Kind) -> tuple[int, ...]:
    """The shape of one image's features: (D,) or (L, D)."""
    encoder = model.encoder
    return (encoder.embed_dim,) if kind == "pooled" else (encoder.patch_embed.num_patches, encoder.embed_dim)


def scores_and_features(model: Classifier) -> Callable[[Tensor], Tensor]:
    """Normalised images to logits and, from the same pass, the pooled features they are made of: (B, C + D)."""
    pooled = feature_function(model, "pooled")

    def both(image_BCHW: Tensor) -> Tensor:
        pooled_BD = pooled(image_BCHW)
        return torch.cat([model.encoder.head(pooled_BD), pooled_BD], dim=1)

    return both


# Restoring --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reconstruction:
    """What the encoder saw of an image, what was restored, and the image: (H, W) uint8 each."""

    masked: np.ndarray
    restored: np.ndarray
    original: np.ndarray
    error: float  # mean squared error of the masked patches, normalised as in training


@torch.inference_mode()
def reconstruct(model: MRM, image_HW: np.ndarray, seed: int = 0, keep: int | None = None) -> Reconstruction:
    """Hide all but `keep` patches (the training number) of an image at the target size, and restore them.

    Restored patches get their own mean and deviation back, visible patches are pasted in, so what is
    judged is the detail the model gives.
    """
    config = model.config
    side = model.patch_size * config.target_scale
    device = next(model.parameters()).device
    image = torch.from_numpy(images.resize(image_HW, config.target_size, config.target_size))[None].to(device)
    crop = normalise(image, config.mean, config.std)
    order = np.random.default_rng(seed).permutation(model.patches)
    kept = torch.from_numpy(np.sort(order[: keep or config.keep]))[None].to(device)
    hidden = complement(kept, model.patches)
    restored_BMP = model.restore(model.encode(model.shrink(crop), kept), kept, hidden).float()
    patches_BLP = patchify(crop, side)
    true_BMP = take(patches_BLP, hidden)
    if config.norm_pix:
        error = (restored_BMP - normalise_patches(true_BMP)).square().mean().item()
        restored_BMP = restored_BMP * (true_BMP.var(-1, keepdim=True) + 1e-6) ** 0.5 + true_BMP.mean(-1, keepdim=True)
    else:
        error = (restored_BMP - true_BMP).square().mean().item()

    def image_with(hidden_BMP: Tensor) -> np.ndarray:
        index = hidden[:, :, None].expand_as(hidden_BMP)
        grey = unpatchify(patches_BLP.scatter(1, index, hidden_BMP), side).mean(1)[0]
        return ((grey * config.std + config.mean) * 255).round().clamp(0, 255).byte().cpu().numpy()

    blank = torch.zeros_like(true_BMP)
    return Reconstruction(image_with(blank), image_with(restored_BMP), image[0].cpu().numpy(), error)


# Words ------------------------------------------------------------------------------------------------


@torch.inference_mode()
def context_of(model: MRM, images_HW: Sequence[np.ndarray]) -> Tensor:
    """The report decoder's view of images, all patches visible: (B, R)."""
    config = model.config
    size = config.target_size
    stacked = torch.from_numpy(np.stack([images.resize(p, size, size) for p in images_HW]))
    crop = normalise(stacked.to(next(model.parameters()).device), config.mean, config.std)
    return model.context(model.encode(model.shrink(crop)))


@torch.inference_mode()
def word_probabilities(model: MRM, context_1R: Tensor, ids_T: np.ndarray) -> np.ndarray:
    """Probabilities (blanks, V) of every word at each `[MASK]` of `ids_T`, given an image's context."""
    tokens = torch.from_numpy(ids_T.astype(np.int64))[None].to(context_1R.device)
    blanks = (tokens[0] == MASK).nonzero().squeeze(1)
    logits = model.name_words(context_1R, tokens, torch.ones_like(tokens), blanks)
    return logits.float().softmax(-1).cpu().numpy()
