"""Weights are data: reading tensors without running code, and matching them with a model."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mrm.models.name_prefixes import without_prefixes
from mrm.system.errors import CheckpointError, first_line

STATE_DICTS = ("model", "state_dict", "model_state_dict", "module")  # where programs keep the weights in a `.pth`


@dataclass(frozen=True)
class KeyReport:
    """How a state dict fits a model: the names that matched, and for the others why not."""

    matched: list[str]
    missing: list[str]  # in the model only
    unexpected: list[str]  # in the file only
    mismatched: dict[str, str]  # name: "file (30000, 384), model (98, 64)"
    read_as: str = ""  # what the file was taken for, where it is another program's

    def __str__(self) -> str:
        lines = [f"read as {self.read_as}"] if self.read_as else []
        lines.append(f"{len(self.matched)} tensors matched")
        if self.missing:
            lines.append(f"not in the file ({len(self.missing)}): {_short(self.missing)}")
        if self.unexpected:
            lines.append(f"not used ({len(self.unexpected)}): {_short(self.unexpected)}")
        lines += [f"other shape: {name}: {why}" for name, why in self.mismatched.items()]
        return "\n".join(lines)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by the names that they have without known prefixes (`name_prefixes`), else as `read_stored`."""
    return without_prefixes(read_stored(path), path)


def read_stored(path: Path) -> dict[str, Tensor]:
    """Tensors by name from `.safetensors`, or from a `.pth` that holds nothing but data.

    A `.pth` may be a state dict or hold one under one of the names STATE_DICTS. A file that would run code when unpickled
    is refused. Raises CheckpointError.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file of weights")
    with _as_damaged(path):
        weights = load_file(path) if path.suffix == ".safetensors" else _state_dict(read_pickle(path), path)
        _check_values(weights, path)
        return weights


def read_shapes(path: Path) -> dict[str, torch.Size]:
    """The shapes of the tensors in a `.safetensors` by name, from its header alone. Raises CheckpointError."""
    with _as_damaged(path), safetensors.safe_open(path, framework="pt") as file:
        return {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _as_damaged(path: Path) -> Iterator[None]:
    """Turn the many kinds of errors that damaged files of weights raise into CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path}: truncated or not a file of weights ({first_line(error)}); copy it again"
        ) from error


def _check_values(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raises CheckpointError for tensors that are not plain numbers in the file, all of them finite."""
    size = path.stat().st_size
    for name, value in weights.items():
        if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
            raise CheckpointError(f"{path}: {_named(name)} is not a dense tensor; save the weights as plain tensors")
        if value.numel() * value.element_size() > size:  # a tensor that repeats few values takes no space in the file
            raise CheckpointError(
                f"{path}: {_named(name)} has {value.numel():,} values, more than the file holds; save the weights as "
                "plain tensors"
            )
        if not value.is_floating_point():
            continue
        finite = torch.isfinite(value.float() if value.element_size() == 1 else value)
        if not finite.all():
            raise CheckpointError(
                f"{path}: {_named(name)} has {int((~finite).sum()):,} values that are NaN or infinite; the training "
                "that wrote it went wrong or the file is damaged: take an earlier checkpoint or copy it again"
            )


def _named(name: str) -> str:
    return name if len(name) <= 100 and name.isprintable() else repr(name[:100])


def read_pickle(path: Path) -> Any:
    """What `torch.load` reads from a `.pth` without running code; argparse's Namespace is allowed as data.

    Raises CheckpointError.
    """
    with _as_damaged(path):
        _check_not_packed(path)
        return _unpickled(path)


def _check_not_packed(path: Path) -> None:
    """Raises CheckpointError for a `.pth` whose parts are compressed, which torch never does: it could be a bomb."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        packed = [info for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        if packed or sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
            raise CheckpointError(
                f"{path}: its parts are compressed, which torch never does; unpack it and pack it with `zip -0`"
            )


def _unpickled(path: Path) -> Any:
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
    require_match(model.state_dict(), {name: value.shape for name, value in weights.items()}, source)
    model.load_state_dict(dict(weights), strict=True)


def require_match(own: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], source: Path | str) -> None:
    """Raises CheckpointError with a KeyReport unless a file has tensors of exactly these names and shapes."""
    report = compare(own, shapes)
    if report.missing or report.unexpected or report.mismatched:
        raise CheckpointError(f"{source}: weights of another architecture\n{report}")


def match(model: nn.Module, weights: Mapping[str, Tensor]) -> KeyReport:
    """Compare names and shapes of `weights` with the model's, loading nothing."""
    return compare(model.state_dict(), {name: value.shape for name, value in weights.items()})


def compare(own: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> KeyReport:
    """Compare the names and shapes in a file with those of a model's state dict."""
    mismatched = {
        k: f"file {tuple(shapes[k])}, model {tuple(own[k].shape)}"
        for k in own
        if k in shapes and shapes[k] != own[k].shape
    }
    return KeyReport(
        matched=[k for k in own if k in shapes and k not in mismatched],
        missing=[k for k in own if k not in shapes],
        unexpected=[k for k in shapes if k not in own],
        mismatched=mismatched,
    )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for key in STATE_DICTS:
        if isinstance(content, dict) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        keys = f"; its keys are {_short(list(map(str, content)))}" if isinstance(content, Mapping) else ""
        raise CheckpointError(
            f"{path}: has no state dict, a mapping of names to tensors, alone or under {' or '.join(STATE_DICTS)}{keys}. "
            'Save the weights that are meant as {"model": weights} with torch.save'
        )
    return {str(k): v for k, v in content.items()}


def _short(names: list[str], limit: int = 6) -> str:
    more = [f"and {len(names) - limit} more"] if len(names) > limit else []
    return ", ".join([*names[:limit], *more])
