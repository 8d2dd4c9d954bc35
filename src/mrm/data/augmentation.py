"""Augmentation of training images beyond crop and flip: `(array, rng) -> array`, grey uint8 in and out.

Each change is drawn from the sample's own generator, so a sample is the same whatever worker makes it. The
published recipe crops and flips only; what more does to a radiograph is measured in `benchmarks/label_efficiency`.
"""

# Shapes: H W pixels
from __future__ import annotations

import cv2
import numpy as np

from mrm.data.config import AugmentConfig

LEVELS = np.arange(256, dtype=np.float32) / 255


def augment(image_HW: np.ndarray, rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """An image turned, re-exposed, blurred, made noisy and partly erased, as far as the configuration goes.

    Nothing is drawn from `rng` for a change that is left out.
    """
    if config.rotate:
        image_HW = rotate(image_HW, rng, config.rotate)
    if config.brightness or config.contrast or config.gamma:
        image_HW = expose(image_HW, rng, config.brightness, config.contrast, config.gamma)
    if config.blur:
        image_HW = blur(image_HW, rng, config.blur)
    if config.noise:
        image_HW = add_noise(image_HW, rng, config.noise)
    if config.erase:
        image_HW = erase(image_HW, rng, config.erase)
    return image_HW


def rotate(image_HW: np.ndarray, rng: np.random.Generator, degrees: float) -> np.ndarray:
    """Turned about its centre; what comes in at the corners is black, as beyond the edge of a turned radiograph."""
    height, width = image_HW.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-degrees, degrees), 1.0)
    return cv2.warpAffine(image_HW, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def expose(
    image_HW: np.ndarray, rng: np.random.Generator, brightness: float, contrast: float, gamma: float
) -> np.ndarray:
    """Another gamma, contrast about the image's mean grey, and brightness: one table of 256 grey values."""
    curve = LEVELS ** _factor(rng, gamma) if gamma else LEVELS
    if contrast:
        middle = float(np.dot(np.bincount(image_HW.ravel(), minlength=256), curve)) / image_HW.size
        curve = middle + (curve - middle) * _factor(rng, contrast)
    if brightness:
        curve = curve + rng.uniform(-brightness, brightness)
    return cv2.LUT(image_HW, np.rint(255 * np.clip(curve, 0, 1)).astype(np.uint8))


def _factor(rng: np.random.Generator, most: float) -> float:
    """From 1 / (1 + most) to 1 + most; halving and doubling are equally likely."""
    return float(np.exp(rng.uniform(-1, 1) * np.log1p(most)))


def blur(image_HW: np.ndarray, rng: np.random.Generator, most: float) -> np.ndarray:
    """Gaussian blur of up to so many pixels on half of the images."""
    sharp, sigma = rng.random() < 0.5, rng.uniform(0.1, 1) * most
    return image_HW if sharp else cv2.GaussianBlur(image_HW, (0, 0), sigma)


def add_noise(image_HW: np.ndarray, rng: np.random.Generator, most: float) -> np.ndarray:
    """Gaussian noise, independent in every pixel, on half of the images."""
    clean, sigma = rng.random() < 0.5, 255 * most * rng.random()
    if clean:
        return image_HW
    noisy_HW = image_HW + sigma * rng.standard_normal(image_HW.shape, dtype=np.float32)
    return np.rint(np.clip(noisy_HW, 0, 255)).astype(np.uint8)


def erase(image_HW: np.ndarray, rng: np.random.Generator, probability: float) -> np.ndarray:
    """A rectangle replaced by noise now and then. Random erasing, arXiv:1708.04896: area 2 to 20 %, aspect 0.3 to 3.3."""
    if rng.random() >= probability:
        return image_HW
    height, width = image_HW.shape
    area, aspect = rng.uniform(0.02, 0.2) * height * width, np.exp(rng.uniform(-1.2, 1.2))
    tall, wide = min(height, max(1, round((area * aspect) ** 0.5))), min(width, max(1, round((area / aspect) ** 0.5)))
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    erased_HW = image_HW.copy()
    erased_HW[top : top + tall, left : left + wide] = rng.integers(0, 256, (tall, wide), dtype=np.uint8)
    return erased_HW
