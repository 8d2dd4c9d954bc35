"""The target of independent findings, and what every other target changes of it."""

# Shapes: N records, B samples, C outputs of the network
from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from mrm.data.label_values import LabelKind
from mrm.data.records import Records, resolve_uncertain
from mrm.statistics import ranking
from mrm.statistics.calibration import calibrated_probabilities
from mrm.statistics.intervals import Estimate
from mrm.statistics.numbers_and_levels import agreement, confusion
from mrm.system.errors import MRMError, RecordError, RunError

Report = dict[str, dict[str, Estimate]]


@dataclass(frozen=True)
class Target:
    """What the outputs of a network mean. `classes` are their names; `centre` and `spread` scale those of a regression."""

    classes: tuple[str, ...]
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    name: ClassVar[str] = ""
    kind: ClassVar[LabelKind] = "findings"  # of labels as they are in a table
    independent: ClassVar[bool] = True  # each output is a finding of its own: sigmoid, temperature, threshold, set
    probabilistic: ClassVar[bool] = True  # outputs become probabilities of labels of 0 and 1
    score: ClassVar[str] = "AUROC"  # chooses the best checkpoint

    # Labels ---------------------------------------------------------------------------------------------

    @classmethod
    def of_training(cls, records: Records) -> Target:
        """The target that these training records state. Raises RecordError for labels that state none."""
        return cls(records.classes)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a table that hold the labels."""
        return self.classes

    def labels(self, records: Records) -> Records:
        """The records with a label for each output; `records` have those of `columns`. Raises RecordError."""
        return records

    def as_stated(self, records: Records) -> Records:
        """What `labels` made, as a table states it: its inverse."""
        return records

    def read(self, path: Path, images: Path | None, policy: dict[str, str] | None = None) -> Records:
        """The labelled records of a table, with a label for each output. `policy` is for uncertain findings."""
        records = Records.load(path, self.columns, images, kind=self.kind)
        return self.labels(resolve_uncertain(records, policy or dict.fromkeys(records.classes, "ignore")))

    def of_study(self, labels_NC: np.ndarray) -> np.ndarray:
        """The labels (C,) of a study from those of its images; NaN if none states one. Raises RecordError."""
        stated = ~np.isnan(labels_NC)
        return np.where(stated.any(axis=0), np.where(stated, labels_NC, -np.inf).max(axis=0), np.nan)

    def require_variety(self, val: Records) -> None:
        """Raises RunError where validation labels cannot rank checkpoints."""

    # Training -------------------------------------------------------------------------------------------

    def error(self, logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
        """The error of every output (B, C), whose mean over the stated labels is the loss."""
        return F.binary_cross_entropy_with_logits(logits_BC, labels_BC, reduction="none")

    # Meaning --------------------------------------------------------------------------------------------

    def values(self, logits_BC: np.ndarray) -> np.ndarray:
        """What the logits (B, C) say, as labels are written: probabilities, or numbers."""
        return calibrated_probabilities(logits_BC, np.ones(logits_BC.shape[1]))

    def activation(self, logits_BC: Tensor) -> Tensor:
        """`values` as part of a network."""
        return logits_BC.sigmoid()

    def scores(self, logits_BC: np.ndarray) -> np.ndarray:
        """Numbers (B, C) by which records are ranked: as `values`, but never equal only because they are rounded."""
        return logits_BC

    @property
    def answer(self) -> dict[str, type]:
        """The column of a table of predictions that says what is predicted of an image, and its type; none if {}."""
        return {}

    def answers(self, values_BC: np.ndarray) -> list[Any]:
        """What that column holds for each image."""
        return [None] * len(values_BC)

    # Measures -------------------------------------------------------------------------------------------

    def validated(self, labels_NC: np.ndarray, logits_NC: np.ndarray) -> dict[str, float]:
        """The measures of a validation, whose names start with `val_`, and the "score" that chooses the best checkpoint."""
        pairs = [*zip(labels_NC.T, self.scores(logits_NC).T, strict=True)]
        auroc, precision = (
            float(np.nanmean([measure(*pair) for pair in pairs]))
            for measure in (ranking.auroc, ranking.average_precision)
        )
        return {"val_auroc": auroc, "val_average_precision": precision, "score": auroc}

    def report(
        self,
        labels_NC: np.ndarray,
        values_NC: np.ndarray,
        groups: Sequence[Hashable] | None = None,
        draws: int = 2000,
        seed: int = 0,
    ) -> Report:
        """The measures of a test: of every output, and of the whole as "mean". `groups` (N,) names patients."""
        return ranking.classification_report(labels_NC, values_NC, self.classes, groups=groups, draws=draws, seed=seed)

    def confusion(self, labels_NC: np.ndarray, values_NC: np.ndarray) -> tuple[tuple[str, ...], np.ndarray] | None:
        """Names of the classes or levels, and how often each true one (rows) was called each (columns); None without any."""
        return None

    # Refusals -------------------------------------------------------------------------------------------

    def require_independent(self, what: str, error: type[MRMError] = RunError) -> None:
        """Raises `error` where outputs are not findings of their own; `what` is the start of the sentence."""
        if not self.independent:
            raise error(
                f"{what} needs findings that may be present each for itself; this model was trained with --target {self.name}"
            )

    def require_probabilities(self, what: str, error: type[MRMError] = RunError) -> None:
        """Raises `error` where outputs are no probabilities; `what` is the start of the sentence."""
        if not self.probabilistic:
            raise error(
                f"{what} needs probabilities; this model was trained with --target {self.name}, to predict numbers"
            )


class Multilabel(Target):
    """Findings that may be present each for itself."""

    name = "multilabel"


class OneAnswer(Target):
    """One of several classes or levels is true of an image, so a test also shows how often each true one was called each."""

    ordered: ClassVar[bool]  # whether a distance between two of them has a meaning

    @property
    def possible(self) -> tuple[str, ...]:
        """The names of the classes or levels."""
        raise NotImplementedError

    def called(self, labels_NC: np.ndarray, values_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of the true one (N,), -1 where it is not stated, and of the predicted one (N,)."""
        raise NotImplementedError

    def report(
        self,
        labels_NC: np.ndarray,
        values_NC: np.ndarray,
        groups: Sequence[Hashable] | None = None,
        draws: int = 2000,
        seed: int = 0,
    ) -> Report:
        """AUROC and average precision of each output; of the whole also `mrm.statistics.numbers_and_levels.agreement`."""
        report = super().report(labels_NC, values_NC, groups, draws, seed)
        called = self.called(labels_NC, values_NC)
        whole = agreement(*called, len(self.possible), self.ordered, groups, draws, seed)
        return {**report, "mean": {**report["mean"], **whole}}

    def confusion(self, labels_NC: np.ndarray, values_NC: np.ndarray) -> tuple[tuple[str, ...], np.ndarray] | None:
        """Of the classes or levels."""
        return self.possible, confusion(*self.called(labels_NC, values_NC), len(self.possible))


def bad_record(records: Records, wrong_N: np.ndarray, what: str, advice: str) -> RecordError:
    """The error about the first of the records that are wrong, and how many there are."""
    first = records[int(np.flatnonzero(wrong_N)[0])]
    more = f" ({int(wrong_N.sum()):,} such records)" if wrong_N.sum() > 1 else ""
    return RecordError(f"{records.source}: {first.name} {what}{more}; {advice}")
