"""Lines `bootstrap` and `delong`: an AUROC with its 95 % interval.

2,000 records, 200 of them positive, each of a patient of its own, so that libraries that know no patients compute the same;
1,000 draws. Bootstraps differ by their draws: an end of an interval may differ by four standard errors of a quantile of so
many draws. DeLong's interval is on the logit scale here and on the plain one in `confidenceinterval`, so the two differ a little.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.peers.turns import OURS, Gate, Line, Setting, Way
from mrm.statistics import comparison, ranking
from mrm.statistics.intervals import Array

RECORDS, POSITIVES, DRAWS = 2_000, 200, 1_000
Interval = Callable[[Array, Array, int], tuple[float, float, float]]  # labels, scores, draws -> value, low, high


def labels_and_scores() -> tuple[Array, Array]:
    """Scores of positives are one standard deviation higher: an AUROC of about 0.76."""
    labels_N = np.repeat([1.0, 0.0], [POSITIVES, RECORDS - POSITIVES])
    return labels_N, np.random.default_rng(0).normal(size=RECORDS) + labels_N


def timed(interval: Interval) -> Way:
    """An interval as a way."""

    def way(gate: Gate, setting: Setting) -> None:
        labels_N, scores_N = labels_and_scores()
        draws = 200 if setting.quick else DRAWS
        if interval in PEERS:
            interval(labels_N[::10], scores_N[::10], 2)  # imports, and refuses what is not installed
        gate.repeat(lambda: interval(labels_N, scores_N, draws))

    return way


def ours(labels_N: Array, scores_N: Array, draws: int) -> tuple[float, float, float]:
    """The bootstrap of all draws at once."""
    estimate = ranking.interval(labels_N, scores_N, draws=draws)
    return estimate.value, estimate.low, estimate.high


def scikit_learn(labels_N: Array, scores_N: Array, draws: int) -> tuple[float, float, float]:
    """A loop of draws around `roc_auc_score`, as most papers have it."""
    from sklearn.metrics import roc_auc_score

    rng, values = np.random.default_rng(0), []
    for _ in range(draws):
        drawn_N = rng.integers(len(labels_N), size=len(labels_N))
        values.append(roc_auc_score(labels_N[drawn_N], scores_N[drawn_N]))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(roc_auc_score(labels_N, scores_N)), float(low), float(high)


def confidenceinterval(labels_N: Array, scores_N: Array, draws: int) -> tuple[float, float, float]:
    """Its percentile bootstrap."""
    from confidenceinterval import roc_auc_score

    value, (low, high) = roc_auc_score(
        labels_N, scores_N, method="bootstrap_percentile", n_resamples=draws, random_state=np.random.default_rng(0)
    )
    return float(value), float(low), float(high)


def mlstatkit(labels_N: Array, scores_N: Array, draws: int) -> tuple[float, float, float]:
    """Its percentile bootstrap."""
    from MLstatkit import Bootstrapping

    return Bootstrapping(labels_N, scores_N, "roc_auc", n_bootstraps=draws)


def our_delong(labels_N: Array, scores_N: Array, _: int) -> tuple[float, float, float]:
    """DeLong's interval."""
    estimate = comparison.delong_interval(labels_N, scores_N)
    return estimate.value, estimate.low, estimate.high


def their_delong(labels_N: Array, scores_N: Array, _: int) -> tuple[float, float, float]:
    """That of confidenceinterval, its default for AUROC."""
    from confidenceinterval import roc_auc_score

    value, (low, high) = roc_auc_score(labels_N.astype(int), scores_N, method="delong")
    return float(value), float(low), float(high)


PEERS = (scikit_learn, confidenceinterval, mlstatkit, their_delong)


def in_standard_errors(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The greatest difference of value, low and high, in standard errors of the value."""
    return float(np.abs(theirs - ours).max() / ((ours[2] - ours[1]) / (2 * 1.96)))


LINES = {
    "bootstrap": Line(
        f"an AUROC of {RECORDS:,} records with its bootstrap interval of {DRAWS:,} draws",
        "seconds",
        {
            OURS: timed(ours),
            "scikit-learn": timed(scikit_learn),
            "confidenceinterval": timed(confidenceinterval),
            "MLstatkit": timed(mlstatkit),
        },
        in_standard_errors,
        0.5,  # four standard errors of the difference of two quantiles of 1,000 draws
        1.1,  # the same of 200
        repeats=3,
        threads=1,
    ),
    "delong": Line(
        f"an AUROC of {RECORDS:,} records with DeLong's interval",
        "seconds",
        {OURS: timed(our_delong), "confidenceinterval": timed(their_delong)},
        in_standard_errors,
        0.2,
        repeats=21,
        threads=1,
    ),
}
