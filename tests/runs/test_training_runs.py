"""From records to a tested classifier, as a user goes; and what a bad input costs: a clear error, and nothing lost."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch

import mrm
from mrm import recipes, runs
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.evaluation.predictions import read_predictions
from mrm.models import model_folder
from mrm.runs import finetuning, run_folder
from mrm.statistics import ranking
from mrm.system.errors import ImageError, OutputError, RecordError, RunError
from mrm.training.tasks import ClassifyTask
from tests.support.configs import MICRO, finetune_config, pretrain_config
from tests.support.run_files import trace


@pytest.fixture(scope="module")
def pretrained(phantoms, tmp_path_factory):
    return runs.pretrain(pretrain_config(phantoms, tmp_path_factory.mktemp("pretrained") / "run"))


@pytest.fixture(scope="module")
def tuned(phantoms, pretrained, tmp_path_factory):
    return runs.finetune(finetune_config(phantoms, pretrained, tmp_path_factory.mktemp("tuned") / "run"))


@pytest.fixture(scope="module")
def tested(phantoms, tuned, tmp_path_factory):
    out = tmp_path_factory.mktemp("tested")
    return out, runs.evaluate(tuned, phantoms / "records.csv", out, draws=100, reading=runs.Reading(workers=0))


# The path --------------------------------------------------------------------------------------------


def test_the_encoder_is_the_pretrained_one_and_scratch_is_not(phantoms, pretrained, tmp_path):
    cfg = finetune_config(phantoms, pretrained, tmp_path / "a")
    start = model_folder.load(pretrained).encoder.state_dict()
    tuned = finetuning.classifier(cfg, FINDINGS, {}).encoder.state_dict()
    scratch = finetuning.classifier(replace(cfg, scratch=True), FINDINGS, {}).encoder.state_dict()
    assert torch.equal(tuned["blocks.1.mlp.fc1.weight"], start["blocks.1.mlp.fc1.weight"])
    assert not torch.equal(scratch["blocks.1.mlp.fc1.weight"], start["blocks.1.mlp.fc1.weight"])
    assert tuned.keys() == scratch.keys()


def test_checkpointing_computes_blocks_twice_and_changes_no_gradient(phantoms, pretrained, tmp_path):
    gradients = []
    for checkpointing in (False, True):
        cfg = finetune_config(phantoms, pretrained, tmp_path / "a", drop_path=0.5, checkpointing=checkpointing)
        task, calls = ClassifyTask(finetuning.classifier(cfg, FINDINGS, {})).train(), []
        block, size = task.model.encoder.blocks[0], task.model.config.image_size
        block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        task.sample_keys.keys_B = torch.arange(4)  # dropped paths must be the same ones when computed again
        logits = task.logits((torch.arange(4 * size * size) % 251).to(torch.uint8).reshape(4, size, size))
        (logits - 1).square().sum().backward()
        gradients.append(block.attn.qkv.weight.grad)
        assert len(calls) == 1 + checkpointing
    torch.testing.assert_close(*gradients)


def test_fine_tuning_learns_its_training_records(phantoms, pretrained, tmp_path):
    run = runs.finetune(finetune_config(phantoms, pretrained, tmp_path / "run", steps=80, ema=None, lr=3e-3))
    losses = [float(row["labels"]) for row in trace(run)]
    assert np.mean(losses[-2:]) < 0.8 * losses[0]


def test_a_stopped_fine_tuning_goes_on_to_the_same_bits(phantoms, pretrained, tuned, tmp_path, monkeypatch):
    from mrm.training.trainer import Stopped, Trainer

    after = Trainer._after_step
    monkeypatch.setattr(Trainer, "_after_step", lambda self: (after(self), setattr(self, "stop", self.step == 5))[0])
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        runs.finetune(finetune_config(phantoms, pretrained, run))
    monkeypatch.undo()
    runs.finetune(finetune_config(phantoms, pretrained, tmp_path / "run"))
    one, other = (model_folder.read_weights(r / "last" / "model.safetensors") for r in (run, tuned))
    assert all(torch.equal(one[k], other[k]) for k in other)


def test_results_hold_n_positives_and_intervals_and_agree_with_the_predictions(tested):
    out, results = tested
    assert json.loads((out / "results.json").read_text())["classes"].keys() == {"mean", *FINDINGS}
    predictions = read_predictions(out / "predictions.csv")
    assert predictions.classes == FINDINGS
    for c, name in enumerate(FINDINGS):
        entry = results["classes"][name]["auroc"]
        assert entry["n"] == 48
        assert entry["positives"] == predictions.labels_NC[:, c].sum()
        expected = ranking.auroc(predictions.labels_NC[:, c], predictions.probabilities_NC[:, c])
        assert entry["value"] == pytest.approx(expected)
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert (out / "index.html").stat().st_size > 10_000
    assert (out / "roc.png").is_file()
    assert (out / "pr.png").is_file()


def test_the_model_says_where_it_comes_from_what_it_was_tested_on_and_what_it_had_seen(tuned, tested):
    card = mrm.load(tuned).card
    assert card.origin["records"] == "records.csv"
    assert card.origin["n"] == 48
    assert (
        card.tested[-1].classes["mean of classes"]["auroc"]["value"] == tested[1]["classes"]["mean"]["auroc"]["value"]
    )
    seen = {p.stem for p in (model_folder.find_model(tuned) / "seen").glob("*.npz")}
    assert seen == {"pre-training", "fine-tuning"}


def test_testing_on_training_records_is_said_next_to_the_number(tested):
    out, results = tested
    assert any("fine-tuning" in line and "image" in line for line in results["overlap"])
    assert "Overlap with training" in (out / "index.html").read_text()


def test_a_test_set_of_its_own_brings_no_warning(tuned, tmp_path):
    from mrm.corpora.phantoms import phantom_files

    phantom_files.write(tmp_path / "other", 20, seed=77, size=128, workers=1)
    results = runs.evaluate(
        tuned, tmp_path / "other" / "records.csv", tmp_path / "out", draws=20, reading=runs.Reading(workers=0)
    )
    assert results["overlap"] == []


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


def test_starting_from_weights_is_not_resuming(phantoms, pretrained, tmp_path):
    run = runs.pretrain(pretrain_config(phantoms, tmp_path / "run", init=pretrained))
    assert trace(run)[0]["step"] == "1"
    assert float(trace(run)[0]["image"]) < float(trace(pretrained)[0]["image"])
    assert mrm.load(run).tokenizer.to_json() == mrm.load(pretrained).tokenizer.to_json()


# Bad input -------------------------------------------------------------------------------------------


def bad_image(path: Path, kind: str, good: bytes) -> None:
    """A file that a hospital's export may hold."""
    rng = np.random.default_rng(0)
    content = {
        "missing": None,
        "empty": b"",
        "truncated": good[: len(good) // 2],
        "text": b"this is not an image",
    }
    arrays = {
        "16-bit": rng.integers(0, 4096, (90, 70), dtype=np.uint16),
        "RGBA": rng.integers(0, 255, (90, 70, 4), dtype=np.uint8),
        "1 x N": rng.integers(0, 255, (1, 70), dtype=np.uint8),
    }
    if kind in arrays:
        cv2.imwrite(str(path.with_suffix(".png")), arrays[kind])
        path.with_suffix(".png").rename(path)
    elif kind == "palette":
        from PIL import Image

        Image.fromarray(rng.integers(0, 255, (90, 70), dtype=np.uint8)).convert("P").save(path, format="PNG")
    elif content[kind] is not None:
        path.write_bytes(content[kind])


def records_with(phantoms: Path, folder: Path, kind: str) -> Path:
    """Sixteen phantoms, one of them replaced."""
    rows = list(Records.load(phantoms / "records.csv", FINDINGS))[:16]
    file = folder / "images" / "odd.jpg"
    file.parent.mkdir(parents=True)
    bad_image(file, kind, rows[5].image.read_bytes())
    rows[5] = replace(rows[5], image=file, name="images/odd.jpg")
    return Records(rows, FINDINGS).to_csv(folder / "records.csv")


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


def test_a_validation_set_of_one_class_is_refused_with_its_counts(phantoms, pretrained, tmp_path):
    records = Records.load(phantoms / "records.csv", ("effusion",))
    file = records.where(lambda r: r.labels == (1.0,)).to_csv(tmp_path / "val.csv")
    cfg = finetune_config(phantoms, pretrained, tmp_path / "run", val=file, classes=("effusion",))
    with pytest.raises(RunError, match=r"AUROC is undefined for every class \(effusion: \d+ positive and 0 negative\)"):
        runs.finetune(cfg)


def test_another_run_in_the_folder_is_kept(phantoms, pretrained, tmp_path):
    before = (pretrained / "log.csv").read_bytes()
    with pytest.raises(OutputError, match=r"holds another run \(seed: 0, now 1\)"):
        runs.pretrain(pretrain_config(phantoms, pretrained, seed=1))
    assert (pretrained / "log.csv").read_bytes() == before


def test_a_folder_with_other_things_is_kept(phantoms, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="is not empty and holds no run"):
        runs.pretrain(pretrain_config(phantoms, tmp_path / "run"))


def test_a_folder_that_cannot_be_written_is_named(phantoms, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/run: cannot be written \(Not a directory\)"):
        runs.pretrain(pretrain_config(phantoms, tmp_path / "file" / "run"))


def test_a_pretrained_model_cannot_be_tested_as_a_classifier(phantoms, pretrained, tmp_path):
    with pytest.raises(RunError, match="expected a classifier, found an MRM model; fine-tune it first"):
        runs.evaluate(pretrained, phantoms / "records.csv", tmp_path / "out")


def test_unreadable_test_images_are_counted_and_listed(phantoms, tuned, tmp_path):
    file = records_with(phantoms, tmp_path, "truncated")
    results = runs.evaluate(tuned, file, tmp_path / "out", draws=20, reading=runs.Reading(workers=0))
    assert results["n"] == 15
    assert list(results["unreadable"]) == ["images/odd.jpg"]


def test_a_tokenizer_needs_reports(phantoms, tmp_path):
    bare = Records([Record(r.image, name=r.name) for r in Records.load(phantoms / "records.csv")])
    file = bare.to_csv(tmp_path / "images.csv")
    with pytest.raises(RunError, match="none of the 48 records has a report"):
        runs.train_tokenizer(file, tmp_path / "tokenizer.json")
    tokenizer = runs.train_tokenizer(phantoms / "records.csv", tmp_path / "tokenizer.json", size=200)
    assert tokenizer.size == 200


def test_uncertain_labels_follow_the_policy_that_the_model_keeps(phantoms, pretrained, tmp_path):
    records = Records.load(phantoms / "records.csv", ("effusion", "nodule"))
    rows = [replace(r, labels=(-1.0, r.labels[1])) if i % 3 == 0 else r for i, r in enumerate(records)]
    file = replace(records, rows=rows).to_csv(tmp_path / "records.csv")
    cfg = finetune_config(
        phantoms, pretrained, tmp_path / "run", train=file, val=file, classes=("effusion", "nodule"), steps=2,
        warmup_steps=1, uncertain_by_class={"effusion": "ones", "nodule": "ignore"},
    )  # fmt: skip
    run = runs.finetune(cfg)
    assert mrm.load(run).config.uncertain == {"effusion": "ones", "nodule": "ignore"}
    results = runs.evaluate(run, file, tmp_path / "out", draws=20, reading=runs.Reading(workers=0))
    assert results["classes"]["effusion"]["auroc"]["positives"] >= 16


def test_missing_column_names_those_found(tmp_path):
    (tmp_path / "training.csv").write_text("path,text\na.jpg,normal\n")
    with pytest.raises(RecordError, match="no column image_path; the columns found are path, text"):
        runs.pretrain(recipes.tiny(tmp_path / "training.csv", tmp_path / "run"))


def test_restored_images_are_written_beside_the_checkpoints(pretrained):
    image = images.read(pretrained / "images" / "step-00000010.png")
    assert image.shape == (4 * 128, 3 * 128)
    masked, _, original = np.hsplit(image[:128], 3)
    assert (masked == original).mean() > 0.2  # the visible patches are the original's


def test_files_of_results_are_called_as_their_images_and_all_differ():
    names = ["a/radiograph.png", "b/Radiograph.jpg", "1.2.840.1", "1.2.840.2", "1.2.840.2.dcm", "ä b.dcm", "...."]
    expected = ["radiograph", "Radiograph-2", "1.2.840.1", "1.2.840.2", "1.2.840.2-2", "ä_b", "image"]
    assert run_folder.output_names(names) == expected  # a DICOM identifier has no ending to take off
