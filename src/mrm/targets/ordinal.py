"""Levels of one scale, such as 0 none, 1 mild, 2 severe: as many findings as there are steps from one level to the next.

Frank and Hall 2001, doi:10.1007/3-540-44795-4_13: "score >= 1", "score >= 2" and so on are findings of their own, so thresholds,
calibration and sets are those of any finding. Their probabilities are made to fall from one level to the next.
"""

# Shapes: N records, B samples, C steps: levels less one
from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrm.data.records import Records
from mrm.system.errors import RecordError
from mrm.targets.target import OneAnswer, Target, bad_record

MOST = 50  # levels
STEP = re.compile(r"(.+) >= (\d+)")


class Ordinal(OneAnswer):
    """Levels 0 to K of one column; `classes` are the K findings "column >= k"."""

    name, kind, ordered = "ordinal", "numbers", True

    @classmethod
    def of_training(cls, records: Records) -> Target:
        """As many levels as the training labels have. Raises RecordError for more than one column, and for missing levels."""
        if len(records.classes) != 1:
            raise RecordError(
                f"{records.source}: --target ordinal needs one column of levels, and has {', '.join(records.classes)}; name "
                "it with --classes"
            )
        labels_N = records.labels_NC[:, 0]
        top = int(np.nanmax(labels_N)) if (labels_N >= 1).any() else 1
        if top >= MOST:
            raise RecordError(
                f"{records.source}: {records.classes[0]} has a level {top}; at most {MOST} levels are possible"
            )
        target = cls(tuple(f"{records.classes[0]} >= {step}" for step in range(1, top + 1)))
        target.labels(records)
        if absent := sorted(set(range(top + 1)) - set(labels_N[~np.isnan(labels_N)].astype(int).tolist())):
            raise RecordError(
                f"{records.source}: no record has the level {', '.join(map(str, absent))} of {records.classes[0]}, which goes "
                f"up to {top}; number the levels 0, 1, 2 and so on"
            )
        return target

    @property
    def column(self) -> str:
        """The column of the levels."""
        match = STEP.fullmatch(self.classes[0])
        return match[1] if match else self.classes[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """That column alone."""
        return (self.column,)

    def labels(self, records: Records) -> Records:
        """1 for every step that the level has reached, 0 for the others. Raises RecordError for a level that does not exist."""
        level_N, top = records.labels_NC[:, 0], len(self.classes)
        wrong_N = ~(np.isnan(level_N) | np.isin(level_N, np.arange(top + 1)))
        if wrong_N.any():
            value = level_N[wrong_N][0]
            raise bad_record(
                records,
                wrong_N,
                f"has the level {value:g} of {self.column}",
                f"the levels are 0 to {top}, in whole numbers",
            )
        return records.relabelled(partial(_steps, top), self.classes, "findings")

    def as_stated(self, records: Records) -> Records:
        """The column of levels again."""
        return records.relabelled(_level, self.columns, self.kind)

    def values(self, logits_BC: np.ndarray) -> np.ndarray:
        """Probabilities of each step, none above that of the step before."""
        return np.minimum.accumulate(super().values(logits_BC), axis=1)

    def activation(self, logits_BC: Tensor) -> Tensor:
        """The same in a network: column by column, since ONNX has no running minimum."""
        columns = [logits_BC[:, 0]]
        for c in range(1, logits_BC.shape[1]):
            columns.append(torch.minimum(columns[-1], logits_BC[:, c]))
        return torch.stack(columns, dim=1).sigmoid()

    @property
    def answer(self) -> dict[str, type]:
        """The level."""
        return {self.column: int}

    def answers(self, values_BC: np.ndarray) -> list[Any]:
        """The highest level whose probability is at least 0.5; None for an image without probabilities."""
        return [None if np.isnan(values_C).any() else int((values_C >= 0.5).sum()) for values_C in values_BC]

    @property
    def possible(self) -> tuple[str, ...]:
        """The levels."""
        return tuple(map(str, range(len(self.classes) + 1)))

    def called(self, labels_NC: np.ndarray, values_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The true level and the predicted one."""
        stated_N = ~np.isnan(labels_NC).any(axis=1)
        return np.where(stated_N, np.nansum(labels_NC, axis=1), -1), (values_NC >= 0.5).sum(axis=1)


def _steps(top: int, level_N1: np.ndarray) -> np.ndarray:
    """Whether each step up to the level `top` is reached (N, top), NaN where the level is not stated."""
    return np.where(np.isnan(level_N1), np.nan, level_N1 >= np.arange(1, top + 1))


def _level(steps_NC: np.ndarray) -> np.ndarray:
    return steps_NC.sum(axis=1, keepdims=True)  # NaN where the steps are not stated
