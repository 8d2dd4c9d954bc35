"""What a run leaves, read back."""

import csv
from pathlib import Path

import torch

from mrm.models import model_folder


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="") as text:
        return list(csv.DictReader(text))


def trace(run: Path) -> list[dict[str, str]]:
    """The rows of a run's log."""
    return table(run / "log.csv")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return model_folder.read_weights(run / "last" / "model.safetensors")
