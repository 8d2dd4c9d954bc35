"""The values of an image as numbered levels, for a viewer that sets window and level itself.

What a screen shows has 8 bits, a radiograph up to 16. `GreyLevels` keeps the values, at most 65,535 of them, and how the
image is shown first; a viewer that moves the window computes the grey of each level, not of each pixel.
"""

# Shapes: H W pixels, N levels
from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

MOST_LEVELS = (1 << 16) - 1  # beside level 0


@dataclass(frozen=True)
class Window:
    """The values that are shown from black to white: centre, width and function of PS3.3, C.11.2.1.

    The function is LINEAR, LINEAR_EXACT or SIGMOID.
    """

    center: float
    width: float
    function: str = "LINEAR_EXACT"

    @classmethod
    def of_range(cls, low: float, high: float) -> Window:
        """The window that shows `low` black and `high` white."""
        return cls((low + high) / 2, high - low or 1.0)


@dataclass(frozen=True)
class GreyLevels:
    """An image as levels (H, W) uint16: 0 is padding, level k stands for the value `low` + `step` * (k - 1).

    `shown` (N,) uint8 is the grey of each level in the image as `images.read` returns it, which follows from a lookup table
    where the file has one, else from `window`. With `inverted`, low values are white.
    """

    levels_HW: np.ndarray
    low: float
    step: float
    shown: np.ndarray
    window: Window
    inverted: bool = False

    @property
    def image_HW(self) -> np.ndarray:
        """The image as it is shown first, (H, W) uint8."""
        return self.shown[self.levels_HW]

    def shrunk(self, longer_side: int) -> GreyLevels:
        """The same with a longer side of at most so many pixels; a pixel is the mean of the values that it stands for."""
        scale = longer_side / max(self.levels_HW.shape)
        if scale >= 1:
            return self
        height, width = (max(1, round(side * scale)) for side in self.levels_HW.shape)
        levels_HW = cv2.resize(np.maximum(self.levels_HW, 1), (width, height), interpolation=cv2.INTER_AREA)
        padding_HW = cv2.resize(
            (self.levels_HW == 0).astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
        )
        levels_HW[padding_HW > 0] = 0
        return replace(self, levels_HW=levels_HW)


def of_bytes(grey_HW: np.ndarray) -> GreyLevels:
    """The levels of an 8-bit image, which is shown as it is."""
    shown = np.arange(-1, 256).clip(0).astype(np.uint8)
    return GreyLevels(grey_HW.astype(np.uint16) + 1, 0, 1, shown, Window.of_range(0, 255))


def of_range(values_HW: np.ndarray, inverted: bool = False) -> GreyLevels:
    """The levels of finite numbers, shown from their minimum to their maximum; a constant image is black."""
    low, high = float(values_HW.min()), float(values_HW.max())
    levels_HW, step = numbered(values_HW, low, high, values_HW.dtype.kind in "iu")
    values = low + step * np.arange(int(levels_HW.max()))
    share = (high - values if inverted else values - low) / (high - low or 1) * (high > low)
    shown = np.concatenate([[0], np.rint(share.clip(0, 1) * 255)]).astype(np.uint8)
    return GreyLevels(levels_HW, low, step, shown, Window.of_range(low, high), inverted)


def numbered(values_HW: np.ndarray, low: float, high: float, whole: bool) -> tuple[np.ndarray, float]:
    """Levels (H, W) uint16 of values between `low` and `high`, and the step from one to the next.

    The step is 1 for `whole` numbers, as long as there are levels for all of them.
    """
    spread = high - low
    fine = spread / (MOST_LEVELS - 1) or 1.0
    step = max(fine, 1.0) if whole else fine
    levels_HW = np.empty(values_HW.shape, np.uint16)
    for row, values in zip(levels_HW, values_HW, strict=True):  # floats of a whole image take much memory
        row[:] = np.rint((np.clip(values.astype(np.float64), low, high) - low) / step) + 1
    return levels_HW, step
