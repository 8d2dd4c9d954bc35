"""What to label next: images that a model doubts and that differ from each other.

1. **Doubt** of an image is the mean entropy, in bits, of the probabilities of its findings: 1 where all are 0.5. A pre-trained
   model without findings has none, and then every image counts alike.
2. Of each patient the most doubtful image is a candidate; only where patients are fewer than images asked for, all are. The
   `BREADTH` times as many most doubtful candidates as asked for remain.
3. The first choice is the most doubtful. Each next one has the largest product of its doubt and its distance from the nearest
   choice so far: 1 less the cosine of their features, standardised over the candidates (farthest-first traversal; Sener and
   Savarese 2018, arXiv:1708.00489, weighted by doubt).

Ties go to the image that comes first, so the same pool gives the same choice.
"""

# Shapes: N images of the pool, M candidates, C classes, D features
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import entr

from mrm.system.errors import RunError

BREADTH = 10


class Choice(NamedTuple):
    """An image of the pool by its number, its doubt, and its distance from the nearest earlier choice; 2 for the first."""

    image: int
    doubt: float
    distance: float


def doubt_of(probabilities_NC: np.ndarray) -> np.ndarray:
    """The mean entropy in bits (N,) of probabilities (N, C)."""
    entropy_NC = entr(probabilities_NC) + entr(1 - probabilities_NC)
    return entropy_NC.mean(axis=1) / np.log(2)


def choose(doubt_N: np.ndarray, features_ND: np.ndarray, patients: Sequence[str], count: int) -> list[Choice]:
    """The images to label, best first; `patients` are "" where unknown. Raises RunError for a pool of fewer images."""
    if len(doubt_N) < count:
        raise RunError(
            f"the pool has {len(doubt_N):,} images that can be read, fewer than the {count:,} asked for; ask for fewer "
            "with --n, or add images"
        )
    candidates = _candidates(doubt_N, patients, count)
    features_MD = _unit(features_ND[candidates])
    doubt_M = doubt_N[candidates]
    distance_M = np.full(len(candidates), 2.0)  # the largest there is
    left_M = np.ones(len(candidates), dtype=bool)
    choices = []
    for _ in range(count):
        best = int(np.argmax(np.where(left_M, doubt_M * distance_M, -1.0)))
        choices.append(Choice(int(candidates[best]), float(doubt_M[best]), float(distance_M[best])))
        left_M[best] = False
        distance_M = np.minimum(distance_M, np.maximum(0.0, 1 - features_MD @ features_MD[best]))
    return choices


def _candidates(doubt_N: np.ndarray, patients: Sequence[str], count: int) -> np.ndarray:
    """The most doubtful images, of each patient one if that leaves enough, most doubtful first."""
    order = np.argsort(-doubt_N, kind="stable")
    seen: set[str] = set()
    firsts = []
    for number in order.tolist():
        if not patients[number] or patients[number] not in seen:
            firsts.append(number)
            seen.add(patients[number])
    chosen = firsts if len(firsts) >= count else order.tolist()
    return np.array(chosen[: BREADTH * count], dtype=np.intp)


def _unit(features_MD: np.ndarray) -> np.ndarray:
    """Standardised features of length 1; 0 where an image has nothing of its own."""
    centred_MD = features_MD - features_MD.mean(axis=0)
    deviation_D = centred_MD.std(axis=0)
    scaled_MD = centred_MD / np.where(deviation_D > 1e-12, deviation_D, 1.0)
    length_M1 = np.linalg.norm(scaled_MD, axis=1, keepdims=True)
    return scaled_MD / np.where(length_M1 > 0, length_M1, 1.0)
