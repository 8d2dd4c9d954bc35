"""The command `calibrate`: what it fits is kept in the model, and used by the tests and predictions that follow."""

import csv
import errno
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrm import cli, runs
from mrm.data import images
from mrm.data.records import Records
from mrm.evaluation.predictions import read_predictions
from mrm.models import model_folder
from mrm.statistics.calibration import (
    calibrated_probabilities,
    choose_threshold,
    fit_temperatures,
)
from mrm.system.errors import OutlierError, RunError
from tests.support.commands import run_cli
from tests.support.image_files import contents
from tests.support.models import probed_classifier


@pytest.fixture
def model(phantoms, tmp_path):
    return probed_classifier(phantoms, tmp_path / "classifier")


def calibrate(model, phantoms, *options: str) -> None:
    cli.main(["calibrate", str(model), "--val", str(phantoms / "records.csv"), *options])


@pytest.mark.filterwarnings("ignore:the training records of this model are unknown")
def test_what_is_fitted_is_kept_in_the_model_and_used_by_the_next_test(model, phantoms, tmp_path, capsys):
    before = runs.evaluate(
        model, phantoms / "records.csv", tmp_path / "before", draws=20, reading=runs.Reading(workers=0)
    )
    raw = read_predictions(tmp_path / "before" / "predictions.csv")
    calibrate(model, phantoms, "--sensitivity", "0.8")
    card = model_folder.read_card(model)
    logits = np.log(raw.probabilities_NC / (1 - raw.probabilities_NC))
    fitted = fit_temperatures(raw.labels_NC, logits)
    assert list(card.temperatures.values()) == pytest.approx(fitted, rel=1e-4)
    scaled = calibrated_probabilities(logits, fitted)
    for c, name in enumerate(raw.classes):
        assert card.thresholds[name] == pytest.approx(
            choose_threshold(raw.labels_NC[:, c], scaled[:, c], sensitivity=0.8), rel=1e-4
        )
        told = card.calibration["classes"][name]
        assert told["operating_point"]["sensitivity"]["value"] >= 0.8
        assert told["threshold_interval"][0] <= card.thresholds[name] <= told["threshold_interval"][1]
    assert (card.calibration["goal"], card.calibration["n"]) == ("sensitivity 0.8", 48)
    assert "sensitivity 0.8" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="48 records of test share an image with calibration"):
        after = runs.evaluate(
            model, phantoms / "records.csv", tmp_path / "after", draws=20, reading=runs.Reading(workers=0)
        )
    used = read_predictions(tmp_path / "after" / "predictions.csv")
    np.testing.assert_allclose(used.probabilities_NC, scaled, rtol=1e-4)
    assert after["classes"]["effusion"]["auroc"]["value"] == before["classes"]["effusion"]["auroc"]["value"]
    for name, point in after["operating_points"].items():
        kept = card.calibration["classes"][name]["operating_point"]
        assert point["threshold"] == card.thresholds[name]
        assert point["sensitivity"]["n"] == kept["sensitivity"]["n"]
    assert (
        after["calibration"]["effusion"]["brier_before"]["value"] == before["calibration"]["effusion"]["brier"]["value"]
    )
    assert after["abstained"]["value"] <= 1 / 48 + 1e-9
    text = (tmp_path / "after" / "index.html").read_text()
    assert "Results at the chosen thresholds" in text
    assert "Outlier images" in text


@pytest.mark.filterwarnings("ignore:the training records of this model are unknown")
@pytest.mark.filterwarnings("ignore:48 records of test share")
def test_a_threshold_chosen_on_few_labels_is_said_to_be_uncertain_wherever_it_is_used(
    model, phantoms, tmp_path, capsys
):
    records = phantoms / "records.csv"
    positives = int(Records.load(records, ("effusion",)).labels_NC.sum())
    assert positives < 30
    sentence = rf"effusion: the threshold .* on {positives} positives and {48 - positives} negatives of records\.csv"
    with pytest.warns(UserWarning, match=sentence):
        calibrate(model, phantoms)
    with pytest.warns(UserWarning, match=sentence):
        runs.predict(model, [phantoms / "images"], tmp_path / "p.csv", runs.Reading(workers=0))
    runs.evaluate(model, records, tmp_path / "test", draws=20, reading=runs.Reading(workers=0))
    page = (tmp_path / "test" / "index.html").read_text()
    assert f"is uncertain, since it was chosen on {positives} positives" in page


@pytest.mark.filterwarnings("ignore:the training records of this model are unknown")
def test_predict_abstains_on_an_image_of_another_kind(model, phantoms, tmp_path):
    calibrate(model, phantoms)
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    (tmp_path / "noise.png").write_bytes(images.encode_png(noise))
    known = sorted((phantoms / "images").iterdir())[:6]
    cli.main(
        [
            "predict",
            str(model),
            str(tmp_path / "noise.png"),
            *map(str, known),
            "--out",
            str(tmp_path / "p.csv"),
            "--workers=0",
        ]
    )
    with open(tmp_path / "p.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    threshold = model_folder.read_card(model).outliers.threshold
    assert [float(r["outlier"]) > threshold for r in rows] == [True] + [False] * 6
    assert [r["effusion decision"] == "" for r in rows] == [True] + [False] * 6


@pytest.mark.filterwarnings("ignore:the training records of this model are unknown")
def test_a_goal_of_specificity_and_no_outliers(model, phantoms):
    calibrate(model, phantoms, "--specificity", "0.9", "--no-outliers")
    card = model_folder.read_card(model)
    assert card.outliers is None
    for one in card.calibration["classes"].values():
        assert one["operating_point"]["specificity"]["value"] >= 0.9


def test_a_set_that_overlaps_the_training_set_is_warned_of(model, phantoms):
    from mrm.audit.fingerprints import fingerprint

    (model / "seen").mkdir()
    fingerprint(Records.load(phantoms / "records.csv")).save(model / "seen" / "fine-tuning.npz")
    with pytest.warns(UserWarning, match="48 records of calibration share a patient with fine-tuning"):
        calibrate(model, phantoms, "--no-outliers")
    assert any("share a patient" in o for o in model_folder.read_card(model).calibration["overlap"])


@pytest.mark.filterwarnings("ignore:the training records of this model are unknown")
def test_without_a_site_key_it_stops_before_the_work_and_keeps_what_was_fitted(
    model, phantoms, tmp_path, monkeypatch, capsys
):
    calibrate(model, phantoms, "--no-outliers")
    before = contents(model)
    monkeypatch.setenv("MRM_SITE_KEY", str(tmp_path / "share that is gone" / "key"))
    with pytest.raises(SystemExit) as stop:
        calibrate(model, phantoms, "--youden", "--no-outliers")
    assert stop.value.code == 2
    assert "the site key cannot be made" in capsys.readouterr().err
    assert contents(model) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sensitivity", "0.9", "--specificity", "0.9"), "give --sensitivity or --specificity, not both"),
        (("--sensitivity", "0.9", "--youden"), "give only one of --sensitivity"),
        (("--sensitivity", "90"), "must be above 0 and at most 1, not 90"),
        (("--known", "1"), "between 0 and 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:the training records of this model are unknown")
def test_goals_that_cannot_be_are_refused_and_nothing_is_written(model, phantoms, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        calibrate(model, phantoms, *options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert model_folder.read_card(model).temperatures == {}


@pytest.mark.filterwarnings("ignore:the training records of this model are unknown")
def test_records_that_nothing_can_be_fitted_on_are_refused(model, phantoms, tmp_path):
    records = Records.load(phantoms / "records.csv", ("effusion", "cardiomegaly"))
    one = Records([replace(r, labels=(1.0, 1.0)) for r in records], records.classes).to_csv(tmp_path / "one.csv")
    with pytest.raises(RunError, match=r"one\.csv: no class has both positives and negatives"):
        runs.calibrate(model, one, reading=runs.Reading(workers=0))
    few = Records([replace(r, patient="ab"[i % 2]) for i, r in enumerate(records)], records.classes).to_csv(
        tmp_path / "f.csv"
    )
    with pytest.raises(OutlierError, match=r"2 patients .* fewer than the 5 folds"):
        runs.calibrate(model, few, reading=runs.Reading(workers=0))
    half = Records([replace(r, labels=(r.labels[0], 0.0)) for r in records], records.classes).to_csv(
        tmp_path / "half.csv"
    )
    with pytest.warns(UserWarning, match="cardiomegaly: only one label value; no temperature and no threshold"):
        runs.calibrate(model, half, reading=runs.Reading(workers=0))
    assert list(model_folder.read_card(model).thresholds) == ["effusion"]


@pytest.mark.filterwarnings("ignore:the training records of this model are unknown")
def test_nothing_is_fitted_while_images_are_out_of_reach(model, phantoms, tmp_path, capsys):
    """The model keeps what is fitted, so it must not be fitted on what a share happened to give."""
    shutil.copytree(phantoms, tmp_path / "share")
    before = contents(model)
    image = sorted((tmp_path / "share" / "images").iterdir())[5]
    image.rename(tmp_path / "aside")
    words = ["calibrate", str(model), "--val", str(tmp_path / "share" / "records.csv"), "--workers", "0"]
    status, _, err = run_cli(capsys, *words)
    assert (status, f"{image.name}: no such file" in err) == (3, True)
    assert contents(model) == before
    (tmp_path / "aside").rename(image)
    assert run_cli(capsys, *words)[0] == 0
    assert model_folder.read_card(model).calibration["n"] == 48


@pytest.mark.filterwarnings("ignore:the training records of this model are unknown")
@pytest.mark.parametrize("file", ["config.json", "calibration.npz"])
def test_a_full_disk_leaves_the_calibration_that_was_there_and_no_hidden_file(
    model, phantoms, capsys, monkeypatch, file
):
    words = ["calibrate", str(model), "--val", str(phantoms / "records.csv"), "--workers", "0"]
    assert run_cli(capsys, *words, "--sensitivity", "0.8")[0] == 0
    before, write = contents(model), Path.write_bytes

    def full(self, content):
        if self.name == f".{file}.tmp":
            write(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        status, _, err = run_cli(capsys, *words, "--sensitivity", "0.9")
    assert (status, "cannot be written (No space left on device)" in err) == (2, True)
    assert contents(model).keys() == before.keys()
    assert contents(model)["config.json"] == before["config.json"]
    assert run_cli(capsys, *words, "--sensitivity", "0.9")[0] == 0
    assert model_folder.read_card(model).calibration["goal"] == "sensitivity 0.9"


@pytest.mark.filterwarnings("ignore:the training records of this model are unknown")
def test_sets_are_fitted_by_class_used_by_predictions_and_measured_by_the_next_test(model, phantoms, tmp_path):
    reading, records = runs.Reading(workers=0), Records.load(phantoms / "records.csv", ("effusion", "cardiomegaly"))
    summary = runs.calibrate(model, phantoms / "records.csv", reading=reading, coverage=0.8)
    cuts = model_folder.read_card(model).sets
    assert set(cuts) == set(records.classes)
    assert summary["classes"]["effusion"]["set"]["coverage"] == cuts["effusion"].coverage == 0.8
    runs.predict(model, [phantoms / "records.csv"], tmp_path / "p.csv", reading)
    with open(tmp_path / "p.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    decided = [row for row in rows if row["abstain"] == "0"]
    for row in decided:
        for name in records.classes:
            probability = float(row[name])
            present, absent = probability >= cuts[name].present_from, probability <= cuts[name].absent_to
            words = {
                (True, False): "present",
                (False, True): "absent",
                (True, True): "either",
                (False, False): "neither",
            }
            assert row[f"{name} set"] == words[present, absent]
    assert {row["effusion set"] for row in rows if row["abstain"] == "1"} <= {""}
    results = runs.evaluate(model, phantoms / "records.csv", tmp_path / "test", reading, draws=20)
    held = [
        float(row["cardiomegaly"]) >= cuts["cardiomegaly"].present_from
        for row, r in zip(rows, records, strict=True)
        if r.labels[1] == 1
    ]
    assert results["sets"]["cardiomegaly"]["positives"]["value"] == pytest.approx(np.mean(held))
    assert "Held, with the finding" in (tmp_path / "test" / "index.html").read_text()
    with pytest.raises(RunError, match="--coverage must be above 0 and below 1"):
        runs.calibrate(model, phantoms / "records.csv", reading=reading, coverage=1.0)
