"""Features of images, and logistic regressions on them."""

# Shapes: N records, C classes, F features of a probe, L patches, D encoder width
from __future__ import annotations

import warnings

import cv2
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from mrm.data import images
from mrm.data.records import Records
from mrm.evaluation import floors
from mrm.inference import predict
from mrm.models.mrm import MRM
from mrm.statistics import ranking

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of scikit-learn: weak ones fit few labels better


def encoder_features(model: MRM, records: Records, cells: int = 1) -> np.ndarray:
    """Means of the patch features over each of cells x cells parts of the image, all patches visible: (N, cells^2 D)."""
    features_NLD = predict.features(model, records, "patches", workers=0)[0]
    n, patches, width = features_NLD.shape
    part = int(patches**0.5) // cells
    return features_NLD.reshape(n, cells, part, cells, part, width).mean(axis=(2, 4)).reshape(n, -1)


def pixels(records: Records) -> np.ndarray:
    """32 x 32 grey values."""
    small = [cv2.resize(images.read(r.image), (32, 32), interpolation=cv2.INTER_AREA).ravel() for r in records]
    return np.stack(small) / np.float32(255)


def hog(records: Records) -> np.ndarray:
    """Histograms of oriented gradients of the image at 64 x 64: 8-pixel cells, 2 x 2 cells a block, nine directions.

    See `mrm.evaluation.floors.hog`.
    """
    return np.stack(
        [floors.hog(cv2.resize(images.read(r.image), (64, 64), interpolation=cv2.INTER_AREA)) for r in records]
    )


FLOORS = {"pixels": pixels, "hog": hog}


def fit(table: dict[str, np.ndarray], labels: dict[str, np.ndarray], chosen: np.ndarray) -> tuple[np.ndarray, float]:
    """Logits (N, C) of the test images from the labels of the chosen training ones, and the strength that
    ranked the validation images best. A class with one value among the chosen scores 0 throughout."""
    known, known_labels = table["train"][chosen], labels["train"][chosen]
    mean, deviation = known.mean(0), known.std(0) + 1e-6
    standard = {name: (values - mean) / deviation for name, values in table.items()}
    best, answer, strength = -1.0, np.zeros(0), 0.0
    for c in STRENGTHS:
        val_NC, test_NC = _logits(standard, standard["train"][chosen], known_labels, c)
        auroc = float(np.nanmean([ranking.auroc(y, s) for y, s in zip(labels["val"].T, val_NC.T, strict=True)]))
        if auroc > best:
            best, answer, strength = auroc, test_NC, c
    return answer, strength


def _logits(standard, known_NF, labels_NC, strength: float) -> tuple[np.ndarray, np.ndarray]:
    logits = {s: np.zeros((len(standard[s]), labels_NC.shape[1])) for s in ("val", "test")}
    for c, labels_N in enumerate(labels_NC.T):
        stated_N = ~np.isnan(labels_N)
        if len(np.unique(labels_N[stated_N])) == 2:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model = LogisticRegression(C=strength, max_iter=300).fit(known_NF[stated_N], labels_N[stated_N])
            for s, logits_NC in logits.items():
                logits_NC[:, c] = model.decision_function(standard[s])
    return logits["val"], logits["test"]
