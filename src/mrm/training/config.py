"""Settings of a training run: its length, optimiser, schedule and bookkeeping; and the learning rate at each step.

Nothing heavy is imported here, so that a command answers at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mrm.system.errors import ConfigError, TrainingError

LabelLossName = Literal["bce", "weighted", "focal", "asymmetric"]


@dataclass(frozen=True)
class TrainConfig:
    """Length, optimiser, schedule and bookkeeping of a run. The defaults are the published pre-training."""

    # Schedule
    epochs: float | None = 200.0  # passes over the records; --training.steps takes precedence
    steps: int | None = None  # optimiser steps
    warmup_epochs: float = 40.0  # of the learning rate; --training.warmup-steps takes precedence
    warmup_steps: int | None = None  # of the learning rate
    global_batch: int = 256  # samples in a step, over all ranks
    optimizer: Literal["adamw", "sgd"] = "adamw"  # sgd has momentum
    lr: float = 1.5e-4  # peak learning rate for a global batch of lr_batch, scaled in proportion for others
    lr_batch: int | None = 256  # the batch that lr is for; none makes lr the peak for any batch
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    momentum: float = 0.9  # of SGD
    weight_decay: float = 0.05  # of weights; none for biases and norms
    layer_decay: float | None = None  # learning rate of a block as a share of the next block's
    clip: float | None = None  # largest gradient norm
    schedule: Literal["cosine", "polynomial"] = "cosine"  # decay to 0 after a linear warm-up
    ema: float | None = None  # decay of a moving average of the weights, which is then what is saved
    bad_steps: int = 20  # steps in a row without a finite gradient before the run stops

    # Machine
    micro_batch: int | None = None  # samples that a rank computes at once; by default all of its share
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16; without it fp16 on GPUs, fp32 on CPUs
    compile: bool = False  # compile the forward and backward pass: minutes at first, then faster steps
    sharding: Literal["none", "full"] = "none"  # full spreads weights and optimiser state over the ranks (FSDP2)
    checkpointing: bool = False  # recompute activations in the backward pass: less memory, slower
    workers: int | None = None  # processes that read images; by default chosen for this machine
    threads: int | None = None  # of a step on a CPU; by default all cores that read no images

    # Logging and checkpoints
    log_every: int = 20  # steps
    validate_every: int = 1000  # steps; pre-training also draws restored images
    validate_epochs: float | None = None  # passes over the records, instead of validate_every; 1 is as published
    save_every: int = 1000  # steps
    keep: int = 2  # checkpoints to keep, besides the best
    trackers: tuple[str, ...] = ("tensorboard",)  # any of Accelerate's

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "global_batch",
            "micro_batch",
            "threads",
            "log_every",
            "validate_every",
            "save_every",
            "keep",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainingError(f"{name} must be at least 1, not {value}")
        if self.steps is None and not (self.epochs and self.epochs > 0):
            raise TrainingError("a run needs a length: steps, or epochs above 0")
        if self.validate_epochs is not None and not 0 < self.validate_epochs < math.inf:
            raise TrainingError(f"validate_epochs must be above 0, not {self.validate_epochs:g}")
        if self.precision == "fp16" and self.sharding == "full":
            raise TrainingError(
                "fp16 needs a whole copy of the weights on each rank, since its loss scaler watches all gradients; choose "
                "either --training.precision fp16 or --training.sharding full"
            )
        if self.compile and self.sharding == "full":
            raise TrainingError(
                "a sharded model cannot be compiled: its graph breaks at every shard and is compiled again for every "
                "length of text; choose either --training.compile or --training.sharding full"
            )

    def plan(self, records: int) -> tuple[int, int]:
        """Steps of the run and of its warm-up, for this many records."""
        per_epoch = records / self.global_batch
        steps = self.steps or max(1, round((self.epochs or 0) * per_epoch))
        warmup = round(self.warmup_epochs * per_epoch) if self.warmup_steps is None else self.warmup_steps
        return steps, min(warmup, steps - 1)

    def steps_between_validations(self, records: int) -> int:
        """Steps from one validation to the next, for this many records: whole steps, so an epoch's last one counts."""
        if self.validate_epochs is None:
            return self.validate_every
        return math.ceil(self.validate_epochs * records / self.global_batch)

    def shortened(self, steps: int | None) -> TrainConfig:
        """The same run in `steps` steps: the schedule is scaled to fit, and the warm-up keeps its share."""
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


def check_patience(patience: int | None, gain: float) -> None:
    """Raises ConfigError for a patience of no validation, and for a gain below 0."""
    if patience is not None and patience < 1:
        raise ConfigError(f"--patience must be at least 1 validation, not {patience}; leave it out to train to the end")
    if not 0 <= gain < math.inf:
        raise ConfigError(f"--patience-gain must be 0 or more, not {gain:g}")


def last_blocks(tune: str) -> int | None:
    """N where `tune` is `last-N`, None for `full`, `lora` and `head`. Raises ConfigError for anything else."""
    if tune in ("full", "lora", "head"):
        return None
    if match := re.fullmatch(r"last-(\d{1,6})", tune):
        if int(match[1]) < 1:
            raise ConfigError("--tune last-0 trains no block; choose last-1 or more, or head")
        return int(match[1])
    raise ConfigError(f"unknown --tune {tune!r}; choose from full, lora, head, last-N with a number of blocks for N")


def lr_at(step: int, *, peak: float, warmup: int, total: int, schedule: str = "cosine") -> float:
    """Learning rate of step 0, 1, ...: linear warm-up, then cosine or linear (polynomial, power 1) to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * (0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1 - done)


def length_note(config: TrainConfig, step: int, before: Sequence[int], now: Sequence[int]) -> str:
    """What it does to the learning rate that a run resumes at `step` with another length; empty if its length is the same.

    `before` and `now` are steps and steps of the warm-up.
    """
    if tuple(before) == tuple(now):
        return ""
    last, following = (
        lr_at(at, peak=config.peak(), total=total, warmup=warmup, schedule=config.schedule)
        for at, (total, warmup) in ((max(step - 1, 0), before), (step, now))
    )
    return (
        f"prolonged from {before[0]} to {now[0]} steps. From here on the learning rate follows the schedule of the longer run: "
        f"it was {last:.2e} in the last step and is {following:.2e} in the next. A run of {now[0]} steps from the start would "
        "have had other learning rates before"
    )
