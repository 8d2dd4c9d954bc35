"""Recipes: the published numbers, and configurations that survive being written down."""

from dataclasses import replace
from pathlib import Path

import pytest

from mrm.data.config import NONE, STRONG, CropConfig
from mrm.models.config import ModelConfig
from mrm.models.mrm import MRM
from mrm.models.noise import seeded
from mrm.recipes import (
    FINETUNE,
    PRETRAIN,
    FinetuneConfig,
    differences,
    find,
    from_yaml,
)
from mrm.system.errors import ConfigError
from mrm.training.config import lr_at
from tests.support.recipe_calls import ALL, LISTS, PLACES, build

# The published numbers --------------------------------------------------------------------------------


# Table 3 of the design: steps, peak rate, warm-up; and the mean AUROC of the paper (arXiv:2301.13155, table 1).
PUBLISHED = {
    "nih-1": (3_000, 3e-2, 50, "79.4"),
    "nih-10": (30_000, 3e-3, 500, "84.0"),
    "nih-100": (200_000, 3e-3, 5_000, "85.9"),
    "chexpert-1": (2_000, 3e-3, 150, "88.5"),
    "chexpert-10": (60_000, 5e-4, 1_500, "88.5"),
    "chexpert-100": (200_000, 5e-4, 15_000, "88.7"),
    "rsna-1": (2_000, 3e-3, 50, "91.3"),
    "rsna-10": (10_000, 5e-4, 200, "92.7"),
    "rsna-100": (50_000, 5e-4, 2_000, "93.3"),
    "covid": (1_000, 3e-2, 50, ""),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_fine_tuning_has_the_published_numbers(name):
    config, recipe = build("finetune", name), FINETUNE[name]
    steps, lr, warmup, auroc = PUBLISHED[name]
    training = config.training
    assert training.plan(records=500_000) == (steps, warmup)
    assert training.peak() == lr
    assert lr_at(warmup - 1, peak=lr, warmup=warmup, total=steps, schedule=training.schedule) == pytest.approx(lr)
    assert (training.optimizer, training.momentum, training.weight_decay) == ("sgd", 0.9, 0.0)
    assert (training.clip, training.global_batch, training.schedule) == (1.0, 96, "cosine")
    assert (training.layer_decay, training.ema) == (None, None)
    assert (config.drop_path, config.pooling, config.augment) == (0.1, "mean", NONE)
    assert config.crop == CropConfig(area=(0.2, 1.0), aspect=(3 / 4, 4 / 3), flip=0.5)
    assert auroc in recipe.expect


def test_every_published_fine_tuning_is_there_and_small_ones_are_named_small():
    plain = {name.removesuffix("-modern") for name in FINETUNE}
    assert plain - set(PUBLISHED) <= {"tiny", "small"}
    assert set(PRETRAIN) - {"mimic", "mimic-modern"} <= {"tiny", "small"}
    assert "tiny" in FINETUNE
    assert "tiny" in PRETRAIN


def test_pre_training_has_the_published_numbers():
    config = build("pretrain", "mimic")
    training = config.training
    records = 256 * 1400
    assert training.plan(records) == (200 * 1400, 40 * 1400)  # epochs, of them warm-up
    assert training.peak() == 1.5e-4
    assert replace(training, global_batch=1024).peak() == pytest.approx(6e-4)  # base rate x batch / 256
    assert (training.optimizer, training.betas, training.weight_decay) == ("adamw", (0.9, 0.95), 0.05)
    assert (training.global_batch, training.schedule, training.precision) == (256, "cosine", "bf16")
    assert (training.clip, training.layer_decay, training.ema) == (None, None, None)
    assert (config.image_weight, config.report_weight) == (1.0, 1.0)
    assert config.crop == CropConfig(area=(0.2, 1.0), aspect=(3 / 4, 4 / 3), flip=0.5)
    assert (config.report.sections, config.report.mask, config.report.loss) == ((), 0.5, "masked")


def test_the_published_model_is_the_default():
    model = build("pretrain", "mimic").model
    assert model == ModelConfig()
    assert (model.encoder, model.encoder_options) == ("vit_base_patch16_224", {})
    assert (model.image_size, model.target_size, model.keep, model.antialias) == (224, 448, 49, False)
    assert (model.fixed_positions, model.norm_pix, model.tied_words) == (True, True, True)
    assert (model.decoder_width, model.decoder_depth, model.decoder_heads) == (768, 4, 6)
    assert (model.report_width, model.report_depth, model.report_heads, model.report_mlp) == (384, 6, 6, 1536)
    assert (model.vocabulary, model.report_length, model.report_dropout) == (30_000, 100, 0.1)
    assert (model.mean, model.std) == (0.4978, 0.2449)


@pytest.mark.parametrize("name", [n for n in PRETRAIN if not n.startswith("mimic")])
def test_a_small_recipe_is_the_method_at_a_smaller_size(name):
    """A quarter of the patches kept, targets twice as large, and small enough for a CPU."""
    config = build("pretrain", name)
    with seeded(0):
        model = MRM(config.model)
    assert model.config.keep * 4 == model.patches
    assert config.model.target_scale == 2
    assert (config.model.norm_pix, config.report) == (True, build("pretrain", "mimic").report)
    assert sum(p.numel() for p in model.parameters()) < 10e6
    assert config.training.precision == "fp32"


# The modern recipes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PUBLISHED, "tiny"])
def test_every_fine_tuning_has_a_modern_one_of_equal_length(name):
    plain, modern = build("finetune", name), build("finetune", f"{name}-modern")
    assert modern.training.steps == plain.training.steps
    assert modern.training.global_batch == plain.training.global_batch
    assert (modern.augment, modern.drop_path) == (STRONG, 0.2)
    assert (modern.training.optimizer, modern.training.betas) == ("adamw", (0.9, 0.999))
    assert modern.training.layer_decay < 1
    assert modern.training.ema
    assert modern.training.clip == 1.0
    assert modern.uncertain_by_class == plain.uncertain_by_class
    assert "measured" in FINETUNE[f"{name}-modern"].expect or name == "tiny"


def test_modern_pre_training_hides_nine_patches_of_ten_and_changes_nothing_else():
    modern, plain = build("pretrain", "mimic-modern"), build("pretrain", "mimic")
    assert differences(plain, modern) == ["model.keep: 49, now 20"]


def test_an_augmentation_that_makes_no_sense_is_refused_with_its_name():
    with pytest.raises(ConfigError, match=r"erase must be from 0 to 1"):
        from_yaml(FinetuneConfig, "train: a\nval: b\ninit: c\nout: d\naugment: {erase: 3.0}\n")


# Recipes as functions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_recipe_keeps_the_places_and_settings_it_is_given(kind, name):
    config = build(kind, name, seed=7, max_steps=20, images=Path("images"))
    assert (config.seed, config.max_steps, config.images) == (7, 20, Path("images"))
    places = PLACES if kind == "pretrain" else LISTS
    assert {k: getattr(config, k) for k in places} == places


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_recipe_squeezed_keeps_the_share_of_its_warm_up(kind, name):
    training = build(kind, name).training
    steps, warmup = training.plan(100_000)
    short, short_warmup = training.shortened(200).plan(100_000)
    assert short == 200
    assert short_warmup / 200 == pytest.approx(warmup / steps, abs=0.005)


@pytest.mark.parametrize(("recipe_set", "kind"), [(PRETRAIN, "pretrain"), (FINETUNE, "finetune")])
def test_every_recipe_says_what_it_is_and_what_to_expect(recipe_set, kind):
    for name, recipe in recipe_set.items():
        assert recipe.about, name
        assert recipe.expect, name
        assert recipe.make.__doc__, name


def test_an_unknown_recipe_is_answered_with_the_names_there_are():
    assert find(PRETRAIN, "mimic") is PRETRAIN["mimic"]
    with pytest.raises(ConfigError, match=r"unknown recipe 'mimik'; choose from mimic, tiny"):
        find(PRETRAIN, "mimik")
