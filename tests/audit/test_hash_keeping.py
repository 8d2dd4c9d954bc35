"""Hashes lie beside the records, whatever command computed them; a folder that cannot be written costs a word, and no more."""

import os
import shutil
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mrm.audit import fingerprints, kept_hashes
from mrm.audit.fingerprints import fingerprint
from mrm.audit.hash_keeping import HashKeeper, place_beside
from mrm.audit.kept_hashes import FILE, KeptHashes
from mrm.data import images
from mrm.data.records import Record, Records
from tests.support import forks
from tests.support.image_files import radiograph


@pytest.fixture
def records(tmp_path) -> Records:
    """Four radiographs in `images`, and a list of them made by hand in `lists`."""
    (tmp_path / "images").mkdir()
    (tmp_path / "lists").mkdir()
    for i in range(4):
        (tmp_path / f"images/{i}.png").write_bytes(images.encode_png(radiograph(i)))
    Records([Record(tmp_path / f"images/{i}.png") for i in range(4)]).to_csv(tmp_path / "lists/training.csv")
    return Records.load(tmp_path / "lists/training.csv")


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of the images that are read for their hashes, as they are."""
    original, names = images.read, []
    monkeypatch.setattr(
        fingerprints.images, "read", lambda image: names.append(Path(str(image)).name) or original(image)
    )
    return names


def test_a_command_keeps_what_it_hashes_beside_the_records_and_a_function_alone_writes_nothing(records, read):
    beside = Path(records.source).with_name(FILE)
    alone = fingerprint(records)
    assert not beside.exists()
    kept = fingerprint(records, hashes=HashKeeper())
    assert len(read) == 8
    assert (kept.exact == alone.exact).all()
    assert beside.stat().st_mode & 0o777 == 0o600
    for again in (fingerprint(records), fingerprint(records, hashes=HashKeeper())):
        assert (again.exact == kept.exact).all()
        assert (again.perceptual == kept.perceptual).all()
    assert len(read) == 8


def test_a_command_reads_a_file_of_hashes_once_and_again_only_after_something_was_added(records, read, monkeypatch):
    loaded, original = [], KeptHashes._load
    monkeypatch.setattr(KeptHashes, "_load", lambda *_: loaded.append(1) or original(*_))
    keeper = HashKeeper()
    fingerprint(records.select([0, 1]), hashes=keeper)
    fingerprint(records.select([0, 1, 2]), hashes=keeper)
    fingerprint(records.select([2, 3, 0]), hashes=keeper)
    assert sorted(read) == ["0.png", "1.png", "2.png", "3.png"]
    assert len(loaded) == 3
    for _ in range(4):
        fingerprint(records, hashes=keeper)
    assert len(loaded) == 4


def test_the_splits_of_a_folder_with_masks_keep_their_hashes_in_that_folder(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
    (tmp_path / "annotations" / "train").mkdir(parents=True)
    assert place_beside(str(tmp_path / "images" / "train")) == str(tmp_path)
    assert place_beside(str(tmp_path / "images" / "test")) == str(tmp_path / "images" / "test")  # images without masks


def test_what_is_no_path_has_no_hashes_beside_it(records, read, tmp_path, monkeypatch):
    fingerprint(records, hashes=HashKeeper())
    monkeypatch.chdir(tmp_path / "lists")
    for source in ("", "clinical notes", "a.csv, b.csv", "x" * 5000, "\0"):
        assert place_beside(source) is None
        read.clear()
        fingerprint(replace(records, source=source), hashes=HashKeeper())
        assert len(read) == 4
    for source in ("training.csv", ".", str(tmp_path / "lists")):
        assert place_beside(source) == str(tmp_path / "lists")


def cannot_be_made(folder: Path) -> str:
    """Put something in the way of the file of hashes."""
    (folder / FILE).mkdir()
    return "Is a directory"


def cannot_be_written(folder: Path) -> str:
    """Let nobody write to the folder."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder.chmod(0o500)
    return "Permission denied"


@pytest.mark.filterwarnings("default:.*cannot be kept")
@pytest.mark.parametrize("obstruct", [cannot_be_made, cannot_be_written])
def test_a_folder_that_cannot_be_written_is_named_once_and_nothing_fails(records, read, tmp_path, obstruct):
    reason, keeper = obstruct(tmp_path / "lists"), HashKeeper()
    with pytest.warns(UserWarning, match="cannot be kept") as warned:
        prints = [fingerprint(records.select(part), hashes=keeper) for part in ([0, 1], [2, 3])]
    assert [str(w.message) for w in warned] == [
        f"{tmp_path / 'lists'}: the hashes of its images cannot be kept there ({reason}), so another command has to read "
        "these images again"
    ]
    assert all(p.exact.all() for p in prints)
    with pytest.warns(UserWarning, match="cannot be kept"):
        fingerprint(records, hashes=HashKeeper(KeptHashes(tmp_path / "run")))
    read.clear()
    fingerprint(records, hashes=HashKeeper(KeptHashes(tmp_path / "run")))
    assert read == []


@pytest.mark.parametrize("wait", [0.0, 1e9])  # it is full while images are hashed, or at the end
def test_a_full_disk_beside_the_records_does_not_end_a_command_and_what_was_written_stays(records, monkeypatch, wait):
    original, calls = kept_hashes._append, []

    def full(file, content):
        calls.append(content)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        original(file, content)

    monkeypatch.setattr(kept_hashes, "_append", full)
    monkeypatch.setattr(kept_hashes, "WAIT", wait)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert fingerprint(records, hashes=HashKeeper(), workers=1).exact.all()
    assert len(calls) == 2
    assert len(KeptHashes(Path(records.source).parent)) == 1


def test_hashes_that_another_user_keeps_for_himself_are_not_needed(records, read, monkeypatch):
    fingerprint(records, hashes=HashKeeper())

    def denied(file):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(kept_hashes, "_read_locked", denied)
    read.clear()
    keeper = HashKeeper()
    with pytest.warns(UserWarning, match=rf"{FILE}: cannot be read \(Permission denied\), so the images are read"):
        assert fingerprint(records, hashes=keeper).exact.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fingerprint(records, hashes=keeper).exact.all()
    assert len(read) == 8


def test_what_is_known_elsewhere_is_kept_beside_the_records_too(records, read, tmp_path):
    for number, folder in enumerate(("own", "also")):
        fingerprint(records.select([number]), hashes=HashKeeper(KeptHashes(tmp_path / folder), beside=False))
    read.clear()
    fingerprint(records, hashes=HashKeeper(KeptHashes(tmp_path / "own"), also=[tmp_path / "also"]))
    assert sorted(read) == ["2.png", "3.png"]
    shutil.rmtree(tmp_path / "own")
    shutil.rmtree(tmp_path / "also")
    fingerprint(records)
    assert len(read) == 2


def test_an_image_that_cannot_be_read_leaves_nothing_beside_the_records(records, read, tmp_path):
    (tmp_path / "images/1.png").write_bytes(b"no image")
    for _ in range(2):
        assert len(fingerprint(records, hashes=HashKeeper()).unreadable) == 1
    assert read.count("1.png") == 2
    assert len(KeptHashes(tmp_path / "lists")) == 3


def add_some(folder: Path, first: int) -> None:
    hashes = KeptHashes(folder)
    for key in range(first, first + 300):
        hashes.add(key, [key] * 9)
        if key % 10 == 0:
            hashes.flush()
    hashes.flush()


def test_processes_that_add_while_another_puts_all_in_order_lose_nothing(tmp_path):
    adding = [forks.start(partial(add_some, tmp_path, first)) for first in (1, 301)]
    for _ in range(20):
        KeptHashes(tmp_path).settle()
    assert [forks.wait(process).status for process in adding] == [0, 0]
    KeptHashes(tmp_path).settle()
    keys = np.arange(1, 601, dtype=np.uint64)
    assert (KeptHashes(tmp_path).hashes(keys) == keys[:, None]).all()
    assert (tmp_path / FILE).stat().st_size == 16 + 600 * 88
