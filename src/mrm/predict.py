"""A model put to use: scores of pictures, restored pictures, blanks of a report filled in."""

# Shapes: N records, C classes, B samples, H W pixels, L patches, T tokens
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
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
    config = model.config
    data = batches.LabelData(records, config.image_size, crop=None, view=config.view, on_error="skip")
    device = next(model.parameters()).device
    batches.share_cores(device)
    logits_NC = np.zeros((len(records), len(config.classes)))
    unreadable = {}
    mine = (b for i, b in enumerate(batches.in_order(len(records), batch)) if i % world == rank)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for loaded in batches.loader(data, mine, workers, pin=device.type == "cuda"):
            loaded = loaded.to(device)
            logits = model(normalise(loaded.picture_BHW, config.mean, config.std)).float().cpu().numpy()
            logits_NC[loaded.index_B.cpu().numpy()] = logits
            for record in loaded.skipped:  # another record stood in for it and got its own scores once more
                unreadable[record.name] = record.reason
                logits_NC[record.index] = np.nan
    return Scores(logits_NC, unreadable)


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
