"""Images in an object store: packed as from a folder, and a store that fails in the middle costs nothing."""

from pathlib import Path

import pytest

from mrm.data import images, reach
from mrm.data.config import PackConfig
from mrm.data.packing import open_source, pack
from mrm.data.placed_images import PlacedImage
from mrm.data.records import Records
from mrm.system import object_store
from mrm.system.errors import ImageError, StoreError, UnreachableError
from tests.support.buckets import Way
from tests.support.commands import run_cli

SMALL = PackConfig(64, rows=12)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(object_store, "WAITS", (0.0, 0.0))


@pytest.fixture(scope="module")
def packed(phantoms, tmp_path_factory) -> Path:
    """The 48 phantoms packed from their folder, in four files."""
    out = tmp_path_factory.mktemp("packed") / "shards"
    pack(open_source(phantoms / "records.csv"), out, SMALL, workers=1)
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_images_of_a_store_are_packed_to_the_bytes_of_those_of_a_folder(bucket, phantoms, packed, tmp_path, capsys):
    given = phantoms / "records.csv", "--images", bucket.address("corpus"), "--out", tmp_path / "out"
    how = "--size", "64", "--rows", "12", "--workers", "1", "--no-hashes"
    assert run_cli(capsys, "pack", *map(str, given), *how)[0] == 0
    assert bytes_of(tmp_path / "out") == bytes_of(packed)
    records = Records.load(phantoms / "records.csv", images=Path(bucket.address("corpus")))  # a Path turns // into /
    assert records[3].image == PlacedImage(bucket.address(f"corpus/{records[3].name}"))
    assert images.size(records[3].image) == images.size(phantoms / records[3].name)


def test_a_label_list_finds_its_images_in_a_store(bucket, phantoms, tmp_path):
    Records.load(phantoms / "records.csv", ("effusion",))[:3].to_list(tmp_path / "list.txt")
    records = Records.load(tmp_path / "list.txt", images=Path(bucket.address("corpus")))
    assert [images.size(record.image) for record in records] == [(128, 128)] * 3


def test_a_store_that_fails_in_the_middle_is_asked_again(bucket, phantoms, packed, tmp_path, monkeypatch):
    """Five answers in a row are cut: more than the client of the store tries by itself. It takes half a header for 0 bytes."""
    monkeypatch.setattr(object_store, "WAITS", (0.0,) * 5)
    way = Way(bucket.host, bucket.port)
    source = open_source(phantoms / "records.csv", Path(bucket.address("corpus", way.port)))
    way.cut(21, 25)
    pack(source, tmp_path / "out", SMALL, workers=1)
    assert way.requests > way.cut_to
    assert bytes_of(tmp_path / "out") == bytes_of(packed)


def test_a_store_that_stays_away_is_named_and_nothing_is_lost(bucket, phantoms, packed, tmp_path, monkeypatch):
    monkeypatch.setattr(reach, "IN_A_ROW", 2)
    monkeypatch.setattr(object_store, "WAITS", ())
    way = Way(bucket.host, bucket.port)
    source = open_source(phantoms / "records.csv", Path(bucket.address("corpus", way.port)))
    way.cut(70, 10**9)
    with pytest.raises(
        UnreachableError, match=r"2 images in a row could not be reached, the last: s3://radiographs/.* in 1 tries"
    ):
        pack(source, tmp_path / "out", SMALL, workers=1)
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("shard-*.arrow")}
    assert kept
    assert not (tmp_path / "out" / "shards.json").exists()
    way.cut(0, 0)
    pack(source, tmp_path / "out", SMALL, workers=1)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert bytes_of(tmp_path / "out") == bytes_of(packed)


def test_what_has_arrived_is_not_fetched_again(bucket, monkeypatch):
    monkeypatch.setattr(object_store, "CHUNK", 1000)
    bucket.client.put_object(Bucket="radiographs", Key="large", Body=bytes(range(250)) * 20)
    asked, real = [], object_store._range

    def failing(files, path, at, end):
        asked.append(at)
        if asked.count(at) == 1 and at in (2000, 4000):
            raise OSError("curlCode: 28, Timeout was reached")
        return real(files, path, at, end)

    monkeypatch.setattr(object_store, "_range", failing)
    assert object_store.read(bucket.address("large")) == bytes(range(250)) * 20
    assert asked == [0, 1000, 2000, 2000, 3000, 4000, 4000]
    assert object_store.read(bucket.address("large"), 1990, 20) == (bytes(range(250)) * 20)[1990:2010]


def test_an_object_that_is_not_there_or_far_too_large_is_named(bucket, monkeypatch):
    with pytest.raises(UnreachableError, match=r"corpus/images/none\.jpg.*: no such file; check the bucket"):
        images.open_image(PlacedImage(bucket.address("corpus/images/none.jpg")))
    bucket.client.put_object(Bucket="radiographs", Key="large", Body=bytes(5000))
    with pytest.raises(StoreError, match=r"5,000 bytes, but at most 10 are expected"):
        object_store.read(bucket.address("large"), limit=10)


def test_a_part_of_a_file_that_is_cut_off_or_gone_is_named(phantoms, tmp_path):
    content = (phantoms / "images" / "S0-000000.jpg").read_bytes()
    (tmp_path / "a.tar").write_bytes(b"x" * 512 + content + b"y" * 9)
    image = PlacedImage(str(tmp_path / "a.tar"), 512, len(content))
    assert image.read_bytes() == content
    (tmp_path / "a.tar").write_bytes(b"x" * 512 + content[:-1])
    with pytest.raises(ImageError, match=rf"a\.tar, bytes 512 to {512 + len(content)}: the file is cut off"):
        image.read_bytes()
    (tmp_path / "a.tar").unlink()
    with pytest.raises(UnreachableError, match=r"a\.tar.*: cannot be read \(No such file"):
        image.read_bytes()
