"""What the study compares: sizes (how large everything is) and arms (what an encoder was pre-trained with)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mrm import recipes
from mrm.data.config import CropConfig, ReportConfig
from mrm.models.config import ModelConfig
from mrm.recipes import FinetuneConfig, PretrainConfig
from mrm.training.config import TrainConfig

SETS = ("pretrain", "train", "val", "test")  # phantoms; the place is the seed, so no patient is in two of them


@dataclass(frozen=True)
class Size:
    """How large a study is. The same budget holds for every arm."""

    model: ModelConfig
    phantoms: dict[str, int]  # how many in each of SETS
    steps: int  # of pre-training
    batch: int
    lr: float
    finetune_steps: int
    finetune_batch: int = 32
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)  # of `train`
    draws: int = 10  # label subsets a fraction, for the probe
    finetune_draws: int = 3
    # What makes words learnable from so few images: a flip turns "left" into a lie, a small crop cuts findings off,
    # and a phantom's findings and impression say the same twice, so a word masked in one is read off the other. The
    # impression alone asks for the image, and has a third of the tokens. The same for every arm.
    crop: CropConfig = field(default_factory=lambda: CropConfig(area=(0.8, 1.0), flip=0.0))
    report: ReportConfig = field(default_factory=lambda: ReportConfig(sections=("impression",)))

    @property
    def image(self) -> int:
        """Pixels a side of a phantom: what the 2x target needs."""
        return 2 * self.model.image_size


def small_model(width: int, depth: int, size: int, patch: int, keep: int, report: int) -> ModelConfig:
    """A Vision Transformer small enough for a CPU, with decoders in proportion."""
    return ModelConfig(
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


SIZES = {
    "quick": Size(
        small_model(32, 1, 32, 8, 4, 32),
        {"pretrain": 64, "train": 60, "val": 60, "test": 80},
        steps=6, batch=8, lr=1e-3, finetune_steps=4, finetune_batch=8, fractions=(0.5, 1.0), draws=2, finetune_draws=2,
    ),
    "small": Size(
        small_model(128, 4, 96, 12, 16, 64),
        {"pretrain": 12_000, "train": 5_000, "val": 1_000, "test": 3_000},
        steps=10_000, batch=16, lr=1e-3, finetune_steps=200,
    ),
    "large": Size(
        small_model(192, 8, 128, 16, 16, 128),
        {"pretrain": 40_000, "train": 10_000, "val": 2_000, "test": 5_000},
        steps=25_000, batch=32, lr=1e-3, finetune_steps=1_000,
    ),
}  # fmt: skip


# Pre-training -------------------------------------------------------------------------------------------


def pretraining(size: Size, records: Path, tokenizer: Path, out: Path, seed: int) -> PretrainConfig:
    """Both losses, as the recipe has them; the other arms change one thing each."""
    training = TrainConfig(
        epochs=None, steps=size.steps, warmup_steps=size.steps // 20, global_batch=size.batch, lr=size.lr,
        lr_batch=None, precision="fp32", log_every=max(1, size.steps // 40), validate_every=10 * size.steps,
        save_every=max(1, size.steps // 6), keep=1, workers=0, trackers=(),
    )  # fmt: skip
    return PretrainConfig(
        records, out, tokenizer=tokenizer, seed=seed, audit="names", model=size.model, crop=size.crop,
        report=size.report, training=training,
    )  # fmt: skip


Change = Callable[[PretrainConfig], PretrainConfig]


def _keep(config: PretrainConfig, share: float) -> PretrainConfig:
    """So large a share of the patches visible."""
    patch = config.model.encoder_options["patch_size"]
    patches = (config.model.image_size // patch) ** 2
    return replace(config, model=replace(config.model, keep=max(1, round(share * patches))))


MAIN: dict[str, Change | None] = {
    "both": lambda c: c,
    "image": lambda c: replace(c, report_weight=0.0),
    "report": lambda c: replace(c, image_weight=0.0),
    "none": None,  # random weights
}
ABLATIONS: dict[str, Change] = {
    "cross": lambda c: replace(c, model=replace(c.model, image_decoder="cross")),
    "target-1x": lambda c: replace(c, model=replace(c.model, target_scale=1)),
    "words-15": lambda c: replace(c, report=replace(c.report, mask=0.15)),
    "words-75": lambda c: replace(c, report=replace(c.report, mask=0.75)),
    "all-tokens": lambda c: replace(c, report=replace(c.report, loss="all")),
    "patches-90": lambda c: _keep(c, 20 / 196),  # as in the recipe mimic-modern
    "published-start": lambda c: replace(c, model=replace(c.model, start="xavier", tied_words=False)),
}
SAYS = {
    "both": "both losses",
    "image": "image loss only",
    "report": "report loss only",
    "none": "not pre-trained",
    "target-1x": "both, target at 1x instead of 2x",
    "words-15": "both, 15 % of words masked instead of 50 %",
    "words-75": "both, 75 % of words masked instead of 50 %",
    "all-tokens": "both, report loss over all tokens instead of the masked",
    "cross": "both, image decoder with cross-attention",
    "patches-90": "both, 90 % of patches masked instead of 75 %",
    "published-start": "both, report decoder with the published start and untied words",
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
