"""Pre-training from records: whatever images and reports they hold, and what it leaves."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

import mrm
from mrm import recipes, runs
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.data.reports import Tokenizer
from mrm.models import model_folder
from mrm.runs.pretraining import new_model
from mrm.system.errors import ImageError, RecordError
from tests.support.configs import MICRO, pretrain_config
from tests.support.image_files import contents
from tests.support.odd_images import records_with
from tests.support.permissions import readable_by_others
from tests.support.run_files import trace, weights


def test_an_exported_run_loads_into_plain_timm(phantoms, tmp_path):
    run = runs.pretrain(pretrain_config(phantoms, tmp_path / "run", steps=1, warmup_steps=0, audit="names"))
    path = model_folder.export_published(mrm.load(run), tmp_path / "MRM.pth")
    options = {"num_classes": 14, "global_pool": "avg", "drop_path_rate": 0.1}
    plain = timm.create_model(MICRO.encoder, img_size=MICRO.image_size, **MICRO.encoder_options, **options)
    loaded = plain.load_state_dict(torch.load(path, weights_only=True)["model"], strict=False)
    assert set(loaded.missing_keys) == {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}


def test_image_only_records_train_the_image_loss_and_say_so(phantoms, tmp_path):
    bare = Records([Record(r.image, name=r.name) for r in Records.load(phantoms / "records.csv")])
    bare.to_csv(tmp_path / "images.csv")
    cfg = pretrain_config(phantoms, tmp_path / "run", steps=3)
    with pytest.warns(UserWarning, match="no record has a report, so only the image loss is trained"):
        run = runs.pretrain(replace(cfg, records=tmp_path / "images.csv"))
    assert all(float(row["report"]) == 0.0 for row in trace(run))
    assert float(trace(run)[-1]["image"]) > 0


def test_where_words_do_not_count_the_rest_learns_the_same_and_the_report_decoder_nothing(phantoms, tmp_path):
    usual = {"steps": 3, "validate_every": 3, "val": phantoms / "records.csv", "audit": "names"}
    both = runs.pretrain(pretrain_config(phantoms, tmp_path / "both", report_to_encoder=0.0, **usual))
    config = pretrain_config(phantoms, tmp_path / "image", report_weight=0.0, **usual)
    image = runs.pretrain(config)
    assert [row["image"] for row in trace(image)] == [row["image"] for row in trace(both)]
    assert "report" in trace(both)[0]
    assert "report" not in trace(image)[0]
    started = new_model(config).state_dict()
    learnt, with_words = weights(image), weights(both)
    for name, start in started.items():
        expected = start if name.startswith("report_decoder.") else with_words[name]
        torch.testing.assert_close(learnt[name], expected, rtol=0, atol=0, msg=name)
    assert not torch.equal(learnt["encoder.norm.weight"], started["encoder.norm.weight"])


def test_a_resumed_run_neither_reads_its_table_nor_tokenizes_again(phantoms, tmp_path, monkeypatch):
    config = pretrain_config(phantoms, tmp_path / "run", val=phantoms / "records.csv", steps=2)
    monkeypatch.setattr("mrm.data.record_sources.RECENT", -1.0)  # as if the table were older than it is
    runs.pretrain(config)
    before = contents(config.out / "records")
    monkeypatch.setattr("mrm.data.record_sources.open_table", lambda *_: pytest.fail("the table was read"))
    monkeypatch.setattr(Tokenizer, "encode", lambda *_: pytest.fail("reports were tokenized"))
    monkeypatch.setattr(Tokenizer, "train", lambda *_: pytest.fail("a tokenizer was trained"))
    runs.pretrain(config)
    assert contents(config.out / "records") == before
    assert {name.partition("/")[0] for name in before} == {"training", "validation"}


def test_starting_from_weights_is_not_resuming(phantoms, pretrained_run, tmp_path):
    run = runs.pretrain(pretrain_config(phantoms, tmp_path / "run", init=pretrained_run))
    assert trace(run)[0]["step"] == "1"
    assert float(trace(run)[0]["image"]) < float(trace(pretrained_run)[0]["image"])
    assert mrm.load(run).tokenizer.to_json() == mrm.load(pretrained_run).tokenizer.to_json()


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "text"])
def test_an_image_that_cannot_be_read_stops_the_run_with_its_record_or_is_skipped_and_counted(
    phantoms, tmp_path, kind, capsys
):
    file = records_with(phantoms, tmp_path, kind)
    cfg = replace(pretrain_config(phantoms, tmp_path / "stop", steps=4), records=file)
    with pytest.raises(ImageError, match=r"images/odd\.jpg"):
        runs.pretrain(cfg)
    run = runs.pretrain(replace(cfg, out=tmp_path / "skip", on_error="skip"))
    assert len(trace(run)) == 4
    assert "images/odd.jpg" in (run / "skipped-0.csv").read_text()
    assert readable_by_others(run) == []
    assert "(1 so far)" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["16-bit", "RGBA", "palette", "1 x N"])
def test_an_unusual_image_is_read(phantoms, tmp_path, kind):
    file = records_with(phantoms, tmp_path, kind)
    run = runs.pretrain(replace(pretrain_config(phantoms, tmp_path / "run", steps=4), records=file))
    assert len(trace(run)) == 4


def test_reports_of_any_length_and_script_train(phantoms, tmp_path):
    texts = ["", "normal", "effusion " * 300, "Καρδιά φυσιολογική 心臓は正常 القلب طبيعي 🫁", '"quoted",\nand broken']
    rows = [
        replace(r, report=texts[i % len(texts)], labels=())
        for i, r in enumerate(Records.load(phantoms / "records.csv"))
    ]
    file = Records(rows).to_csv(tmp_path / "records.csv")
    run = runs.pretrain(replace(pretrain_config(phantoms, tmp_path / "run"), records=file))
    assert all(np.isfinite(float(row["report"])) for row in trace(run))


def test_missing_column_names_those_found(tmp_path):
    (tmp_path / "training.csv").write_text("path,text\na.jpg,normal\n")
    with pytest.raises(RecordError, match="no column image_path; the columns found are path, text"):
        runs.pretrain(recipes.tiny(tmp_path / "training.csv", tmp_path / "run"))


def test_restored_images_are_written_beside_the_checkpoints(pretrained_run):
    image = images.read(pretrained_run / "images" / "step-00000010.png")
    assert image.shape == (4 * 128, 3 * 128)
    masked, _, original = np.hsplit(image[:128], 3)
    assert (masked == original).mean() > 0.2  # the visible patches are the original's


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unforeseen_fault_in_a_reader_ends_a_training_run_with_its_record(phantoms, tmp_path, monkeypatch, workers):
    from mrm.data import samples
    from mrm.system.errors import UnexpectedError

    def faulty(*_):
        raise ValueError("embedded null byte")

    monkeypatch.setattr(samples.images, "read_crop", faulty)
    message = r"record images/\S+: reading failed in a way that was not foreseen \(ValueError: embedded null byte\)"
    with pytest.raises(UnexpectedError, match=message):
        runs.pretrain(pretrain_config(phantoms, tmp_path / "run", workers=workers))
