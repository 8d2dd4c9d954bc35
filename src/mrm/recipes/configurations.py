"""Configurations: everything that decides a pre-training, a fine-tuning or a segmentation run.

Nothing heavy is imported here, so that a command answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mrm.data.config import AugmentConfig, CropConfig, OnError, ReportConfig
from mrm.models.config import ModelConfig
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
