"""Recipes: the published numbers, and configurations that survive being written down."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from mrm.data.config import NONE, STRONG
from mrm.models.config import ModelConfig
from mrm.models.mrm import MRM
from mrm.models.noise import seeded
from mrm.recipes import (
    FINETUNE,
    PRETRAIN,
    FinetuneConfig,
    PretrainConfig,
    SegmentConfig,
    differences,
    find,
    from_yaml,
)
from mrm.system.errors import ConfigError
from mrm.training.config import TrainConfig, lr_at
from tests.support.published import (
    FINETUNING,
    FINETUNINGS,
    LORA,
    LORAS,
    OURS,
    PRETRAINING,
    SEGMENTATION,
    settings,
)
from tests.support.recipe_calls import ALL, LISTS, PLACES, build

# The published numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FINETUNINGS)
def test_fine_tuning_has_the_published_numbers(name):
    config, recipe = build("finetune", name), FINETUNE[name]
    assert settings(config, FINETUNING) == {**FINETUNING, **OURS["finetune"]}
    steps, lr, warmup, auroc = FINETUNINGS[name]
    training = config.training
    assert training.plan(records=500_000) == (steps, warmup)
    assert training.peak() == lr
    assert lr_at(warmup - 1, peak=lr, warmup=warmup, total=steps, schedule=training.schedule) == pytest.approx(lr)
    assert config.augment == NONE
    assert auroc in recipe.expect


def test_every_published_fine_tuning_is_there_and_small_ones_are_named_small():
    plain = {name.removesuffix("-modern").removesuffix("-lora") for name in FINETUNE}
    assert plain - set(FINETUNINGS) <= {"tiny", "small", "cpu"}
    assert set(PRETRAIN) - {"mimic", "mimic-modern", "mimic-next"} <= {"tiny", "small", "small-next"}
    assert "tiny" in FINETUNE
    assert "tiny" in PRETRAIN


@pytest.mark.parametrize("name", LORAS)
def test_fine_tuning_by_lora_has_the_published_numbers(name):
    config, recipe, plain = build("finetune", f"{name}-lora"), FINETUNE[f"{name}-lora"], build("finetune", name)
    assert settings(config, LORA) == LORA
    rank, lr, auroc = LORAS[name]
    assert (config.lora.rank, config.training.peak()) == (rank, lr)
    assert auroc in recipe.expect
    assert f"rank {rank}, peak {lr:g}" in recipe.about
    same = ("list_classes", "uncertain_by_class", "crop", "resize", "augment", "training.clip", "training.momentum")
    assert settings(config, same) == settings(plain, same)


def test_the_recipes_by_lora_are_those_of_the_paper_and_a_small_one():
    assert {name for name in FINETUNE if name.endswith("-lora")} == {f"{name}-lora" for name in (*LORAS, "tiny")}
    small, plain = build("finetune", "tiny-lora"), build("finetune", "tiny")
    assert differences(plain, small) == ["tune: full, now lora", "training.lr: 0.001, now 0.003"]


def test_pre_training_has_the_published_numbers():
    config = build("pretrain", "mimic")
    assert settings(config, PRETRAINING) == {**PRETRAINING, **OURS["pretrain"]}
    assert config.model == ModelConfig()
    training = config.training
    records = 256 * 1400
    assert training.plan(records) == (200 * 1400, 40 * 1400)  # epochs, of them warm-up
    assert training.peak() == 1.5e-4
    assert replace(training, global_batch=1024).peak() == pytest.approx(6e-4)  # base rate x batch / 256


def test_every_setting_of_the_method_is_in_the_published_table():
    """A setting added later must be compared too; only places, the machine and the bookkeeping are nobody's business."""
    apart = {"records", "out", "init", "val", "images", "tokenizer", "on_error", "audit", "max_steps", "seed"}
    apart |= {
        "floors",
        "patience",
        "patience_gain",
        "lr",
        "train",
        "classes",
        "list_classes",
        "extend",
        "uncertain",
        "uncertain_by_class",
        "scratch",
        "encoder",
        "encoder_options",
        "budget",
        "only",
    }
    bookkeeping = {
        "steps", "epochs", "warmup_steps", "warmup_epochs", "lr", "betas", "momentum", "bad_steps", "micro_batch",
        "precision", "compile", "sharding", "checkpointing", "workers", "threads", "log_every", "validate_every",
        "validate_epochs", "save_every", "keep", "trackers",
    }  # fmt: skip
    tables = {PretrainConfig: PRETRAINING, FinetuneConfig: FINETUNING, SegmentConfig: SEGMENTATION}
    for kind, table in tables.items():
        roots = {name.split(".")[0] for name in table}
        assert {f.name for f in fields(kind)} - apart - roots == set(), kind
        trained = {name.removeprefix("training.") for name in table if name.startswith("training.")}
        assert {f.name for f in fields(TrainConfig)} - bookkeeping - trained == set(), kind
    model = {name.removeprefix("model.") for name in PRETRAINING if name.startswith("model.")}
    assert {f.name for f in fields(ModelConfig)} - {"target_scale"} <= model  # target_size is the same


def test_what_differs_on_purpose_is_in_the_list_of_differences_with_its_setting():
    text = (Path(__file__).parents[2] / "docs" / "parity.md").read_text()
    for name in dict.fromkeys(name for differing in OURS.values() for name in differing):
        assert f"--{name.replace('_', '-')}" in text, name


@pytest.mark.parametrize("name", [n for n in PRETRAIN if not n.startswith("mimic")])
def test_a_small_recipe_is_the_method_at_a_smaller_size(name):
    """A quarter of the patches kept (half of them in `small-next`), targets twice as large, and small enough for a CPU."""
    config = build("pretrain", name)
    with seeded(0):
        model = MRM(config.model)
    assert model.config.keep * (2 if name.endswith("-next") else 4) == model.patches
    assert config.model.target_scale == 2
    assert (config.model.start, config.model.tied_words) == ("normal", True)  # see docs/parity.md
    assert (config.model.norm_pix, config.report) == (True, build("pretrain", "mimic").report)
    assert sum(p.numel() for p in model.parameters()) < 10e6
    assert config.training.precision == "fp32"


# The modern recipes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FINETUNINGS, "tiny"])
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


@pytest.mark.parametrize(("name", "quarter", "half", "width"), [("mimic", 49, 98, 128), ("small", 16, 32, 64)])
def test_the_next_pre_training_adds_contrast_and_shows_half_of_the_patches(name, quarter, half, width):
    plain, better = build("pretrain", name), build("pretrain", f"{name}-next")
    assert sorted(differences(plain, better)) == [
        "contrast_weight: 0.0, now 1.0",
        f"crop.flip: {plain.crop.flip:g}, now 0.0",
        f"model.contrast_width: 0, now {width}",
        f"model.keep: {quarter}, now {half}",
    ]


def test_an_augmentation_that_makes_no_sense_is_refused_with_its_name():
    with pytest.raises(ConfigError, match=r"erase must be from 0 to 1"):
        from_yaml(FinetuneConfig, "train: a\nval: b\ninit: c\nout: d\naugment: {erase: 3.0}\n")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("patience: 0", "--patience must be at least 1 validation, not 0"),
        ("patience_gain: -0.1", "--patience-gain must be 0 or more, not -0.1"),
        ("loss: dice", "unknown value 'dice'; choose from bce, weighted, focal, asymmetric"),
        ("lr: 0.1", r"unknown value 0.1; choose from recipe, auto @ \$.lr; did you mean training.lr\?"),
        ("training: {lr: auto}", r"@ \$.training.lr; did you mean lr\?"),
        ("tune: some", "unknown --tune 'some'; choose from full, lora, head, last-N"),
        ("lora: {rank: 0}", "lora.rank must be at least 1, not 0"),
    ],
)
def test_a_setting_of_fine_tuning_that_makes_no_sense_is_refused_with_what_does(setting, message):
    with pytest.raises(ConfigError, match=message):
        from_yaml(FinetuneConfig, f"train: a\nval: b\ninit: c\nout: d\n{setting}\n")


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
