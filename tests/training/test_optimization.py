"""What decays, with which rate each parameter learns, and the first steps of both optimisers by hand."""

import pytest
import torch

from mrm.training.config import TrainConfig
from mrm.training.optimization import build_optimizer, update
from tests.support.configs import MICRO


def test_biases_norms_do_not_decay():
    from mrm.models.mrm import MRM
    from mrm.training.optimization import parameter_groups

    model = MRM(MICRO)
    groups = parameter_groups(model, TrainConfig())
    undecayed = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert (id(p) in undecayed) == (p.ndim <= 1), name


def test_layer_decay_lowers_the_rate_block_by_block():
    from mrm.models.classifier import Classifier, ClassifierConfig

    shape = ClassifierConfig(("a",), "vit_tiny_patch16_224", {"depth": 3}, image_size=64)
    model = Classifier(shape)
    optimizer = build_optimizer(model, TrainConfig(layer_decay=0.5))
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    rates = {name: scale[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert rates["encoder.head.weight"] == rates["encoder.fc_norm.bias"] == 1.0
    assert [rates[f"encoder.blocks.{i}.attn.qkv.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert rates["encoder.patch_embed.proj.weight"] == 0.0625


def stepped(config: TrainConfig, gradients: list[float], lr_scale: float = 1.0) -> tuple[float, float]:
    """A weight, which decays, and a bias, which does not, both from 1 on, after steps of 0.1 with these gradients."""
    model = torch.nn.Linear(1, 1)
    torch.nn.init.ones_(model.weight), torch.nn.init.ones_(model.bias)
    optimizer, scaler = build_optimizer(model, config), torch.amp.GradScaler("cpu", enabled=False)
    for group in optimizer.param_groups:
        group["lr_scale"] = lr_scale
    for gradient in gradients:
        for p in model.parameters():
            p.grad = torch.full_like(p, gradient)
        update(optimizer, 0.1, torch.tensor(1.0), scaler)
    return model.weight.item(), model.bias.item()


def test_adamw_by_hand():
    """With moments 0.5 and 0.5: the first step is lr against the sign, the second lr x m / sqrt(v), each corrected by 3 / 4."""
    config = TrainConfig(betas=(0.5, 0.5), weight_decay=0.2)
    assert stepped(config, [4.0]) == pytest.approx((0.98 - 0.1, 0.9))
    second = 0.1 * ((4 / 4 - 2 / 2) / 0.75) / (((16 / 4 + 4 / 2) / 0.75) ** 0.5)  # gradients 4 and -2
    assert stepped(config, [4.0, -2.0]) == pytest.approx((0.98 * 0.88 - second, 0.9 - second))
    assert stepped(config, [4.0], lr_scale=0.5) == pytest.approx((0.99 - 0.05, 0.95))


def test_sgd_by_hand():
    """Decay is a part of the gradient, and half of each step is repeated in the next."""
    config = TrainConfig(optimizer="sgd", momentum=0.5, weight_decay=0.2)
    assert stepped(config, [4.0]) == pytest.approx((1 - 0.1 * 4.2, 1 - 0.1 * 4))
    weight, moment = 0.58, 0.5 * 4.2 - 2 + 0.2 * 0.58
    assert stepped(config, [4.0, -2.0]) == pytest.approx((weight - 0.1 * moment, 0.6 - 0.1 * (0.5 * 4 - 2)))
