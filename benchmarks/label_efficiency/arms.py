"""What the study compares: sizes (how large everything is) and arms (what an encoder was pre-trained with)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mrm import recipes
from mrm.data.config import CropConfig, ReportConfig
from mrm.models.config import ModelConfig
from mrm.recipes import FinetuneConfig, PretrainConfig
from mrm.training.config import TrainConfig

IMAGES = "images"  # beside the records to pre-train on, a file or a packed folder: the same without their texts
SETS = ("pretrain", "train", "val", "test")  # phantoms; the place is the seed, so no patient is in two of them


@dataclass(frozen=True)
class Pretraining:
    """What every arm of a part has in common: model, budget, crops and texts."""

    model: ModelConfig
    steps: int
    batch: int
    lr: float
    crop: CropConfig
    report: ReportConfig


@dataclass(frozen=True)
class Size:
    """How large a study is. The same budget holds for every arm."""

    phantom: Pretraining
    real: Pretraining
    phantoms: dict[str, int]  # how many in each of SETS
    finetune_steps: int
    finetune_batch: int = 32
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)  # of `train`
    draws: int = 5  # label subsets a fraction, for the probe
    finetune_draws: int = 3
    pairs: int = 500  # held-out reports that are told from other patients'
    captions_only: bool = False  # real images to pre-train on: those of ROCOv2 with their captions, and no others

    @property
    def image(self) -> int:
        """Pixels a side of a phantom: what the 2x target needs."""
        return self.phantom.model.target_size


def small_model(width: int, depth: int, size: int, patch: int, keep: int, report: int, **changes: Any) -> ModelConfig:
    """A Vision Transformer small enough for a CPU, with decoders in proportion."""
    model = ModelConfig(
        encoder="vit_tiny_patch16_224",
        encoder_options={"depth": depth, "embed_dim": width, "num_heads": width // 32, "patch_size": patch},
        image_size=size,
        keep=keep,
        decoder_width=64,
        decoder_depth=1,
        decoder_heads=4,
        vocabulary=800,
        report_length=48,
        report_width=report,
        report_depth=2,
        report_heads=4,
        report_mlp=4 * report,
        tied_words=True,
        start="normal",  # as the small recipes; the arm `published-start` has the other
        report_dropout=0.0,  # its noise drowns what little of the image a small encoder tells at first
    )
    return replace(model, **changes)


# What makes words learnable from so few images: a flip turns "left" into a lie, a small crop cuts findings off, and a
# phantom's findings and impression say the same twice, so a word masked in one is read off the other. The impression
# alone asks for the image, and has a third of the tokens. The same for every arm.
WHOLE = CropConfig(area=(0.8, 1.0), flip=0.0)
IMPRESSION = ReportConfig(sections=("impression",))
LARGE_PART = CropConfig(area=(0.4, 1.0), flip=0.0)  # of a real image

SIZES = {
    "quick": Size(
        Pretraining(small_model(32, 1, 32, 8, 4, 32), 6, 8, 1e-3, WHOLE, IMPRESSION),
        Pretraining(small_model(32, 1, 32, 8, 4, 32), 6, 8, 1e-3, LARGE_PART, ReportConfig()),
        {"pretrain": 64, "train": 60, "val": 60, "test": 80},
        finetune_steps=4, finetune_batch=8, fractions=(0.5, 1.0), draws=2, finetune_draws=2, pairs=40,
    ),
    "small": Size(
        Pretraining(small_model(128, 4, 64, 8, 16, 64), 2_500, 32, 1e-3, WHOLE, IMPRESSION),
        Pretraining(
            small_model(128, 6, 64, 8, 16, 96, decoder_heads=2, vocabulary=2000, report_length=64),
            500, 64, 2e-3, LARGE_PART, ReportConfig(),
        ),
        {"pretrain": 4_000, "train": 1_500, "val": 500, "test": 1_000},
        finetune_steps=200, fractions=(0.04, 0.2, 1.0),
    ),
    "large": Size(
        Pretraining(small_model(192, 8, 128, 16, 16, 128), 25_000, 32, 1e-3, WHOLE, IMPRESSION),
        Pretraining(
            small_model(192, 8, 128, 16, 16, 128, vocabulary=2000, report_length=64),
            10_000, 64, 1e-3, LARGE_PART, ReportConfig(),
        ),
        {"pretrain": 40_000, "train": 10_000, "val": 2_000, "test": 5_000},
        finetune_steps=1_000,
    ),
}  # fmt: skip

# So that contrast has a text for every image of a step, and sees each pair 24 times
SIZES["pairs"] = replace(SIZES["small"], real=replace(SIZES["small"].real, steps=1_200), captions_only=True)


# Pre-training -------------------------------------------------------------------------------------------


def pretraining(common: Pretraining, records: Path, tokenizer: Path, out: Path, seed: int) -> PretrainConfig:
    """Both losses, as the recipe has them; the other arms change one thing each."""
    training = TrainConfig(
        epochs=None, steps=common.steps, warmup_steps=common.steps // 10, global_batch=common.batch, lr=common.lr,
        lr_batch=None, clip=1.0, precision="fp32", log_every=max(1, common.steps // 25),
        validate_every=max(1, common.steps // 5), save_every=max(1, common.steps // 5), keep=1, workers=0, trackers=(),
    )  # fmt: skip
    return PretrainConfig(
        records, out, tokenizer=tokenizer, seed=seed, audit="names", model=common.model, crop=common.crop,
        report=common.report, training=training,
    )  # fmt: skip


Change = Callable[[PretrainConfig], PretrainConfig]


def _model(config: PretrainConfig, **changes: Any) -> PretrainConfig:
    return replace(config, model=replace(config.model, **changes))


def _words(config: PretrainConfig, **changes: Any) -> PretrainConfig:
    return replace(config, report=replace(config.report, **changes))


def _all_hidden(config: PretrainConfig) -> PretrainConfig:
    """The cross decoder with as many targets as the full one has."""
    patches = (config.model.image_size // config.model.encoder_options["patch_size"]) ** 2
    return _model(config, image_decoder="cross", predicted=patches - config.model.keep)


def _half_visible(config: PretrainConfig) -> PretrainConfig:
    patches = (config.model.image_size // config.model.encoder_options["patch_size"]) ** 2
    return _model(config, keep=patches // 2)


def _contrast(config: PretrainConfig, weight: float = 0.3) -> PretrainConfig:
    return replace(config, model=replace(config.model, contrast_width=64), contrast_weight=weight)


def _features(config: PretrainConfig) -> PretrainConfig:
    """The averaged encoder's features as targets too, from its upper half."""
    model = replace(config.model, feature_blocks=max(1, config.model.encoder_options["depth"] // 2))
    return replace(config, model=model, feature_weight=1.0, training=replace(config.training, ema=0.99))


def _together(config: PretrainConfig) -> PretrainConfig:
    """What makes the report decoder need the image, and lets it see where things are."""
    return _contrast(_words(_half_visible(_model(config, report_sees="patches")), mask=0.9))


MAIN: dict[str, Change | None] = {
    "together": _together,
    "both": lambda c: c,
    "image": lambda c: replace(c, records=c.records.with_name(IMAGES + c.records.suffix)),
    "patches": lambda c: _model(c, report_sees="patches"),
    "words-90": lambda c: _words(c, mask=0.9),
    "contrast": _contrast,
    "half-contrast": lambda c: _contrast(_half_visible(c), weight=1.0),
    "image-words": lambda c: replace(c, word_weights="image"),
    "fast": lambda c: replace(_model(c, tied_words=False), training=replace(c.training, lr=3 * c.training.lr)),
    "none": None,  # random weights
}
ABLATIONS: dict[str, Change] = {
    "words-75": lambda c: _words(c, mask=0.75),
    "words-100": lambda c: _words(c, mask=1.0),
    "phrases": lambda c: _words(c, unit="phrase"),
    "rarity": lambda c: replace(c, word_weights="rarity"),
    "half-visible": _half_visible,
    "gain": lambda c: _model(c, context_gain=1.0),
    "features": _features,
    "report-x3": lambda c: replace(c, report_to_encoder=3.0),
    "cross": lambda c: _model(c, image_decoder="cross"),
    "cross-all": _all_hidden,
    "cross-blocks": lambda c: _model(_all_hidden(c), image_decoder="cross-blocks"),
    "report": lambda c: replace(c, image_weight=0.0),
    "published-start": lambda c: _model(c, start="xavier", tied_words=False),
}
ARMS = MAIN | ABLATIONS
ABLATION_RUNS = 2  # pre-trainings of an ablation, where the main arms have more
PLACED = ("both", "image", "half-contrast", "none")  # arms whose probe is also given places
FINETUNED = ("both", "image", "none")  # arms that are fine-tuned too
SAYS = {
    "both": "both losses, as published",
    "image": "image loss only",
    "together": "both; words see patches, 90 % of words masked, half of the patches visible, contrast",
    "patches": "both; words see patches",
    "words-90": "both; 90 % of words masked instead of 50 %",
    "contrast": "both, and contrast of images and reports",
    "half-contrast": "both, and contrast as much as either; half of the patches visible",
    "image-words": "both; words weighted by what the image tells",
    "fast": "both; three times the learning rate, untied words",
    "none": "not pre-trained",
    "words-75": "both; 75 % of words masked",
    "words-100": "both; all words masked",
    "phrases": "both; whole phrases masked",
    "rarity": "both; words weighted by rarity",
    "half-visible": "both; half of the patches visible instead of a quarter",
    "gain": "both; normalised context with a gain",
    "features": "both; features of the averaged encoder too",
    "report-x3": "both; report loss three times on the encoder",
    "cross": "both; cross decoder, 16 of 48 hidden patches restored",
    "cross-all": "both; cross decoder, all hidden patches restored",
    "cross-blocks": "both; the same with a mix of all encoder blocks",
    "report": "report loss only",
    "published-start": "both; published start, untied words",
    "pixels": "no encoder: 32 x 32 pixels",
    "hog": "no encoder: HOG features",
}


# Fine-tuning --------------------------------------------------------------------------------------------


STYLES = {
    "tiny": "AdamW, layer decay, average of weights",
    "published": "SGD as published, at its highest rate",
    "modern": "as tiny, with strong augmentation and more drop path",
}


def finetuning(size: Size, style: str, train: Path, val: Path, init: Path, out: Path, **where) -> FinetuneConfig:
    """Fine-tuning by a style, all of them with the same steps and batch."""
    steps = size.finetune_steps
    recipe = recipes.FINETUNE["tiny-modern" if style == "modern" else "tiny"].make(
        train, val, init, out, audit="names", **where
    )
    if style == "published":  # 3e-2 is the rate for 1 % of NIH; with lower ones so few steps lead nowhere
        published = recipes.published_training(steps, 3e-2, steps // 10)
        recipe = replace(recipe, crop=recipes.FINETUNE_CROP, resize="bilinear", training=published)
    training = replace(
        recipe.training, steps=steps, warmup_steps=steps // 10, global_batch=size.finetune_batch, precision="fp32",
        log_every=max(1, steps // 4), validate_every=max(1, steps // 4), save_every=max(1, steps // 4), keep=1, workers=0,
        trackers=(),
    )  # fmt: skip
    return replace(recipe, training=training)
