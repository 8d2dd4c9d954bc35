"""Frontal or lateral: a logistic regression on HOG of the whole image, trained on images whose view is stated.

It is for images of which neither a table nor a header states the view. Its weights are learned from images of its user
(`mrm views`), since laterals of public sets are few and their licences restrict use.
"""

# Shapes: H W pixels, N images, F values of HOG
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data import images
from mrm.data.eval_view import EvalView
from mrm.evaluation.floors import SIDE, hog, hog_width
from mrm.system.errors import ConfigError
from mrm.system.files import read_json, write_json

KIND = "mrm views"  # of the file
# scikit-learn's C, of 0.01, 0.1, 1 and 10: the last two missed a lateral of the COVID-19 Image Data Collection
STRENGTH = 0.1
FOLDS = 5


@dataclass(frozen=True)
class ViewClassifier:
    """Weights of a logistic regression; above 0 its log-odds say lateral."""

    weights_F: np.ndarray
    bias: float

    def log_odds(self, features_NF: np.ndarray) -> np.ndarray:
        """Log-odds (N,) of lateral against frontal, from HOG (N, F)."""
        return features_NF @ self.weights_F + self.bias

    def is_lateral(self, source: images.Source) -> bool:
        """Whether an image looks lateral. Raises ImageError where it cannot be read."""
        return bool(self.log_odds(hog(EvalView(SIDE).image(source))[None])[0] > 0)

    def save(self, file: Path, facts: dict[str, Any]) -> None:
        """Write the weights as JSON, with facts on what they were learned from."""
        write_json(file, {"kind": KIND, **facts, "bias": self.bias, "weights": self.weights_F.tolist()})


def load(file: Path) -> ViewClassifier:
    """What `save` wrote. Raises ConfigError for any other file."""
    advice = "give a file that `mrm views` wrote"
    try:
        content = read_json(file)
        weights_F, bias = np.asarray(content["weights"], dtype=float), float(content["bias"])
        kind = content["kind"]
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise ConfigError(f"--view-classifier {file}: cannot be read ({error}); {advice}") from error
    if kind != KIND or weights_F.shape != (hog_width(SIDE),) or not np.isfinite([*weights_F, bias]).all():
        raise ConfigError(f"--view-classifier {file}: expected {hog_width(SIDE)} finite weights of a view; {advice}")
    return ViewClassifier(weights_F, bias)


def learned(features_NF: np.ndarray, lateral_N: np.ndarray) -> ViewClassifier:
    """Fitted to HOG (N, F) and whether each image is lateral (N,); both views count alike, however many there are."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=STRENGTH, max_iter=1_000, class_weight="balanced").fit(features_NF, lateral_N)
    return ViewClassifier(fitted.coef_[0].astype(float), float(fitted.intercept_[0]))


def held_out(features_NF: np.ndarray, lateral_N: np.ndarray, people: list[str], seed: int) -> np.ndarray:
    """Log-odds (N,) of each image by a classifier that has not seen its patient: `FOLDS` folds, stratified."""
    from sklearn.model_selection import StratifiedGroupKFold

    log_odds_N = np.empty(len(lateral_N))
    for train, test in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(
        features_NF, lateral_N, people
    ):
        log_odds_N[test] = learned(features_NF[train], lateral_N[train]).log_odds(features_NF[test])
    return log_odds_N
