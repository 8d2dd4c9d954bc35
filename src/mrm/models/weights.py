"""Weights are data: reading tensors without running code, and matching them with a model."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mrm.system.errors import CheckpointError


@dataclass(frozen=True)
class KeyReport:
    """How a state dict met a model: names that matched, and for the others why not."""

    matched: list[str]
    missing: list[str]  # the model has it, the file has not
    unexpected: list[str]  # the file has it, the model has no use for it
    mismatched: dict[str, str]  # name: "file (30000, 384), model (98, 64)"

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} tensors matched"]
        lines += [f"not in the file ({len(self.missing)}): {_short(self.missing)}"] if self.missing else []
        lines += [f"not used ({len(self.unexpected)}): {_short(self.unexpected)}"] if self.unexpected else []
        lines += [f"other shape: {name}: {why}" for name, why in self.mismatched.items()]
        return "\n".join(lines)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from `.safetensors`, or from a `.pth` that holds nothing but data.

    A `.pth` may be a state dict or hold one under "model" or "state_dict". A file that would run code
    when unpickled is refused. Raises CheckpointError.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return _state_dict(read_pickle(path), path)
    except (safetensors.SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path}: truncated or not a file of weights ({first_line(error)}); copy it again"
        ) from error


def read_pickle(path: Path) -> Any:
    """What `torch.load` gives of a `.pth`, without running code. argparse's Namespace is let through as data."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if not asked:
            raise CheckpointError(
                f"{path}: no file of weights that torch can read as plain data; get it again"
            ) from error
        raise CheckpointError(
            f"{path}: refused, it asks for {asked[1]}, which is more than tensors and plain data, and loading "
            "it could run code; ask its author for .safetensors"
        ) from error


def load_strict(model: nn.Module, weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Load weights that must fit exactly. Raises CheckpointError with a KeyReport."""
    report = match(model, weights)
    if report.missing or report.unexpected or report.mismatched:
        raise CheckpointError(f"{source}: weights of another architecture\n{report}")
    model.load_state_dict(dict(weights), strict=True)


def match(model: nn.Module, weights: Mapping[str, Tensor]) -> KeyReport:
    """Compare names and shapes of `weights` with the model's, loading nothing."""
    own = model.state_dict()
    mismatched = {
        k: f"file {tuple(weights[k].shape)}, model {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    }
    return KeyReport(
        matched=[k for k in own if k in weights and k not in mismatched],
        missing=[k for k in own if k not in weights],
        unexpected=[k for k in weights if k not in own],
        mismatched=mismatched,
    )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f'{path}: no state dict in it (a mapping of names to tensors, or one under "model")')
    return {k.removeprefix("module."): v for k, v in content.items()}


def _short(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def first_line(error: Exception) -> str:
    """What an error says first; libraries add pages."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
