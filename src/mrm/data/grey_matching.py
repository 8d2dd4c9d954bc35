"""Images of any device with one distribution of grey values, so that a model meets the greys that it was trained on.

Histogram matching (Gonzalez and Woods, Digital Image Processing, section 3.3) to a normal distribution, cut off at black and
white, whose mean and deviation are those of the published training radiographs.
"""

# Shapes: H W pixels
from __future__ import annotations

from statistics import NormalDist

import cv2
import numpy as np

from mrm.data.config import GREY_MEAN, GREY_STD

_GREYS = np.arange(256) / 255
_SHARES = np.array([NormalDist(GREY_MEAN, GREY_STD).cdf(grey) for grey in _GREYS])
REFERENCE = (_SHARES - _SHARES[0]) / (_SHARES[-1] - _SHARES[0])  # share of pixels that are darker than each grey


def matched(image_HW: np.ndarray) -> np.ndarray:
    """The image (H, W) uint8 with its greys, in their order, distributed as those of the reference.

    Pixels of 0 and 255 keep their value and do not count: borders, collimated parts and letters have them, which differ from
    device to device and tell nothing about exposure.
    """
    counts = np.bincount(image_HW.ravel(), minlength=256).astype(float)
    counts[[0, 255]] = 0
    if not counts.any():
        return image_HW
    darker = (np.cumsum(counts) - counts / 2) / counts.sum()  # half of the pixels of a grey count as darker than it
    table = np.rint(255 * np.interp(darker, REFERENCE, _GREYS)).astype(np.uint8)
    table[[0, 255]] = 0, 255
    return cv2.LUT(image_HW, table)
