"""Shard folders whose records are mapped: the same records as those that are loaded, and what makes them be converted again."""

import json
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrm.data import images, shard_rows, shards
from mrm.data.config import PackConfig
from mrm.data.mapped_rows import MappedRows, damage_of, write_rows
from mrm.data.packing import open_source, pack
from mrm.data.record_cache import INDEX, ROWS, mapped_records
from mrm.data.record_sources import source_of
from mrm.data.records import Records
from mrm.system.errors import RecordError, ShardError
from tests.support.image_files import random_image


@pytest.fixture
def copy(packed, tmp_path) -> Path:
    """Shards to change."""
    return Path(shutil.copytree(packed, tmp_path / "copy"))


# The same records -------------------------------------------------------------------------------------------


def test_mapped_records_of_shards_are_those_that_are_loaded(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_rows, "BATCH_ROWS", 7)  # batches that end inside files
    loaded = Records.load(packed)
    for place in (packed, packed / "shards.json"):
        mapped = mapped_records(place, tmp_path / "kept")
        assert isinstance(mapped.rows, MappedRows)
        assert list(mapped) == list(loaded)
        assert [mapped[i] for i in (0, 20, -1)] == [loaded[i] for i in (0, 20, -1)]
        assert (mapped.fingerprint(), mapped.patient_count) == (loaded.fingerprint(), loaded.patient_count)
        assert (mapped.classes, mapped.source) == (loaded.classes, str(packed))


def test_another_process_reads_the_images_of_a_selection(packed, tmp_path):
    mapped = mapped_records(packed, tmp_path / "kept").select([31, 4])
    sent = pickle.loads(pickle.dumps(mapped))
    loaded = Records.load(packed)
    assert list(sent) == [loaded[31], loaded[4]]
    assert np.array_equal(images.read(sent[0].image), images.read(loaded[31].image))
    assert sent.rows.file_numbers().tolist() == [3, 0]  # ten images a file


def test_the_labels_of_a_list_that_was_packed_come_back(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.png").write_bytes(images.encode_png(random_image(number)))
    (tmp_path / "list.txt").write_text("0.png 1 0\n1.png 0 0\n2.png 0 1\n")
    pack(open_source(tmp_path / "list.txt", classes=("a", "b")), tmp_path / "out", PackConfig(16), workers=1)
    mapped = mapped_records(tmp_path / "out", tmp_path / "kept")
    assert mapped.classes == ("a", "b")
    assert mapped.labels_NC.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert mapped.fingerprint() == Records.load(tmp_path / "out").fingerprint()


# A later start ----------------------------------------------------------------------------------------------


def test_a_second_start_reads_nothing_of_the_table(packed, tmp_path, monkeypatch):
    first = mapped_records(packed, tmp_path / "kept")
    monkeypatch.setattr("mrm.data.record_sources.parts", lambda *_: pytest.fail("the table was read"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(mapped_records(packed, tmp_path / "kept")) == list(first)
        assert list(mapped_records(packed, tmp_path / "kept", prepares=False)) == list(first)


def test_shards_that_were_moved_are_known_again_and_read_in_their_new_place(copy, tmp_path, monkeypatch):
    mapped_records(copy, tmp_path / "kept")
    copy.rename(tmp_path / "elsewhere")
    monkeypatch.setattr("mrm.data.record_sources.parts", lambda *_: pytest.fail("the table was read"))
    mapped = mapped_records(tmp_path / "elsewhere", tmp_path / "kept")
    assert Path(mapped[47].image.file.place) == tmp_path / "elsewhere" / "shard-00004.arrow"
    assert json.loads((tmp_path / "kept" / INDEX).read_text())["source"]["path"] == str(tmp_path / "elsewhere")


def packed_anew(folder: Path, packed: Path, _kept: Path) -> None:
    shutil.rmtree(folder)
    pack(open_source(packed), folder, PackConfig(96, rows=12), workers=1)


def places_outside(folder: Path, _packed: Path, kept: Path) -> None:
    """Records in a file of the same size, the last of them with an image that is too long."""
    source = source_of(folder)
    rows = list(MappedRows(kept / ROWS, Path(), files=source.files))
    rows[-1] = replace(rows[-1], image=replace(rows[-1].image, length=10**9))
    write_rows(kept / ROWS, rows, (), list(rows[0].extra), source.files)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (packed_anew, r"kept: it holds the records of .*copy as they were before; the records are convert"),
        (places_outside, r"records\.arrow is damaged \(images that lie in no file\); the records are convert"),
    ],
)
def test_shards_that_changed_and_places_that_are_wrong_are_converted_again(copy, packed, tmp_path, spoil, reason):
    kept = tmp_path / "kept"
    mapped_records(copy, kept)
    spoil(copy, packed, kept)
    with pytest.warns(UserWarning, match=reason):
        assert list(mapped_records(copy, kept)) == list(Records.load(copy))


def test_an_image_in_a_file_that_is_not_there_is_named(packed, tmp_path):
    mapped_records(packed, tmp_path)
    source = source_of(packed)
    with pytest.raises(RecordError, match=r"records\.arrow: cannot be read \(an image in file 4 of 2\)"):
        MappedRows(tmp_path / ROWS, tmp_path, files=source.files[:2])[47]
    assert "lie in no file" in damage_of(tmp_path / ROWS, source.files[:2])
    assert damage_of(tmp_path / ROWS, source.files) == ""


def test_a_file_that_is_missing_is_named_at_each_start(copy, tmp_path):
    mapped_records(copy, tmp_path / "kept")
    (copy / "shard-00002.arrow").unlink()
    for prepares in (True, False):
        with pytest.raises(ShardError, match=r"shard-00002\.arrow: cannot be opened"):
            mapped_records(copy, tmp_path / "kept", prepares=prepares)


def test_a_damaged_table_leaves_nothing_behind(copy, tmp_path):
    content = bytearray((copy / shards.TABLE).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / shards.TABLE).write_bytes(content)
    with pytest.raises(ShardError, match=r"records\.parquet: damaged, its checksum differs"):
        mapped_records(copy, tmp_path / "kept")
    assert not {INDEX, ROWS} & {file.name for file in (tmp_path / "kept").iterdir()}


def test_shards_that_are_packed_anew_while_they_are_read_are_refused(copy, packed, tmp_path, monkeypatch):
    def slowly(folder):
        yield from shard_rows.parts(folder)
        packed_anew(copy, packed, tmp_path)

    monkeypatch.setattr("mrm.data.record_sources.parts", slowly)
    with pytest.raises(RecordError, match="copy: was changed while it was read; run the same command again"):
        mapped_records(copy, tmp_path / "kept")


def test_shards_without_an_image_that_could_be_packed_are_named(copy, tmp_path, monkeypatch):
    monkeypatch.setattr("mrm.data.record_sources.parts", lambda _: iter(()))
    with pytest.raises(RecordError, match="copy: has no records"):
        mapped_records(copy, tmp_path / "kept")
