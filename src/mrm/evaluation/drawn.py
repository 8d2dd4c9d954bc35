"""What a test's measure is in each bootstrap draw of its patients, from the table of records that `mrm evaluate` wrote.

The draws of patients follow from the number of patients alone, so those of several models on the same records are paired.
"""

# Shapes: N records, D bootstrap draws
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrm.evaluation.predictions import Predictions, read_counts, read_dice, read_predictions
from mrm.statistics import dice
from mrm.statistics.agreement import decided, measures
from mrm.statistics.intervals import Array, Bootstrap, Estimate
from mrm.statistics.ranking import RankedScores, bootstrap_metrics, mean_degrees, mean_or_nan
from mrm.system.errors import RunError

DECIDED = ("f1", "accuracy")  # measures of one finding, called present from a probability of 0.5 on


@dataclass(frozen=True)
class Drawn:
    """The values of a measure in each draw (D,), and the share of them below its interval, and above it."""

    values_D: Array
    tail: float


def tested_names(test: Path) -> list[str]:
    """The names of the records in a test's table, each once."""
    if (test / "images.csv").is_file():
        return next(iter(read_dice(test / "images.csv").values())).names
    return read_predictions(test / "predictions.csv").names


def classes_of(test: Path) -> int:
    """How many classes a test's table has."""
    if (test / "images.csv").is_file():
        return len(read_dice(test / "images.csv"))
    return len(read_predictions(test / "predictions.csv").classes)


def drawn(test: Path, metric: str, draws: int) -> Drawn:
    """A measure of the first class of a segmenter, of the mean over classes of a classifier, in each draw."""
    if (test / "images.csv").is_file():
        return _of_masks(test / "images.csv", metric, draws)
    predictions = read_predictions(test / "predictions.csv")
    bootstrap = Bootstrap.from_groups(predictions.patients, len(predictions.names), draws)
    if metric in DECIDED:
        _, values_D, used_N = _decided(predictions, metric, bootstrap)
        return Drawn(values_D, bootstrap.tail(bootstrap.degrees(used_N)))
    pairs = zip(predictions.labels_NC.T, predictions.probabilities_NC.T, strict=True)
    ranked = [RankedScores(labels_N, scores_N, bootstrap) for labels_N, scores_N in pairs]
    ranked = [scores for scores in ranked if not scores.undefined]
    values_D = mean_or_nan(bootstrap_metrics(ranked, [metric], bootstrap)[:, 0])
    return Drawn(values_D, bootstrap.tail(mean_degrees(ranked)))


def decided_estimate(test: Path, metric: str, draws: int) -> Estimate:
    """F1 or accuracy of the one finding of a test, at a probability of 0.5, with its interval over patients."""
    predictions = read_predictions(test / "predictions.csv")
    bootstrap = Bootstrap.from_groups(predictions.patients, len(predictions.names), draws)
    value, values_D, used_N = _decided(predictions, metric, bootstrap)
    positives = int((predictions.labels_NC[:, 0] == 1).sum())
    if not np.isfinite(value):
        return Estimate.undefined(int(used_N.sum()), positives, "no positive, and none called so")
    return bootstrap.estimate(value, values_D, used_N, positives)


def _decided(predictions: Predictions, metric: str, bootstrap: Bootstrap) -> tuple[float, Array, np.ndarray]:
    """The value, its draws (D,), and the records with a label (N,). Raises RunError unless there is one finding."""
    if len(predictions.classes) != 1:
        raise RunError(
            f"{metric} is of one finding, but the test has {len(predictions.classes)}; test one with --classes"
        )
    labels_N, called_N = predictions.labels_NC[:, 0], predictions.probabilities_NC[:, 0] >= 0.5
    cells_NK = decided(labels_N, called_N)
    value, values_D = (measures(cells)[metric] for cells in (cells_NK.sum(0), bootstrap.sums(cells_NK)))
    return float(value), values_D, np.isfinite(labels_N)


def _of_masks(table: Path, metric: str, draws: int) -> Drawn:
    images = next(iter(read_dice(table).values()))
    bootstrap = Bootstrap.from_groups(images.patients, len(images.names), draws)
    if metric in dice.POOLED:
        counts = next(iter(read_counts(table).values()))
        values_D = dice.pooled_draws(counts, bootstrap)[metric]
        return Drawn(values_D, bootstrap.tail(bootstrap.degrees(counts.positive)))
    dice_N = {"dice_positive": images.positive_N, "dice_published": images.published_N}[metric]
    used_N = ~np.isnan(dice_N)
    return Drawn(bootstrap.means(dice_N, used_N), bootstrap.tail(bootstrap.degrees(used_N)))
