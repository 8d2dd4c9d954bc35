"""An image of which most patches are hidden, restored by a pre-trained model."""

# Shapes: B images, H W pixels, L patches, M masked patches, P values of a patch
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrm.data import images
from mrm.models.mrm import MRM, complement, normalise, normalise_patches, patchify, take, unpatchify


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

    Restored patches get their own mean and deviation back and visible patches are pasted in, so that the image shows
    the detail that the model adds.
    """
    config = model.config
    side = model.patch_size * config.target_scale
    device = next(model.parameters()).device
    image = torch.from_numpy(images.resize(image_HW, config.target_size, config.target_size))[None].to(device)
    crop = normalise(image, config.mean, config.std)
    order = np.random.default_rng(seed).permutation(model.patches)
    kept = torch.from_numpy(np.sort(order[: keep or config.keep]))[None].to(device)
    hidden = complement(kept, model.patches)
    passed: list[torch.Tensor] = []
    features_BSD = model.encode(model.shrink(crop), kept, passed)
    restored_BMP = model.restore(features_BSD, kept, hidden, passed).float()
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
