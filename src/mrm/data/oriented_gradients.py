"""Histograms of oriented gradients of an image: what a logistic regression can learn from without any network."""

# Shapes: F features, H W pixels
from __future__ import annotations

import numpy as np

SIDE = 64  # of the square that an image is resized to before
CELL, DIRECTIONS = 8, 9  # pixels and bins of a histogram of gradients


def hog(image_HW: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients (F,): cells of 8 pixels, blocks of 2 x 2 cells, nine directions.

    Dalal and Triggs 2005, doi:10.1109/CVPR.2005.177; without interpolation between cells.
    """
    down_HW, right_HW = np.gradient(image_HW.astype(np.float32))
    strength_HW, angle_HW = np.hypot(right_HW, down_HW), np.arctan2(down_HW, right_HW) % np.pi
    binned_HW = np.minimum((angle_HW / np.pi * DIRECTIONS).astype(int), DIRECTIONS - 1)
    rows, columns = np.indices(image_HW.shape) // CELL
    grid = image_HW.shape[0] // CELL
    index_HW = (rows * grid + columns) * DIRECTIONS + binned_HW
    counts = np.bincount(index_HW.ravel(), strength_HW.ravel(), grid * grid * DIRECTIONS)
    cells = counts.reshape(grid, grid, DIRECTIONS)
    blocks = np.concatenate([cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:]], axis=2)
    return (blocks / (np.linalg.norm(blocks, axis=2, keepdims=True) + 1.0)).ravel().astype(np.float32)


def hog_width(side: int) -> int:
    """The number of values of `hog` for a square image."""
    return (side // CELL - 1) ** 2 * 4 * DIRECTIONS
