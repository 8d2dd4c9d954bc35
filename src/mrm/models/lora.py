"""LoRA: a frozen linear layer learns an update of low rank (Hu et al. 2021, arXiv:2106.09685, section 4.1).

The layer keeps its weight W and computes W x + (alpha / rank) B A dropout(x), where A (rank, width) starts at random and
B at 0, so that training starts from the layer as it was. After training, W + (alpha / rank) B A is one weight again: what
is saved, validated, exported and served is a plain model.

Written here and not taken from `peft`: its dropout draws from the global generator, so that a resumed run would differ,
and it wraps the whole of timm's joint layer of queries, keys and values, where queries and values alone are meant.
"""

# Shapes: B samples, L tokens, D width, R rank
from __future__ import annotations

import copy
import math
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn

from mrm.models.config import LoraConfig
from mrm.system.errors import ConfigError

Model = TypeVar("Model", bound=nn.Module)


class LoraQueriesValues(nn.Linear):
    """timm's joint layer of queries, keys and values, whose queries and values learn an update of rank R.

    The names of its own weights stay as they were. Dropout acts on the input of the update alone.
    """

    def __init__(self, layer: nn.Linear, config: LoraConfig) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = config.alpha / config.rank
        self.drop = nn.Dropout(config.dropout)
        down, up = (config.rank, layer.in_features), (layer.out_features // 3, config.rank)
        self.query_down, self.value_down = (nn.Parameter(layer.weight.new_empty(down)) for _ in range(2))
        self.query_up, self.value_up = (nn.Parameter(layer.weight.new_zeros(up)) for _ in range(2))
        for down_RD in (self.query_down, self.value_down):
            nn.init.kaiming_uniform_(down_RD, a=math.sqrt(5))  # as nn.Linear starts

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Queries, keys and values, (B, L, 3 D)."""
        down_2RD, up_D2R = self._factors()
        update = F.linear(F.linear(self.drop(x_BLD), down_2RD), up_D2R)
        return F.linear(x_BLD, self.weight, self.bias) + update

    def _factors(self) -> tuple[Tensor, Tensor]:
        """Both updates as one of rank 2 R: down (2 R, D), and up (3 D, 2 R), which is 0 for the keys; scaled."""
        none = torch.zeros_like(self.query_up)
        up = torch.cat([torch.cat([self.query_up, none, none]), torch.cat([none, none, self.value_up])], dim=1)
        return torch.cat([self.query_down, self.value_down]), up * self.scale

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """The layer with its update added to the weight."""
        down_2RD, up_D2R = self._factors()
        layer = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(self.weight + up_D2R @ down_2RD, requires_grad=False)
        layer.bias = self.bias
        return layer


def add_lora(encoder: Any, config: LoraConfig, name: str) -> None:
    """Give every block of a timm Vision Transformer an update of its queries and values.

    Raises ConfigError for an encoder, called `name`, without the attention of a plain Vision Transformer.
    """
    attentions: list[Any] = [getattr(block, "attn", None) for block in getattr(encoder, "blocks", ())]
    if not attentions or not all(isinstance(attention, Attention) for attention in attentions):
        raise ConfigError(
            f"--tune lora: {name} does not have the attention of a plain Vision Transformer in all of its blocks, to which "
            "LoRA is added; choose --tune full or head"
        )
    for attention in attentions:
        attention.qkv = LoraQueriesValues(attention.qkv, config)


def merged(model: Model) -> Model:
    """The model as plain layers: a copy that shares all tensors but the merged weights; itself where there is no LoRA."""
    if not any(isinstance(module, LoraQueriesValues) for module in model.modules()):
        return model
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    plain = copy.deepcopy(model, shared)
    for module in list(plain.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, LoraQueriesValues):
                setattr(module, child_name, child.plain())
    return plain
