"""Features of the averaged encoder as targets: by hand, with timm's own pass; and settings that do not go together."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.utils import ModelEmaV3

from mrm.models import noise
from mrm.models.mrm import MRM, complement
from mrm.system.errors import ConfigError
from mrm.training.feature_targets import hidden_features
from mrm.training.tasks import PretrainTask
from tests.support.bright_and_dark import fresh_model, train
from tests.support.configs import MICRO, SMALL, pretrain_config


@pytest.mark.parametrize("blocks", [1, 2])
def test_targets_are_the_mean_of_normalised_blocks_that_saw_the_whole_image(blocks):
    with noise.seeded(0):
        average = MRM(replace(SMALL, feature_blocks=blocks)).eval()
    outputs = []
    for block in average.encoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output.numpy()))
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        average.encoder.forward_features(image)  # timm's, of all patches
    last = outputs[-blocks:]
    expected = np.mean(
        [(x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) for x in last], axis=0
    )
    hidden = complement(torch.tensor([[0, 3, 9], [1, 2, 15]]), 16)
    target = hidden_features(average, image, hidden)
    assert not target.requires_grad
    for row in range(2):
        np.testing.assert_allclose(target[row], expected[row, 1:][hidden[row]], rtol=1e-4, atol=1e-5)  # 0: class token


def test_features_are_learnt_and_the_average_is_not_trained():
    network = fresh_model(feature_blocks=1)
    task, average = PretrainTask(network, report_weight=0.0, feature_weight=1.0), ModelEmaV3(network, decay=0.9)
    task.follow(average.module)
    before = {name: value.clone() for name, value in average.module.state_dict().items()}
    losses = train(task, epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in average.module.state_dict().items())
    assert not any("average" in name for name, _ in task.named_parameters())
    losses += train(task, epochs=9, after_step=lambda: average.update(network))
    assert losses[0]["features"] > 1.0  # of values whose mean square is 1
    assert losses[-1]["features"] < 0.6


@pytest.mark.parametrize(
    "changes",
    [
        {"feature_weight": 1.0},
        {"feature_weight": 1.0, "model": replace(MICRO, feature_blocks=2)},
        {"feature_weight": 1.0, "ema": 0.9},
        {"model": replace(MICRO, feature_blocks=2), "ema": 0.9},
    ],
)
def test_features_need_a_weight_blocks_and_an_average(changes, phantoms, tmp_path):
    with pytest.raises(
        ConfigError, match=r"need all three, such as --feature-weight 1 --model.feature-blocks 6 --training.ema"
    ):
        pretrain_config(phantoms, tmp_path / "run", **changes)
