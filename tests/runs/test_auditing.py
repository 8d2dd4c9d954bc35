"""What an audit has read, neither another audit, nor a training, nor a test of a model reads again."""

import shutil

import pytest

from mrm import runs
from mrm.audit import fingerprints
from mrm.audit.kept_hashes import FILE
from mrm.data.records import Records
from mrm.models import model_folder
from mrm.runs import finetuning, run_folder
from tests.support.configs import finetune_config, pretrain_config


@pytest.fixture
def lists(phantoms, tmp_path):
    """Two lists made by hand, in a folder of their own, of images that lie elsewhere."""
    records = Records.load(phantoms / "records.csv", None)
    (tmp_path / "lists").mkdir()
    records.select(range(30)).to_csv(tmp_path / "lists/records.csv")
    records.select(range(20, 48)).to_csv(tmp_path / "lists/other.csv")
    return tmp_path / "lists"


@pytest.fixture
def read(monkeypatch) -> list:
    """The images that are read for their hashes, as they are."""
    original, images = fingerprints._hash_image, []
    monkeypatch.setattr(fingerprints, "_hash_image", lambda image: images.append(image) or original(image))
    return images


def test_an_audit_reads_an_image_once_and_nothing_reads_it_again(lists, model, tmp_path, read, capsys):
    sets = [lists / "records.csv", lists / "other.csv"]
    report = runs.audit(sets)
    assert len(read) == len(set(read)) == 48  # the ten that both have once, too
    assert sorted(file.name for file in lists.iterdir()) == [FILE, "other.csv", "records.csv"]
    read.clear()
    assert runs.audit(sets) == report
    assert "10 records of other.csv share an image with records.csv" in [str(overlap) for overlap in report.overlaps]
    config = pretrain_config(lists, tmp_path / "pretrained", audit="images")
    seen = run_folder.note_seen(config, "pre-training", Records.load(config.records))
    config = finetune_config(lists, None, tmp_path / "tuned", audit="images", val=lists / "other.csv")
    records = [Records.load(file, None) for file in sets]
    hashes = run_folder.run_hashes(config)
    run_folder.note_seen(config, "fine-tuning", records[0], hashes)
    with pytest.warns(UserWarning, match="10 records of validation share an image with pre-training"):
        finetuning.warn_of_shared(config, seen, records[1], hashes)
    shutil.copytree(model_folder.find_model(model), tmp_path / "model")
    runs.evaluate(tmp_path / "model", sets[0], tmp_path / "tested", draws=10, reading=runs.Reading(workers=0))
    assert read == []
