"""An image is read once: its hashes are kept beside its records, and are those of the file as it is."""

import errno
import hashlib
import os
import resource
import shutil
import struct
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrm.audit import fingerprints
from mrm.audit.fingerprints import Fingerprints, fingerprint
from mrm.audit.hash_keeping import HashKeeper
from mrm.audit.kept_hashes import ENTRY, FILE, HEADER, KeptHashes
from mrm.audit.perceptual_hashes import content_hash, perceptual_hashes
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.data.shards import PackedImage, ShardFile
from mrm.system.errors import UnreachableError
from mrm.system.shares import WHOLE, Share
from tests.support.image_files import radiograph


@pytest.fixture
def records(tmp_path) -> Records:
    """Four radiographs in `set/images`, and a table of them in `set`."""
    (tmp_path / "set/images").mkdir(parents=True)
    for i in range(4):
        (tmp_path / f"set/images/{i}.png").write_bytes(images.encode_png(radiograph(i)))
    Records([Record(tmp_path / f"set/images/{i}.png", name=f"images/{i}.png") for i in range(4)]).to_csv(
        tmp_path / "set/training.csv"
    )
    return Records.load(tmp_path / "set/training.csv")


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """The names of the images that are read for their hashes, as they are."""
    original, names = images.read, []

    def read(image):
        names.append(Path(str(image)).name)
        return original(image)

    monkeypatch.setattr(fingerprints.images, "read", read)
    return names


def kept(records: Records, folder: Path, share: Share = WHOLE) -> Fingerprints:
    return fingerprint(records, hashes=HashKeeper(KeptHashes(folder, share), beside=False))


def equal(one: Fingerprints, other: Fingerprints) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("exact", "perceptual", "names"))


def test_what_is_kept_beside_a_table_is_read_by_nobody_again(records, tmp_path, read):
    fresh = kept(records, tmp_path / "set")
    assert sorted(read) == ["0.png", "1.png", "2.png", "3.png"]
    assert equal(fingerprint(records), fresh)
    below = Records.load(records.source)
    (tmp_path / "set/task").mkdir()
    below.to_csv(tmp_path / "set/task/train.csv")
    assert equal(fingerprint(replace(below, source=str(tmp_path / "set/task/train.csv"))), fresh)
    assert len(read) == 4
    assert equal(fingerprint(replace(below, source="")), fresh)  # nothing says where the records are from
    assert len(read) == 8


def test_an_entry_is_what_the_page_on_the_format_says(records, tmp_path):
    kept(records.select([2]), tmp_path / "set")
    content = (tmp_path / "set" / FILE).read_bytes()
    header, entry = content[:16], struct.unpack("<11Q", content[16:])
    assert header == b"mrmhash\n" + struct.pack("<Q", 4)
    file, pixels = tmp_path / "set/images/2.png", radiograph(2)
    key = f"images/2.png|{file.stat().st_size}|{file.stat().st_mtime_ns}".encode()
    assert entry[0] == int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    assert entry[1:10] == (content_hash(pixels), *perceptual_hashes(pixels).ravel().tolist())
    factor, total = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03
    for place, word in enumerate(entry[:10], 1):
        total += word * factor**place
    assert entry[10] == total % 2**64


def test_a_changed_image_is_hashed_again_and_the_others_are_not(records, tmp_path, read):
    kept(records, tmp_path / "set")
    changed = tmp_path / "set/images/1.png"
    changed.write_bytes(images.encode_png(radiograph(9)))
    os.utime(changed, ns=(1, 1))  # a copy may bring an earlier time
    read.clear()
    again = kept(records, tmp_path / "set")
    assert read == ["1.png"]
    assert again.exact[1] == content_hash(radiograph(9))
    assert equal(fingerprint(records), again)
    assert read == ["1.png"]


def test_a_folder_that_is_moved_keeps_its_hashes_and_another_one_gets_none_of_them(records, tmp_path, read):
    fresh = kept(records, tmp_path / "set")
    shutil.copytree(tmp_path / "set", tmp_path / "moved")  # with the times of its files
    assert equal(fingerprint(Records.load(tmp_path / "moved/training.csv")), fresh)
    assert len(read) == 4
    (tmp_path / "other/images").mkdir(parents=True)
    for i in range(4):
        (tmp_path / f"other/images/{i}.png").write_bytes(images.encode_png(radiograph(10 + i)))
    for name in ("training.csv", FILE):
        shutil.copy(tmp_path / "set" / name, tmp_path / "other" / name)
    other = fingerprint(Records.load(tmp_path / "other/training.csv"))
    assert other.exact.tolist() == [content_hash(radiograph(10 + i)) for i in range(4)]


def cut(content: bytes) -> bytes:
    return content[:-5]


def changed(content: bytes) -> bytes:
    at = len(HEADER) + ENTRY.size + 20  # in the second entry
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def zeros(content: bytes) -> bytes:
    return content[: -ENTRY.size] + bytes(ENTRY.size)


def other_version(content: bytes) -> bytes:
    return content[:8] + struct.pack("<Q", 1) + content[16:]


@pytest.mark.parametrize(("spoil", "message", "again"), [
    (cut, "was cut off in its last entry", 1),
    (changed, "1 of its 4 entries are damaged", 1),
    (zeros, "1 of its 4 entries are damaged", 1),
    (other_version, "has hashes of version 1, and this mrm makes version 4", 4),
    (lambda content: content[:9], "is damaged", 4),
    (lambda content: b"<html>", "is damaged", 4),
])  # fmt: skip
def test_a_file_that_is_damaged_or_of_another_version_is_made_again_and_said_once(
    records, tmp_path, read, spoil, message, again
):
    fresh = kept(records, tmp_path / "set")
    file = tmp_path / "set" / FILE
    file.write_bytes(spoil(file.read_bytes()))
    read.clear()
    with pytest.warns(UserWarning, match=f"{FILE}: {message}; the images concerned are hashed again"):
        assert equal(kept(replace(records, source=""), tmp_path / "set"), fresh)
    assert len(read) == again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(fingerprint(records), fresh)
    assert len(read) == again


def test_an_empty_file_holds_nothing(records, tmp_path):
    (tmp_path / "set" / FILE).write_bytes(b"")
    fresh = kept(records, tmp_path / "set")
    assert equal(fingerprint(records), fresh)
    assert len(KeptHashes(tmp_path / "set")) == 4


def test_a_full_disk_leaves_whole_entries_and_the_work_resumes(records, tmp_path, read):
    """Of the file size that the system allows, here in place of a full disk, two entries and a half are left."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(HEADER) + ENTRY.size * 5 // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large|No space left") as error:
            kept(records, tmp_path / "set")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert (tmp_path / "set" / FILE).stat().st_size == len(HEADER) + 2 * ENTRY.size
    read.clear()
    kept(records, tmp_path / "set")
    assert sorted(read) == ["2.png", "3.png"]


def test_two_that_add_at_once_spoil_nothing(records, tmp_path):
    one, other = KeptHashes(tmp_path / "set"), KeptHashes(tmp_path / "set")
    for i in range(100):
        (one if i % 2 else other).add(i + 1, [i] * 9)
        if i % 7 == 0:
            one.flush()
    one.flush()
    other.flush()
    assert KeptHashes(tmp_path / "set").hashes(np.arange(1, 101, dtype=np.uint64))[:, 4].tolist() == list(range(100))


def test_of_two_entries_for_one_image_the_later_counts(tmp_path):
    hashes = KeptHashes(tmp_path)
    for words in (5, 7, 6):
        hashes.add(3, [words] * 9)
    hashes.flush()
    assert KeptHashes(tmp_path).hashes(np.array([3], np.uint64)).tolist() == [[6] * 9]


def test_shares_know_each_other_and_are_put_together(records, tmp_path, read):
    damaged = tmp_path / "set/images/3.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    own = [records.select([0, 1]), records.select([2, 3])]
    for number in (1, 2):
        kept(replace(own[number - 1], source=""), tmp_path / "set", Share(number, 2))
    read.clear()
    kept(records.select([0, 1, 2]), tmp_path / "set", Share(1, 2))
    assert read == []
    both = KeptHashes(tmp_path / "set", Share(1, 2))
    assert both.tried(both.keys([r.image for r in records])).all()
    both.settle()
    assert [f.name for f in (tmp_path / "set").glob(f"{FILE}*")] == [FILE]
    whole = KeptHashes(tmp_path / "set")
    assert len(whole) == 3  # an image that could not be read is tried again: perhaps a decoder was missing
    words = np.fromfile(tmp_path / "set" / FILE, "<u8")[2:].reshape(3, 11)
    assert (np.diff(words[:, 0].astype(object)) > 0).all()
    whole.forget()
    assert len(KeptHashes(tmp_path / "set")) == 0


def test_an_image_out_of_reach_is_not_noted(records, tmp_path, read):
    (tmp_path / "set/images/1.png").rename(tmp_path / "aside")
    with pytest.raises(UnreachableError, match=r"1\.png"):
        fingerprint(records, hashes=HashKeeper(), kept=True, workers=1)
    (tmp_path / "aside").rename(tmp_path / "set/images/1.png")
    assert not kept(records, tmp_path / "set").unreadable
    assert sorted(set(read)) == ["0.png", "1.png", "2.png", "3.png"]


def test_a_packed_image_is_known_by_its_place_and_the_checksum_of_its_file(tmp_path):
    here, there, other = (ShardFile(f"{place}/shard", 9, sum_) for place, sum_ in (("a", "x"), ("b", "x"), ("a", "y")))
    hashes = KeptHashes(tmp_path)
    keys = hashes.keys([PackedImage(here, 1, 2), PackedImage(there, 1, 2), PackedImage(other, 1, 2), b"in memory"])
    assert keys[0] == keys[1] != keys[2]
    assert keys[3] == 0
    assert int(keys[0]) == int.from_bytes(hashlib.blake2b(b"x|1|2", digest_size=8).digest(), "little")
