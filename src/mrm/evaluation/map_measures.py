"""How a map of an image meets the boxes of a finding: where its peak lies, how much of it, and how well its own boxes fit.

| measure | of a map | source |
| --- | --- | --- |
| pointing | whether its peak lies in a box, or no further from one than a tolerance | Zhang et al. 2018, doi:10.1007/s11263-017-1059-x |
| energy | the share of its heat that lies in the boxes | Wang et al. 2020 (Score-CAM), arXiv:1910.01279 |
| iou | intersection over union of the boxes around its hot parts, taken together, and the boxes, taken together | Wang et al. 2017 (ChestX-ray8), arXiv:1705.02315 |

A map without any heat points nowhere: all three are 0. A pixel lies in a box if its centre does.
"""

# Shapes: H W pixels, K boxes, M parts; the 4 of a box are x, y, width and height in pixels
from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from mrm.data.boxes import Box

CENTRE_SPREAD = 0.25  # standard deviation of the centre prior, as a share of each side


class Measured(NamedTuple):
    """The measures of one map, each from 0 to 1."""

    pointing: float
    energy: float
    iou: float


class Parts(NamedTuple):
    """The connected parts of a region: their bounding boxes (M, 4), the mean heat in each (M,), and x and y of its hottest
    point (M, 2), the mean of those that are equally hot."""

    box_M4: np.ndarray
    heat_M: np.ndarray
    peak_M2: np.ndarray


def sides(boxes: Sequence[Box]) -> np.ndarray:
    """Boxes as an array (K, 4)."""
    return np.array([(b.x, b.y, b.width, b.height) for b in boxes], dtype=np.float64).reshape(-1, 4)


def measure(heat_HW: np.ndarray, parts: Parts, box_K4: np.ndarray, tolerance: float) -> Measured:
    """All measures of a map with these hot parts against boxes of the finding. `tolerance` is as in `pointing`."""
    return Measured(
        pointing(heat_HW, box_K4, tolerance), energy(heat_HW, box_K4), iou(parts.box_M4, box_K4, heat_HW.shape)
    )


def pointing(heat_HW: np.ndarray, box_K4: np.ndarray, tolerance: float) -> float:
    """Whether the peak lies in a box, or at most `tolerance` times the longer side of the image outside of it: 1 or 0.

    Of several equal peaks the share that does, so that the order of the pixels does not decide.
    """
    if not (peak := heat_HW.max()) > 0:
        return 0.0
    row_P, column_P = np.nonzero(heat_HW == peak)
    return float(contain(box_K4, column_P + 0.5, row_P + 0.5, tolerance * max(heat_HW.shape)).any(axis=1).mean())


def contain(box_K4: np.ndarray, x_P: np.ndarray, y_P: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Which points (P,) lie in which boxes, or at most `margin` pixels beside and above them: (P, K) bool."""
    left_K, top_K, width_K, height_K = box_K4.T
    across_PK = (x_P[:, None] >= left_K - margin) & (x_P[:, None] <= left_K + width_K + margin)
    return across_PK & (y_P[:, None] >= top_K - margin) & (y_P[:, None] <= top_K + height_K + margin)


def energy(heat_HW: np.ndarray, box_K4: np.ndarray) -> float:
    """The share of all heat that lies in the boxes."""
    whole = float(heat_HW.sum(dtype=np.float64))
    return float(heat_HW[covered(box_K4, heat_HW.shape)].sum(dtype=np.float64)) / whole if whole > 0 else 0.0


def iou(one_M4: np.ndarray, other_K4: np.ndarray, shape: tuple[int, ...]) -> float:
    """Pixels in boxes of both sets, divided by pixels in a box of either."""
    one_HW, other_HW = covered(one_M4, shape), covered(other_K4, shape)
    either = int((one_HW | other_HW).sum())
    return int((one_HW & other_HW).sum()) / either if either else 0.0


def covered(box_K4: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels (H, W) bool whose centres lie in any of the boxes."""
    inside_HW = np.zeros(shape, bool)
    for x, y, width, height in box_K4.tolist():
        rows = slice(max(0, math.ceil(y - 0.5)), max(0, math.ceil(y + height - 0.5)))
        inside_HW[rows, max(0, math.ceil(x - 0.5)) : max(0, math.ceil(x + width - 0.5))] = True
    return inside_HW


def parts_of(region_HW: np.ndarray, heat_HW: np.ndarray) -> Parts:
    """The connected parts of a region (H, W) bool, pixels that touch at a corner included, row by row."""
    count, number_HW, facts, _ = cv2.connectedComponentsWithStats(region_HW.astype(np.uint8), connectivity=8)
    row_P, column_P = np.nonzero(region_HW)
    number_P = number_HW[row_P, column_P].astype(np.intp) - 1
    heat_P = heat_HW[row_P, column_P].astype(np.float64)
    greatest_M = np.full(count - 1, -np.inf)
    np.maximum.at(greatest_M, number_P, heat_P)
    hottest_P = heat_P == greatest_M[number_P]

    def mean(values_P: np.ndarray, of_P: np.ndarray) -> np.ndarray:
        return np.bincount(number_P, values_P * of_P, count - 1) / np.bincount(number_P, of_P, count - 1)

    every_P = np.ones(len(heat_P), bool)
    peak_M2 = np.stack([mean(column_P + 0.5, hottest_P), mean(row_P + 0.5, hottest_P)], axis=1)
    return Parts(facts[1:, :4].astype(np.float64), mean(heat_P, every_P), peak_M2)


def hot(heat_HW: np.ndarray, level: float) -> np.ndarray:
    """The pixels (H, W) bool that have at least `level` times the greatest heat; none where there is no heat."""
    peak = heat_HW.max()
    return (heat_HW >= level * peak) & (peak > 0)


@lru_cache(1)
def centre_prior(shape: tuple[int, ...]) -> np.ndarray:
    """The map (H, W) float32 that knows nothing but the middle of the image: a Gaussian of a quarter of each side.

    Kept for the other classes of the same image, so it must not be changed.
    """
    height, width = shape
    down_H, across_W = (
        np.exp(-0.5 * ((np.arange(size) + 0.5 - size / 2) / (CENTRE_SPREAD * size)) ** 2) for size in (height, width)
    )
    return (down_H[:, None] * across_W).astype(np.float32)
