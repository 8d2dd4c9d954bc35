"""The memory that a training step needs, for each image and besides: what decides how large images and batches may be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mrm.runs.stage_times import StepBench
from mrm.system import hardware
from mrm.training.config import TrainConfig

USABLE = 0.8  # of the device's memory; the rest is for what a step computes in passing, and for other programs
GB = 1e9


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step: those of the weights, those of an image, and those that the device has."""

    fixed: int  # weights, gradients, moments of the optimiser, average
    image: int  # what is kept of an image for the backward pass
    room: int

    def fits(self) -> int:
        """The images that fit into a micro-batch."""
        return max(0, int((USABLE * self.room - self.fixed) // max(1, self.image)))

    def line(self) -> str:
        """The memory for people."""
        return (
            f"memory: {self.fixed / GB:.2f} GB for weights, gradients and optimiser, {self.image / GB:.3f} GB for each image; "
            f"about {self.fits():,} images fit in {USABLE:.0%} of {self.room / GB:.1f} GB"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"fits": self.fits()}


def memory_of(bench: StepBench, precision: hardware.Precision) -> StepMemory:
    """Count what a step of this task keeps, with one image and with two; nothing is measured that others may disturb."""
    return StepMemory(
        fixed=_fixed(bench),
        image=_kept(bench, 2, precision) - _kept(bench, 1, precision),
        room=hardware.memory(bench.device),
    )


def _fixed(bench: StepBench) -> int:
    """Bytes of weights, and of gradients and moments of those that are trained."""
    parameters = list(bench.task.parameters())
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    whole = sum(p.numel() * p.element_size() for p in parameters)
    moments = 1 if bench.training.optimizer == "sgd" else 2
    return whole * (2 if bench.training.ema else 1) + trained * (1 + moments)


def _kept(bench: StepBench, size: int, precision: hardware.Precision) -> int:
    """Bytes of all tensors that the forward pass keeps for the backward pass, each memory once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = bench.batch(size).to(bench.device)
    saved = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with saved, hardware.autocast(bench.device, precision):
        terms = bench.task(batch)
    del terms  # only now may memory be used again, under an address that was counted
    return sum(kept.values())


def memory_advice(memory: StepMemory, training: TrainConfig) -> list[str]:
    """What to change where a step does not fit."""
    micro, fits = training.micro_batch or training.global_batch, memory.fits()
    if fits >= micro:
        return []
    needed = (memory.fixed + micro * memory.image) / GB
    start = (
        f"a step of {micro} images needs about {needed:.1f} GB, and {USABLE * memory.room / GB:.1f} GB can be used: "
    )
    parts = [part for part in range(1, fits + 1) if training.global_batch % part == 0]
    if not parts:
        return [
            start
            + "not even one image fits; take --training.checkpointing, a smaller --image-size or a smaller encoder"
        ]
    return [start + f"--training.micro-batch {parts[-1]} computes it in parts, with the same result"]
