"""The recipes of `mrm finetune`: the published fine-tunings, by LoRA too, modern ones, and small ones for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mrm.corpora import class_names
from mrm.data.config import STRONG, AugmentConfig, CropConfig
from mrm.models.config import LoraConfig
from mrm.recipes.configurations import FinetuneConfig
from mrm.recipes.recipe import Recipe
from mrm.training.config import TrainConfig


def published_training(steps: int, lr: float, warmup: int) -> TrainConfig:
    """The published fine-tuning: SGD, momentum 0.9, no weight decay, gradient norm 1, batch 96, cosine."""
    every = max(50, min(1000, steps // 20))
    return TrainConfig(
        epochs=None, steps=steps, warmup_steps=warmup, global_batch=96, optimizer="sgd", lr=lr, lr_batch=None,
        weight_decay=0.0, clip=1.0, log_every=20, validate_every=every, save_every=every,
    )  # fmt: skip


# What uncertain labels became in the published CheXpert lists; this holds in all of their 29,025 training and validation
# lines. It matters for labels in a CSV only: the lists contain 0 and 1.
CHEXPERT_UNCERTAIN = {
    "Atelectasis": "ones",
    "Cardiomegaly": "zeros",
    "Consolidation": "zeros",
    "Edema": "ones",
    "Pleural Effusion": "ones",
}


LIST_CLASSES = {"nih": class_names.NIH, "chexpert": class_names.CHEXPERT, "rsna": class_names.RSNA}


def _classes(name: str) -> dict[str, Any]:
    """The settings of a recipe that depend on the classes of its data set."""
    corpus = name.partition("-")[0]
    policy = dict(CHEXPERT_UNCERTAIN) if corpus == "chexpert" else {}
    return {"list_classes": LIST_CLASSES.get(corpus, ()), "uncertain_by_class": policy}


def _published(name: str) -> Callable[..., FinetuneConfig]:
    steps, lr, warmup, _ = PUBLISHED[name]

    def make(train: Path, val: Path, init: Path | None, out: Path, **where: Any) -> FinetuneConfig:
        """The published fine-tuning of this data set and share of labels."""
        training = published_training(steps, lr, warmup)
        settings = {"training": training, "resize": "bilinear", **_classes(name), **where}
        return FinetuneConfig(train, val, init, out, **settings)

    return make


def tiny_finetune(train: Path, val: Path, init: Path | None, out: Path, **where: Any) -> FinetuneConfig:
    """AdamW with layer decay and an average of weights, 300 steps of batch 32: minutes on two CPU cores."""
    training = TrainConfig(
        epochs=None, steps=300, warmup_steps=30, global_batch=32, lr=1e-3, lr_batch=None, betas=(0.9, 0.999),
        layer_decay=0.75, clip=1.0, precision="fp32", ema=0.98, log_every=10, validate_every=50, save_every=50,
    )  # fmt: skip
    crop = CropConfig(area=(0.5, 1.0))
    return FinetuneConfig(train, val, init, out, crop=crop, training=training, **where)


ENCODER = "convnext_atto"  # learns from few images what a ViT needs many for
# What a scanner and its operator change, and a finding does not: exposure, contrast, post-processing, frame and markers.
OTHER_DEVICES = AugmentConfig(rotate=10, brightness=0.1, contrast=0.3, gamma=0.3, equalise=0.3, frame=0.2, letters=0.2)


def cpu_finetune(train: Path, val: Path, init: Path | None, out: Path, **where: Any) -> FinetuneConfig:
    """The recipe `tiny` as long as there is time: size, batch and steps are measured and planned to fill 15 minutes.

    Without `init`, ENCODER starts from random weights. Augmentation is that of other devices; crops are large, since small
    ones slow down how fast a short run learns.
    """
    plain = tiny_finetune(train, val, init, out)
    settings = {"budget": "15m", "encoder": ENCODER, "augment": OTHER_DEVICES, "crop": CropConfig(area=(0.8, 1.0))}
    return replace(plain, **{**settings, **where})


# The modern recipes. Image-only work on chest radiographs (Xiao et al., WACV 2023, arXiv:2210.12843) found that layer decay
# and the strength of augmentation decide how well fine-tuning works, and that masking 90 % of the patches in pre-training
# beats 75 %. Whether this holds here is measured in benchmarks/label_efficiency; the published recipes stay the default
# until intervals say otherwise.


def modern_training(steps: int, batch: int = 96) -> TrainConfig:
    """AdamW with layer decay and an average of the weights, in as many steps as the published fine-tuning."""
    every = max(50, min(1000, steps // 20))
    return TrainConfig(
        epochs=None, steps=steps, warmup_steps=steps // 20, global_batch=batch, lr=2.5e-4, lr_batch=None,
        betas=(0.9, 0.999), layer_decay=0.65, clip=1.0, ema=0.999 if steps > 3000 else 0.99, log_every=20,
        validate_every=every, save_every=every,
    )  # fmt: skip


def _modern(name: str) -> Callable[..., FinetuneConfig]:
    steps = PUBLISHED[name].steps

    def make(train: Path, val: Path, init: Path | None, out: Path, **where: Any) -> FinetuneConfig:
        """The modern fine-tuning of this data set and share of labels."""
        settings = {
            "training": modern_training(steps), "crop": CropConfig(area=(0.5, 1.0)), "augment": STRONG, "drop_path": 0.2,
            **_classes(name), **where,
        }  # fmt: skip
        return FinetuneConfig(train, val, init, out, **settings)

    return make


def tiny_modern(train: Path, val: Path, init: Path | None, out: Path, **where: Any) -> FinetuneConfig:
    """The recipe `tiny` with strong augmentation and more drop path."""
    return replace(tiny_finetune(train, val, init, out), augment=STRONG, drop_path=0.2, **where)


# LoRA. The authors of MRM compared it with full fine-tuning (Lian et al. 2024, arXiv:2401.12215): better in 13 of 18 tasks.


def lora_training(lr: float) -> TrainConfig:
    """The published fine-tuning by LoRA: SGD, momentum 0.9, no weight decay, batch 64, layer decay 0.65, 100 epochs."""
    return TrainConfig(
        epochs=100, warmup_epochs=5, global_batch=64, optimizer="sgd", lr=lr, lr_batch=None, weight_decay=0.0,
        layer_decay=0.65, clip=1.0, log_every=20, validate_epochs=1,
    )  # fmt: skip


def _lora(name: str) -> Callable[..., FinetuneConfig]:
    rank, lr = LORA[name]

    def make(train: Path, val: Path, init: Path | None, out: Path, **where: Any) -> FinetuneConfig:
        """The published fine-tuning by LoRA of this data set and share of labels."""
        settings = {
            "training": lora_training(lr), "tune": "lora", "lora": LoraConfig(rank, alpha=32, dropout=0.1),
            "resize": "bilinear", **_classes(name), **where,
        }  # fmt: skip
        return FinetuneConfig(train, val, init, out, **settings)

    return make


def tiny_lora(train: Path, val: Path, init: Path | None, out: Path, **where: Any) -> FinetuneConfig:
    """The recipe `tiny` by LoRA, whose few weights learn at three times its rate."""
    plain = tiny_finetune(train, val, init, out)
    return replace(plain, tune="lora", training=replace(plain.training, lr=3 * plain.training.lr), **where)


class Lora(NamedTuple):
    """The published settings of a fine-tuning by LoRA."""

    rank: int
    lr: float  # at its peak


LORA = {
    "nih-1": Lora(4, 0.05),
    "nih-10": Lora(8, 0.05),
    "nih-100": Lora(32, 0.2),
    "chexpert-1": Lora(4, 0.02),
    "chexpert-10": Lora(16, 0.05),
    "chexpert-100": Lora(32, 0.01),
    "rsna-1": Lora(4, 0.01),
    "rsna-10": Lora(32, 0.01),
    "rsna-100": Lora(32, 0.01),
}
LORA_AUROC = {"nih-1": 80.6}  # mean on the test set in percent; of the others we know no number


class Published(NamedTuple):
    """The published schedule of a fine-tuning, and the mean AUROC on the test set in percent, None where there is none."""

    steps: int
    lr: float  # at its peak
    warmup: int
    auroc: float | None


PUBLISHED = {
    "nih-1": Published(3_000, 3e-2, 50, 79.4),
    "nih-10": Published(30_000, 3e-3, 500, 84.0),
    "nih-100": Published(200_000, 3e-3, 5_000, 85.9),
    "chexpert-1": Published(2_000, 3e-3, 150, 88.5),
    "chexpert-10": Published(60_000, 5e-4, 1_500, 88.5),
    "chexpert-100": Published(200_000, 5e-4, 15_000, 88.7),
    "rsna-1": Published(2_000, 3e-3, 50, 91.3),
    "rsna-10": Published(10_000, 5e-4, 200, 92.7),
    "rsna-100": Published(50_000, 5e-4, 2_000, 93.3),
    "covid": Published(1_000, 3e-2, 50, None),
}


def _published_recipe(name: str) -> Recipe:
    steps, lr, warmup, auroc = PUBLISHED[name]
    expect = "varies: two tasks, five splits" if auroc is None else f"AUROC {auroc}"
    return Recipe(_published(name), f"{steps:,} steps, peak {lr:g}, warm-up {warmup:,}", expect)


def _modern_recipe(name: str) -> Recipe:
    steps, auroc = PUBLISHED[name].steps, PUBLISHED[name].auroc
    expect = "not measured" if auroc is None else f"not measured (published {auroc})"
    return Recipe(_modern(name), f"{steps:,} steps, AdamW, strong augmentation", expect)


def _lora_recipe(name: str) -> Recipe:
    rank, lr = LORA[name]
    full, auroc = PUBLISHED[name].auroc, LORA_AUROC.get(name)
    expect = f"AUROC {auroc}" if auroc else f"not measured (full fine-tuning {full})"
    return Recipe(_lora(name), f"100 epochs, LoRA of rank {rank}, peak {lr:g}", expect)


FINETUNE = {
    **{name: _published_recipe(name) for name in PUBLISHED},
    "cpu": Recipe(cpu_finetune, "as much as 15 minutes on this machine allow (--budget)", "none published"),
    "tiny": Recipe(tiny_finetune, "AdamW for a small ViT on a CPU", "none published"),
    **{f"{name}-modern": _modern_recipe(name) for name in PUBLISHED},
    **{f"{name}-lora": _lora_recipe(name) for name in LORA},
    "tiny-lora": Recipe(tiny_lora, "tiny by LoRA", "none published"),
    "tiny-modern": Recipe(tiny_modern, "tiny with strong augmentation", "none published"),
}
