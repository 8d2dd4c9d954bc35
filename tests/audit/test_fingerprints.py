"""Fingerprints: what is saved comes back and runs no code, and which part of a name tells files apart."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrm.audit.fingerprints import Fingerprints, fingerprint
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError
from tests.support.image_files import radiograph


def files(folder: Path, count: int) -> Records:
    """Records of images in a folder."""
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(images.encode_png(radiograph(i, 64)))
    return Records([Record(path, name=path.name) for path in paths])


def equal(one: Fingerprints, other: Fingerprints) -> bool:
    """Whether all images have the same hashes."""
    return np.array_equal(one.exact, other.exact) and np.array_equal(one.perceptual, other.perceptual)


def test_no_code_that_a_file_brings_is_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    prints = fingerprint(files(tmp_path, 1))
    with np.load(prints.save(tmp_path / "f.npz")) as file:
        np.savez(tmp_path / "bad.npz", **{**file, "studies": np.array([Malicious()], dtype=object)})
    with pytest.raises(RecordError, match=r"bad\.npz: not a fingerprint file, or damaged"):
        Fingerprints.load(tmp_path / "bad.npz")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Malicious()))  # where it is read as a pickle, it does run
    assert (tmp_path / "ran").exists()


def test_what_is_saved_comes_back(tmp_path):
    prints = fingerprint(files(tmp_path, 3))
    back = Fingerprints.load(prints.save(tmp_path / "f.npz"))
    assert equal(prints, back)
    assert (back.read, back.inferred, back.version, back.key != "") == (True, 0, prints.version, True)
    np.testing.assert_array_equal(back.depths, prints.depths)
    assert [back.name(i) for i in range(3)] == ["record 1", "record 2", "record 3"]
    unread = Fingerprints.load(replace(prints, read=False, inferred=2).save(tmp_path / "g.npz"))
    assert (unread.read, unread.inferred) == (False, 2)


def test_how_many_folders_tell_a_file_from_all_others_of_its_set():
    """By hand: `a` is one file, `b` needs its folder, and `c` three folders."""
    names = ["x/a", "x/b", "y/b", "1/s/v/c", "2/s/v/c", "x/a"]
    prints = fingerprint(Records([Record(b"", name=name) for name in names]), images=False)
    assert prints.depths.tolist() == [1, 2, 2, 4, 4, 1]
    assert [len(np.unique(prints.names[:, depth])) for depth in range(4)] == [3, 4, 4, 5]


def test_a_file_without_a_name_has_no_key_of_one():
    prints = fingerprint(Records([Record(b"no image"), Record(b"", name="x")]), images=False)
    assert prints.names[0].tolist() == [0, 0, 0, 0]
    assert (prints.names[1] > 0).all()
    assert (prints.patients.tolist(), prints.studies.tolist()) == ([0, 0], [0, 0])
