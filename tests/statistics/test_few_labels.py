"""Few labels are said to be few, with the intervals that follow from them."""

import math

import numpy as np
import pytest

from mrm.statistics.few_labels import FEW, few_labels, uncertain_thresholds


def labels(positives: int, negatives: int) -> np.ndarray:
    """(N, 1) labels, the last of them not stated."""
    return np.array([[1.0]] * positives + [[0.0]] * negatives + [[math.nan]])


def test_a_class_with_few_positives_is_named_with_what_they_can_show():
    """The lower end for k of k hits is k / (k + z^2) by Wilson's formula."""
    (sentence,) = few_labels(labels(12, 188), ("Effusion",), "val.csv")
    assert sentence.startswith("val.csv: Effusion has 12 positives and 188 negatives. Fewer than 30 make")
    low = 12 / (12 + 1.959964**2)
    assert f"even a sensitivity of 1.000 on 12 positives has the 95 % interval {low:.3f} to 1.000" in sentence


def test_a_class_with_few_negatives_is_told_of_its_specificity():
    (sentence,) = few_labels(labels(50, 7), ("Effusion",), "val.csv")
    assert "a specificity of 1.000 on 7 negatives" in sentence


@pytest.mark.parametrize("counts", [(FEW, FEW), (0, 5), (5, 0), (0, 0)])
def test_enough_labels_and_those_of_one_value_are_not_named(counts):
    assert not few_labels(labels(*counts), ("Effusion",), "val.csv")


def fitted(positives: int, negatives: int, **changes) -> dict:
    """What a card keeps of a class."""
    share = {"value": 0.75, "low": 0.5, "high": 0.9}
    point = {
        "threshold": 0.25,
        "sensitivity": {**share, "n": positives},
        "specificity": {"value": None, "low": None, "high": None, "n": negatives},
    }
    return {"operating_point": point, "threshold_interval": [0.125, 0.5], **changes}


def test_a_threshold_chosen_on_few_labels_is_said_to_be_uncertain():
    classes = {"A": fitted(12, 300), "B": fitted(30, 30), "C": {"temperature": None}}
    (sentence,) = uncertain_thresholds({"classes": classes, "records": "val.csv"})
    assert sentence == (
        "A: the threshold 0.25 is uncertain, since it was chosen on 12 positives and 300 negatives of val.csv, and fewer "
        "than 30 are few. 95 % intervals: threshold 0.125 to 0.5, sensitivity 0.750 (0.500 to 0.900), specificity undefined"
    )


def test_a_threshold_without_interval_says_so():
    (sentence,) = uncertain_thresholds({"classes": {"A": fitted(40, 1, threshold_interval=None)}})
    assert "40 positives and 1 negatives of unnamed records" in sentence
    assert "threshold unknown" in sentence


def test_a_model_that_was_never_calibrated_has_no_uncertain_threshold():
    assert uncertain_thresholds({}) == []
