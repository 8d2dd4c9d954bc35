"""How the commands that read images read and compute them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from mrm.models.weights import first_line
from mrm.system.errors import RunError
from mrm.system.hardware import best_device
from mrm.training.trainer import processes


@dataclass(frozen=True)
class Reading:
    """How images are found, read and computed with; the same for every command."""

    images: Path | None = None  # where relative names of lists and tables are
    batch: int = 64
    workers: int | None = None  # processes that read; None: by what this machine has
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "auto"
    crop_borders: bool = False  # remove burned-in black and white borders first


def device_of(reading: Reading) -> torch.device:
    """The device asked for; of several processes each has its own. Raises RunError for one that is not there."""
    if reading.batch < 1 or (reading.workers or 0) < 0:
        raise RunError(f"--batch must be at least 1 and --workers 0 or more, not {reading.batch}, {reading.workers}")
    if reading.device == "auto":
        return processes().device if processes().num_processes > 1 else best_device()
    try:
        device = torch.device(reading.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RunError(f"--device {reading.device} is not there ({first_line(error)}); cpu always is") from error
    return device


def autocast(model: torch.nn.Module, reading: Reading) -> torch.autocast:
    """The precision asked for, on the model's device."""
    kind = next(model.parameters()).device.type
    return torch.autocast(kind, torch.bfloat16, enabled=reading.precision == "bf16")


@contextmanager
def named_failures(reading: Reading) -> Iterator[None]:
    """What a machine is too small for, as a RunError that says what to do; the rows so far are kept."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(f"no memory on the device for {reading.batch} images at once; give a smaller --batch") from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RunError(
            f"a process that reads images died ({first_line(error)}); with --workers 0 and --batch 1 the last "
            "row written shows before which image; the same command goes on from there"
        ) from error
