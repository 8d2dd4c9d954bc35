"""Which images lie far from those that a model knows, by their features."""

# Shapes: N records, D features, R directions kept
from __future__ import annotations

import base64
import math
from collections.abc import Hashable, Iterable

import numpy as np

from mrm.models.card import Gaussian, OutlierReference
from mrm.statistics.intervals import Array, group_indices
from mrm.system.errors import OutlierError

DIRECTIONS = 32  # of a Gaussian, at most
EXPLAINED = 0.95  # share of the variance that its directions hold, where DIRECTIONS suffice
FOLDS = 5
ROUNDING = 1e-4  # relative: the distance of an image changes by less with the size of its batch


def reference(
    features_ND: Array,
    groups: Iterable[Hashable] | None = None,
    held_out_ND: Array | None = None,
    share: float = 0.99,
    seed: int = 0,
) -> OutlierReference:
    """Where the features (N, D) of known images lie, for a model's card; see `outlying`.

    A Gaussian of their mean, of up to 32 directions that hold 95 % of the variance, and of one variance for all other
    directions (probabilistic PCA; Tipping and Bishop 1999, doi:10.1111/1467-9868.00196), so that fewer records than
    features will do. The threshold is passed by 1 - `share` of known images that the Gaussian has not seen:
    `held_out_ND` if given, else each fifth of the patients (`groups`, (N,)) from the other four. It lies between the score
    of rank (n + 1) share, rounded up, and the next, so that a new image of the same kind passes it with at most that
    chance (Vovk et al. 2005, doi:10.1007/b106715, conformal) and rounding turns no decision. Rows with NaN are left out.
    Raises OutlierError for fewer patients than folds and for features that do not vary.
    """
    if not 0 < share < 1:
        raise OutlierError(f"the share of known images to accept must lie between 0 and 1, not {share:g}")
    read_N = ~np.isnan(features_ND).any(axis=1)
    known_ND = np.asarray(features_ND, dtype=np.float64)[read_N]
    numbers_N = group_indices(groups, len(features_ND))[read_N]
    gaussian = _gaussian(known_ND)
    if held_out_ND is None:
        scores_N = _crossed(known_ND, numbers_N, seed)
    else:
        scores_N = distances(held_out_ND[~np.isnan(held_out_ND).any(axis=1)], gaussian)
    n = len(scores_N)
    if not n:
        raise OutlierError("no image that could be read is left to choose the threshold for outliers on")
    rank = min(n, math.ceil((n + 1) * share - 1e-9))
    unseen = "held out" if held_out_ND is not None else f"in {FOLDS} folds"
    too_few = "" if rank < n else "; the largest of their scores: too few for the share"
    ordered_N = np.append(np.sort(scores_N), scores_N.max() * (1 + ROUNDING))
    threshold = float(ordered_N[rank - 1 : rank + 1].mean())
    return OutlierReference(gaussian, threshold, share, len(known_ND), f"{n} records {unseen}{too_few}")


def outlying(features_ND: Array, reference: OutlierReference) -> Array:
    """How far features (N, D) lie from those of known images: (N,), about 1 for those, NaN for rows with NaN."""
    return distances(features_ND, reference.gaussian)


def distances(features_ND: Array, gaussian: Gaussian) -> Array:
    """The Mahalanobis distances (N,) of features (N, D) from a Gaussian, over the square root of D.

    Lee et al. 2018, arXiv:1807.03888, for one class. Raises OutlierError for features of another width.
    """
    mean_D, directions_RD = gaussian.arrays()
    features_ND = np.asarray(features_ND, dtype=np.float64)
    if features_ND.ndim != 2 or features_ND.shape[1] != len(mean_D):
        raise OutlierError(
            f"features {features_ND.shape} do not fit the model's {len(mean_D)}; calibrate the model again"
        )
    away_ND = features_ND - mean_D
    along_NR = away_ND @ directions_RD.reshape(-1, len(mean_D)).T
    beside_N = np.maximum(0.0, (away_ND**2).sum(axis=1) - (along_NR**2).sum(axis=1))
    square_N = (along_NR**2 / np.asarray(gaussian.variances)).sum(axis=1) + beside_N / gaussian.rest
    return np.sqrt(square_N / len(mean_D))


def _gaussian(known_ND: Array) -> Gaussian:
    n, width = known_ND.shape
    if n < 2 or not (spread := float(known_ND.var(axis=0, ddof=1).sum())) > 1e-12:
        raise OutlierError(
            f"the features of {n} images do not vary, so outliers cannot be recognised; give more images"
        )
    mean_D = known_ND.mean(axis=0)
    _, singular, directions = np.linalg.svd(known_ND - mean_D, full_matrices=False)
    variances = singular**2 / (n - 1)
    needed = int(np.searchsorted(np.cumsum(variances), EXPLAINED * spread)) + 1
    kept = max(1, min(needed, DIRECTIONS, width - 1, (n - 1) // 2))
    rest = max(float(variances[kept:].sum()) / max(width - kept, 1), 1e-6 * spread / width)
    return Gaussian(
        mean=_packed(mean_D),
        directions=_packed(directions[:kept]),
        variances=tuple(max(float(v), rest) for v in variances[:kept]),
        rest=rest,
    )


def _crossed(known_ND: Array, numbers_N: np.ndarray, seed: int) -> Array:
    """Scores (N,) of each fold of the patients by the Gaussian of the others."""
    patients = np.unique(numbers_N)
    if len(patients) < FOLDS:
        raise OutlierError(f"{len(patients)} patients (or records), fewer than the {FOLDS} folds that outliers need")
    fold_of = dict(
        zip(np.random.default_rng(seed).permutation(patients), np.arange(len(patients)) % FOLDS, strict=True)
    )
    fold_N = np.array([fold_of[number] for number in numbers_N])
    scores_N = np.zeros(len(known_ND))
    for fold in range(FOLDS):
        scores_N[fold_N == fold] = distances(known_ND[fold_N == fold], _gaussian(known_ND[fold_N != fold]))
    return scores_N


def _packed(values: Array) -> str:
    """Numbers as text for JSON: float32, little-endian, base64."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()
