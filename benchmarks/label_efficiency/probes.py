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

    Dalal and Triggs 2005, doi:10.1109/CVPR.2005.177; without interpolation between cells.
    """
    return np.stack([_hog(cv2.resize(images.read(r.image), (64, 64), interpolation=cv2.INTER_AREA)) for r in records])


def _hog(image_HW: np.ndarray, cell: int = 8, bins: int = 9) -> np.ndarray:
    down_HW, right_HW = np.gradient(image_HW.astype(np.float32))
    strength_HW, angle_HW = np.hypot(right_HW, down_HW), np.arctan2(down_HW, right_HW) % np.pi
    binned_HW = np.minimum((angle_HW / np.pi * bins).astype(int), bins - 1)
    rows, columns = np.indices(image_HW.shape) // cell
    grid = image_HW.shape[0] // cell
    index_HW = (rows * grid + columns) * bins + binned_HW
    cells = np.bincount(index_HW.ravel(), strength_HW.ravel(), grid * grid * bins).reshape(grid, grid, bins)
    blocks = np.concatenate([cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:]], axis=2)
    return (blocks / (np.linalg.norm(blocks, axis=2, keepdims=True) + 1.0)).ravel().astype(np.float32)


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
