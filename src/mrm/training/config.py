"""Settings of a training run: its length, optimiser, schedule and bookkeeping; and the learning rate at each step.

Nothing heavy is imported here, so that a command answers at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from mrm.system.errors import TrainingError


@dataclass(frozen=True)
class TrainConfig:
    """Length, optimiser, schedule and bookkeeping of a run. The defaults are the published pre-training."""

    epochs: float | None = 200.0  # passes over the records; or
    steps: int | None = None  # optimiser steps, which win
    warmup_epochs: float = 40.0
    warmup_steps: int | None = None
    global_batch: int = 256  # samples a step, over all processes
    micro_batch: int | None = None  # samples a process holds at a time; None: all of its share
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1.5e-4  # peak learning rate for a global batch of `lr_batch`, to which it is in proportion
    lr_batch: int | None = 256  # None: `lr` is the peak, whatever the batch
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = 0.9  # of SGD
    weight_decay: float = 0.05  # none on biases and norms
    layer_decay: float | None = None  # learning rate of a block over that of the next
    clip: float | None = None  # gradient norm
    schedule: Literal["cosine", "polynomial"] = "cosine"  # to 0, after a linear warm-up
    precision: Literal["fp32", "bf16"] = "bf16"
    compile: bool = False  # torch.compile of the forward and backward pass: minutes at first, then faster steps
    sharding: Literal["none", "full"] = "none"  # over processes: a whole copy in each, or a part in each (FSDP2)
    ema: float | None = None  # decay of an average of the weights, which is then what is kept
    checkpointing: bool = False  # recompute activations: less memory, slower
    log_every: int = 20  # steps
    validate_every: int = 1000  # validation and images
    save_every: int = 1000
    keep: int = 2  # checkpoints, besides the best
    workers: int | None = None  # processes that read images; None: by the machine
    bad_steps: int = 20  # in a row, without a finite gradient, before the run stops
    trackers: tuple[str, ...] = ("tensorboard",)  # any of Accelerate's

    def __post_init__(self) -> None:
        for name in ("steps", "global_batch", "micro_batch", "log_every", "validate_every", "save_every", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainingError(f"{name} must be at least 1, not {value}")
        if self.steps is None and not (self.epochs and self.epochs > 0):
            raise TrainingError("a run needs a length: steps, or epochs above 0")
        if self.compile and self.sharding == "full":
            raise TrainingError(
                "a model in parts is not compiled: its graph breaks at every part, and is made anew for every length of "
                "text; choose --training.compile or --training.sharding full"
            )

    def plan(self, records: int) -> tuple[int, int]:
        """Steps of the run and of its warm-up, for so many records."""
        per_epoch = records / self.global_batch
        steps = self.steps or max(1, round((self.epochs or 0) * per_epoch))
        warmup = round(self.warmup_epochs * per_epoch) if self.warmup_steps is None else self.warmup_steps
        return steps, min(warmup, steps - 1)

    def shortened(self, steps: int | None) -> TrainConfig:
        """The same run squeezed into `steps`: the schedule fits them, the warm-up takes its share of them."""
        if steps is None:
            return self
        if self.steps is not None:
            warmup = round((self.warmup_steps or 0) * steps / self.steps)
        else:
            warmup = round(self.warmup_epochs * steps / (self.epochs or 1))
        return replace(self, steps=steps, warmup_steps=warmup)

    def peak(self) -> float:
        """The learning rate after warm-up."""
        return self.lr * (self.global_batch / self.lr_batch if self.lr_batch else 1.0)


def lr_at(step: int, *, peak: float, warmup: int, total: int, schedule: str = "cosine") -> float:
    """Learning rate of step 0, 1, ...: linear warm-up, then cosine or linear (polynomial, power 1) to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1 - done)
