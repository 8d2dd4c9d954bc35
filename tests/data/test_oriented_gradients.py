"""Histograms of oriented gradients, against their definition pixel by pixel."""

import numpy as np

from mrm.data.oriented_gradients import hog, hog_width


def test_hog_is_the_histogram_of_every_cell_normalised_by_blocks():
    image = np.random.default_rng(0).integers(0, 256, (24, 24)).astype(np.uint8)
    down, right = np.gradient(image.astype(float))
    cells = np.zeros((3, 3, 9))
    for y in range(24):
        for x in range(24):
            angle = np.arctan2(down[y, x], right[y, x]) % np.pi
            cells[y // 8, x // 8, min(int(angle / np.pi * 9), 8)] += np.hypot(down[y, x], right[y, x])
    expected = []
    for y in range(2):
        for x in range(2):
            block = np.concatenate([cells[y, x], cells[y, x + 1], cells[y + 1, x], cells[y + 1, x + 1]])
            expected.append(block / (np.linalg.norm(block) + 1.0))
    assert np.allclose(hog(image), np.concatenate(expected), atol=1e-5)
    assert len(hog(image)) == hog_width(24)
