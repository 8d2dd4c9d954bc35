"""Predictions as files."""

import numpy as np
import pytest

from mrm.evaluate import Predictions, read_predictions, write_results
from mrm.records import RecordError


def test_predictions_come_back_as_they_were_written(tmp_path):
    labels = np.array([[1.0, np.nan], [0.0, 1.0]])
    made = Predictions(
        ["a, b.png", "c.png"], ["p1", "p2"], ("effusion", "mass"), labels, np.array([[0.1, 1 / 3], [1, 0]])
    )
    write_results(tmp_path, {}, made)
    read = read_predictions(tmp_path / "predictions.csv")
    assert (read.names, read.patients, read.classes) == (made.names, made.patients, made.classes)
    np.testing.assert_array_equal(read.labels_NC, labels)
    np.testing.assert_array_equal(read.probabilities_NC, made.probabilities_NC)


def test_unknown_patients_stay_unknown(tmp_path):
    write_results(tmp_path, {}, Predictions(["a"], None, ("x",), np.array([[1.0]]), np.array([[0.5]])))
    assert read_predictions(tmp_path / "predictions.csv").patients is None


@pytest.mark.parametrize("text", ["name,effusion\na,0.5\n", "name,patient_id\na,p\n", "x,y,z label,z\n1,2,3,4\n"])
def test_another_table_is_refused_with_its_columns(tmp_path, text):
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(RecordError, match=r"not a predictions.csv of `mrm evaluate`; its columns are"):
        read_predictions(tmp_path / "predictions.csv")
