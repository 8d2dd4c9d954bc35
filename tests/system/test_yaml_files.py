"""Configurations as YAML files: what is written is what is read, and slips are named with their place."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mrm import recipes
from mrm.models.config import ModelConfig
from mrm.recipes import (
    FinetuneConfig,
    PretrainConfig,
    differences,
    from_yaml,
    to_yaml,
)
from mrm.system.errors import ConfigError
from tests.support.recipe_calls import ALL, build


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_configuration_written_is_the_configuration_read(kind, name):
    config = build(kind, name, images=Path("Bilder/Thorax ü"), seed=2**31)
    again = from_yaml(type(config), to_yaml(config))
    assert again == config
    assert differences(config, again) == []


def test_what_is_not_default_is_written_too():
    config = replace(
        build("finetune", "chexpert-10"),
        classes=("Edema", "no finding: yes"),
        uncertain_by_class={"Edema": "ones"},
        training=replace(build("finetune", "chexpert-10").training, lr=1e-5, betas=(0.9, 0.999), trackers=()),
    )
    assert from_yaml(FinetuneConfig, to_yaml(config)) == config


def test_settings_left_out_take_their_defaults():
    config = from_yaml(PretrainConfig, "records: a.csv\nout: run\ntraining:\n  lr: 1e-3\n")
    assert config.training.lr == 1e-3  # to YAML, 1e-3 is text
    assert config.model == ModelConfig()


BAD = {
    "sed: 1": r"unknown setting 'sed'; did you mean seed\? @ \$",
    "out: run": r"required field missing @ \$\.records",
    "seed: many": r"expected int @ \$\.seed",
    "training: {global_batch: 6.5}": r"expected int @ \$\.training\.global_batch",
    "training: {global_batch: true}": r"expected int @ \$\.training\.global_batch",
    "training: {steps: 2.5}": r"expected int \| None @ \$\.training\.steps",
    "training: {rate: 0.1}": r"unknown setting 'rate'; the nearest is \w+, and all are epochs, .*lr, .* @ \$\.training",
    "training: {precision: fp64}": r"unknown value 'fp64'; choose from auto, fp32, bf16.* @ \$\.training\.precision",
    "training: {lr: fast}": r"expected float @ \$\.training\.lr",
    "model: {antialias: 'false'}": r"expected bool @ \$\.model\.antialias",
    "model: {keep: null}": r"expected int @ \$\.model\.keep",
    "model: large": r" @ \$\.model",
    "on_error: ignore": r"unknown value 'ignore'; choose from stop, skip @ \$\.on_error",
    "init: 3": r"expected .*Path.* @ \$\.init",
}


@pytest.mark.parametrize("text", BAD)
def test_a_wrong_setting_is_named_with_its_place(text):
    with pytest.raises(ConfigError, match=rf"^run\.yaml: .*{BAD[text]}"):
        from_yaml(PretrainConfig, text, "run.yaml")


@pytest.mark.parametrize(
    "text", ["", "[]", "- records", "records", "3", "a: [", "\t\tx", "!!python/object/apply:os.getcwd []"]
)
def test_a_file_that_holds_no_settings_is_named(text):
    with pytest.raises(ConfigError, match=r"^run\.yaml: "):
        from_yaml(PretrainConfig, text, "run.yaml")


def test_differences_are_named_by_their_place_with_both_values():
    before = build("pretrain", "tiny")
    after = replace(
        before, seed=1, training=replace(before.training, lr=0.5), model=replace(before.model, encoder_options={})
    )
    assert differences(before, after) == [
        f"model.encoder_options: {before.model.encoder_options}, now {{}}",
        "seed: 0, now 1",
        f"training.lr: {before.training.lr}, now 0.5",
    ]
    assert differences(before, before) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian: a", "unknown setting 'trian'; did you mean train?"),
        ("on-error: skip", "did you mean on_error?"),
        ("steps: 9", "unknown setting 'steps'; did you mean training.steps?"),  # right, but in another part
        ("lr: 0.1", "unknown value 0.1; choose from recipe, auto @ $.lr"),
        ("training.lr: 0.1", "unknown setting 'training.lr'; in a file it is lr below training @ $"),
        ("crop: {aera: [0.2, 1.0]}", "unknown setting 'aera'; did you mean area? @ $.crop"),
        ("training: {warmup-steps: 5}", "did you mean warmup_steps?"),
        ("zzz: 1", "and all are train, val, init, out, "),
        ("view: hole", "unknown value 'hole'; choose from whole, centre @ $.view"),
    ],
)
def test_a_misspelt_setting_is_answered_with_the_nearest_one(line, message):
    with pytest.raises(ConfigError) as raised:
        from_yaml(FinetuneConfig, f"train: a\nval: b\ninit: c\nout: d\n{line}\n")
    assert message in str(raised.value)


def nested_aliases(levels: int, width: int = 9) -> str:
    """A list of lists of lists, each named and used again: width to the power of levels values in a few lines."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels + 1)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (nested_aliases(20), "stands for more than 100,000 values, by aliases or lists"),
        ("model: &a\n  encoder_options: *a\n", "an alias stands inside the value that it names"),
        ("[" * 5000, "nested too deeply"),
        ("a: 1\n" * 50_000, "250,000 characters, but a file of settings has at most 200,000"),
        ("seed: 2020-99-99\n", "month must be in 1..12"),
        ("seed: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("5: 1\n", "line 1: the name of a setting must be text; put it in quotes"),
        ("model:\n  [a, b]: 1\n", "line 2: the name of a setting must be text"),
        ("training:\n  lr: .nan\n", "nan is not a finite number"),
        ("training:\n  lr: .inf\n", "inf is not a finite number"),
        ("training:\n  lr: true\n", "True is not a finite number"),
        ("model:\n  std: 0\n", "std must be a number from"),
        ("model:\n  encoder_options: {checkpoint_path: /etc/passwd}\n", "'checkpoint_path' is not accepted"),
    ],
)
def test_settings_from_someone_else_are_refused_in_words(tmp_path, text, message):
    base = recipes.tiny(tmp_path / "records.csv", tmp_path / "run")
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        recipes.from_yaml(recipes.PretrainConfig, text, "config.yaml", base)
    assert str(error.value).startswith("config.yaml: ")


def test_aliases_that_stand_for_few_values_are_read(tmp_path):
    base = recipes.tiny(tmp_path / "records.csv", tmp_path / "run")
    text = "seed: &n 7\nmodel:\n  <<: {keep: 5}\n  report_depth: *n\ntraining: {lr: 6e-4}\n"
    config = recipes.from_yaml(recipes.PretrainConfig, text, "config.yaml", base)
    assert (config.seed, config.model.keep, config.model.report_depth, config.training.lr) == (7, 5, 7, 6e-4)


@pytest.mark.parametrize("content", [b"seed: \xff\n", "seed: 1\n".encode("utf-16")])
def test_yaml_that_is_not_utf8_is_named(tmp_path, content):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.yaml: is not a text file in UTF-8"):
        recipes.read_yaml(recipes.PretrainConfig, tmp_path / "c.yaml")
