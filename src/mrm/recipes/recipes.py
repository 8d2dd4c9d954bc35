"""Recipes: named complete configurations, each with the published number to expect.

A recipe is a function of where things are (`records`, `out`, ...) that returns a frozen configuration;
change it with `dataclasses.replace`, from the command line, or in the YAML file a run leaves behind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cattrs
import cattrs.preconf.pyyaml
import cattrs.v
import yaml

from mrm.data.config import STRONG, AugmentConfig, CropConfig, OnError, ReportConfig
from mrm.models.config import ModelConfig
from mrm.system.errors import AugmentError, ConfigError, TrainingError
from mrm.training.config import TrainConfig


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-train MRM on records of images and reports."""

    records: Path  # training.csv: image_path, report_content
    out: Path  # the run's folder
    init: Path | None = None  # MAE ViT weights, MRM.pth, a model folder or a run to start from
    val: Path | None = None  # records whose losses choose the best checkpoint
    images: Path | None = None  # where relative image paths are; else beside the records
    tokenizer: Path | None = None  # else the one of --init, else trained on the records
    max_steps: int | None = None  # squeeze the run into so many steps
    seed: int = 0
    on_error: OnError = "stop"  # an image that cannot be read: stop, or skip (counted and listed)
    audit: Literal["images", "names"] = "images"  # how later tests find records seen here; images are read once
    image_weight: float = 1.0
    report_weight: float = 1.0
    model: ModelConfig = field(default_factory=ModelConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    training: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tune an encoder to findings. The best checkpoint is the one of the best validation AUROC."""

    train: Path  # a published label list or a CSV with class columns
    val: Path
    init: Path  # what to start from: a model folder, a run, MRM.pth, MAE's or timm's ViT weights
    out: Path  # the run's folder
    scratch: bool = False  # the same architecture from random weights, to compare with
    classes: tuple[str, ...] = ()  # label columns; else all numeric ones of --train
    images: Path | None = None  # where relative image paths are; else beside the lists
    uncertain: Literal["ones", "zeros", "ignore"] = "ignore"  # what labels of -1 become ...
    uncertain_by_class: dict[str, str] = field(default_factory=dict)  # ... or per class
    view: Literal["whole", "centre"] = "whole"  # test view; the published one, "centre", cuts the sides of radiographs
    drop_path: float = 0.1
    pooling: Literal["mean", "attention"] = "mean"  # of the patches; attention learns where to look
    probe_first: bool = False  # start from a linear probe instead of a blank head: few labels, few steps
    max_steps: int | None = None  # squeeze the run into so many steps
    seed: int = 0
    on_error: OnError = "stop"  # an image that cannot be read: stop, or skip (counted and listed)
    audit: Literal["images", "names"] = "images"  # how later tests find records seen here; images are read once
    crop: CropConfig = field(default_factory=CropConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # after crop and flip; the published one: nothing
    training: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class SegmentConfig:
    """Fine-tune an encoder to outline classes. The best checkpoint is the one of the best validation Dice."""

    train: Path  # a segmentation folder, of which `training` is taken, or the images of one split of it
    val: Path  # the same, of which `validation` is taken
    init: Path  # what to start from: a model folder, a run, MRM.pth, MAE's or timm's ViT weights
    out: Path  # the run's folder
    only: Path | None = None  # a list of the training images to take, train_10.txt say; else all
    scratch: bool = False  # the same architecture from random weights, to compare with
    classes: tuple[str, ...] = ("lesion",)  # what the numbers 1, 2, ... in a mask are called
    image_size: tuple[int, int] = (512, 512)  # height, width; multiples of the encoder's patch
    blocks: tuple[int, ...] = ()  # features after these four blocks; none = 4, 6, 8, 12 of 12, others in proportion
    head: Literal["upernet", "dpt", "linear"] = "upernet"
    channels: int = 768  # of the decoder
    auxiliary: int = 256  # channels of the auxiliary head; 0 = none
    drop_path: float = 0.1
    negatives: float = 0.4  # images without lesion an epoch, for each with one
    focal_weight: float = 2.0
    dice_weight: float = 1.0
    auxiliary_weight: float = 0.4  # of both losses, for the auxiliary head
    max_steps: int | None = None  # squeeze the run into so many steps
    seed: int = 0
    on_error: OnError = "stop"  # an image or mask that cannot be used: stop, or skip (counted and listed)
    audit: Literal["images", "names"] = "images"  # how later tests find records seen here; images are read once
    crop: CropConfig = field(default_factory=lambda: CropConfig(area=(1.0, 1.0)))  # from area 1 on: the whole image
    training: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Recipe:
    """A configuration by name. `make` takes what the data's place decides and returns it whole."""

    make: Callable[..., Any]
    about: str
    expect: str  # the published result


# Pre-training -----------------------------------------------------------------------------------------


def mimic(records: Path, out: Path, **where: Any) -> PretrainConfig:
    """The published pre-training: ViT-B/16 at 224 restoring 448, 200 epochs, global batch 256."""
    return PretrainConfig(records, out, **where)


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
)
SMALL_MODEL = replace(
    TINY_MODEL, encoder_options={}, image_size=128, keep=16, vocabulary=8000,
    report_width=192, report_depth=3, report_mlp=768,
)  # fmt: skip


def cpu_training(epochs: float, warmup: float) -> TrainConfig:
    """AdamW at 1e-3 for batches of 64, in the precision that a CPU is fast in."""
    return TrainConfig(
        epochs=epochs, warmup_epochs=warmup, global_batch=64, lr=1e-3, lr_batch=None,
        precision="fp32", log_every=10, validate_every=200, save_every=200,
    )  # fmt: skip


def tiny(records: Path, out: Path, **where: Any) -> PretrainConfig:
    """Half a ViT-Tiny at 96 restoring 192: minutes on two CPU cores."""
    return PretrainConfig(records, out, model=TINY_MODEL, training=cpu_training(20, 1), **where)


def small(records: Path, out: Path, **where: Any) -> PretrainConfig:
    """ViT-Tiny at 128 restoring 256: tens of minutes on two CPU cores."""
    return PretrainConfig(records, out, model=SMALL_MODEL, training=cpu_training(40, 4), **where)


# Fine-tuning ------------------------------------------------------------------------------------------


def published(steps: int, lr: float, warmup: int) -> TrainConfig:
    """The published fine-tuning: SGD, momentum 0.9, no weight decay, gradient norm 1, batch 96, cosine."""
    every = max(50, min(1000, steps // 20))
    return TrainConfig(
        epochs=None, steps=steps, warmup_steps=warmup, global_batch=96, optimizer="sgd", lr=lr, lr_batch=None,
        weight_decay=0.0, clip=1.0, log_every=20, validate_every=every, save_every=every,
    )  # fmt: skip


# What uncertain labels became in the published CheXpert lists (it holds in all of their 29,025 training and validation
# lines). It concerns a CSV; the lists hold 0 and 1.
CHEXPERT_UNCERTAIN = {
    "Atelectasis": "ones",
    "Cardiomegaly": "zeros",
    "Consolidation": "zeros",
    "Edema": "ones",
    "Pleural Effusion": "ones",
}


def _published(name: str, steps: int, lr: float, warmup: int) -> Callable[..., FinetuneConfig]:
    policies = CHEXPERT_UNCERTAIN if name.startswith("chexpert") else {}

    def make(train: Path, val: Path, init: Path, out: Path, **where: Any) -> FinetuneConfig:
        """The published fine-tuning of this data set and share of labels."""
        settings = {"training": published(steps, lr, warmup), "uncertain_by_class": dict(policies), **where}
        return FinetuneConfig(train, val, init, out, **settings)

    return make


def tiny_finetune(train: Path, val: Path, init: Path, out: Path, **where: Any) -> FinetuneConfig:
    """AdamW with layer decay and an average of weights, 300 steps of 32: minutes on two CPU cores."""
    training = TrainConfig(
        epochs=None, steps=300, warmup_steps=30, global_batch=32, lr=1e-3, lr_batch=None, betas=(0.9, 0.999),
        layer_decay=0.75, clip=1.0, precision="fp32", ema=0.98, log_every=10, validate_every=50, save_every=50,
    )  # fmt: skip
    crop = CropConfig(area=(0.5, 1.0))
    return FinetuneConfig(train, val, init, out, crop=crop, training=training, **where)


# The better recipe, or so others found -------------------------------------------------------------------
#
# Image-only work on chest radiographs (Xiao et al., WACV 2023, arXiv:2210.12843) found layer decay and the strength of
# augmentation decisive in fine-tuning, and 90 % of patches masked better than 75 % in pre-training. Whether it is so
# here is measured in benchmarks/label_efficiency; the published recipes stay the default until intervals say otherwise.


def modern(steps: int, batch: int = 96) -> TrainConfig:
    """AdamW with layer decay and an average of the weights, in as many steps as the published fine-tuning."""
    every = max(50, min(1000, steps // 20))
    return TrainConfig(
        epochs=None, steps=steps, warmup_steps=steps // 20, global_batch=batch, lr=2.5e-4, lr_batch=None,
        betas=(0.9, 0.999), layer_decay=0.65, clip=1.0, ema=0.999 if steps > 3000 else 0.99, log_every=20,
        validate_every=every, save_every=every,
    )  # fmt: skip


def _modern(name: str, steps: int) -> Callable[..., FinetuneConfig]:
    policies = CHEXPERT_UNCERTAIN if name.startswith("chexpert") else {}

    def make(train: Path, val: Path, init: Path, out: Path, **where: Any) -> FinetuneConfig:
        """The modern fine-tuning of this data set and share of labels."""
        settings = {
            "training": modern(steps), "crop": CropConfig(area=(0.5, 1.0)), "augment": STRONG, "drop_path": 0.2,
            "uncertain_by_class": dict(policies), **where,
        }  # fmt: skip
        return FinetuneConfig(train, val, init, out, **settings)

    return make


def tiny_modern(train: Path, val: Path, init: Path, out: Path, **where: Any) -> FinetuneConfig:
    """The recipe `tiny` with strong augmentation and more drop path."""
    return replace(tiny_finetune(train, val, init, out), augment=STRONG, drop_path=0.2, **where)


def mimic_modern(records: Path, out: Path, **where: Any) -> PretrainConfig:
    """The published pre-training with 20 of 196 patches visible (90 % masked) instead of 49 (75 %).

    Neighbouring patches of a radiograph tell more of each other than those of a photograph, so more must be hidden
    before restoring them asks for anatomy. The encoder sees 20 patches, so a step is cheaper too.
    """
    return PretrainConfig(records, out, model=replace(ModelConfig(), keep=20), **where)


# Segmentation -----------------------------------------------------------------------------------------


def outlining(steps: int, lr: float, warmup: int, batch: int, **changes: Any) -> TrainConfig:
    """AdamW with layer decay, polynomial decay after a linear warm-up."""
    every = max(50, min(2000, steps // 20))
    usual = TrainConfig(
        epochs=None, steps=steps, warmup_steps=warmup, global_batch=batch, lr=lr, lr_batch=None,
        betas=(0.9, 0.999), layer_decay=0.65, schedule="polynomial", log_every=20, validate_every=every, save_every=every,
    )  # fmt: skip
    return replace(usual, **changes)


def _siim(steps: int, warmup: int) -> Callable[..., SegmentConfig]:
    def make(train: Path, val: Path, init: Path, out: Path, **where: Any) -> SegmentConfig:
        """The published segmentation of this share of SIIM-ACR Pneumothorax."""
        training = outlining(steps, 2e-5, warmup, batch=8)
        return SegmentConfig(train, val, init, out, **{"classes": ("pneumothorax",), "training": training, **where})

    return make


def tiny_segment(train: Path, val: Path, init: Path, out: Path, **where: Any) -> SegmentConfig:
    """A small decoder at 192 with an average of weights, 600 steps of 8: minutes on two CPU cores."""
    training = outlining(600, 1e-3, 50, batch=8, layer_decay=0.75, clip=1.0, precision="fp32", ema=0.98, log_every=10)
    return SegmentConfig(
        train, val, init, out, image_size=(192, 192), channels=64, auxiliary=32,
        crop=CropConfig(area=(0.6, 1.0)), training=training, **where,
    )  # fmt: skip


# name: steps, peak learning rate, warm-up, mean AUROC published for the test set (percent)
FINETUNING = {
    "nih-1": (3_000, 3e-2, 50, "79.4"),
    "nih-10": (30_000, 3e-3, 500, "84.0"),
    "nih-100": (200_000, 3e-3, 5_000, "85.9"),
    "chexpert-1": (2_000, 3e-3, 150, "88.5"),
    "chexpert-10": (60_000, 5e-4, 1_500, "88.5"),
    "chexpert-100": (200_000, 5e-4, 15_000, "88.7"),
    "rsna-1": (2_000, 3e-3, 50, "91.3"),
    "rsna-10": (10_000, 5e-4, 200, "92.7"),
    "rsna-100": (50_000, 5e-4, 2_000, "93.3"),
    "covid": (1_000, 3e-2, 50, "not stated here: two tasks, five splits each"),
}

PRETRAIN = {
    "mimic": Recipe(
        mimic, "ViT-B/16, 200 epochs of MIMIC-CXR", "fine-tunes to the numbers of nih-*, chexpert-*, rsna-*"
    ),
    "tiny": Recipe(tiny, "half a ViT-Tiny at 96, minutes on a CPU", "none published"),
    "small": Recipe(small, "ViT-Tiny at 128, tens of minutes on a CPU", "none published"),
    "mimic-modern": Recipe(mimic_modern, "mimic with 90 % of the patches masked instead of 75 %", "not measured"),
}
FINETUNE = {
    name: Recipe(
        _published(name, steps, lr, warmup),
        f"{steps:,} steps, peak {lr:g}, warm-up {warmup:,}",
        f"AUROC {auroc}",
    )
    for name, (steps, lr, warmup, auroc) in FINETUNING.items()
} | {"tiny": Recipe(tiny_finetune, "AdamW for a small ViT on a CPU", "none published")}
FINETUNE |= {
    f"{name}-modern": Recipe(
        _modern(name, steps),
        f"{steps:,} steps, AdamW, layer decay, strong augmentation",
        f"not measured; published recipe {auroc}" if auroc[0].isdigit() else "not measured",
    )
    for name, (steps, _, _, auroc) in FINETUNING.items()
} | {"tiny-modern": Recipe(tiny_modern, "tiny with strong augmentation and drop path 0.2", "none published")}


SEGMENT = {
    "siim-10": Recipe(_siim(5_000, 100), "5,000 steps, peak 2e-05, warm-up 100", "Dice 73.2, empty images as 1"),
    "siim-100": Recipe(
        _siim(160_000, 1_500), "160,000 steps, peak 2e-05, warm-up 1,500", "Dice 91.4, empty images as 1"
    ),
    "tiny": Recipe(tiny_segment, "a small decoder at 192, minutes on a CPU", "none published"),
}


def find(recipes: dict[str, Recipe], name: str) -> Recipe:
    """The recipe of that name. Raises ConfigError with the names there are."""
    if name not in recipes:
        raise ConfigError(f"no recipe {name!r}; there are {', '.join(recipes)}")
    return recipes[name]


# Configurations as files ------------------------------------------------------------------------------

_converter = cattrs.preconf.pyyaml.make_converter(forbid_extra_keys=True)
_converter.register_unstructure_hook(Path, str)
_converter.register_structure_hook(Path, lambda value, _: Path(value))


def _exactly(kind: type) -> Callable[[Any, Any], Any]:
    """Take a value of this very type; `int(6.5)` and `bool("false")` would change it without a word."""

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{value!r} is no {kind.__name__}")
        return value

    return structure


for _kind in (bool, int):
    _converter.register_structure_hook(_kind, _exactly(_kind))


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain data."""
    return _converter.unstructure(config)


def to_yaml(config: Any) -> str:
    """A configuration as YAML, which `from_yaml` reads back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def from_yaml(kind: type, text: str, source: str = "configuration") -> Any:
    """The configuration of class `kind` in a YAML text. Raises ConfigError with the setting that is wrong."""
    try:
        settings = yaml.safe_load(text)
        if not isinstance(settings, dict):
            raise ConfigError(f"{source}: no settings in it; lines like `seed: 0` are expected")
        return _converter.structure(settings, kind)
    except (cattrs.BaseValidationError, yaml.YAMLError, TypeError) as error:
        why = (
            "; ".join(cattrs.transform_error(error, format_exception=_told))
            if isinstance(error, cattrs.BaseValidationError)
            else str(error)
        )
        raise ConfigError(f"{source}: {why}") from error


def _told(error: BaseException, kind: type | None) -> str:
    """What a dataclass of ours has to say of a setting is said; the rest as cattrs says it."""
    own = isinstance(error, AugmentError | TrainingError)
    return str(error) if own else cattrs.v.format_exception(error, kind)


def differences(before: Any, after: Any, at: str = "") -> list[str]:
    """Settings in which two configurations of one class differ: `training.lr: 0.1, now 0.2`."""
    if dataclasses.is_dataclass(before):
        parts = [(f.name, getattr(before, f.name), getattr(after, f.name)) for f in dataclasses.fields(before)]
        return [d for name, a, b in parts for d in differences(a, b, f"{at}.{name}" if at else name)]
    return [] if before == after else [f"{at}: {before}, now {after}"]


__all__ = [
    "FINETUNE",
    "PRETRAIN",
    "SEGMENT",
    "ConfigError",
    "FinetuneConfig",
    "PretrainConfig",
    "Recipe",
    "SegmentConfig",
    "find",
    "replace",
]
