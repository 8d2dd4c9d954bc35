"""What a unit of work is, and the folder that records which are done."""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS, Size

from mrm.models import model_folder
from mrm.system.files import write_json, write_whole


class StudyError(ValueError):
    """A study that cannot start or resume. The message says why, and what to do."""


@dataclass(frozen=True)
class Unit:
    """A piece of work: `do(study)` returns what goes into its JSON. `seconds` is an estimate for planning."""

    name: str
    do: Callable[[Study], dict[str, Any]]
    needs: tuple[str, ...] = ()
    seconds: float = 60.0


@dataclass(frozen=True)
class Study:
    """A study's folder and settings."""

    out: Path
    size_name: str
    size: Size
    data: Path | None = None
    pretrainings: int = 3
    arms: tuple[str, ...] = tuple(ARMS)

    def file(self, kind: str, name: str, ending: str) -> Path:
        """The path of a unit's file of some kind."""
        return self.out / kind / f"{name}{ending}"

    def done(self, name: str) -> bool:
        """Whether a unit is finished."""
        return self.file("units", name, ".json").is_file()

    def read(self, name: str) -> dict[str, Any]:
        """A finished unit's JSON."""
        return json.loads(self.file("units", name, ".json").read_bytes())

    def write(self, kind: str, name: str, content: dict[str, Any]) -> None:
        """A unit's JSON, whole or not at all."""
        write_json(self.file(kind, name, ".json"), content)

    def keep_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Arrays beside a unit's JSON; written before it."""
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        write_whole(self.file("units", name, ".npz"), content.getvalue())

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a finished unit."""
        with np.load(self.file("units", name, ".npz")) as file:
            return dict(file)


def beside(name: str) -> Any:
    """Another benchmark, as a module."""
    folder = str(Path(__file__).parents[1])
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def require_finished(run: Path, steps: int) -> None:
    """A run that is told to stop ends early without an error; so the study stops too, and resumes there next time."""
    reached = int(model_folder.read_card(run / "last").origin["step"])
    if reached < steps:
        raise KeyboardInterrupt(f"{run}: stopped at step {reached} of {steps}")
