"""Too few labels to be sure of a threshold: how many are few, and the sentences that say so.

A sensitivity of 0.9 on 30 positives has the 95 % interval 0.744 to 0.965, on ten 0.596 to 0.982 (Wilson). With fewer than
`FEW` positives or negatives a user is told so wherever a threshold is chosen or used.
"""

# Shapes: N records, C classes
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrm.statistics.intervals import proportion

FEW = 30  # positives or negatives


def few_labels(labels_NC: np.ndarray, classes: Sequence[str], records: str) -> list[str]:
    """A sentence for each class of which validation labels (N, C) have fewer than `FEW` positives or negatives.

    Classes with a single label value are left out: nothing can be measured or chosen on them.
    """
    sentences = []
    for name, labels_N in zip(classes, labels_NC.T, strict=True):
        positives, negatives = int((labels_N == 1).sum()), int((labels_N == 0).sum())
        if positives and negatives and min(positives, negatives) < FEW:
            rarer, measure = ("positives", "sensitivity") if positives <= negatives else ("negatives", "specificity")
            count = min(positives, negatives)
            low = proportion(np.ones(count), count).low
            sentences.append(
                f"{records}: {name} has {positives:,} positives and {negatives:,} negatives. Fewer than {FEW} make the choice "
                f"of the best checkpoint and of a threshold uncertain: even a {measure} of 1.000 on {count} {rarer} has the "
                f"95 % interval {low:.3f} to 1.000"
            )
    return sentences


def uncertain_thresholds(calibration: Mapping[str, Any]) -> list[str]:
    """A sentence for each class whose threshold was chosen on fewer than `FEW` positives or negatives.

    `calibration` is what a model's card keeps of it; empty if the model was never calibrated.
    """
    sentences = []
    for name, fitted in calibration.get("classes", {}).items():
        point = fitted.get("operating_point")
        if not point:
            continue
        positives, negatives = point["sensitivity"]["n"], point["specificity"]["n"]
        if min(positives, negatives) < FEW:
            sentences.append(
                f"{name}: the threshold {point['threshold']:.4g} is uncertain, since it was chosen on {positives:,} positives "
                f"and {negatives:,} negatives of {calibration.get('records') or 'unnamed records'}, and fewer than {FEW} are few. 95 % intervals: threshold "
                f"{_span(fitted.get('threshold_interval'), '.4g')}, sensitivity {_share(point['sensitivity'])}, specificity "
                f"{_share(point['specificity'])}"
            )
    return sentences


def _share(estimate: Mapping[str, Any]) -> str:
    """`0.833 (0.552 to 0.953)`"""
    value = estimate.get("value")
    span = _span((estimate.get("low"), estimate.get("high")), ".3f")
    return "undefined" if value is None else f"{value:.3f} ({span})"


def _span(ends: Sequence[float | None] | None, form: str) -> str:
    """`0.552 to 0.953`; "unknown" where no interval could be computed."""
    low, high = ends or (None, None)
    return "unknown" if low is None or high is None else f"{low:{form}} to {high:{form}}"
