"""How well predicted lesions cover true ones: all usual definitions of Dice, with intervals, from pixel counts.

"Dice" has several definitions for a set of images, and they differ by tens of points if most images have no lesion. The
published one counts such an image as 1 if nothing is predicted, so a model that predicts nothing at all scores the share
of empty images. Therefore all definitions are shown together, with n for each.

Shapes: N images, H x W pixels, D bootstrap draws.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from mrm.statistics.intervals import Array, Bootstrap, Estimate, Mask, wilson

MEASURES = {
    "dice_positive": "mean Dice of the images with a lesion",
    "dice_published": "mean Dice of all images; without lesion 1 if nothing is predicted, else 0",
    "dice_pooled": "Dice of the lesion over all pixels of all images",
    "dice_mean": "mean of the pooled Dice of background and lesion",
    "iou_mean": "mean of the pooled intersection over union of background and lesion",
    "sensitivity": "share of the images with a lesion in which part of it is found",
    "false_positives": "share of the images without lesion in which one is predicted",
}

POOLED = ("dice_pooled", "dice_mean", "iou_mean")  # ratios of sums over all images


@dataclass(frozen=True)
class PixelCounts:
    """Pixel counts of N images, each array (N,): lesion in both, predicted, true, and all pixels.

    Raises ValueError, with count and first index, for lengths that differ and impossible counts.
    """

    intersection: Array
    predicted: Array
    true: Array
    pixels: Array

    def __post_init__(self) -> None:
        arrays = {name: np.asarray(value, dtype=np.float64) for name, value in vars(self).items()}
        if len({array.shape for array in arrays.values()}) > 1 or arrays["true"].ndim != 1:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise ValueError(f"counts must be (N,) and of one length, not {shapes}")
        for name, array in arrays.items():
            object.__setattr__(self, name, array)
            whole_N = np.isfinite(array) & (array >= 0) & (array == np.floor(array))
            _refuse(~whole_N, f"{name} counts are not whole numbers")
        _refuse(self.intersection > np.minimum(self.predicted, self.true), "intersections exceed a lesion")
        _refuse(self.union > self.pixels, "unions of both lesions exceed the image")

    @classmethod
    def of(cls, predicted: Iterable[ArrayLike], true: Iterable[ArrayLike]) -> "PixelCounts":
        """From masks, (N, H, W) or sequences of (H, W) of any sizes; a value other than 0 means lesion.

        Raises ValueError if the two masks of an image differ in size, or the numbers of masks differ.
        """
        rows = []
        for i, (guess, truth) in enumerate(zip(predicted, true, strict=True)):
            guess_HW, truth_HW = np.asarray(guess) != 0, np.asarray(truth) != 0
            if guess_HW.shape != truth_HW.shape:
                raise ValueError(f"image {i}: predicted mask {guess_HW.shape}, but true mask {truth_HW.shape}")
            rows.append(((guess_HW & truth_HW).sum(), guess_HW.sum(), truth_HW.sum(), truth_HW.size))
        return cls(*np.array(rows, dtype=np.float64).reshape(-1, 4).T)

    @property
    def union(self) -> Array:
        return self.predicted + self.true - self.intersection

    @property
    def positive(self) -> Mask:
        """The images (N,) that have a lesion."""
        return self.true > 0

    def dice(self) -> Array:
        """Dice (N,) per image; NaN for an image without lesion. Dice 1945, doi:10.2307/1932409."""
        both_N = self.predicted + self.true
        return np.divide(2 * self.intersection, both_N, out=np.full(len(both_N), np.nan), where=self.positive)

    def dice_published(self) -> Array:
        """Dice (N,) per image, as published: one without lesion is 1 if nothing is predicted, else 0."""
        return np.where(self.positive, self.dice(), self.predicted == 0)


def overlap_report(
    counts: PixelCounts,
    groups: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """The `MEASURES` of a set of images, with intervals over images or over patients, `groups` (N,).

    Shares have Wilson intervals, all others bootstrap intervals; the pooled measures are ratios of sums over all
    images, like mmsegmentation's mDice and mIoU. `positives` counts images with a lesion. A measure is
    undefined, with the reason, if there are no images of its kind. Raises ValueError for groups that
    differ in length, and for wrong draws or level.
    """
    has_N, every_N = counts.positive, np.ones(len(counts.true), dtype=bool)
    bootstrap = Bootstrap.from_groups(groups, len(has_N), draws, seed, level)
    measures = {
        "dice_positive": mean_over(counts.dice(), has_N, has_N, bootstrap),
        "dice_published": mean_over(counts.dice_published(), every_N, has_N, bootstrap),
        **_pooled(counts, bootstrap),
        "sensitivity": _share(counts.intersection > 0, has_N, has_N, bootstrap),
        "false_positives": _share(counts.predicted > 0, ~has_N, has_N, bootstrap),
    }
    return {
        name: estimate if estimate.n else replace(estimate, note=_LACKING.get(name, "no image"))
        for name, estimate in measures.items()
    }


_LACKING = {
    "dice_positive": "no image with a lesion",
    "sensitivity": "no image with a lesion",
    "false_positives": "no image without lesion",
}


def _share(hit_N: Mask, of_N: Mask, has_N: Mask, bootstrap: Bootstrap) -> Estimate:
    return wilson(hit_N[of_N].astype(np.float64), int((of_N & has_N).sum()), bootstrap.of(of_N))


def mean_over(values_N: Array, of_N: Mask, has_N: Mask, bootstrap: Bootstrap) -> Estimate:
    """The mean of values (N,) over the images of a mask (N,); `has_N` are those with a lesion. Undefined over none."""
    positives = int((of_N & has_N).sum())
    if not of_N.any():
        return Estimate.undefined(0, positives, "no image")
    empty = f"{(~has_N).mean():.1%} of images have no lesion" if of_N.all() and not has_N.all() else ""
    return bootstrap.estimate(float(values_N[of_N].mean()), bootstrap.means(values_N, of_N), of_N, positives, empty)


def pooled_draws(counts: PixelCounts, bootstrap: Bootstrap) -> dict[str, Array]:
    """The pooled measures in each draw of patients, each (D,); NaN in a draw without a lesion."""
    return dict(zip(POOLED, _ratios(bootstrap.sums(_columns(counts))), strict=True))


def _columns(counts: PixelCounts) -> Array:
    return np.stack([counts.intersection, counts.predicted, counts.true, counts.pixels], axis=1)


def _pooled(counts: PixelCounts, bootstrap: Bootstrap) -> dict[str, Estimate]:
    values_X = _ratios(_columns(counts).sum(axis=0)[:, None])[:, 0]
    drawn = pooled_draws(counts, bootstrap)
    n, positives = len(counts.true), int(counts.positive.sum())
    no_interval = bootstrap.no_interval(counts.positive, "positive ")
    measures = {}
    for (name, values_D), value in zip(drawn.items(), values_X, strict=True):
        measures[name] = Estimate.undefined(n, 0, "no image with a lesion")
        if positives:
            used_N = np.ones(n, dtype=bool)
            degrees = bootstrap.degrees(counts.positive)
            measures[name] = bootstrap.estimate(
                float(value), values_D, used_N, positives, no_interval=no_interval, degrees=degrees
            )
    return measures


def _ratios(sums_KD: Array) -> Array:
    """Lesion Dice, mean Dice and mean IoU (3, D) from sums of intersection, predicted, true and all pixels.

    The intersection of the background is all pixels minus the union of the lesions. NaN if there is no true lesion; the
    background counts as 1 if predicted and true lesions both fill every image.
    """
    both_D, predicted_D, true_D, pixels_D = sums_KD
    union_D = predicted_D + true_D - both_D
    empty_D = pixels_D - union_D
    some_D, back_D = np.where(true_D > 0, 1.0, math.nan), 2 * pixels_D - predicted_D - true_D
    dice_D = 2 * both_D / np.maximum(predicted_D + true_D, 1) * some_D
    iou_D = both_D / np.maximum(union_D, 1) * some_D
    back_dice_D = np.where(back_D > 0, 2 * empty_D / np.maximum(back_D, 1), 1.0)
    back_iou_D = np.where(back_D > 0, empty_D / np.maximum(pixels_D - both_D, 1), 1.0)
    return np.stack([dice_D, (dice_D + back_dice_D) / 2, (iou_D + back_iou_D) / 2])


def _refuse(invalid_N: Mask, problem: str) -> None:
    if invalid_N.any():
        raise ValueError(
            f"{invalid_N.sum():,} of {len(invalid_N):,} {problem}; the first at index {invalid_N.argmax()}"
        )
