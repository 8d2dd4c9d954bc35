"""Corpora whose images lie in an object store: what is prepared is what is prepared from a folder."""

import json
import shutil
from pathlib import Path

import pytest

from mrm import runs
from mrm.corpora.options import Options
from mrm.data import images, reach
from mrm.data.folders import IMAGES
from mrm.data.records import Records
from mrm.system import object_store
from mrm.system.errors import RecordError, StoreError, UnreachableError
from mrm.system.shares import Share
from tests.support.buckets import Way, running
from tests.support.corpora import covid, mimic, nih, openi, rsna, siim

CORPORA = {"nih": nih, "rsna": rsna, "mimic": mimic, "openi": openi, "covid": covid}


@pytest.fixture(scope="module")
def bucket():
    with running() as bucket:
        yield bucket


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(object_store, "WAITS", (0.0,) * 5)


def moved(bucket, source: Path, tables: Path, name: str) -> str:
    """Put the images of a download into the bucket, and the rest of it into a folder; their address."""
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        place = file.relative_to(source)
        if file.suffix in IMAGES:
            bucket.client.upload_file(str(file), "radiographs", f"{name}/{place.as_posix()}")
        else:
            (tables / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, tables / place)
    return bucket.address(name)


def written(out: Path) -> dict[str, bytes]:
    """What is written of a corpus, but the paths of images, and what depends on them or on the command."""
    files = {f.name: f.read_bytes() for f in out.iterdir() if f.suffix in (".txt", ".json") and f.name != "corpus.json"}
    facts = json.loads((out / "corpus.json").read_text())
    for name in ("counts", "splits", "excluded", "notes"):
        files[name] = json.dumps(facts.get(name)).encode()
    for file in out.glob("*.csv"):
        if file.name.startswith(("records", "train", "val", "test")):
            rows = [
                (r.name.rpartition("/")[2], r.report, r.patient, r.study, r.view, r.extra) for r in Records.load(file)
            ]
            files[file.name] = repr(rows).encode()
        else:
            files[file.name] = file.read_bytes().replace(f"{out.parent / 'source'}/".encode(), b"")
    return files


@pytest.mark.parametrize(
    "name", ["nih", "openi", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rsna", "mimic", "covid"))]
)
def test_a_corpus_in_a_store_is_that_of_a_folder(bucket, tmp_path, name):
    source = CORPORA[name].write_tree(tmp_path / "source")
    runs.prepare(name, source, tmp_path / "out", Options(workers=1))
    address = moved(bucket, source, tmp_path / "tables", name)
    how = Options(workers=1, images=Path(address))  # a Path turns // into /
    runs.prepare(name, tmp_path / "tables", tmp_path / "stored", how)
    assert written(tmp_path / "stored") == written(tmp_path / "out")
    records = Records.load(tmp_path / "stored" / "records.csv", images=Path(address))
    assert images.size(records[0].image) == images.size(Records.load(tmp_path / "out" / "records.csv")[0].image)


def test_a_damaged_object_is_left_out_and_a_store_that_fails_in_the_middle_is_asked_again(bucket, tmp_path):
    source = nih.write_tree(tmp_path / "source")
    damaged = source / "images_001/images/00000000_000.png"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    runs.prepare("nih", source, tmp_path / "out", Options(workers=1))
    moved(bucket, source, tmp_path / "tables", "cut")
    way = Way(bucket.host, bucket.port)
    way.cut(21, 25)  # five answers in a row
    how = Options(workers=1, images=Path(bucket.address("cut", way.port)))
    runs.prepare("nih", tmp_path / "tables", tmp_path / "stored", how)
    assert way.requests > way.cut_to
    assert "00000000_000.png,unreadable image" in (tmp_path / "stored" / "excluded.csv").read_text()
    assert (tmp_path / "stored" / "audit.json").read_bytes() == (tmp_path / "out" / "audit.json").read_bytes()


def test_a_store_that_stays_away_stops_the_preparation_which_then_resumes(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(object_store, "WAITS", ())
    monkeypatch.setattr(reach, "IN_A_ROW", 2)
    source = nih.write_tree(tmp_path / "source")
    runs.prepare("nih", source, tmp_path / "out", Options(workers=1))
    moved(bucket, source, tmp_path / "tables", "away")
    way = Way(bucket.host, bucket.port)
    way.cut(60, 10**9)
    how = Options(workers=1, images=Path(bucket.address("away", way.port)))
    with pytest.raises(UnreachableError, match="2 images in a row could not be reached"):
        runs.prepare("nih", tmp_path / "tables", tmp_path / "stored", how)
    assert not (tmp_path / "stored" / "corpus.json").exists()
    way.cut(0, 0)
    asked, read = [], object_store.read
    monkeypatch.setattr(object_store, "read", lambda *a: asked.append(a[0]) or read(*a))
    runs.prepare("nih", tmp_path / "tables", tmp_path / "stored", how)
    assert written(tmp_path / "stored") == written(tmp_path / "out")
    assert len(asked) < 2 * 80  # of 80 images, some were inspected before; all are then hashed


def test_what_cannot_be_prepared_from_a_store_is_one_line(bucket, tmp_path):
    with pytest.raises(RecordError, match="--images disk/images: expected the address of a folder in an object store"):
        Options(images=Path("disk/images"))
    stored = Options(images=Path(bucket.address("nothing")), workers=1)
    source = nih.write_tree(tmp_path / "source")
    with pytest.raises(StoreError, match=r"s3://radiographs/nothing.*: no such file; check the bucket and the folder"):
        runs.prepare("nih", source, tmp_path / "out", stored)
    bucket.client.put_object(Bucket="radiographs", Key="other/notes.txt", Body=b"none")
    with pytest.raises(RecordError, match=r"no record is left\. The largest reason, for 80 of 80: image absent"):
        runs.prepare("nih", source, tmp_path / "none", Options(images=Path(bucket.address("other")), workers=1))
    with pytest.raises(RecordError, match="--images: custom reads the headers of images from a folder"):
        runs.prepare("custom", source, tmp_path / "out", stored)
    with pytest.raises(RecordError, match="--images: images of an object store are prepared by one process"):
        runs.prepare("nih", source, tmp_path / "out", stored, Share(1, 2))
    with pytest.raises(RecordError, match="writes its images with masks, from a folder"):
        runs.prepare("siim", siim.write_tree(tmp_path / "siim"), tmp_path / "out", stored)
    assert not (tmp_path / "out").exists()
