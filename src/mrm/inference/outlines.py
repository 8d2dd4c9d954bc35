"""From a segmenter's probabilities to outlines: the thresholds chosen on validation images, and the outline itself.

A probability becomes an outline by a threshold, and an outline smaller than a least area is dropped; both are chosen
on validation images, and kept in the model folder. All counts come from one table for each image: how many pixels
inside and outside each class lie at each of 101 levels of probability.
"""

# Shapes: N images, C classes, L levels of probability, H W pixels
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mrm.data import loader, samples, sampling
from mrm.data.masks import IGNORED, MaskedImages
from mrm.models.card import Card, OutlineThreshold
from mrm.models.mrm import normalise
from mrm.models.segmenter import Segmenter
from mrm.system import hardware

LEVELS = 100  # steps of probability at which a threshold may lie
AREAS = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # least areas that are tried, as shares of the image
KEPT = 0.9  # of the best positive-only Dice must stay, whatever the empty images ask for


# Choosing the threshold ---------------------------------------------------------------------------------------


def levels_of(probability_CHW: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """Pixels at each level of probability, (C, 2, L): those outside a class, those inside; ignored ones left out."""
    labelled = mask_HW != IGNORED
    level_CP = (probability_CHW[:, labelled] * LEVELS).astype(np.intp)
    inside_CP = mask_HW[labelled] == np.arange(1, len(probability_CHW) + 1)[:, None]
    size = LEVELS + 1
    both = [
        np.bincount(level + size * inside, minlength=2 * size)
        for level, inside in zip(level_CP, inside_CP, strict=True)
    ]
    return np.stack(both).reshape(-1, 2, size)


def held_out_levels(
    model: Segmenter,
    masked: MaskedImages,
    batch: int = 8,
    workers: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    precision: hardware.Precision = "fp32",
) -> np.ndarray:
    """`levels_of` images (N, C, 2, L), at the size of the input. Each of several ranks leaves the others' rows zero."""
    data = samples.MaskData(masked, model.config.image_size)
    device = next(model.parameters()).device
    levels_NC2L = np.zeros((len(masked), len(masked.classes), 2, LEVELS + 1), dtype=np.int64)
    on_rank = (b for i, b in enumerate(sampling.in_order(len(masked), batch)) if i % world_size == rank)
    with torch.inference_mode(), hardware.autocast(device, precision):
        for loaded in loader.loader(data, on_rank, workers, pin=device.type == "cuda"):
            image_BHW = loaded.image_BHW.to(device)
            logits_BCHW = model(normalise(image_BHW, model.config.mean, model.config.std)).logits_BCHW
            probability_BCHW = logits_BCHW.float().sigmoid().cpu().numpy()
            for index, probability_CHW, mask_HW in zip(loaded.index_B, probability_BCHW, loaded.mask_BHW, strict=True):
                levels_NC2L[int(index)] = levels_of(probability_CHW, mask_HW.numpy())
    return levels_NC2L


def choose(levels_N2L: np.ndarray) -> tuple[OutlineThreshold, dict[str, float]]:
    """The threshold of one class, and the Dice it gives: of positive images, and by the published convention.

    Of all thresholds that keep KEPT of the best positive-only Dice, the one with the best published Dice. The published
    Dice alone would choose to predict nothing wherever most images are empty. Raises ValueError without positives.
    """
    reached_N2L = levels_N2L[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:LEVELS]  # pixels at this level or above
    both_NL, predicted_NL = reached_N2L[:, 1], reached_N2L.sum(axis=1)
    true_N1, pixels_N1 = levels_N2L[:, 1].sum(axis=1)[:, None], levels_N2L.sum(axis=(1, 2))[:, None]
    has_N = true_N1[:, 0] > 0
    if not has_N.any():
        raise ValueError("no image with a lesion, so no threshold can be chosen")
    positive_AL, published_AL = np.empty((2, len(AREAS), LEVELS - 1))
    for row, area in enumerate(AREAS):
        kept_NL = predicted_NL >= np.maximum(1, area * pixels_N1)
        dice_NL = 2 * both_NL * kept_NL / np.maximum(predicted_NL * kept_NL + true_N1, 1)
        dice_NL = np.where(has_N[:, None], dice_NL, ~kept_NL)
        positive_AL[row], published_AL[row] = dice_NL[has_N].mean(axis=0), dice_NL.mean(axis=0)
    allowed_AL = positive_AL >= KEPT * positive_AL.max()
    best = np.unravel_index(np.argmax(np.where(allowed_AL, published_AL, -1.0)), published_AL.shape)
    threshold = OutlineThreshold((int(best[1]) + 1) / LEVELS, AREAS[int(best[0])])
    return threshold, {"dice_positive": float(positive_AL[best]), "dice_published": float(published_AL[best])}


def thresholds_of(card: Card, classes: Sequence[str]) -> list[OutlineThreshold]:
    """The thresholds in a model's card; probability 0.5 and any area where none was chosen."""
    return [card.outline_thresholds.get(name, OutlineThreshold()) for name in classes]


# Outlines -----------------------------------------------------------------------------------------------


def outline(probability_CHW: np.ndarray, thresholds: Sequence[OutlineThreshold]) -> np.ndarray:
    """Class numbers (H, W) uint8: of the classes above their thresholds the likeliest, 0 where there is none."""
    least = np.array([threshold.probability for threshold in thresholds], dtype=probability_CHW.dtype)[:, None, None]
    above_CHW = np.where(probability_CHW >= least, probability_CHW, -1.0)
    number_HW = np.where(above_CHW.max(axis=0) >= 0, above_CHW.argmax(axis=0) + 1, 0).astype(np.uint8)
    for number, threshold in enumerate(thresholds, 1):
        inside_HW = number_HW == number
        if inside_HW.sum() < threshold.area * inside_HW.size:
            number_HW[inside_HW] = 0
    return number_HW
