"""Mutually exclusive classes: exactly one of them is true of an image."""

# Shapes: N records, B samples, C classes
from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp, softmax
from torch import Tensor

from mrm.data.records import Records
from mrm.system.errors import RecordError
from mrm.targets.target import OneAnswer, Target, bad_record

SUM = 1e-3  # by which shares may miss 1


class Multiclass(OneAnswer):
    """One class of several. A table has a column for each class, with 1 for the true one, and 0 or nothing for the others.

    Shares (soft labels) are as likely as the classes are, and sum to 1.
    """

    name = "multiclass"
    independent = ordered = False

    @classmethod
    def of_training(cls, records: Records) -> Target:
        """Raises RecordError for fewer than two classes, and for a class without a record."""
        if len(records.classes) < 2:
            raise RecordError(
                f"{records.source}: --target multiclass needs a column for each of two or more classes, and has "
                f"{', '.join(records.classes)}"
            )
        target = cls(records.classes)
        labels_NC = target.labels(records).labels_NC
        if absent := [
            name for name, labels_N in zip(records.classes, labels_NC.T, strict=True) if not (labels_N > 0).any()
        ]:
            raise RecordError(
                f"{records.source}: no record is of the class {', '.join(absent)}; leave it out of --classes"
            )
        return target

    def labels(self, records: Records) -> Records:
        """What is not stated beside a stated class is 0. Raises RecordError for two classes at once, and for none."""
        labels_NC = records.labels_NC
        stated_N = ~np.isnan(labels_NC).all(axis=1)
        sums_N = np.nansum(labels_NC, axis=1)
        names = ", ".join(records.classes)
        if (wrong_N := stated_N & (sums_N > 1 + SUM)).any():
            raise bad_record(records, wrong_N, f"has more than one of the classes {names}", "they exclude each other")
        if (wrong_N := stated_N & (sums_N < 1 - SUM)).any():
            advice = "give one of them 1, or leave all of them empty"
            raise bad_record(records, wrong_N, f"has labels, but none of the classes {names}", advice)
        return records.relabelled(_zero_beside_stated)

    def of_study(self, labels_NC: np.ndarray) -> np.ndarray:
        """Raises RecordError for images of different classes."""
        stated_NC = labels_NC[~np.isnan(labels_NC).any(axis=1)]
        if len(np.unique(stated_NC, axis=0)) > 1:
            raise RecordError(
                f"a study has images of different classes ({', '.join(self.classes)}), which exclude each other"
            )
        return stated_NC[0] if len(stated_NC) else np.full(len(self.classes), np.nan)

    def error(self, logits_BC: Tensor, labels_BC: Tensor) -> Tensor:
        """Cross-entropy, spread over the classes so that the mean over labels is the mean over images."""
        return -labels_BC * logits_BC.log_softmax(dim=1) * len(self.classes)

    def values(self, logits_BC: np.ndarray) -> np.ndarray:
        """Probabilities that sum to 1."""
        return softmax(logits_BC.astype(np.float64), axis=1)

    def activation(self, logits_BC: Tensor) -> Tensor:
        """Softmax."""
        return logits_BC.softmax(dim=1)

    def scores(self, logits_BC: np.ndarray) -> np.ndarray:
        """Log odds of each class against all others."""
        exact_BC = logits_BC.astype(np.float64)
        others = [np.delete(exact_BC, c, axis=1) for c in range(exact_BC.shape[1])]
        return exact_BC - np.stack([logsumexp(others_BC, axis=1) for others_BC in others], axis=1)

    @property
    def answer(self) -> dict[str, type]:
        """The likeliest class."""
        return {"class": str}

    def answers(self, values_BC: np.ndarray) -> list[Any]:
        """Its name; None for an image without probabilities."""
        return [None if np.isnan(values_C).any() else self.classes[int(values_C.argmax())] for values_C in values_BC]

    def validated(self, labels_NC: np.ndarray, logits_NC: np.ndarray) -> dict[str, float]:
        """AUROC of every class against the others, and accuracy."""
        stated_N = ~np.isnan(labels_NC).any(axis=1)
        right_N = labels_NC[stated_N].argmax(axis=1) == logits_NC[stated_N].argmax(axis=1)
        accuracy = float(right_N.mean()) if len(right_N) else float("nan")
        return {**super().validated(labels_NC, logits_NC), "val_accuracy": accuracy}

    @property
    def possible(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    def called(self, labels_NC: np.ndarray, values_NC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The true class and the likeliest one."""
        stated_N = ~np.isnan(labels_NC).any(axis=1)
        return np.where(stated_N, np.nan_to_num(labels_NC).argmax(axis=1), -1), values_NC.argmax(axis=1)


def _zero_beside_stated(labels_NC: np.ndarray) -> np.ndarray:
    stated_N1 = ~np.isnan(labels_NC).all(axis=1, keepdims=True)
    return np.where(stated_N1, np.nan_to_num(labels_NC), np.nan)
