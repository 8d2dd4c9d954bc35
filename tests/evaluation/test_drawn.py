"""A test's measure in each bootstrap draw: the values of one draw by hand, and intervals equal to those of the test."""

import numpy as np
import pytest
from sklearn import metrics

from mrm.evaluation import drawn
from mrm.evaluation.predictions import Predictions, write_predictions
from mrm.statistics import dice
from mrm.system.errors import RecordError, RunError


def predictions(folder, labels, probabilities, classes=("a",)):
    labels_NC, probabilities_NC = (np.atleast_2d(np.array(v, float).T).T for v in (labels, probabilities))
    if labels_NC.shape[1] != len(classes):
        labels_NC, probabilities_NC = labels_NC.reshape(-1, len(classes)), probabilities_NC.reshape(-1, len(classes))
    names = [f"{i}.png" for i in range(len(labels_NC))]
    folder.mkdir(exist_ok=True)
    patients = [f"p{i // 2}" for i in range(len(names))]
    write_predictions(folder / "predictions.csv", Predictions(names, patients, classes, labels_NC, probabilities_NC))
    return folder


@pytest.mark.parametrize(("metric", "function"), [("f1", metrics.f1_score), ("accuracy", metrics.accuracy_score)])
def test_a_decided_measure_is_that_of_scikit_learn_without_labels_that_are_not_stated(tmp_path, metric, function):
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 60).astype(float), rng.random(60).round(2)
    labels[:4] = np.nan
    probabilities[5] = 0.5  # is called present
    test = predictions(tmp_path / "test", labels, probabilities)
    estimate = drawn.decided_estimate(test, metric, 500)
    assert estimate.value == pytest.approx(function(labels[4:], probabilities[4:] >= 0.5))
    assert (estimate.n, estimate.positives) == (56, int(np.nansum(labels)))
    resamples = drawn.drawn(test, metric, 500)
    ends = np.quantile(resamples.values_D, [resamples.tail, 1 - resamples.tail])
    assert (estimate.low, estimate.high) == pytest.approx(tuple(ends))


def test_f1_is_of_one_finding(tmp_path):
    test = predictions(tmp_path / "test", [[0, 1], [1, 0]], [[0.2, 0.8], [0.7, 0.1]], ("a", "b"))
    with pytest.raises(RunError, match="f1 is of one finding, but the test has 2"):
        drawn.decided_estimate(test, "f1", 10)
    assert drawn.classes_of(test) == 2
    assert drawn.tested_names(test) == ["0.png", "1.png"]


def test_without_a_positive_f1_is_undefined(tmp_path):
    estimate = drawn.decided_estimate(predictions(tmp_path / "test", [0, 0, 0], [0.1, 0.2, 0.3]), "f1", 10)
    assert not estimate.defined
    assert estimate.note == "no positive, and none called so"


def masks(folder, counts, patients) -> None:
    lines = ["name,class,patient_id,intersection,predicted,true,pixels,dice"]
    shown = ["" if v != v else repr(float(v)) for v in counts.dice()]
    columns = (counts.intersection, counts.predicted, counts.true, counts.pixels)
    for i, (row, d) in enumerate(zip(zip(*columns, strict=True), shown, strict=True)):
        lines.append(",".join([f"{i}.png", "lesion", patients[i], *(f"{v:g}" for v in row), d]))
    (folder / "images.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("metric", ["dice_positive", "dice_published", "dice_pooled", "dice_mean"])
def test_dice_is_resampled_as_the_test_of_a_segmenter_does(tmp_path, metric):
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 3, 40) * 10, rng.integers(0, 3, 40) * 10
    counts = dice.PixelCounts(np.minimum(true, predicted) // 2, predicted, true, np.full(40, 100))
    patients = [f"p{i // 3}" if i < 30 else "" for i in range(40)]
    masks(tmp_path, counts, patients)
    resamples = drawn.drawn(tmp_path, metric, 2000)
    ends = np.nanquantile(resamples.values_D, [resamples.tail, 1 - resamples.tail])
    expected = dice.overlap_report(counts, patients)[metric]
    assert tuple(ends) == pytest.approx((expected.low, expected.high))
    assert drawn.classes_of(tmp_path) == 1
    assert drawn.tested_names(tmp_path)[:2] == ["0.png", "1.png"]


def test_counts_that_cannot_be_are_refused_with_the_table(tmp_path):
    header = "name,class,patient_id,intersection,predicted,true,pixels,dice"
    (tmp_path / "images.csv").write_text(f"{header}\na.png,lesion,,9,5,5,100,0.5\n")
    with pytest.raises(RecordError, match=r"images\.csv: 1 of 1 intersections exceed a lesion"):
        drawn.drawn(tmp_path, "dice_pooled", 10)
    (tmp_path / "images.csv").write_text("name,class,patient_id,predicted,true,dice\na.png,lesion,,5,5,0.5\n")
    with pytest.raises(RecordError, match=r"not an images\.csv of `mrm evaluate`; its columns are name"):
        drawn.drawn(tmp_path, "dice_pooled", 10)
