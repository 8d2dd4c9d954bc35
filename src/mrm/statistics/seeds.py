"""Intervals of a mean over seeds, which cover the choice of test patients and the choice of seeds."""

# Shapes: N records, C classes, S seeds, D bootstrap draws
from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from mrm.statistics.comparison import Comparison, bootstrap_p
from mrm.statistics.intervals import Array, Bootstrap, Estimate
from mrm.statistics.ranking import (
    RankedScores,
    auroc,
    bootstrap_metrics,
    check_labels,
    check_scores,
    check_table,
    macro_mean,
    mean_or_nan,
)


def with_seed_variance(
    value_S: Array, drawn_SD: Array, rng: np.random.Generator, limits: tuple[float, float] = (0.0, 1.0)
) -> Array:
    """The mean over seeds in each draw of test patients (D,), with the variance due to the choice of seeds added.

    Takes each seed's value (S,) and its draws (S, D) of the same patients for all seeds: patients who are hard for one
    seed are hard for the others, which does not average out. To the mean over seeds in each draw it adds s / sqrt(S)
    times a draw of Student's t with S - 1 degrees of freedom, where s is the standard deviation of the seeds' values; so
    few seeds give a wide interval, as they should. A single seed adds nothing, and `seed_note` says so. The interval is
    conservative: chance in the test set also makes seeds differ, and is counted in both parts.
    """
    seeds, mean_D = len(value_S), drawn_SD.mean(axis=0)
    if seeds == 1:
        return mean_D
    added_D = rng.standard_t(seeds - 1, mean_D.shape) * value_S.std(ddof=1) / math.sqrt(seeds)
    return np.clip(mean_D + added_D, *limits)


def seed_note(seeds: int) -> str:
    """The note for an interval of `with_seed_variance`."""
    return f"{seeds} seeds" if seeds > 1 else "one seed: the interval does not include the variance between seeds"


def auroc_over_seeds(
    labels_NC: Array,
    scores_SNC: Array,
    classes: Sequence[str],
    groups: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """AUROC per class and of their mean, averaged over seeds: labels (N, C), scores (S, N, C).

    The 95 % interval is that of `with_seed_variance`, over patients (`groups`, (N,)) drawn with replacement. Raises
    ValueError as `ranking.classification_report` does.
    """
    labels_NC = check_labels(labels_NC)
    bootstrap = Bootstrap.from_groups(groups, len(labels_NC), draws, seed)
    values = _aurocs_of_seeds(labels_NC, scores_SNC, classes, bootstrap)
    drawn = _estimates(labels_NC, scores_SNC, classes, bootstrap, values, seed, (0.0, 1.0))
    return {name: estimate for name, (estimate, _) in drawn.items()}


def difference_over_seeds(
    labels_NC: Array,
    first_SNC: Array,
    second_SNC: Array,
    classes: Sequence[str],
    groups: Iterable[Hashable] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """The paired difference in AUROC of two models, first minus second, averaged over the same seeds.

    Interval and p value come from the same draws of patients and seeds as in `auroc_over_seeds`. No p value is corrected:
    that is for whoever knows how many comparisons there are. Raises ValueError as `auroc_over_seeds` does.
    """
    labels_NC = check_labels(labels_NC)
    bootstrap = Bootstrap.from_groups(groups, len(labels_NC), draws, seed)
    both = [_aurocs_of_seeds(labels_NC, scores, classes, bootstrap) for scores in (first_SNC, second_SNC)]
    gaps = both[0][0] - both[1][0], both[0][1] - both[1][1]
    drawn = _estimates(labels_NC, first_SNC, classes, bootstrap, gaps, seed, (-1.0, 1.0))
    compared = {}
    for name, (estimate, gaps_D) in drawn.items():
        chosen = [c for c, one in enumerate(classes) if name == one or (name == "mean" and drawn[one][0].defined)]
        first, second = (float(mean_or_nan(value_CS[chosen].mean(axis=1))) for value_CS, _ in both)
        compared[name] = Comparison.from_test(first, second, estimate, *bootstrap_p(gaps_D))
    return compared


def _estimates(
    labels_NC: Array,
    scores_SNC: Array,
    classes: Sequence[str],
    bootstrap: Bootstrap,
    values: tuple[Array, Array],
    seed: int,
    limits: tuple[float, float],
) -> dict[str, tuple[Estimate, Array]]:
    """For the mean of the classes and for each, the estimate over seeds and its draws (D,).

    `values` are (C, S), and those of the draws (C, S, D), as `_aurocs_of_seeds` gives them; `scores_SNC` say which classes
    are defined.
    """
    value_CS, drawn_CSD = values
    ranked = [RankedScores(labels_N, scores_SNC[0, :, c], bootstrap) for c, labels_N in enumerate(labels_NC.T)]
    defined = [c for c, one in enumerate(ranked) if not one.undefined]
    rng, remark = np.random.default_rng([seed, 1]), seed_note(len(scores_SNC))
    mean_S, mean_SD = mean_or_nan(value_CS[defined]), mean_or_nan(drawn_CSD[defined])
    mean_D = with_seed_variance(mean_S, mean_SD, rng, limits)
    report = {"mean": (macro_mean(classes, ranked, float(mean_S.mean()), mean_D, remark), mean_D)}
    for name, one, value_S, drawn_SD in zip(classes, ranked, value_CS, drawn_CSD, strict=True):
        n, positives = int(one.stated_N.sum()), int(one.positive_N.sum())
        if one.undefined:
            report[name] = Estimate.undefined(n, positives, one.undefined), np.array([])
            continue
        drawn_D = with_seed_variance(value_S, drawn_SD, rng, limits)
        estimate = bootstrap.estimate(
            float(value_S.mean()),
            drawn_D,
            one.stated_N,
            positives,
            remark,
            one.rough,
            no_interval=one.no_interval,
            degrees=one.degrees,
        )
        report[name] = estimate, drawn_D
    return report


def _aurocs_of_seeds(
    labels_NC: Array, scores_SNC: Array, classes: Sequence[str], bootstrap: Bootstrap
) -> tuple[Array, Array]:
    """AUROCs (C, S), and those of the draws (C, S, D), NaN where undefined."""
    values, drawn = [], []
    for scores_NC in scores_SNC:
        check_table(labels_NC, check_scores(scores_NC), classes)
        pairs = list(zip(labels_NC.T, scores_NC.T, strict=True))
        values.append([auroc(*pair) for pair in pairs])
        drawn.append(bootstrap_metrics([RankedScores(*pair, bootstrap) for pair in pairs], ["auroc"], bootstrap)[:, 0])
    return np.stack(values, axis=1), np.stack(drawn, axis=1)
