"""Schedules of the learning rate, as functions of the step."""

from dataclasses import replace

import pytest

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
