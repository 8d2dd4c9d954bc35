"""The recipes of `mrm segment`: the published segmentations of SIIM-ACR Pneumothorax, and a small one for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mrm.data.config import CropConfig
from mrm.recipes.configurations import SegmentConfig
from mrm.recipes.recipe import Recipe
from mrm.training.config import TrainConfig


def segment_training(steps: int, lr: float, warmup: int, batch: int, **changes: Any) -> TrainConfig:
    """AdamW with layer decay, polynomial decay after a linear warm-up."""
    every = max(50, min(2000, steps // 20))
    training = TrainConfig(
        epochs=None, steps=steps, warmup_steps=warmup, global_batch=batch, lr=lr, lr_batch=None,
        betas=(0.9, 0.999), layer_decay=0.65, schedule="polynomial", log_every=20, validate_every=every, save_every=every,
    )  # fmt: skip
    return replace(training, **changes)


def _siim(steps: int, warmup: int) -> Callable[..., SegmentConfig]:
    def make(train: Path, val: Path, init: Path, out: Path, **where: Any) -> SegmentConfig:
        """The published segmentation of this share of SIIM-ACR Pneumothorax."""
        training = segment_training(steps, 2e-5, warmup, batch=8)
        return SegmentConfig(train, val, init, out, **{"classes": ("pneumothorax",), "training": training, **where})

    return make


def tiny_segment(train: Path, val: Path, init: Path, out: Path, **where: Any) -> SegmentConfig:
    """A small decoder at 192 with an average of weights, 600 steps of batch 8: minutes on two CPU cores.

    So short a run learns better with norms on the features, without dropout, and with the Dice at full weight.
    """
    training = segment_training(
        600, 1e-3, 50, batch=8, layer_decay=0.75, clip=1.0, precision="fp32", ema=0.98, log_every=10
    )
    return SegmentConfig(
        train, val, init, out, image_size=(192, 192), channels=64, auxiliary=32,
        head_dropout=0.0, feature_norm=True, dice_weight=1.0,
        crop=CropConfig(area=(0.6, 1.0)), training=training, **where,
    )  # fmt: skip


SEGMENT = {
    "siim-10": Recipe(_siim(5_000, 100), "5,000 steps, peak 2e-05, warm-up 100", "Dice 73.2, empty images as 1"),
    "siim-100": Recipe(
        _siim(160_000, 1_500), "160,000 steps, peak 2e-05, warm-up 1,500", "Dice 91.4, empty images as 1"
    ),
    "tiny": Recipe(tiny_segment, "a small decoder at 192, minutes on a CPU", "none published"),
}
