"""Features of images, and logistic regressions on them."""

# Shapes: N records (M others), C classes, F features of a probe, R their rank, S strengths, L patches, D encoder width
from __future__ import annotations

import warnings
from collections.abc import Sequence

import cv2
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from mrm.data import images, oriented_gradients
from mrm.data.records import Records
from mrm.evaluation.probes import within_span
from mrm.inference import predict
from mrm.models.mrm import MRM
from mrm.statistics import ranking

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of scikit-learn: the small ones regularise more
NARROW = 200  # features up to which Newton's method is the faster solver
FOLDS = 3  # of the labelled records, to choose among them


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

    See `mrm.data.oriented_gradients.hog`.
    """
    small = [cv2.resize(images.read(r.image), (64, 64), interpolation=cv2.INTER_AREA) for r in records]
    return np.stack([oriented_gradients.hog(image_HW) for image_HW in small])


FLOORS = {"pixels": pixels, "hog": hog}


def fit(table: dict[str, np.ndarray], labels: dict[str, np.ndarray], chosen: np.ndarray) -> tuple[np.ndarray, float]:
    """Logits (N, C) of the test images from the labels of the chosen training ones, and the strength of the regression.

    As a user must who has no other labels, the strength is chosen by cross-validation within the chosen ones: the best
    mean AUROC of the records left out, over the classes with a positive and a negative in each of the folds; the weakest
    where there is no such class. A class with one value among the chosen scores 0 throughout.
    """
    known, labels_NC = table["train"][chosen].astype(np.float32), labels["train"][chosen]
    mean, deviation = known.mean(0), known.std(0) + 1e-6
    known, test = (known - mean) / deviation, (table["test"] - mean) / deviation
    strength = _strength(known, labels_NC)
    return _logits(known, labels_NC, test, (strength,))[0], strength


def _strength(known_NF: np.ndarray, labels_NC: np.ndarray) -> float:
    fold_N = np.random.default_rng(0).permutation(len(known_NF)) % FOLDS
    left_out_SNC = np.zeros((len(STRENGTHS), *labels_NC.shape))
    usable = np.ones(labels_NC.shape[1], dtype=bool)
    for fold in range(FOLDS):
        inside, outside = fold_N != fold, fold_N == fold
        usable &= [_has_both(labels_N[inside]) and _has_both(labels_N[outside]) for labels_N in labels_NC.T]
        left_out_SNC[:, outside] = _logits(known_NF[inside], labels_NC[inside], known_NF[outside], STRENGTHS)
    if not usable.any():
        return STRENGTHS[0]
    cells = [(fold_N == fold, c) for fold in range(FOLDS) for c in np.flatnonzero(usable)]
    aurocs = [np.mean([ranking.auroc(labels_NC[i, c], one_NC[i, c]) for i, c in cells]) for one_NC in left_out_SNC]
    return STRENGTHS[int(np.argmax(aurocs))]


def _has_both(labels_N: np.ndarray) -> bool:
    return len(np.unique(labels_N[~np.isnan(labels_N)])) == 2


def _logits(
    known_NF: np.ndarray, labels_NC: np.ndarray, other_MF: np.ndarray, strengths: Sequence[float]
) -> np.ndarray:
    """Logits (S, M, C) of other records for each strength, the most regularised first and each the start of the next."""
    known_NR, other_MR = within_span(known_NF, other_MF)
    logits_SMC = np.zeros((len(strengths), len(other_MF), labels_NC.shape[1]))
    for c, labels_N in enumerate(labels_NC.T):
        stated_N = ~np.isnan(labels_N)
        if not _has_both(labels_N):
            continue
        solver = "newton-cholesky" if known_NR.shape[1] <= NARROW else "lbfgs"
        model = LogisticRegression(max_iter=300, warm_start=True, solver=solver)
        for s, strength in enumerate(strengths):
            model.C = strength
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(known_NR[stated_N], labels_N[stated_N])
            logits_SMC[s, :, c] = model.decision_function(other_MR)
    return logits_SMC
