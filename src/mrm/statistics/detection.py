"""Marks against lesions: the free-response ROC, with intervals by patient.

A mark is a place on an image with a score. A lesion is found at a threshold if a mark on it has at least that score; a mark
on no lesion is false. Sensitivity, the share of lesions found, is read off where so many false marks an image are made; images
without lesions count among these. Bunch et al. 1977, doi:10.1117/12.955926; the seven numbers of false marks are those of the
LUNA16 challenge (Setio et al. 2017, doi:10.1016/j.media.2017.06.015).

Shapes: N images, L lesions, M false marks, R numbers of false marks, D bootstrap draws, G patients.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mrm.statistics.intervals import Array, Bootstrap, Estimate

FALSE_MARKS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)  # an image
MEAN = "mean"  # over the numbers of false marks


@dataclass(frozen=True)
class Marked:
    """What marks say of N images: the best score on each lesion (L,), -inf where no mark is on it, and its image (L,);
    the score (M,) and image (M,) of each false mark.

    Raises ValueError for arrays that differ in length, images outside 0 to N - 1, and scores that are NaN or infinite.
    """

    lesion_score: Array
    lesion_image: np.ndarray
    false_score: Array
    false_image: np.ndarray
    images: int

    def __post_init__(self) -> None:
        for kind in ("lesion", "false"):
            score, image = np.asarray(getattr(self, f"{kind}_score"), float), getattr(self, f"{kind}_image")
            image = np.asarray(image, dtype=np.intp)
            object.__setattr__(self, f"{kind}_score", score)
            object.__setattr__(self, f"{kind}_image", image)
            if score.shape != image.shape or score.ndim != 1:
                raise ValueError(f"expected {kind} scores and images of one length, found {score.shape}, {image.shape}")
            if image.size and not 0 <= image.min() <= image.max() < self.images:
                raise ValueError(f"{kind} images must be from 0 to {self.images - 1}")
            if not (np.isfinite(score) | ((score == -np.inf) & (kind == "lesion"))).all():
                raise ValueError(f"{kind} scores must be finite")


@dataclass(frozen=True)
class FreeResponse:
    """Sensitivity at each number of false marks an image (R + 1,), their mean last; and the same in each draw (R + 1, D)."""

    value: Array
    draws: Array


def sensitivities(marked: Marked, false_marks: ArrayLike = FALSE_MARKS) -> Array:
    """The greatest sensitivity (R,) at a threshold that makes at most so many false marks an image; NaN without lesions."""
    ones_N1 = np.ones((marked.images, 1))
    return _sensitivities(marked, np.asarray(false_marks, float), ones_N1)[:, 0]


def free_response(marked: Marked, bootstrap: Bootstrap, false_marks: Sequence[float] = FALSE_MARKS) -> FreeResponse:
    """Sensitivities of all images, and of each draw of their patients."""
    rates_R = np.asarray(false_marks, float)
    value_R = sensitivities(marked, rates_R)
    rows = max(len(marked.false_score), len(marked.lesion_score), marked.images)
    chunks = [_sensitivities(marked, rates_R, weights_GD[bootstrap.group_N]) for weights_GD in bootstrap.weights(rows)]
    draws_RD = np.hstack(chunks) if chunks else np.zeros((len(rates_R), 0))
    return FreeResponse(_with_mean(value_R), _with_mean(draws_RD))


def curve(marked: Marked) -> tuple[Array, Array]:
    """False marks an image and sensitivity (K,) at each threshold, from the strictest to all marks."""
    at_K = np.unique(np.concatenate([marked.lesion_score[np.isfinite(marked.lesion_score)], marked.false_score]))[::-1]
    false_K = (len(marked.false_score) - np.searchsorted(np.sort(marked.false_score), at_K)) / marked.images
    found_K = len(marked.lesion_score) - np.searchsorted(np.sort(marked.lesion_score), at_K)
    return np.append(0.0, false_K), np.append(0.0, found_K / max(len(marked.lesion_score), 1))


def report(
    models: dict[str, FreeResponse], bootstrap: Bootstrap, with_lesions: int, false_marks: Sequence[float] = FALSE_MARKS
) -> dict[str, dict[str, Estimate]]:
    """The sensitivities of the first model, and of the others, each with the paired difference from it.

    By measure (`found_0.125`, ..., `found_mean`): the first by its name, each other one by its own, and the difference as
    `over_` and its name. n counts images, `positives` those with lesions.
    """
    (first, own), *others = models.items()
    names = [*(f"found_{rate:g}" for rate in false_marks), f"found_{MEAN}"]
    every_N = np.ones(len(bootstrap.group_N), dtype=bool)

    def estimate(value: float, values_D: Array) -> Estimate:
        if not math.isfinite(value):
            return Estimate.undefined(len(every_N), with_lesions, "no boxes")
        return bootstrap.estimate(value, values_D, every_N, with_lesions)

    rows: dict[str, dict[str, Estimate]] = {}
    for row, name in enumerate(names):
        rows[name] = {first: estimate(own.value[row], own.draws[row])}
        for other, theirs in others:
            rows[name][other] = estimate(theirs.value[row], theirs.draws[row])
            rows[name][f"over_{other}"] = estimate(
                own.value[row] - theirs.value[row], own.draws[row] - theirs.draws[row]
            )
    return rows


def _sensitivities(marked: Marked, rates_R: Array, weights_ND: Array) -> Array:
    """Sensitivities (R, D) where each image counts as often as its weights say.

    The marks above the first false mark that is one too many can all be made: a mark of its very score cannot, because no
    threshold makes one of two equal marks.
    """
    order_M = np.argsort(-marked.false_score, kind="stable")
    limits_M = np.append(marked.false_score[order_M], -np.inf)  # the score that a mark must exceed
    made_MD = weights_ND[marked.false_image[order_M]].cumsum(axis=0)
    images_D, lesion_LD = weights_ND.sum(axis=0), weights_ND[marked.lesion_image]
    lesions_D = lesion_LD.sum(axis=0)
    out_RD = np.empty((len(rates_R), weights_ND.shape[1]))
    for row, rate in enumerate(rates_R):
        allowed_D = (made_MD <= rate * images_D + 1e-9).sum(axis=0)
        found_LD = marked.lesion_score[:, None] > limits_M[allowed_D]
        with np.errstate(invalid="ignore"):
            out_RD[row] = np.where(lesions_D > 0, (found_LD * lesion_LD).sum(axis=0) / lesions_D, np.nan)
    return out_RD


def _with_mean(values_R: Array) -> Array:
    """The values (R, ...) with their mean as one more."""
    return np.concatenate([values_R, values_R.mean(axis=0, keepdims=True)])
