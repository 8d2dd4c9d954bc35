"""Numbers: an age, a severity score, a volume."""

# Shapes: N records, B samples, C numbers
from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from mrm.data.records import Records
from mrm.statistics.numbers_and_levels import number_report, number_values
from mrm.system.errors import RecordError, RunError
from mrm.targets.target import Report, Target


class Regression(Target):
    """Numbers. The network predicts them in standard deviations from the mean of the training labels."""

    name, kind, score = "regression", "numbers", "R2"
    independent = probabilistic = False

    @classmethod
    def of_training(cls, records: Records) -> Target:
        """Scaled by the training labels. Raises RecordError for a column that states fewer than two different numbers."""
        labels_NC = records.labels_NC
        for name, labels_N in zip(records.classes, labels_NC.T, strict=True):
            if len(np.unique(labels_N[~np.isnan(labels_N)])) < 2:
                raise RecordError(
                    f"{records.source}: {name} has fewer than two different numbers, so nothing can be learned of it"
                )
        centre, spread = np.nanmean(labels_NC, axis=0), np.nanstd(labels_NC, axis=0)
        return cls(records.classes, tuple(centre.tolist()), tuple(spread.tolist()))

    def of_study(self, labels_NC: np.ndarray) -> np.ndarray:
        """The mean of those that are stated."""
        stated = ~np.isnan(labels_NC)
        count = stated.sum(axis=0)
        return np.where(count, np.nansum(labels_NC, axis=0) / np.maximum(count, 1), np.nan)

    def require_variety(self, val: Records) -> None:
        """Raises RunError where no column has two different numbers: R2 is then undefined."""
        if not any(len(np.unique(labels_N[~np.isnan(labels_N)])) > 1 for labels_N in val.labels_NC.T):
            raise RunError(
                f"{val.source}: no two different numbers of {', '.join(val.classes)}, so R2 is undefined; validate on more "
                "records"
            )

    def error(self, logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
        """Squared error in standard deviations of the training labels."""
        centre_C, spread_C = (logits_BC.new_tensor(values) for values in (self.centre, self.spread))
        return (logits_BC - (labels_BC - centre_C) / spread_C).square()

    def values(self, logits_BC: np.ndarray) -> np.ndarray:
        """Numbers in the unit of the labels."""
        return logits_BC.astype(np.float64) * np.array(self.spread) + np.array(self.centre)

    def activation(self, logits_BC: Tensor) -> Tensor:
        """The same in a network."""
        centre_C, spread_C = (
            torch.tensor(v, dtype=logits_BC.dtype, device=logits_BC.device) for v in (self.centre, self.spread)
        )
        return logits_BC * spread_C + centre_C

    def validated(self, labels_NC: np.ndarray, logits_NC: np.ndarray) -> dict[str, float]:
        """Means over the columns of R2, which chooses the best checkpoint, and of the correlation; of one column its error."""
        columns = [number_values(*pair) for pair in zip(labels_NC.T, self.values(logits_NC).T, strict=True)]
        r2, pearson = (float(np.nanmean([one[name] for one in columns])) for name in ("r2", "pearson"))
        error = {"val_mae": columns[0]["mae"]} if len(columns) == 1 else {}
        return {"val_r2": r2, "val_pearson": pearson, **error, "score": r2}

    def report(
        self,
        labels_NC: np.ndarray,
        values_NC: np.ndarray,
        groups: Sequence[Hashable] | None = None,
        draws: int = 2000,
        seed: int = 0,
    ) -> Report:
        """Errors and correlations of every column (`mrm.statistics.numbers_and_levels.number_report`)."""
        return number_report(labels_NC, values_NC, self.classes, groups, draws, seed)
