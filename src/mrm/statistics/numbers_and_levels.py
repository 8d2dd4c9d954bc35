"""How well numbers are predicted, and how well classes and levels agree: each measure with its interval over patients.

Every measure follows from sums over records, so all draws of the bootstrap are computed at once. Rank correlation is the
exception: the ranks are those of each draw.

Shapes: N records, C columns of numbers, K classes or levels, D bootstrap draws.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mrm.statistics.intervals import Array, Bootstrap, Estimate, Mask

Report = dict[str, dict[str, Estimate]]
NUMBER_MEASURES = ("mae", "rmse", "r2", "pearson", "spearman")
TINY = 1e-12  # a variance below this share of the mean square is rounding


# Numbers ------------------------------------------------------------------------------------------------


def number_report(
    true: ArrayLike,
    predicted: ArrayLike,
    names: Sequence[str],
    groups: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> Report:
    """Errors and correlations of predicted numbers (N, C): for every column, and their mean as "mean".

    `mae` and `rmse` are in the unit of the column; `r2` is 1 - squared error / variance, so 0 is as good as the mean of the
    tested records; then Pearson's and Spearman's correlation. A true value of NaN is not stated. With several columns the
    mean has no errors, whose units may differ. `groups` (N,) names patients. Raises ValueError for wrong shapes and for
    predicted values that are not finite.
    """
    true_NC, predicted_NC = (np.asarray(values, dtype=np.float64) for values in (true, predicted))
    if true_NC.shape != predicted_NC.shape or true_NC.ndim != 2 or true_NC.shape[1] != len(names):
        raise ValueError(f"expected numbers (N, {len(names)}), got {true_NC.shape} and {predicted_NC.shape}")
    if not np.isfinite(predicted_NC).all():
        raise ValueError("predicted numbers must be finite")
    bootstrap = Bootstrap.from_groups(groups, len(true_NC), draws, seed)
    report: Report = {}
    drawn: dict[str, list[tuple[float, Array]]] = {}
    for name, true_N, predicted_N in zip(names, true_NC.T, predicted_NC.T, strict=True):
        stated_N = ~np.isnan(true_N)
        report[name] = {}
        for measure, (value, values_D) in _of_numbers(true_N, predicted_N, stated_N, bootstrap).items():
            report[name][measure] = _estimate(value, values_D, stated_N, bootstrap)
            drawn.setdefault(measure, []).append((value, values_D))
    any_N = np.logical_or.reduce(~np.isnan(true_NC), axis=1)
    shared = NUMBER_MEASURES if len(names) == 1 else NUMBER_MEASURES[2:]
    mean = {
        measure: _estimate(
            float(np.mean([value for value, _ in drawn[measure]])),
            np.mean([values_D for _, values_D in drawn[measure]], axis=0),
            any_N,
            bootstrap,
        )
        for measure in shared
    }
    return {"mean": mean, **report}


def number_values(true_N: Array, predicted_N: Array) -> dict[str, float]:
    """The measures of one column without intervals; NaN where undefined."""
    bootstrap = Bootstrap.from_groups(None, len(true_N), draws=0)
    return {name: value for name, (value, _) in _of_numbers(true_N, predicted_N, ~np.isnan(true_N), bootstrap).items()}


def _of_numbers(
    true_N: Array, predicted_N: Array, stated_N: Mask, bootstrap: Bootstrap
) -> dict[str, tuple[float, Array]]:
    """Every measure and its draws (D,), NaN where undefined."""
    middle = float(true_N[stated_N].mean()) if stated_N.any() else 0.0  # about it, sums of squares lose no digits
    y_N, x_N = np.where(stated_N, true_N - middle, 0.0), np.where(stated_N, predicted_N - middle, 0.0)
    error_N = x_N - y_N
    sums_NK = np.stack([stated_N, y_N, x_N, y_N**2, x_N**2, x_N * y_N, np.abs(error_N), error_N**2], axis=1)
    values = _from_sums(sums_NK.sum(axis=0)[:, None])
    values_D = _from_sums(bootstrap.sums(sums_NK))
    measures = {name: (float(values[name][0]), values_D[name]) for name in values}
    whole = np.ones((bootstrap.size, 1))
    ranks = _rank_correlations(true_N, predicted_N, stated_N, bootstrap)
    return {**measures, "spearman": (float(ranks([whole])[0]), ranks(bootstrap.weights(rows=len(true_N))))}


def _from_sums(sums_KD: Array) -> dict[str, Array]:
    """Measures (D,) from the sums of a column, as `_of_numbers` lists them."""
    n_D, y_D, x_D, yy_D, xx_D, xy_D, absolute_D, squared_D = sums_KD
    with np.errstate(divide="ignore", invalid="ignore"):
        y_spread_D, x_spread_D = yy_D - y_D**2 / n_D, xx_D - x_D**2 / n_D
        y_spread_D = np.where(y_spread_D > TINY * np.maximum(yy_D, TINY), y_spread_D, np.nan)
        x_spread_D = np.where(x_spread_D > TINY * np.maximum(xx_D, TINY), x_spread_D, np.nan)
        return {
            "mae": absolute_D / n_D,
            "rmse": np.sqrt(squared_D / n_D),
            "r2": 1 - squared_D / y_spread_D,
            "pearson": (xy_D - x_D * y_D / n_D) / np.sqrt(y_spread_D * x_spread_D),
        }


def _rank_correlations(
    true_N: Array, predicted_N: Array, stated_N: Mask, bootstrap: Bootstrap
) -> Callable[[Iterable[Array]], Array]:
    """A function from the weights of patients, (G, D) each, to Spearman's correlations (D,) of the draws."""
    places = [np.unique(values_N[stated_N], return_inverse=True)[1] for values_N in (true_N, predicted_N)]
    group_N = bootstrap.group_N[stated_N]

    def ranks(place_N: np.ndarray, weight_ND: Array) -> Array:
        """Middle ranks (N, D), where a record of weight 2 counts as two equal ones."""
        level_LD = np.zeros((int(place_N.max()) + 1, weight_ND.shape[1]))
        np.add.at(level_LD, place_N, weight_ND)
        return (np.cumsum(level_LD, axis=0) - level_LD / 2)[place_N]

    def correlations(weights: Iterable[Array]) -> Array:
        parts = []
        for weights_GD in weights:
            if not len(group_N):
                parts.append(np.full(weights_GD.shape[1], np.nan))
                continue
            weight_ND = weights_GD[group_N]
            total_D = weight_ND.sum(axis=0)
            with np.errstate(divide="ignore", invalid="ignore"):
                centred = [r - (r * weight_ND).sum(axis=0) / total_D for r in (ranks(p, weight_ND) for p in places)]
                products = [
                    (weight_ND * one * two).sum(axis=0) for one, two in (centred, [centred[0]] * 2, [centred[1]] * 2)
                ]
                spread_D = products[1] * products[2]
                parts.append(products[0] / np.sqrt(np.where(spread_D > TINY, spread_D, np.nan)))
        return np.concatenate(parts) if parts else np.zeros(0)

    return correlations


# Classes and levels -------------------------------------------------------------------------------------


def confusion(true_N: ArrayLike, predicted_N: ArrayLike, size: int) -> np.ndarray:
    """How often a record of each true class (rows) is given each class (columns), (K, K); true values of -1 are left out."""
    true, predicted = np.asarray(true_N, dtype=np.intp), np.asarray(predicted_N, dtype=np.intp)
    stated = true >= 0
    return np.bincount(true[stated] * size + predicted[stated], minlength=size * size).reshape(size, size)


def agreement(
    true_N: ArrayLike,
    predicted_N: ArrayLike,
    size: int,
    ordered: bool,
    groups: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """How well predicted classes 0 to K-1 agree with the true ones, -1 being not stated.

    `accuracy` and Cohen's `kappa` (1960, doi:10.1177/001316446002000104); of ordered levels `quadratic_kappa` (Cohen 1968,
    doi:10.1037/h0026256) in its place, and `mae`, the mean distance in levels. `groups` (N,) names patients.
    """
    true, predicted = np.asarray(true_N, dtype=np.intp), np.asarray(predicted_N, dtype=np.intp)
    stated_N = true >= 0
    bootstrap = Bootstrap.from_groups(groups, len(true), draws, seed)
    cell_N = np.where(stated_N, true * size + predicted, 0)
    cells_NK = np.zeros((len(true), size * size))
    cells_NK[np.arange(len(true)), cell_N] = stated_N
    values = _of_table(cells_NK.sum(axis=0)[:, None], size, ordered)
    values_D = _of_table(bootstrap.sums(cells_NK), size, ordered)
    return {name: _estimate(float(values[name][0]), values_D[name], stated_N, bootstrap) for name in values}


def _of_table(counts_KD: Array, size: int, ordered: bool) -> Mapping[str, Array]:
    """Measures (D,) from the counts of every pair of classes (K * K, D)."""
    table_KKD = counts_KD.reshape(size, size, -1)
    distance_KK = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(np.float64)
    weight_KK = distance_KK**2 if ordered else (distance_KK > 0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        n_D = table_KKD.sum(axis=(0, 1))
        chance_KKD = table_KKD.sum(axis=1)[:, None] * table_KKD.sum(axis=0)[None] / n_D
        seen_D, expected_D = (np.tensordot(weight_KK, one_KKD, 2) for one_KKD in (table_KKD, chance_KKD))
        kappa_D = 1 - seen_D / np.where(expected_D > 0, expected_D, np.nan)
        measures = {"accuracy": np.trace(table_KKD) / n_D}
        if ordered:
            return {**measures, "quadratic_kappa": kappa_D, "mae": np.tensordot(distance_KK, table_KKD, 2) / n_D}
        return {**measures, "kappa": kappa_D}


def _estimate(value: float, values_D: Array, stated_N: Mask, bootstrap: Bootstrap) -> Estimate:
    """The value with the interval of its draws; undefined where it is NaN."""
    n = int(stated_N.sum())
    if not math.isfinite(value):
        return Estimate.undefined(n, None, "all values are alike" if n else "no stated value")
    return bootstrap.estimate(value, values_D, stated_N, None)
