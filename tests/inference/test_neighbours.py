"""An index is read whole or refused by name, and searched in blocks; the command is tested in `runs/test_searching.py`."""

import json

import numpy as np
import pytest

from mrm.inference import neighbours
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
    with pytest.raises(RecordError, match=r"index\.npy: not an index written by `mrm embed`"):
        read_index(path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("path,patient_id\na,1\nb\n", "not an index written by `mrm embed`"),
        ("path,patient_id\na,1\n", "does not have one row for each of its features"),
    ],
)
def test_names_that_do_not_fit_the_features_are_refused(tmp_path, names, words):
    with pytest.raises(RecordError, match=words):
        read_index(index(tmp_path, names))


def test_neighbours_do_not_depend_on_the_blocks():
    features = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    features[[4, 30]] = np.nan
    features[11] = features[12] = features[40]
    own = np.array([3, -1, 40])
    whole = neighbours.nearest(features[[3, 20, 40]], iter([features]), 9, own)
    for size in (1, 7, 49):
        cut = neighbours.nearest(features[[3, 20, 40]], (features[i : i + size] for i in range(0, 50, size)), 9, own)
        np.testing.assert_array_equal(cut[1], whole[1])
    assert list(whole[1][2][:2]) == [11, 12]
    assert not {4, 30} & set(whole[1].ravel())
