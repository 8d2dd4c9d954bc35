"""Discs in noise: a segmentation folder that a tiny segmenter learns in seconds."""

from pathlib import Path

import numpy as np

from mrm import runs
from mrm.data import images
from tests.support.configs import segment_config


def draw(rng, lesion: bool, shape=(80, 60)) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and where wanted a bright disc: what a segmenter can learn in seconds."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    centre, radius = rng.uniform(0.3, 0.7, 2) * shape, rng.uniform(8, 14)
    mask = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2) & lesion
    image = rng.normal(70, 15, shape) + 110 * mask
    return image.clip(0, 255).astype(np.uint8), mask.astype(np.uint8)


def write_discs(root: Path) -> Path:
    """A segmentation folder: 16 + 24 images to train on, 12 each to validate and test, half of them with a disc."""
    rng = np.random.default_rng(0)
    for split, positive, count in (("training", 16, 40), ("validation", 6, 12), ("test", 6, 12)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            image, mask = draw(rng, i < positive)
            (root / "images" / split / f"{split}{i:02d}.png").write_bytes(images.encode_png(image))
            (root / "annotations" / split / f"{split}{i:02d}.png").write_bytes(images.encode_png(mask * 255))
    return root


def trained_on_discs(folder: Path, encoder: Path, out: Path) -> Path:
    """A run long enough to find discs."""
    cfg = segment_config(
        folder, encoder, out, steps=60, warmup_steps=5, lr=4e-3, drop_path=0.0,
        global_batch=8, validate_every=20, save_every=60, log_every=20,
    )  # fmt: skip
    return runs.segment(cfg)
