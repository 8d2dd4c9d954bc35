"""Configurations: everything that decides a pre-training, a fine-tuning or a segmentation run.

The comments are the help of the commands: those beside the fields explain them, those above name their groups.
Nothing heavy is imported here, so that a command answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mrm.data.config import (
    FINETUNE_CROP,
    AugmentConfig,
    CropConfig,
    Greys,
    OnError,
    ReportConfig,
    Resize,
    check_site_weights,
)
from mrm.models.config import LoraConfig, ModelConfig, Pooling, TargetName
from mrm.system.durations import seconds_of
from mrm.system.errors import ConfigError
from mrm.training.config import LabelLossName, TrainConfig, check_patience, last_blocks


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-train MRM on records of images and reports."""

    # Data
    records: Path  # a CSV with the columns image_path and report_content, or a packed folder
    out: Path  # the folder of the run
    init: Path | None = None  # weights to start from: MRM.pth, a model folder, a run, or a ViT of another program
    val: Path | None = None  # records whose losses choose the best checkpoint
    images: Path | None = None  # the folder that relative image paths start from; by default that of the records
    tokenizer: Path | None = None  # by default the tokenizer of --init, or one trained on the records
    site_weights: dict[str, float] = field(default_factory=dict)  # times that an epoch takes a record: nih=1,vindr=3
    on_error: OnError = "stop"  # when an image cannot be read: stop, or skip it (counted and listed)
    audit: Literal["images", "names"] = "images"  # what is stored of the records for later overlap checks

    # What is trained
    image_weight: float = 1.0  # of the loss of the restored patches
    report_weight: float = 1.0  # of the loss of the restored words
    report_to_encoder: float = 1.0  # weight of that loss on the encoder alone; 0 trains it on images only
    word_weights: Literal["equal", "rarity", "image"] = "equal"  # rare words count more, or those that the image tells
    contrast_weight: float = 0.0  # of the loss that pairs images with their reports; needs --model.contrast-width
    feature_weight: float = 0.0  # of the loss of the averaged encoder's features; needs --model.feature-blocks
    model: ModelConfig = field(default_factory=ModelConfig)

    # Samples
    crop: CropConfig = field(default_factory=CropConfig)
    resize: Resize = "area"  # of the crop: area is fast; bicubic is Pillow's filter, as published (recipe mimic)
    report: ReportConfig = field(default_factory=ReportConfig)

    # Schedule
    max_steps: int | None = None  # shorten the run to this many steps; the schedule is scaled to fit
    extend: bool = False  # prolong the run in --out to more steps or epochs, and follow their schedule
    seed: int = 0  # of the weights, the order of the records, the crops and the masks
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        check_site_weights(self.site_weights)
        if bool(self.contrast_weight) != bool(self.model.contrast_width):
            raise ConfigError(
                f"contrast_weight is {self.contrast_weight:g} and model.contrast_width {self.model.contrast_width}; contrast "
                "needs both, such as --contrast-weight 0.1 --model.contrast-width 128"
            )
        needed = (bool(self.feature_weight), bool(self.model.feature_blocks), self.training.ema is not None)
        if needed[:2] != (False, False) and not all(needed):
            raise ConfigError(
                f"feature_weight is {self.feature_weight:g}, model.feature_blocks {self.model.feature_blocks} and training.ema "
                f"{self.training.ema}; the features of the averaged encoder need all three, such as --feature-weight 1 "
                "--model.feature-blocks 6 --training.ema 0.999"
            )
        if self.word_weights != "equal" and self.report.loss == "all":
            raise ConfigError(
                f"word_weights is {self.word_weights}, but report.loss all counts padding too; take --report.loss masked"
            )


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tune an encoder to findings, classes, numbers or levels. Validation chooses the best checkpoint."""

    # Data
    train: Path  # a published label list or a CSV with class columns
    val: Path  # the same for validation, which chooses the best checkpoint
    init: Path | None  # a model folder, a run, MRM.pth, or another program's encoder; without it random weights
    out: Path  # the folder of the run
    classes: tuple[str, ...] = ()  # label columns; by default all numeric columns of --train
    list_classes: tuple[str, ...] = ()  # names of the labels in a label list, unless --classes gives them
    images: Path | None = None  # the folder that relative image paths start from; by default that of the lists
    uncertain: Literal["ones", "zeros", "ignore"] = "ignore"  # what labels of -1 become
    uncertain_by_class: dict[str, str] = field(default_factory=dict)  # the same for single classes: Edema=ones
    site_weights: dict[str, float] = field(default_factory=dict)  # times that an epoch takes a record: nih=1,vindr=3
    view: Literal["whole", "centre"] = "whole"  # of test images; centre, as published, cuts off the sides
    on_error: OnError = "stop"  # when an image cannot be read: stop, or skip it (counted and listed)
    audit: Literal["images", "names"] = "images"  # what is stored of the records for later overlap checks
    floors: bool = True  # compare at the end with logistic regressions on pixels and HOG, which use no network

    # What is learned
    target: TargetName = "multilabel"  # findings; multiclass (one of several), regression (numbers), ordinal (levels)
    soft_labels: bool = False  # labels of --train may be shares from 0 to 1, such as those of a vote
    teacher: tuple[Path, ...] = ()  # trained models of the same classes, whose mean answers are learned too
    teacher_share: float = 0.5  # of a label; the rest is the label itself. Where none is stated, the teacher's counts

    # What is trained
    tune: str = "full"  # full, lora, head or last-N (blocks): how much is trained; the rest is frozen
    lora: LoraConfig = field(default_factory=LoraConfig)
    scratch: bool = False  # train the architecture of --init from random weights, for comparison
    encoder: str = "vit_base_patch16_224"  # timm's name of the encoder that starts from random weights without --init
    encoder_options: dict[str, Any] = field(default_factory=dict)  # of that encoder: depth=6,embed_dim=192
    probe_first: bool = False  # start from a linear probe instead of a random head; helps with few labels or steps
    pooling: Pooling = "mean"  # of the patches; attention learns where to look, class does so for each class
    image_size: int | None = None  # side of the images in pixels; by default that of --init
    mean: tuple[float, ...] = ()  # of grey values from 0 to 1: one, or three; by default that of --init
    std: tuple[float, ...] = ()  # the deviation, likewise
    loss: LabelLossName = "bce"  # of the labels; weighted, focal and asymmetric are for rare findings
    drop_path: float = 0.1  # probability of skipping a block in training

    # Samples
    crop: CropConfig = FINETUNE_CROP
    resize: Resize = "area"  # of crops and test images: area is fast; bilinear is Pillow's filter, as published
    crop_borders: bool = False  # cut black and white borders off training and test images; the model remembers it
    greys: Greys = "stored"  # matched gives all images one distribution of grey values; the model remembers it
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # after crop and flip; the published recipe has none

    # Schedule
    budget: str | None = None  # time for training, such as 15m: image size, batch and steps are planned to fill it
    max_steps: int | None = None  # shorten the run to this many steps; the schedule is scaled to fit
    extend: bool = False  # prolong the run in --out to more steps or epochs, and follow their schedule
    lr: Literal["recipe", "auto"] = "recipe"  # auto tries five rates in short runs; --training.lr sets one
    patience: int | None = None  # end early, after so many validations in the second half without a gain in AUROC
    patience_gain: float = 0.001  # the least rise of AUROC that is a gain
    seed: int = 0  # of the weights, the order of the records, and the augmentation
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        check_site_weights(self.site_weights)
        last_blocks(self.tune)
        check_patience(self.patience, self.patience_gain)
        if self.budget is not None:
            seconds_of(self.budget, "--budget")
        self._check_target()

    def _check_target(self) -> None:
        """Raises ConfigError for options that do not go together with the target, or with soft labels."""
        if not 0 < self.teacher_share <= 1:
            raise ConfigError(f"--teacher-share must be above 0 and at most 1, not {self.teacher_share:g}")
        if self.target in ("regression", "ordinal") and self.soft_labels:
            raise ConfigError(
                f"--soft-labels are shares of a finding or a class; --target {self.target} has none, leave them out"
            )
        if self.target in ("multiclass", "regression") and self.loss != "bce":
            raise ConfigError(
                f"--loss {self.loss} is for findings; --target {self.target} has a loss of its own, leave --loss out"
            )
        if self.loss in ("focal", "asymmetric") and (self.soft_labels or self.teacher):
            raise ConfigError(
                f"--loss {self.loss} is for labels of 0 and 1; with --soft-labels or --teacher choose bce or weighted"
            )
        if self.target == "regression" and (self.probe_first or self.lr == "auto"):
            raise ConfigError(
                "--probe-first and --lr auto are for findings, classes and levels; leave them out of a regression"
            )


@dataclass(frozen=True)
class SegmentConfig:
    """Fine-tune an encoder to outline classes. The best checkpoint is the one with the highest validation Dice."""

    # Data
    train: Path  # a segmentation folder, whose split `training` is used, or the images of one split
    val: Path  # the same, whose split `validation` is used
    init: Path  # a model folder, a run, MRM.pth, or an encoder of another program: a folder, a file or timm:NAME=PATH
    out: Path  # the folder of the run
    only: Path | None = None  # a list of the training images to use, such as train_10.txt; by default all
    classes: tuple[str, ...] = ("lesion",)  # names of the numbers 1, 2, ... in a mask
    negatives: float = 0.4  # images without a lesion in an epoch, for each one with a lesion
    on_error: OnError = "stop"  # when an image or mask cannot be used: stop, or skip it (counted and listed)
    audit: Literal["images", "names"] = "images"  # what is stored of the records for later overlap checks

    # What is trained
    scratch: bool = False  # train the same architecture from random weights, for comparison
    image_size: tuple[int, int] = (512, 512)  # height and width; multiples of the encoder's patch
    mean: tuple[float, ...] = ()  # of grey values from 0 to 1: one, or three; by default that of --init
    std: tuple[float, ...] = ()  # the deviation, likewise
    blocks: tuple[int, ...] = ()  # four blocks whose features are used; by default 4, 6, 8, 12 of 12, or in proportion
    head: Literal["upernet", "dpt", "linear"] = "upernet"  # the decoder
    channels: int = 768  # of the decoder
    auxiliary: int = 256  # channels of the auxiliary head; 0 leaves it out
    drop_path: float = 0.1  # probability of skipping a block in training
    head_dropout: float = 0.1  # of channels, before the last layer of the head and of the auxiliary head
    feature_norm: bool = False  # a norm on features before UPerNet and auxiliary head; the published ones have none
    relative_positions: bool = False  # learn a bias for each distance of two patches in every block, as published
    layer_scale: float | None = None  # start of a learnt scale of each block's branches; 1.0 is the published one
    focal_weight: float = 2.0  # of the focal loss
    dice_weight: float = 0.5  # of the Dice loss, which as published is divided by two classes: lesion and background
    auxiliary_weight: float = 0.4  # of both losses at the auxiliary head

    # Samples
    crop: CropConfig = field(default_factory=lambda: CropConfig(area=(1.0, 1.0)))  # area 1 is the whole image

    # Schedule
    max_steps: int | None = None  # shorten the run to this many steps; the schedule is scaled to fit
    extend: bool = False  # prolong the run in --out to more steps or epochs, and follow their schedule
    patience: int | None = None  # end early, after so many validations in the second half without a gain in Dice
    patience_gain: float = 0.001  # the least rise of Dice that is a gain
    seed: int = 0  # of the weights, the order of the images, and the crops
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        check_patience(self.patience, self.patience_gain)
