"""A model put to use: scores of pictures, restored pictures, blanks of a report filled in."""

# Shapes: N records, C classes, B samples, H W pixels, L patches, T tokens
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from mrm import batches, images
from mrm.classifier import Classifier
from mrm.losses import normalise_patches
from mrm.model import MRM, complement, normalise, patchify, take, unpatchify
from mrm.records import Records
from mrm.reports import MASK


@dataclass(frozen=True)
class Scores:
    """Logits of records, NaN where the picture could not be read; `unreadable` says why, by name."""

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
) -> Scores:
    """Score records on the model's device, in its test view. A rank of several leaves the others' rows zero."""
    mine = (b for i, b in enumerate(batches.in_order(len(records), batch)) if i % world == rank)
    return Scores(*_each(model, records, model, len(model.config.classes), mine, workers, precision))


def fit_head(model: Classifier, records: Records, batch: int = 64, workers: int | None = None) -> None:
    """Start fine-tuning from a linear probe: fit the head to the encoder's features as they are.

    Features are standardised, each class gets a regularised logistic regression over its stated labels, and
    both are folded into the head. A class with one label value keeps its head. LP-FT, arXiv:2202.10054.
    """
    encoder = model.encoder
    width = encoder.head.in_features
    pooled = lambda x: encoder.forward_head(encoder.forward_features(x), pre_logits=True)  # noqa: E731
    features_ND, _ = _each(model, records, pooled, width, batches.in_order(len(records), batch), workers)
    read = ~np.isnan(features_ND).any(axis=1)
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


def _each(
    model: Classifier,
    records: Records,
    compute: Callable[[Tensor], Tensor],
    width: int,
    wanted: Iterator[list[batches.Sample]],
    workers: int | None,
    precision: str = "fp32",
) -> tuple[np.ndarray, dict[str, str]]:
    """What `compute` gives of each picture, (N, width), NaN where it cannot be read; and why, by name."""
    config, device = model.config, next(model.parameters()).device
    data = batches.LabelData(records, config.image_size, crop=None, view=config.view, on_error="skip")
    batches.share_cores(device)
    values = np.zeros((len(records), width))
    unreadable = {}
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for loaded in batches.loader(data, wanted, workers, pin=device.type == "cuda"):
            loaded = loaded.to(device)
            computed = compute(normalise(loaded.picture_BHW, config.mean, config.std))
            values[loaded.index_B.cpu().numpy()] = computed.float().cpu().numpy()
            for record in loaded.skipped:  # another record stood in for it and got its own values once more
                unreadable[record.name] = record.reason
                values[record.index] = np.nan
    return values, unreadable


@dataclass(frozen=True)
class Reconstruction:
    """What the encoder saw of a picture, what was restored, and the picture: (H, W) uint8 each."""

    masked: np.ndarray
    restored: np.ndarray
    original: np.ndarray
    error: float  # mean squared error of the masked patches, normalised as in training


@torch.inference_mode()
def reconstruct(model: MRM, picture_HW: np.ndarray, seed: int = 0, keep: int | None = None) -> Reconstruction:
    """Hide all but `keep` patches (the training number) of a picture at the target size, and restore them.

    Restored patches get their own mean and deviation back, visible patches are pasted in, so what is
    judged is the detail the model gives.
    """
    config = model.config
    side = model.patch_size * config.target_scale
    device = next(model.parameters()).device
    picture = torch.from_numpy(images.resize(picture_HW, config.target_size, config.target_size))[None].to(device)
    crop = normalise(picture, config.mean, config.std)
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

    def picture_with(hidden_BMP: Tensor) -> np.ndarray:
        index = hidden[:, :, None].expand_as(hidden_BMP)
        grey = unpatchify(patches_BLP.scatter(1, index, hidden_BMP), side).mean(1)[0]
        return ((grey * config.std + config.mean) * 255).round().clamp(0, 255).byte().cpu().numpy()

    blank = torch.zeros_like(true_BMP)
    return Reconstruction(picture_with(blank), picture_with(restored_BMP), picture[0].cpu().numpy(), error)


@torch.inference_mode()
def context_of(model: MRM, pictures: Sequence[np.ndarray]) -> Tensor:
    """The report decoder's view of pictures, all patches visible: (B, R)."""
    config = model.config
    size = config.target_size
    stacked = torch.from_numpy(np.stack([images.resize(p, size, size) for p in pictures]))
    crop = normalise(stacked.to(next(model.parameters()).device), config.mean, config.std)
    return model.context(model.encode(model.shrink(crop)))


@torch.inference_mode()
def word_probabilities(model: MRM, context_1R: Tensor, ids_T: np.ndarray) -> np.ndarray:
    """Probabilities (blanks, V) of every word at each `[MASK]` of `ids_T`, given a picture's context."""
    tokens = torch.from_numpy(ids_T.astype(np.int64))[None].to(context_1R.device)
    blanks = (tokens[0] == MASK).nonzero().squeeze(1)
    logits = model.name_words(context_1R, tokens, torch.ones_like(tokens), blanks)
    return logits.float().softmax(-1).cpu().numpy()
