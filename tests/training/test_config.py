"""Schedules of the learning rate, as functions of the step."""

from dataclasses import replace

import pytest

from mrm.system.errors import TrainingError
from mrm.training.config import TrainConfig, lr_at


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
