"""An index is read whole or refused by name; the search itself is tested with the command, in `test_predicting`."""

import json

import numpy as np
import pytest

from mrm.inference.neighbours import read_index
from mrm.system.errors import RecordError


def index(folder, names="path,patient_id\na,1\nb,2\n", features=None):
    np.save(folder / "index.npy", np.ones((2, 3), np.float32) if features is None else features)
    (folder / "index.json").write_text(json.dumps({"shape": [3]}))
    (folder / "index.csv").write_text(names)
    return folder / "index.npy"


def test_an_index_has_a_row_for_each_name(tmp_path):
    found = read_index(index(tmp_path))
    assert [row["path"] for row in found.rows] == ["a", "b"]
    np.testing.assert_array_equal(np.concatenate(list(found.blocks())), np.ones((2, 3)))


def test_features_cut_short_are_no_index(tmp_path):
    path = index(tmp_path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(RecordError, match=r"index\.npy: no index that `mrm embed` wrote"):
        read_index(path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("path,patient_id\na,1\nb\n", "no index that `mrm embed` wrote"),
        ("path,patient_id\na,1\n", "of another number of rows"),
    ],
)
def test_names_that_do_not_fit_the_features_are_refused(tmp_path, names, words):
    with pytest.raises(RecordError, match=words):
        read_index(index(tmp_path, names))
