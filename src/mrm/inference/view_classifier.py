"""Frontal or lateral: a logistic regression on HOG of the whole image, for images whose view neither a table nor a header states.

Its weights are learned from images of its user (`mrm.runs.learning_views`), since laterals of public sets are few and their
licences restrict use. Nothing of PyTorch is imported here, since the processes that decode uploads use it.
"""

# Shapes: N images, F values of HOG
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data import images
from mrm.data.eval_view import EvalView
from mrm.data.images import ImageFile
from mrm.data.oriented_gradients import SIDE, hog, hog_width
from mrm.inference.studies import GUESSED_FRONTAL, GUESSED_LATERAL
from mrm.system.errors import ConfigError
from mrm.system.files import read_json, write_json

KIND = "mrm views"  # of the file


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

    def view_of(self, image: ImageFile) -> str:
        """The view that the header of an image states, else the one that it looks like. Raises ImageError."""
        if stated := images.identity(image).get("view", ""):
            return stated
        return GUESSED_LATERAL if self.is_lateral(image) else GUESSED_FRONTAL

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
