"""What a benchmark is to do: its settings, and the cells that follow from them, each with its folder and its note."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrm.recipes.suites import Entry

SCRATCH = "scratch"  # in place of a model: random weights


@dataclass(frozen=True)
class BenchmarkConfig:
    """A suite, the models that it compares, and the folders of data, images and results."""

    suite: str
    out: Path
    data: Path | None = None  # the prepared corpus or corpora, or the published lists; `phantom` draws its own
    models: tuple[str, ...] = ()  # what --init takes; "scratch" has random weights; others are compared with the first
    images: Path | None = None  # the folder that relative image paths start from; by default that of the lists
    seeds: tuple[int, ...] = (0, 1, 2)
    only: tuple[str, ...] = ()  # entries of the suite; by default all
    modern: bool = False  # fine-tune by the recipes NAME-modern
    max_steps: int | None = None  # squeeze every run into so many steps: a rehearsal, which the ledger then says it is
    draws: int = 2000  # bootstrap resamples


@dataclass(frozen=True)
class Cell:
    """One model, fine-tuned by one entry of the suite from one seed."""

    model: str
    entry: Entry
    seed: int
    label: str  # of the model

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.entry.name}/{self.label.replace('/', '_')}-{self.seed}"


def folder_of(config: BenchmarkConfig, cell: Cell) -> Path:
    """The folder of a cell."""
    return config.out / "cells" / cell.name


def status(config: BenchmarkConfig, cell: Cell) -> str:
    """ "done", "failed", "begun" (stopped or killed on the way) or "to do"."""
    folder = folder_of(config, cell)
    if (folder / "cell.json").is_file():
        return str(json.loads((folder / "cell.json").read_bytes())["status"])
    return "begun" if folder.is_dir() else "to do"


def note_of(config: BenchmarkConfig, cell: Cell) -> dict[str, Any]:
    """What a cell has noted, or only its status."""
    file = folder_of(config, cell) / "cell.json"
    if file.is_file():
        return dict(json.loads(file.read_bytes()))
    return {"seed": cell.seed, "status": status(config, cell)}
