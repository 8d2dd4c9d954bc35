"""Predictions as files, and two of them side by side."""

import numpy as np
import pytest

from mrm.evaluation.predictions import Predictions, pair, read_predictions, write_predictions
from mrm.system.errors import RecordError

CLASSES = ("effusion", "cardiomegaly")


def test_predictions_come_back_as_they_were_written(tmp_path):
    labels = np.array([[1.0, np.nan], [0.0, 1.0]])
    made = Predictions(
        ["a, b.png", "c.png"], ["p1", "p2"], ("effusion", "mass"), labels, np.array([[0.1, 1 / 3], [1, 0]])
    )
    write_predictions(tmp_path / "predictions.csv", made)
    read = read_predictions(tmp_path / "predictions.csv")
    assert (read.names, read.patients, read.classes) == (made.names, made.patients, made.classes)
    np.testing.assert_array_equal(read.labels_NC, labels)
    np.testing.assert_array_equal(read.probabilities_NC, made.probabilities_NC)


def test_unknown_patients_stay_unknown(tmp_path):
    p = Predictions(["a"], [""], ("x",), np.array([[1.0]]), np.array([[0.5]]))
    write_predictions(tmp_path / "predictions.csv", p)
    assert read_predictions(tmp_path / "predictions.csv").patients == [""]


def test_patients_are_read_from_published_names_where_the_table_names_none(tmp_path):
    names = ["00000013_026.png", "00000013_027.png", "train/patient00013/study1/view1_frontal.jpg", "a.png", "b.png"]
    made = Predictions(names, ["", "13", "", "", "x"], ("x",), np.ones((5, 1)), np.full((5, 1), 0.5))
    write_predictions(tmp_path / "predictions.csv", made)
    a, b, c, d, e = read_predictions(tmp_path / "predictions.csv").patients
    assert a == b
    assert len({a, c, d, e}) == 4
    assert (d, e) == ("", "x")


@pytest.mark.parametrize("text", ["name,effusion\na,0.5\n", "name,patient_id\na,p\n", "x,y,z label,z\n1,2,3,4\n"])
def test_another_table_is_refused_with_its_columns(tmp_path, text):
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(RecordError, match=r"not a predictions.csv of `mrm evaluate`; its columns are"):
        read_predictions(tmp_path / "predictions.csv")


def test_a_header_alone_is_no_predictions(tmp_path):
    (tmp_path / "predictions.csv").write_text("name,patient_id,x label,x\n")
    with pytest.raises(RecordError, match=r"predictions\.csv: no predictions in it"):
        read_predictions(tmp_path / "predictions.csv")


# Files that cannot be ---------------------------------------------------------------------------------


def written(folder, names=("a", "b", "c"), patients=None, classes=("x", "y"), labels=None, probabilities=None):
    n = len(names)
    labels = np.array([[i % 2, 1 - i % 2] for i in range(n)], dtype=float) if labels is None else labels
    probabilities = np.full((n, len(classes)), 0.25) if probabilities is None else probabilities
    write_predictions(
        folder / "predictions.csv",
        Predictions(list(names), patients or [""] * n, classes, labels[:, : len(classes)], probabilities),
    )
    return read_predictions(folder / "predictions.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,p,1,0,0.5,1.5", "line 2: a, y: probability 1.5 is outside 0 to 1"),
        ("a,p,1,0,-3,0.5", "line 2: a, x: probability -3 is outside 0 to 1"),
        ("a,p,1,0,,0.5", "line 2: a, x: probability nan is outside 0 to 1"),
        ("a,p,2,0,0.5,0.5", "line 2: a, x: label 2 is not 1, 0 or empty"),
        ("a,p,1,0,high,0.5", "line 2: a: 'high' is not a number"),
        ("a,p,1,0,0.5", "line 2: 5 fields, the header has 6"),
    ],
)
def test_values_that_cannot_be_are_named_with_their_line(tmp_path, row, message):
    (tmp_path / "predictions.csv").write_text(f"name,patient_id,x label,y label,x,y\n{row}\n")
    with pytest.raises(RecordError, match=message):
        read_predictions(tmp_path / "predictions.csv")


def test_the_same_records_in_another_order_are_paired(tmp_path):
    first = written(tmp_path / "a", patients=["p", "q", "r"])
    second = written(
        tmp_path / "b", ("c", "a", "b"), ["r", "p", "q"], ("y", "x", "z"),
        labels=np.array([[1.0, 0, 1], [1, 0, 1], [0, 1, 1]]), probabilities=np.array([[0.1, 0.2, 0], [0.3, 0.4, 0], [0.5, 0.6, 0]]),
    )  # fmt: skip
    paired = pair(first, second, ("A", "B"))
    assert paired.classes == ("x", "y")
    assert paired.left_out == ("z",)
    np.testing.assert_array_equal(paired.second_NC, [[0.4, 0.3], [0.6, 0.5], [0.2, 0.1]])
    assert paired.patients == ["p", "q", "r"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("a", "b", "d")}, r"do not cover the same records: 1 of 3 only in A \(first: c\); 1 of 3 only in B \(first: d\)"),
        ({"names": ("a", "b")}, r"1 of 3 only in A \(first: c\)"),
        ({"names": ("a", "b", "b")}, r"B: 1 records occur more than once, the first is b"),
        ({"labels": np.array([[0.0, 1], [1, 0], [1, np.nan]])}, "2 labels differ between A and B; the first is x of c: 0 and 1"),
        ({"classes": ("z",)}, "no class in common"),
        ({"patients": ["p", "q", "q"]}, "name different patients for the same records"),
    ],
)  # fmt: skip
def test_predictions_that_cannot_be_paired_are_refused_by_name(tmp_path, changes, message):
    first = written(tmp_path / "a", patients=["p", "q", "r"])
    with pytest.raises(RecordError, match=message):
        pair(first, written(tmp_path / "b", **changes), ("A", "B"))


# A test, whole ----------------------------------------------------------------------------------------
