"""Training on images in an object store: the bits of a run on a folder, and a store that fails in the middle."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mrm import runs
from mrm.audit import fingerprints
from mrm.audit.fingerprints import fingerprint
from mrm.audit.hash_keeping import HashKeeper
from mrm.audit.kept_hashes import FILE, KeptHashes
from mrm.data import reach
from mrm.data.config import PackConfig
from mrm.data.placed_images import PlacedImage
from mrm.data.record_cache import mapped_records
from mrm.data.records import Records
from mrm.system import object_store
from mrm.system.errors import ImageError, MRMError
from tests.support.buckets import Way
from tests.support.configs import finetune_config, pretrain_config
from tests.support.run_files import trace, weights


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(object_store, "WAITS", (0.0,) * 5)


def at(bucket, port: int | None = None) -> Path:
    return Path(bucket.address("corpus", port))


def same_run(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert all(torch.equal(first[k], second[k]) for k in second)
    for name in ("image", "report", "labels"):
        assert [row.get(name) for row in trace(one)] == [row.get(name) for row in trace(other)]


def test_a_pre_training_on_a_store_that_cuts_answers_has_the_bits_of_one_on_a_folder(bucket, phantoms, tmp_path):
    settings = {"steps": 4, "validate_every": 4, "audit": "names", "on_error": "stop"}
    folder = runs.pretrain(pretrain_config(phantoms, tmp_path / "folder", **settings))
    way = Way(bucket.host, bucket.port)
    way.cut(21, 25)  # five answers in a row, more than the client of the store tries by itself
    stored = runs.pretrain(pretrain_config(phantoms, tmp_path / "store", images=at(bucket, way.port), **settings))
    assert way.requests > way.cut_to
    same_run(stored, folder)


def test_a_fine_tuning_on_a_store_has_the_bits_of_one_on_a_folder(bucket, phantoms, pretrained_run, tmp_path):
    lists = {"train": phantoms / "records.csv", "steps": 3, "validate_every": 3}
    folder = runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "folder", **lists))
    stored = runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "store", images=at(bucket), **lists))
    same_run(stored, folder)


def test_an_image_that_the_store_does_not_have_is_named(bucket, phantoms, tmp_path):
    (tmp_path / "some.csv").write_text("image_path,report_content\nimages/gone.jpg,clear\n")
    mapped = mapped_records(tmp_path / "some.csv", tmp_path / "kept", at(bucket))
    assert mapped[0].image == PlacedImage(bucket.address("corpus/images/gone.jpg"))
    config = pretrain_config(phantoms, tmp_path / "run", images=at(bucket), steps=1, audit="names")
    with pytest.raises(ImageError, match=r"corpus/images/gone\.jpg.*: no such file; check the bucket"):
        runs.pretrain(replace(config, records=tmp_path / "some.csv"))


def test_a_store_that_stays_away_stops_a_run_which_then_resumes(bucket, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(reach, "IN_A_ROW", 2)
    settings = {"steps": 6, "save_every": 1, "audit": "names", "validate_every": 6}
    folder = runs.pretrain(pretrain_config(phantoms, tmp_path / "folder", **settings))
    monkeypatch.setattr(object_store, "WAITS", ())
    way = Way(bucket.host, bucket.port)
    way.cut(60, 10**9)
    config = pretrain_config(phantoms, tmp_path / "store", images=at(bucket, way.port), **settings)
    with pytest.raises(MRMError, match="s3://radiographs/"):
        runs.pretrain(config)
    assert 0 < len(trace(config.out)) < 6
    way.cut(0, 0)
    same_run(runs.pretrain(config), folder)


def test_packed_images_in_a_store_have_the_hashes_that_were_uploaded_with_them(bucket, phantoms, tmp_path, monkeypatch):
    runs.pack(phantoms / "records.csv", tmp_path / "packed", PackConfig(64, rows=20), workers=1)
    hashed = bucket.put(tmp_path / "packed", "hashed")
    exact = fingerprint(Records.load(tmp_path / "packed")).exact.tolist()
    damaged = bucket.put(tmp_path / "packed", "damaged")
    bucket.client.put_object(Bucket="radiographs", Key=f"damaged/{FILE}", Body=b"<html>")
    (tmp_path / "packed" / FILE).unlink()
    plain, read = bucket.put(tmp_path / "packed", "plain"), []
    monkeypatch.setattr(fingerprints, "_hash_image", lambda image: read.append(image) or [1] * 9)
    for keeper in (None, HashKeeper(), HashKeeper(KeptHashes(tmp_path / "run"))):
        assert fingerprint(Records.load(hashed), hashes=keeper).exact.tolist() == exact
    assert read == []
    own = HashKeeper(KeptHashes(tmp_path / "run"))
    fingerprint(Records.load(plain), hashes=own)
    fingerprint(Records.load(plain), hashes=own)
    assert len(read) == len(KeptHashes(tmp_path / "run")) == 48
    with pytest.warns(
        UserWarning, match=rf"s3://radiographs/damaged/{FILE}\?.*: is damaged; the images concerned are hashed again"
    ):
        fingerprint(Records.load(damaged))
    assert len(read) == 96
