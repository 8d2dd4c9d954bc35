"""Augmentation of training images beyond crop and flip: `(array, rng) -> array`, grey uint8 in and out.

Each change is drawn from the sample's own generator, so a sample is the same whatever worker creates it. The published
recipe only crops and flips; `benchmarks/label_efficiency` measures the effect of further augmentation.
"""

# Shapes: H W pixels
from __future__ import annotations

import cv2
import numpy as np

from mrm.data.config import AugmentConfig

LEVELS = np.arange(256, dtype=np.float32) / 255
LETTERS = "LRAPE"  # of markers: left, right, anteroposterior, erect


def augment(image_HW: np.ndarray, rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """The image rotated, equalised, re-exposed, marked, framed, blurred, with noise and partly erased, as configured.

    Nothing is drawn from `rng` for a change that is switched off.
    """
    if config.rotate:
        image_HW = rotate(image_HW, rng, config.rotate)
    if config.equalise:
        image_HW = equalise(image_HW, rng, config.equalise)
    if config.brightness or config.contrast or config.gamma:
        image_HW = expose(image_HW, rng, config.brightness, config.contrast, config.gamma)
    if config.letters:
        image_HW = add_letters(image_HW, rng, config.letters)
    if config.frame:
        image_HW = add_frame(image_HW, rng, config.frame)
    if config.blur:
        image_HW = blur(image_HW, rng, config.blur)
    if config.noise:
        image_HW = add_noise(image_HW, rng, config.noise)
    if config.erase:
        image_HW = erase(image_HW, rng, config.erase)
    return image_HW


def rotate(image_HW: np.ndarray, rng: np.random.Generator, degrees: float) -> np.ndarray:
    """The image rotated about its centre by up to so many degrees; the corners that come in are black."""
    height, width = image_HW.shape
    rotation = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-degrees, degrees), 1.0)
    return cv2.warpAffine(image_HW, rotation, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def expose(
    image_HW: np.ndarray, rng: np.random.Generator, brightness: float, contrast: float, gamma: float
) -> np.ndarray:
    """The image with another gamma, contrast about its mean grey, and brightness: one table of 256 grey values."""
    curve = LEVELS ** _factor(rng, gamma) if gamma else LEVELS
    if contrast:
        middle = float(np.dot(np.bincount(image_HW.ravel(), minlength=256), curve)) / image_HW.size
        curve = middle + (curve - middle) * _factor(rng, contrast)
    if brightness:
        curve = curve + rng.uniform(-brightness, brightness)
    return cv2.LUT(image_HW, np.rint(255 * np.clip(curve, 0, 1)).astype(np.uint8))


def _factor(rng: np.random.Generator, amount: float) -> float:
    """A factor from 1 / (1 + amount) to 1 + amount; halving and doubling are equally likely."""
    return float(np.exp(rng.uniform(-1, 1) * np.log1p(amount)))


def blur(image_HW: np.ndarray, rng: np.random.Generator, max_sigma: float) -> np.ndarray:
    """Gaussian blur of up to so many pixels, on half of the images."""
    sharp, sigma = rng.random() < 0.5, rng.uniform(0.1, 1) * max_sigma
    return image_HW if sharp else cv2.GaussianBlur(image_HW, (0, 0), sigma)


def add_noise(image_HW: np.ndarray, rng: np.random.Generator, max_sigma: float) -> np.ndarray:
    """Gaussian noise, independent in every pixel, on half of the images; `max_sigma` is a share of the grey range."""
    clean, sigma = rng.random() < 0.5, 255 * max_sigma * rng.random()
    if clean:
        return image_HW
    noisy_HW = image_HW + sigma * rng.standard_normal(image_HW.shape, dtype=np.float32)
    return np.rint(np.clip(noisy_HW, 0, 255)).astype(np.uint8)


def erase(image_HW: np.ndarray, rng: np.random.Generator, probability: float) -> np.ndarray:
    """With this probability, replace a rectangle by noise.

    Random erasing, arXiv:1708.04896: area 2 to 20 %, aspect 0.3 to 3.3.
    """
    if rng.random() >= probability:
        return image_HW
    height, width = image_HW.shape
    area, aspect = rng.uniform(0.02, 0.2) * height * width, np.exp(rng.uniform(-1.2, 1.2))
    rows = min(height, max(1, round((area * aspect) ** 0.5)))
    columns = min(width, max(1, round((area / aspect) ** 0.5)))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    erased_HW = image_HW.copy()
    erased_HW[top : top + rows, left : left + columns] = rng.integers(0, 256, (rows, columns), dtype=np.uint8)
    return erased_HW


def equalise(image_HW: np.ndarray, rng: np.random.Generator, probability: float) -> np.ndarray:
    """With this probability, a mixture of the image with its histogram equalised, as a whole or in 4 x 4 tiles.

    In tiles the contrast is limited (CLAHE, Zuiderveld 1994): devices differ in how far they post-process so.
    """
    if rng.random() >= probability:
        return image_HW
    share, in_tiles, limit = rng.random(), rng.random() < 0.5, rng.uniform(1, 4)
    equal_HW = cv2.createCLAHE(limit, (4, 4)).apply(image_HW) if in_tiles else cv2.equalizeHist(image_HW)
    return cv2.addWeighted(image_HW, 1 - share, equal_HW, share, 0)


def add_frame(image_HW: np.ndarray, rng: np.random.Generator, probability: float) -> np.ndarray:
    """With this probability, the image smaller within a frame, black three times in four, else white."""
    if rng.random() >= probability:
        return image_HW
    height, width = image_HW.shape
    top, bottom = (int(side) for side in rng.uniform(0, 0.12, 2) * height)
    left, right = (int(side) for side in rng.uniform(0, 0.12, 2) * width)
    framed_HW = np.full_like(image_HW, 0 if rng.random() < 0.75 else 255)
    inner = (width - left - right, height - top - bottom)
    framed_HW[top : height - bottom, left : width - right] = cv2.resize(image_HW, inner, interpolation=cv2.INTER_AREA)
    return framed_HW


def add_letters(image_HW: np.ndarray, rng: np.random.Generator, probability: float) -> np.ndarray:
    """With this probability, one or two bright letters in the outer fifths of the upper half."""
    if rng.random() >= probability:
        return image_HW
    height, width = image_HW.shape
    marked_HW = image_HW.copy()
    for _ in range(int(rng.integers(1, 3))):
        column = int(width * (rng.uniform(0.02, 0.2) if rng.random() < 0.5 else rng.uniform(0.75, 0.93)))
        row, size, grey = int(height * rng.uniform(0.1, 0.5)), rng.uniform(0.05, 0.12) * height, rng.integers(150, 256)
        letter, thickness = LETTERS[int(rng.integers(len(LETTERS)))], max(1, round(size / 8))
        cv2.putText(marked_HW, letter, (column, row), cv2.FONT_HERSHEY_SIMPLEX, size / 22, int(grey), thickness)
    return marked_HW
