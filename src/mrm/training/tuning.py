"""How much of a classifier is trained: all of it, its head, its last blocks, or updates of low rank.

What is frozen needs neither gradient nor optimiser state. The head is what follows the patches: pooling, its norm and the
linear layer. A block that is frozen is never skipped (drop path): it could not learn to do without.
"""

from __future__ import annotations

import re
from typing import Any

from timm.layers import DropPath
from torch import nn

from mrm.models import noise
from mrm.models.config import LoraConfig
from mrm.models.lora import add_lora
from mrm.system.errors import ConfigError
from mrm.training.config import last_blocks

HEAD = re.compile(r"(head|fc_norm|norm|attn_pool)\.")  # names of what follows the last block
ADDED = re.compile(r".*\.(query|value)_(down|up)")  # names of the weights of LoRA


def choose_trained(model: Any, tune: str, lora: LoraConfig, seed: int) -> str:
    """Freeze what `tune` does not train, and add LoRA where it asks for it. Returns a line that says how much is trained.

    With `lora` the norms are trained too. Raises ConfigError where the encoder does not have what is to be trained.
    """
    if tune != "full":
        encoder, name = model.encoder, model.config.encoder
        encoder.requires_grad_(False)
        if tune == "lora":
            with noise.seeded(seed):
                add_lora(encoder, lora, name)
        _unfreeze(encoder, _last(encoder, last_blocks(tune), name), tune == "lora")
        _skip_no_frozen_block(encoder)
    return _share(model, tune)


def _unfreeze(encoder: Any, blocks: list[nn.Module], lora: bool) -> None:
    """Train the head and these blocks; with LoRA its own weights and all norms."""
    norms = [module for module in encoder.modules() if lora and "norm" in type(module).__name__.lower()]
    for module in (*blocks, *norms):
        module.requires_grad_(True)
    for name, parameter in encoder.named_parameters():
        if HEAD.match(name) or ADDED.fullmatch(name):
            parameter.requires_grad_(True)


def _last(encoder: Any, count: int | None, name: str) -> list[nn.Module]:
    """The last `count` blocks. Raises ConfigError if there are fewer."""
    if count is None:
        return []
    blocks = list(getattr(encoder, "blocks", ()))
    if count > len(blocks):
        raise ConfigError(
            f"--tune last-{count}: {name} has {len(blocks)} blocks"
            + (f"; choose from last-1 to last-{len(blocks)}" if blocks else "; choose --tune full or head")
        )
    return blocks[-count:]


def _skip_no_frozen_block(encoder: Any) -> None:
    """Switch drop path off in what is frozen."""
    for part in (*encoder.children(), *getattr(encoder, "blocks", ())):
        if not any(parameter.requires_grad for parameter in part.parameters()):
            for module in part.modules():
                if isinstance(module, DropPath):
                    module.drop_prob = 0.0


def _share(model: nn.Module, tune: str) -> str:
    """How many of the weights are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained, total = sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)
    return f"--tune {tune}: {trained:,} of {total:,} weights are trained ({trained / total:.2%})"
