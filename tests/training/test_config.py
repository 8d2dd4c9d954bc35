"""Schedules of the learning rate, as functions of the step."""

import math
from dataclasses import replace

import pytest

from mrm.system.errors import ConfigError, TrainingError
from mrm.training.config import TrainConfig, check_patience, last_blocks, lr_at


def test_the_schedule_warms_up_and_ends_at_zero():
    rates = [lr_at(s, peak=1.0, warmup=10, total=100) for s in range(101)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == 0.0
    assert lr_at(55, peak=1.0, warmup=10, total=100, schedule="polynomial") == 0.5


def test_the_published_schedule_in_steps():
    steps, warmup = TrainConfig().plan(377_110)
    assert (steps, warmup) == (round(200 * 377_110 / 256), round(40 * 377_110 / 256))
    assert TrainConfig().peak() == 1.5e-4
    assert replace(TrainConfig(), global_batch=1024).peak() == 6e-4
    assert TrainConfig().shortened(100).plan(377_110) == (100, 20)


def test_validation_may_follow_every_epoch_as_published():
    """1 % of NIH has 785 images: 8 batches of 96 and one of 17 are an epoch, so 3,000 steps hold 333 of them."""
    config = TrainConfig(steps=3_000, global_batch=96, validate_epochs=1)
    every = config.steps_between_validations(785)
    assert every == 9
    assert 3_000 // every == 333
    assert config.steps_between_validations(768) == 8  # full batches only
    assert replace(config, validate_epochs=0.5).steps_between_validations(78_468) == 409
    assert config.steps_between_validations(1) == 1
    assert replace(config, validate_epochs=None).steps_between_validations(785) == 1_000


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_validation_after_no_epoch_is_refused(wrong):
    with pytest.raises(TrainingError, match="validate_epochs must be above 0"):
        TrainConfig(validate_epochs=wrong)


@pytest.mark.parametrize(
    "name", ["steps", "global_batch", "micro_batch", "threads", "log_every", "validate_every", "save_every", "keep"]
)
def test_what_is_counted_is_at_least_one(name):
    assert getattr(TrainConfig(**{name: 1}), name) == 1
    for wrong in (0, -3):
        with pytest.raises(TrainingError, match=f"{name} must be at least 1, not {wrong}"):
            TrainConfig(**{name: wrong})


@pytest.mark.parametrize("epochs", [None, 0.0, -1.0])
def test_a_run_without_a_length_is_refused_unless_it_has_steps(epochs):
    with pytest.raises(TrainingError, match="a run needs a length: steps, or epochs above 0"):
        TrainConfig(epochs=epochs)
    assert TrainConfig(epochs=epochs, steps=7).plan(1000)[0] == 7


@pytest.mark.parametrize(
    ("patience", "gain", "right"),
    [(None, 0.0, True), (1, 0.5, True), (0, 0.0, False), (1, -0.1, False), (1, math.nan, False), (1, math.inf, False)],
)
def test_patience_is_for_one_validation_or_more_and_a_gain_is_a_number(patience, gain, right):
    if right:
        check_patience(patience, gain)
        return
    with pytest.raises(ConfigError, match=r"must be at least 1 validation, not 0|must be 0 or more, not"):
        check_patience(patience, gain)


def test_how_much_of_an_encoder_is_tuned():
    assert [last_blocks(tune) for tune in ("full", "lora", "head", "last-1", "last-12")] == [None, None, None, 1, 12]
    with pytest.raises(ConfigError, match="--tune last-0 trains no block"):
        last_blocks("last-0")
    for wrong in ("last-", "last--1", "blocks", "last-1x"):
        with pytest.raises(ConfigError, match=f"unknown --tune '{wrong}'"):
            last_blocks(wrong)
