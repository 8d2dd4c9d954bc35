"""`mrm ensemble`: the mean of its members' logits everywhere, and what cannot be averaged is named."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import mrm
from mrm import cli, runs
from mrm.data.records import Records
from mrm.inference import predict
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier
from mrm.system.errors import OutputError, RunError
from tests.support.configs import MICRO
from tests.support.models import PROBED, probed_classifier

TEMPERATURES = {"effusion": 2.0, "cardiomegaly": 0.5}


@pytest.fixture(scope="module")
def members(phantoms, tmp_path_factory):
    """Three classifiers of the same shape and other weights, one of them calibrated."""
    folder = tmp_path_factory.mktemp("members")
    first = mrm.load(probed_classifier(phantoms, folder / "first"))
    for name, seed in (("second", 1), ("third", 2)):
        with noise.seeded(seed):
            other = Classifier(first.config).eval()
            torch.nn.init.normal_(other.encoder.head.weight)
        card = replace(other.card, temperatures=TEMPERATURES if name == "third" else {})
        model_folder.save(folder / name, other, card)
    return [folder / name for name in ("first", "second", "third")]


@pytest.fixture(scope="module")
def joined(members, tmp_path_factory):
    return runs.ensemble(members, tmp_path_factory.mktemp("joined") / "ensemble")


def test_logits_are_the_mean_of_those_of_the_members_at_their_temperatures(members, joined, phantoms):
    records = Records.load(phantoms / "records.csv", PROBED)[:10]
    logits = [predict.classify(mrm.load(member), records, workers=0).logits_NC for member in members]
    logits[2] = logits[2] / [TEMPERATURES[name] for name in PROBED]
    computed = predict.classify(mrm.load(joined), records, workers=0).logits_NC
    assert np.allclose(computed, np.mean(logits, axis=0), atol=1e-5)


def test_features_are_those_of_all_members_and_logits_come_with_them(members, joined, phantoms):
    records = Records.load(phantoms / "records.csv", PROBED)[:4]
    whole = mrm.load(joined)
    features, _ = predict.features(whole, records, workers=0)
    each = [predict.features(mrm.load(member), records, workers=0)[0] for member in members]
    assert np.allclose(features, np.concatenate(each, axis=1), atol=1e-6)
    images = torch.randn(2, 3, MICRO.image_size, MICRO.image_size)
    both = predict.scores_and_features(whole)(images)
    assert torch.allclose(both[:, :2], whole(images), atol=1e-5)
    assert both.shape[1] == 2 + features.shape[1]


def test_every_command_of_a_classifier_takes_it(joined, phantoms, tmp_path, capsys):
    folder, records = tmp_path / "ensemble", str(phantoms / "records.csv")
    shutil.copytree(joined, folder)
    for words in (
        ["calibrate", str(folder), "--val", records, "--workers", "0"],
        ["predict", str(folder), records, "--out", str(tmp_path / "p.csv"), "--workers", "0"],
        [
            "evaluate",
            str(folder),
            "--records",
            records,
            "--out",
            str(tmp_path / "test"),
            "--draws",
            "50",
            "--workers",
            "0",
        ],
    ):
        cli.main(words)
    with open(tmp_path / "p.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    card = mrm.load(folder).card
    assert card.thresholds.keys() == set(PROBED)
    assert float(rows[0]["effusion threshold"]) == card.thresholds["effusion"]
    assert {row["outlier"] != "" for row in rows} == {True}
    values = mrm.Predictor(folder, workers=0)([record.image for record in Records.load(records)[:3]])
    assert np.allclose(values.probabilities_NC[:, 0], [float(row["effusion"]) for row in rows[:3]], atol=1e-6)
    assert (tmp_path / "test" / "index.html").is_file()


def test_what_only_one_network_has_is_refused(joined, phantoms, tmp_path, capsys):
    image = str(next((phantoms / "images").iterdir()))
    for words in (
        ["explain", str(joined), image, "--out", str(tmp_path / "heat")],
        ["export", str(joined), "--format", "hub", "--out", str(tmp_path / "hub")],
        ["finetune", "tiny", "--train", str(phantoms / "records.csv"), "--val", str(phantoms / "records.csv"),
         "--init", str(joined), "--out", str(tmp_path / "run")],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 2
        assert "an ensemble" in capsys.readouterr().err


def test_models_that_do_not_belong_together_are_named(members, joined, tmp_path):
    first = mrm.load(members[0])
    with noise.seeded(0):
        other = model_folder.save(
            tmp_path / "classes", Classifier(replace(first.config, classes=("nodule", "effusion")))
        )
        large = model_folder.save(tmp_path / "large", Classifier(replace(first.config, image_size=96)))
    for wrong, message in (
        (
            other,
            r"classes and .*first cannot be averaged: classes is nodule, effusion in the first and effusion, cardiomegaly",
        ),
        (large, r"large and .*first cannot be averaged: image_size is 96 in the first and 64 in the second"),
        (joined, "is itself an ensemble; give its members instead"),
        (members[0], "is given twice"),
    ):
        with pytest.raises(RunError, match=message):
            runs.ensemble([members[0], wrong], tmp_path / "out")
    with pytest.raises(RunError, match="needs two or more"):
        runs.ensemble([members[0]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_kept(members, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something else"):
        runs.ensemble(members, tmp_path)
    with pytest.raises(OutputError, match="holds something else"):
        runs.ensemble(members[1:], members[0])
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_records_that_any_member_has_seen_are_remembered_once(members, tmp_path):
    copies = []
    for number, content in enumerate((b"same", b"same", b"other")):
        copies.append(tmp_path / f"member{number}")
        shutil.copytree(members[number], copies[-1])
        (copies[-1] / "seen").mkdir(exist_ok=True)
        (copies[-1] / "seen" / "fine-tuning.npz").write_bytes(content)
    out = runs.ensemble(copies, tmp_path / "out")
    kept = {file.name: file.read_bytes() for file in (out / "seen").iterdir()}
    assert kept == {"fine-tuning.npz": b"same", "fine-tuning-2.npz": b"other"}
