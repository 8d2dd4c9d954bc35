"""How well labels agree with true ones: kappa, sensitivity, precision and F1, with 95 % intervals over patients.

A label is 1, 0 or NaN (left out). Where records were drawn with unequal chances, each counts with a weight, the inverse of its
chance (Horvitz and Thompson 1952, doi:10.1080/01621459.1952.10483446).

Shapes: N records, C classes, D bootstrap draws; K = 4, the weighted counts of true and false positives and negatives.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mrm.statistics.intervals import Array, Bootstrap, Estimate, Mask, wilson

MEASURES = ("kappa", "sensitivity", "precision", "f1")


def agreement(
    truth: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    groups: Iterable[Hashable] | None = None,
    weights: ArrayLike | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, dict[str, Estimate]]:
    """Each measure of each class for true values and labels (N, C), and the means over classes, under "mean".

    Sensitivity and precision have Wilson intervals, kappa (Cohen 1960, doi:10.1177/001316446002000104) and F1 those of a
    bootstrap over patients (`groups`, (N,)). A mean is over the classes whose measure is defined, drawn jointly. Raises
    ValueError for arrays of other shapes, values other than 1, 0 and NaN, and weights that are not above 0.
    """
    truth_NC, labels_NC = np.asarray(truth, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    n = len(truth_NC)
    weights_N = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    _check(truth_NC, labels_NC, classes, weights_N)
    bootstrap = Bootstrap.from_groups(groups, n, draws, seed)
    used_NC = np.isfinite(truth_NC) & np.isfinite(labels_NC)
    report, values_CD = {}, {}
    any_N: Mask = np.asarray(used_NC.any(1))
    for c, name in enumerate(classes):
        used_N, positive_N, labelled_N = used_NC[:, c], truth_NC[:, c] == 1, labels_NC[:, c] == 1
        cells_NK = decided(np.where(used_N, truth_NC[:, c], np.nan), labelled_N) * weights_N[:, None]
        values, values_CD[name] = measures(cells_NK.sum(0)), measures(bootstrap.sums(cells_NK))
        positives = int((used_N & positive_N).sum())
        shares = {"sensitivity": (labelled_N, used_N & positive_N), "precision": (positive_N, used_N & labelled_N)}
        report[name] = {
            m: _share(*shares[m], positives, bootstrap, weights_N)
            if m in shares
            else _estimate(float(values[m]), values_CD[name][m], used_N, positives, bootstrap)
            for m in MEASURES
        }
    return {"mean": {m: _mean(m, report, values_CD, any_N, bootstrap) for m in MEASURES}, **report}


def decided(truth_N: Array, called_N: Mask) -> Array:
    """Whether each record is a true or false positive, a false or true negative (N, K), of true values (N,), NaN being none
    of them, and of what is called positive (N,)."""
    used_N, positive_N = np.isfinite(truth_N), truth_N == 1
    cells = [used_N & (positive_N == p) & (called_N == q) for p, q in ((1, 1), (0, 1), (1, 0), (0, 0))]
    return np.stack(cells, axis=1).astype(np.float64)


def measures(cells_K: Array) -> dict[str, Array]:
    """The measures of weighted counts (K,) or (K, D); NaN where a denominator is 0."""
    tp, fp, fn, tn = cells_K
    total = tp + fp + fn + tn
    with np.errstate(divide="ignore", invalid="ignore"):
        by_chance = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / total**2
        return {
            "kappa": ((tp + tn) / total - by_chance) / (1 - by_chance),
            "sensitivity": tp / (tp + fn),
            "precision": tp / (tp + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "accuracy": (tp + tn) / total,
        }


def _share(hits_N: Mask, among_N: Mask, positives: int, bootstrap: Bootstrap, weights_N: Array) -> Estimate:
    if not among_N.any():
        return Estimate.undefined(0, positives, "no record of this value")
    return wilson(hits_N[among_N].astype(np.float64), positives, bootstrap.of(among_N), weights_N[among_N])


def _estimate(value: float, values_D: Array, used_N: Mask, positives: int, bootstrap: Bootstrap) -> Estimate:
    if not np.isfinite(value):
        return Estimate.undefined(int(used_N.sum()), positives, "only one value occurs")
    return bootstrap.estimate(value, values_D, used_N, positives)


def _mean(
    measure: str,
    report: dict[str, dict[str, Estimate]],
    values_CD: dict[str, dict[str, Array]],
    used_N: Mask,
    bootstrap: Bootstrap,
) -> Estimate:
    defined = [name for name, estimates in report.items() if estimates[measure].defined]
    if not defined:
        return Estimate.undefined(int(used_N.sum()), None, "no class has a value")
    value = float(np.mean([report[name][measure].value for name in defined]))
    draws_CD = np.stack([values_CD[name][measure] for name in defined])
    counts_D = np.isfinite(draws_CD).sum(0)
    means_D = np.where(counts_D, np.nansum(draws_CD, axis=0) / np.maximum(counts_D, 1), np.nan)
    return bootstrap.estimate(value, means_D, used_N, None, f"mean of {len(defined)} classes")


def _check(truth_NC: Array, labels_NC: Array, classes: Sequence[str], weights_N: Array) -> None:
    if truth_NC.ndim != 2 or truth_NC.shape != labels_NC.shape or truth_NC.shape[1] != len(classes):
        raise ValueError(f"expected two arrays (N, {len(classes)}), got {truth_NC.shape} and {labels_NC.shape}")
    for values in (truth_NC, labels_NC):
        if not (np.isnan(values) | np.isin(values, (0, 1))).all():
            raise ValueError("values other than 1, 0 and NaN (left out)")
    if weights_N.shape != truth_NC.shape[:1] or not (np.isfinite(weights_N) & (weights_N > 0)).all():
        raise ValueError(f"expected {len(truth_NC):,} weights above 0")
