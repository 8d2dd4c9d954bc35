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
    """How a state dict fits a model: the names that matched, and for the others why not."""

    matched: list[str]
    missing: list[str]  # in the model only
    unexpected: list[str]  # in the file only
    mismatched: dict[str, str]  # name: "file (30000, 384), model (98, 64)"

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} tensors matched"]
        if self.missing:
            lines.append(f"not in the file ({len(self.missing)}): {_short(self.missing)}")
        if self.unexpected:
            lines.append(f"not used ({len(self.unexpected)}): {_short(self.unexpected)}")
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
    """What `torch.load` reads from a `.pth` without running code; argparse's Namespace is allowed as data."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        imported = re.search(r"GLOBAL (\S+)", str(error))
        if not imported:
            raise CheckpointError(
                f"{path}: not a file of weights that torch can read as plain data; download or copy it again"
            ) from error
        raise CheckpointError(
            f"{path}: refused, since it imports {imported[1]}, which is more than tensors and plain data, and loading "
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
        raise CheckpointError(f'{path}: has no state dict (a mapping of names to tensors, or one under "model")')
    return {k.removeprefix("module."): v for k, v in content.items()}


def _short(names: list[str], limit: int = 6) -> str:
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join([*names[:limit], *more])


def first_line(error: Exception) -> str:
    """The first line of an error's message, which in libraries can fill pages."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
