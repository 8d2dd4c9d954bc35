"""What a run leaves, read back; and a run that is told to stop."""

import csv
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mrm.models import model_folder
from mrm.training.trainer import Trainer


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def trace(run: Path) -> list[dict[str, str]]:
    """The rows of a run's log."""
    return table(run / "log.csv")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return model_folder.read_weights(run / "last" / "model.safetensors")


@contextmanager
def sigterm_after(step: int) -> Iterator[None]:
    """Send SIGTERM to this process when a run inside the block has made so many steps."""
    after = Trainer._after_step

    def stop(self: Trainer) -> None:
        after(self)
        if self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_after_step", stop)
        yield
