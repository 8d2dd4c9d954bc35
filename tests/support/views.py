"""Images that look frontal or lateral, and a classifier that tells them apart."""

from pathlib import Path

import cv2
import numpy as np

from mrm.data.oriented_gradients import SIDE, hog
from mrm.runs import learning_views


def chest(rng: np.random.Generator, lateral: bool) -> np.ndarray:
    """Two dark lungs beside a bright column, or one dark lung before a bright spine; with noise, shifted and scaled."""
    image = np.full((96, 96), 150, np.uint8)
    across, down = rng.integers(-4, 5, 2).tolist()
    tall = int(rng.integers(26, 34))
    if lateral:
        cv2.ellipse(image, (42 + across, 46 + down), (26, tall), 0, 0, 360, 40, -1)
        cv2.rectangle(image, (76 + across, 0), (86 + across, 96), 230, -1)
    else:
        for side in (28, 68):
            cv2.ellipse(image, (side + across, 46 + down), (14, tall), 0, 0, 360, 40, -1)
        cv2.rectangle(image, (44 + across, 0), (52 + across, 96), 230, -1)
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def write_view_classifier(file: Path) -> Path:
    """A view classifier learned from 36 such images, a third of them lateral."""
    rng = np.random.default_rng(0)
    lateral_N = np.arange(36) % 3 == 2
    small = [cv2.resize(chest(rng, bool(one)), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for one in lateral_N]
    learning_views.learned(np.stack([hog(image_HW) for image_HW in small]), lateral_N).save(file, {})
    return file
