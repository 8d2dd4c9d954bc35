"""How weights are updated: parameter groups, the optimiser, and one step of it."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from mrm.training.config import TrainConfig

BIASES = ("*.relative_position_bias_table",)  # tables of biases, which no more decay than vectors of them do


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups with and without weight decay, and by depth where there is layer decay (timm's)."""
    if config.layer_decay is None:
        return param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=BIASES)
    return param_groups_layer_decay(
        model, config.weight_decay, no_weight_decay_list=BIASES, layer_decay=config.layer_decay
    )


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over the model's parameter groups, on the device where they now are.

    Fused: one kernel for all weights, which can also leave them unchanged when the device says so (`update`).
    """
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.peak(), momentum=config.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=config.peak(), betas=config.betas, fused=True)


def update(optimizer: torch.optim.Optimizer, lr: float, norm: Tensor, scaler: torch.amp.GradScaler) -> None:
    """Step at this learning rate, unless the gradient's norm is not finite: then weights, moments and count stay as they are.

    The device decides, so the host need not wait: fused optimisers take `found_inf`. In fp16 the loss scaler sets it, as
    it has seen the gradients before their norm, and lowers its scale after such a step; otherwise it does nothing.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    if not scaler.is_enabled():
        optimizer.found_inf = 1.0 - norm.isfinite().float()  # type: ignore[attr-defined]
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
