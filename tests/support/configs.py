"""Tiny models and short runs of them: seconds on a CPU, with everything switched on that a long run has."""

from dataclasses import replace
from pathlib import Path

from mrm import recipes
from mrm.data.config import CropConfig
from mrm.models.classifier import ClassifierConfig
from mrm.models.config import ModelConfig
from mrm.training.config import TrainConfig

MICRO = ModelConfig(
    encoder="vit_tiny_patch16_224",
    encoder_options={"depth": 2, "embed_dim": 48, "num_heads": 3},
    image_size=64,
    keep=4,
    decoder_width=48,
    decoder_depth=1,
    decoder_heads=3,
    vocabulary=300,
    report_width=48,
    report_depth=1,
    report_heads=3,
    report_mlp=96,
)
SMALL = ModelConfig(
    encoder="vit_tiny_patch16_224",
    encoder_options={"depth": 2, "embed_dim": 48, "num_heads": 3},
    image_size=64,
    keep=4,
    decoder_width=48,
    decoder_depth=1,
    decoder_heads=3,
    vocabulary=50,
    report_length=20,
    report_width=48,
    report_depth=2,
    report_heads=3,
    report_mlp=96,
)
ENCODER = ClassifierConfig(("a",), "vit_tiny_patch16_224", {"depth": 2, "embed_dim": 48, "num_heads": 3}, image_size=64)


def pretrain_config(phantoms: Path, out: Path, **changes):
    """Ten steps of eight of 48 phantoms: a step in the middle of an epoch, dropout on, checkpoints every four."""
    training = TrainConfig(
        epochs=None, steps=10, warmup_steps=2, global_batch=8, lr=1e-3, lr_batch=None, precision="fp32",
        log_every=1, validate_every=5, save_every=4, workers=0,
    )  # fmt: skip
    training = replace(training, **{k: changes.pop(k) for k in list(changes) if hasattr(training, k)})
    return recipes.PretrainConfig(phantoms / "records.csv", out, **{"model": MICRO, "training": training, **changes})


def finetune_config(phantoms: Path, init: Path, out: Path, **changes):
    """Twelve steps of sixteen; the phantoms stand in for validation too."""
    file = changes.pop("train", phantoms / "records.csv")
    made = recipes.tiny_finetune(file, changes.pop("val", phantoms / "records.csv"), init, out, floors=False)
    training = replace(
        made.training, steps=12, warmup_steps=2, global_batch=16, validate_every=6, save_every=6, workers=0
    )
    training = replace(training, **{k: changes.pop(k) for k in list(changes) if hasattr(training, k)})
    return replace(made, training=training, **changes)


def segment_config(folder: Path, encoder: Path, out: Path, **changes):
    """Six steps of four: a step in the middle of an epoch, drop path on, crops and flips, checkpoints every two."""
    training = TrainConfig(
        epochs=None, steps=6, warmup_steps=1, global_batch=4, lr=1e-3, lr_batch=None, layer_decay=0.75, precision="fp32",
        schedule="polynomial", log_every=1, validate_every=3, save_every=2, workers=0,
    )  # fmt: skip
    training = replace(training, **{k: changes.pop(k) for k in list(changes) if hasattr(training, k)})
    usual = {"classes": ("disc",), "image_size": (64, 48), "channels": 16, "auxiliary": 8, "audit": "names"}
    crop = CropConfig(area=(0.5, 1.0))
    return recipes.SegmentConfig(
        folder, folder, encoder, out, training=training, crop=crop, **{**usual, "drop_path": 0.2, **changes}
    )
