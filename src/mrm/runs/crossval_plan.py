"""What a cross-validation is to do: its settings, its folds, and the records of each."""

# Shapes: N records, R repeats
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrm.data.folds import validation_part
from mrm.data.records import Records
from mrm.models.config import TargetName


@dataclass(frozen=True)
class CrossvalConfig:
    """What to cross-validate, on which records, and how they are divided."""

    recipe: str  # of `mrm finetune`
    records: Path
    init: Path | None  # without it random weights of the recipe's encoder
    out: Path
    folds: int = 5
    repeats: int = 2
    val_share: float = 0.2  # of the records outside a fold: they choose the checkpoint, and the strength of the floors
    classes: tuple[str, ...] = ()  # label columns; by default all numeric ones
    images: Path | None = None
    uncertain: str = "ignore"  # what labels of -1 become: ones, zeros, ignore
    target: TargetName | None = None  # what is predicted, as in `mrm finetune`; by default as the recipe says
    settings: Path | None = None  # a YAML file of fine-tuning settings that override the recipe
    scratch: bool = False
    image_size: int | None = None  # by default that of the initial model
    budget: str | None = None  # time of each fine-tuning, planned once for all folds
    max_steps: int | None = None
    floors: bool = True
    ensemble: bool = False  # keep the models of all folds in `runs/`, and write them as one in `ensemble/`
    seed: int = 0
    workers: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Fold:
    """A fold of a repeat, both counted from 0."""

    repeat: int
    fold: int

    @property
    def name(self) -> str:
        """The name of its files: 'repeat1-fold3'."""
        return f"repeat{self.repeat + 1}-fold{self.fold + 1}"


@dataclass(frozen=True)
class Parts:
    """The places of the records that train, validate and test in a fold."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, config: CrossvalConfig, fold: Fold, records: Records, folds_RN: np.ndarray) -> Parts:
        """Divide the records for a fold: by patient throughout."""
        inside_N = folds_RN[fold.repeat] == fold.fold
        outside = np.flatnonzero(~inside_N)
        held = validation_part(records.select(outside), config.val_share, config.seed)
        return cls(outside[~held], outside[held], np.flatnonzero(inside_N))

    def records(self, records: Records) -> dict[str, Records]:
        """The three sets."""
        return {name: records.select(getattr(self, name)) for name in ("train", "val", "test")}
