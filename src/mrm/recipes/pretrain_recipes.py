"""The recipes of `mrm pretrain`: the published pre-training, its variants, and small ones for a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mrm.models.config import ModelConfig
from mrm.recipes.configurations import PretrainConfig
from mrm.recipes.recipe import Recipe
from mrm.training.config import TrainConfig


def mimic(records: Path, out: Path, **where: Any) -> PretrainConfig:
    """The published pre-training: ViT-B/16 at 224 restoring 448, 200 epochs, global batch 256."""
    return PretrainConfig(records, out, **{"resize": "bicubic", **where})


# The small models start as BERT does, with tied words: at first the report loss falls a little faster that way
# (`benchmarks/start.py`), and every number in docs/results.md was measured so.
TINY_MODEL = ModelConfig(
    encoder="vit_tiny_patch16_224",
    encoder_options={"depth": 6},
    image_size=96,
    keep=9,
    decoder_width=96,
    decoder_depth=2,
    decoder_heads=3,
    vocabulary=2000,
    report_width=96,
    report_depth=2,
    report_heads=3,
    report_mlp=384,
    tied_words=True,
    start="normal",
)
SMALL_MODEL = replace(
    TINY_MODEL, encoder_options={}, image_size=128, keep=16, vocabulary=8000,
    report_width=192, report_depth=3, report_mlp=768,
)  # fmt: skip


def cpu_training(epochs: float, warmup: float) -> TrainConfig:
    """AdamW at 1e-3 for batches of 64, in float32, which is fast on a CPU."""
    return TrainConfig(
        epochs=epochs, warmup_epochs=warmup, global_batch=64, lr=1e-3, lr_batch=None,
        precision="fp32", log_every=10, validate_every=200, save_every=200,
    )  # fmt: skip


def tiny(records: Path, out: Path, **where: Any) -> PretrainConfig:
    """Half a ViT-Tiny at 96 restoring 192, with BERT's start and tied words: minutes on two CPU cores."""
    return PretrainConfig(records, out, model=TINY_MODEL, training=cpu_training(20, 1), **where)


def small(records: Path, out: Path, **where: Any) -> PretrainConfig:
    """ViT-Tiny at 128 restoring 256, with BERT's start and tied words: tens of minutes on two CPU cores."""
    return PretrainConfig(records, out, model=SMALL_MODEL, training=cpu_training(40, 4), **where)


def mimic_modern(records: Path, out: Path, **where: Any) -> PretrainConfig:
    """The published pre-training with 20 of 196 patches visible (90 % masked) instead of 49 (75 %).

    Neighbouring patches of a radiograph predict each other better than those of a photograph, so more of them must be
    hidden before restoring them requires knowledge of anatomy. The encoder sees 20 patches, so a step is cheaper too.
    """
    return mimic(records, out, **{"model": replace(ModelConfig(), keep=20), **where})


def small_next(records: Path, out: Path, **where: Any) -> PretrainConfig:
    """`small` with half of the patches visible instead of a quarter, contrast as heavy as either loss, and no mirrored image."""
    return _with_contrast(small(records, out, **where), keep=32, width=64)


def mimic_next(records: Path, out: Path, **where: Any) -> PretrainConfig:
    """The published pre-training with the same changes as `small_next`; twice as many patches make a step dearer."""
    return _with_contrast(mimic(records, out, **where), keep=98, width=128)


def _with_contrast(plain: PretrainConfig, keep: int, width: int) -> PretrainConfig:
    """What was better than both losses alone in `benchmarks/label_efficiency` (arm `half-contrast`)."""
    return replace(
        plain,
        contrast_weight=1.0,
        crop=replace(plain.crop, flip=0.0),  # a mirrored image contradicts its report
        model=replace(plain.model, keep=keep, contrast_width=width),
    )


PRETRAIN = {
    "mimic": Recipe(mimic, "ViT-B/16, 200 epochs of MIMIC-CXR", "see the fine-tunings"),
    "tiny": Recipe(tiny, "half a ViT-Tiny at 96, minutes on a CPU", "none published"),
    "small": Recipe(small, "ViT-Tiny at 128, tens of minutes on a CPU", "none published"),
    "small-next": Recipe(
        small_next,
        "small with contrast, and half of the patches visible",
        "at 64 pixels: phantoms, 60 labels, AUROC 0.828 (0.818 to 0.837), published method 0.649 (0.634 to 0.663); no gain on "
        "3,150 real pairs",
    ),
    "mimic-next": Recipe(
        mimic_next, "mimic with contrast, and half of the patches visible", "not measured at this size; see small-next"
    ),
    "mimic-modern": Recipe(mimic_modern, "mimic with 90 % of the patches masked", "not measured"),
}
