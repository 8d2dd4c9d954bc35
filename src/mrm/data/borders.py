"""Which part of an image is more than a border: rows and columns at its edges that show nothing are left out."""

# Shapes: H W pixels
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; `top` and `left` are its first row and column."""

    top: int
    left: int
    height: int
    width: int

    def inner(self, box: Box) -> Box:
        """A box that is stated within this one, in the pixels that this one is stated in."""
        return Box(self.top + box.top, self.left + box.left, box.height, box.width)


def border_box(image_HW: np.ndarray, tolerance: int = 4) -> Box:
    """The image less the rows and columns at its edges that are entirely black or entirely white.

    `tolerance` in grey levels allows for lossy compression. An image that is nothing but border is left whole.
    """

    def content(inner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        black, white = inner <= tolerance, inner >= 255 - tolerance
        return ~np.asarray(black.all(1) | white.all(1)), ~np.asarray(black.all(0) | white.all(0))

    return content_box(image_HW, content)


def content_box(image_HW: np.ndarray, content: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Box:
    """The image less the rows and columns at its edges that hold no content, looked for until none is left.

    `content` says of which rows and of which columns of an image that is so, as two bool arrays. An image without any
    content is left whole.
    """
    whole = box = Box(0, 0, *image_HW.shape)
    inner_HW = image_HW
    while inner_HW.size:
        rows, columns = content(inner_HW)
        if not rows.any() or not columns.any():
            return whole
        top, left = int(rows.argmax()), int(columns.argmax())
        bottom, right = rows.size - int(rows[::-1].argmax()), columns.size - int(columns[::-1].argmax())
        if (bottom - top, right - left) == inner_HW.shape:
            return box
        box = box.inner(Box(top, left, bottom - top, right - left))
        inner_HW = inner_HW[top:bottom, left:right]
    return whole
