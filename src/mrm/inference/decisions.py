"""From a classifier's logits to what is said of an image: temperature, probability, threshold, outlier, abstention.

This is the only place where the card of a classifier is put to use, so that predictions, tests, heat maps, exports and
the service agree.
"""

# Shapes: B images, C classes, D features, K = C, or C + D where the model knows outliers
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from mrm.inference.outliers import outlying
from mrm.inference.predict import scores_and_features
from mrm.models.card import Card, OutlierReference, SetCuts
from mrm.models.classifier import Classifier
from mrm.targets import target_of
from mrm.targets.target import Target


@dataclass(frozen=True)
class Decisions:
    """What is said of each image. Outlier scores and abstentions are None where the model does not know outliers."""

    probability_BC: np.ndarray
    decision_BC: np.ndarray  # 1 or 0; NaN for a class without a threshold, and for images that the model abstains on
    outlier_B: np.ndarray | None = None
    abstain_B: np.ndarray | None = None


@dataclass(frozen=True)
class DecisionRules:
    """How the logits of a classifier become decisions, as its card says."""

    classes: tuple[str, ...]
    temperature_C: np.ndarray  # 1, which changes nothing, where none was fitted
    threshold_C: np.ndarray  # NaN where none was chosen
    target: Target  # what the logits mean
    outliers: OutlierReference | None = None  # where the features of known images lie
    sets: Mapping[str, SetCuts] = field(default_factory=dict)  # of classes that have one

    @classmethod
    def of(cls, card: Card | None, classes: Sequence[str]) -> DecisionRules:
        """The rules in a model's card. Without a card there are no thresholds, and all temperatures are 1."""
        temperatures, thresholds = (card.temperatures, card.thresholds) if card else ({}, {})
        return cls(
            tuple(classes),
            np.array([temperatures.get(name, 1.0) for name in classes]),
            np.array([thresholds.get(name, np.nan) for name in classes]),
            target_of({**(card.architecture if card else {}), "classes": classes}),
            card.outliers if card else None,
            card.sets if card else {},
        )

    def set_of(self, name: str, probability: float) -> str:
        """What is not ruled out of a finding that has cuts: "present", "absent", "either" or "neither"."""
        present, absent = probability >= self.sets[name].present_from, probability <= self.sets[name].absent_to
        return ("either" if absent else "present") if present else ("absent" if absent else "neither")

    @property
    def temperatures(self) -> dict[str, float]:
        """The temperature of each class."""
        return dict(zip(self.classes, self.temperature_C.tolist(), strict=True))

    @property
    def thresholds(self) -> dict[str, float]:
        """The threshold of each class that has one."""
        pairs = zip(self.classes, self.threshold_C.tolist(), strict=True)
        return {name: threshold for name, threshold in pairs if not np.isnan(threshold)}

    def needed_from(self, model: Classifier) -> Callable[[Tensor], Tensor]:
        """What to compute of normalised images for `decide`: logits, and features if the model knows outliers."""
        return scores_and_features(model) if self.outliers else model

    def decide(self, values_BK: np.ndarray) -> Decisions:
        """Decide by logits (B, C), followed by features (B, D) if the model knows outliers.

        A temperature comes before the threshold. An image unlike those that the model knows gets no decision.
        """
        logits_BC, features_BD = np.split(values_BK, [len(self.classes)], axis=1)
        probability_BC = self.probabilities(logits_BC)
        decision_BC = np.where(np.isnan(self.threshold_C), np.nan, probability_BC >= self.threshold_C)
        outlier_B = self.outlier_scores(features_BD)
        if outlier_B is None:
            return Decisions(probability_BC, decision_BC)
        abstain_B = self.abstains(outlier_B)
        return Decisions(probability_BC, np.where(abstain_B[:, None], np.nan, decision_BC), outlier_B, abstain_B)

    def probabilities(self, logits_BC: np.ndarray) -> np.ndarray:
        """Probabilities (B, C) at the model's temperatures; of a regression the numbers."""
        return self.target.values(self.tempered(logits_BC))

    def tempered(self, logits_BC: np.ndarray) -> np.ndarray:
        """The logits (B, C) divided by the temperatures. Raises ValueError for one that is not above 0."""
        if (wrong_C := self.temperature_C <= 0).any():
            raise ValueError(f"temperatures must be above 0, not {self.temperature_C[wrong_C][0]:g}")
        return logits_BC / self.temperature_C

    def outlier_scores(self, features_BD: np.ndarray) -> np.ndarray | None:
        """How unlike known images each one is (B,); None where the model does not know outliers."""
        return outlying(features_BD, self.outliers) if self.outliers else None

    def abstains(self, outlier_B: np.ndarray) -> np.ndarray:
        """Whether each image is too unlike known ones to decide on, (B,) bool."""
        if not self.outliers:
            return np.zeros(len(outlier_B), dtype=bool)
        return outlier_B > self.outliers.threshold
