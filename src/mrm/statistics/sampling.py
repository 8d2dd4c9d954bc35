"""Drawing a stratified sample whose chances are known: rare findings are in it, and estimates from it stay unbiased.

Shapes: N records, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mrm.statistics.intervals import Array


def chances(labels: ArrayLike, count: int) -> Array:
    """The chance (N,) of each record of labels (N, C) to be in a sample of `count`; their sum is `count`.

    Half of the sample is spread evenly over all records, half over the values that the classes have (1, -1, 0 or NaN): each
    value of each class has the same share of it, so a record with a rare one has a high chance. A value that no record has, and
    one that all have, gets nothing. Raises ValueError unless 1 <= count <= N.
    """
    labels_NC = np.asarray(labels, dtype=np.float64)
    n = len(labels_NC)
    if not 1 <= count <= n:
        raise ValueError(f"a sample of {count} from {n} records")
    rarity_N, cells = np.zeros(n), 0
    for values_N in np.where(np.isnan(labels_NC), 0.0, labels_NC).T:  # not mentioned and absent are one stratum
        for value in (1.0, -1.0, 0.0):
            of_value_N = values_N == value
            if 0 < of_value_N.sum() < n:
                rarity_N += of_value_N / of_value_N.sum()
                cells += 1
    size_N = np.full(n, 1 / n) + (rarity_N / cells if cells else 1 / n)
    certain_N = np.zeros(n, dtype=bool)
    while True:  # records whose chance would exceed 1 are in for certain, and the others share the rest
        rest = count - certain_N.sum()
        chance_N = np.where(certain_N, 1.0, size_N * rest / max(size_N[~certain_N].sum(), 1e-300))
        above_N = ~certain_N & (chance_N >= 1)
        if not above_N.any():
            return np.minimum(chance_N, 1.0)
        certain_N |= above_N


def systematic_sample(chances: ArrayLike, seed: int = 0) -> np.ndarray:
    """Indices of a sample in which each record is with its chance (N,), as many as the chances sum up to, in order.

    Systematic sampling in random order (Madow 1949, doi:10.1214/aoms/1177729988).
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(np.asarray(chances)))
    ends = np.cumsum(np.asarray(chances, dtype=np.float64)[order])
    marks = rng.random() + np.arange(round(float(ends[-1])))
    return np.sort(order[np.searchsorted(ends, np.minimum(marks, ends[-1] - 1e-9), side="right")])
