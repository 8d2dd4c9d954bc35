"""`mrm crossval` from end to end: folds by patient, resumed exactly, floors beside, and what it refuses."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from mrm import cli, runs
from mrm.data.records import Records
from mrm.evaluation.predictions import read_predictions
from mrm.models import model_folder, noise
from mrm.models.mrm import MRM
from mrm.runs import crossval_folds, crossvalidating
from mrm.runs.crossval_plan import CrossvalConfig, Fold
from mrm.statistics.cross_validation import cross_validated_auroc
from mrm.system.errors import ConfigError, OutputError, RecordError, RunError
from tests.support.configs import MICRO
from tests.support.html_pages import check_whole

CLASSES = ("effusion", "cardiomegaly")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with noise.seeded(3):
        return model_folder.save(tmp_path_factory.mktemp("start") / "untrained", MRM(MICRO).eval())


def config(model, phantoms, out, **changes):
    usual = {"folds": 3, "repeats": 2, "classes": CLASSES, "max_steps": 2, "workers": 0}
    return CrossvalConfig("tiny", phantoms / "records.csv", model, out, **{**usual, **changes})


@pytest.fixture(scope="module")
def validated(model, phantoms, tmp_path_factory):
    out = tmp_path_factory.mktemp("crossval") / "out"
    return out, runs.crossval(config(model, phantoms, out))


def test_every_record_is_tested_once_in_each_repeat_by_a_model_that_has_not_seen_its_patient(validated, phantoms):
    out, results = validated
    records = Records.load(phantoms / "records.csv", CLASSES)
    with open(out / "folds.csv", newline="") as text:
        folds = {row["name"]: row for row in csv.DictReader(text)}
    assert set(folds) == {record.name for record in records}
    for repeat in (1, 2):
        for fold in (1, 2, 3):
            tested = {r.patient for r in records if folds[r.name][f"repeat {repeat}"] == str(fold)}
            parts = {
                part: set(Records.load(out / "lists" / f"repeat{repeat}-fold{fold}-{part}.csv", CLASSES).patients)
                for part in ("train", "val")
            }
            assert not tested & parts["train"]
            assert not tested & parts["val"]
            assert not parts["train"] & parts["val"]
            assert tested | parts["train"] | parts["val"] == set(records.patients)
    assert results["tested"] == len(records)
    assert [folds[r.name]["repeat 1"] for r in records] != [folds[r.name]["repeat 2"] for r in records]


def test_the_pooled_number_is_the_share_of_pairs_within_folds_that_are_ranked_right(validated, phantoms):
    """Counted pair by pair from the files of the folds, for the network and for a floor."""
    out, results = validated
    records = Records.load(phantoms / "records.csv", CLASSES)
    with open(out / "folds.csv", newline="") as text:
        folds = {row["name"]: row for row in csv.DictReader(text)}
    for method in ("network", "HOG"):
        for c, name in enumerate(CLASSES):
            of_repeat = []
            for repeat in (1, 2):
                won = pairs = 0.0
                for fold in (1, 2, 3):
                    at = [i for i, r in enumerate(records) if folds[r.name][f"repeat {repeat}"] == str(fold)]
                    with np.load(out / "units" / f"repeat{repeat}-fold{fold}.npz") as kept:
                        scores = kept[method][:, c]
                    positive = [scores[k] for k, i in enumerate(at) if records[i].labels[c] == 1]
                    negative = [scores[k] for k, i in enumerate(at) if records[i].labels[c] == 0]
                    won += sum((p > q) + (p == q) / 2 for p in positive for q in negative)
                    pairs += len(positive) * len(negative)
                of_repeat.append(won / pairs)
            one = results["classes"][name]
            kept = one["auroc"] if method == "network" else one["floors"][method]["auroc"]
            assert kept["value"] == pytest.approx(np.mean(of_repeat), abs=1e-12)
            if method == "HOG":
                gap = one["floors"][method]["network_less_this"]
                assert gap["value"] == pytest.approx(one["auroc"]["value"] - kept["value"], abs=1e-12)
                assert gap["low"] < gap["value"] < gap["high"]


def test_the_same_command_resumes_without_training_a_finished_fold_again(validated, model, phantoms, monkeypatch):
    out, results = validated
    (out / "units" / "repeat2-fold2.npz").unlink()
    trained = []
    finetune = crossval_folds.finetune
    monkeypatch.setattr(crossval_folds, "finetune", lambda made: trained.append(made.out.name) or finetune(made))
    again = runs.crossval(config(model, phantoms, out))
    assert trained == ["repeat2-fold2"]
    assert again == results  # the fold that was trained anew has the same scores, bit for bit
    assert not list((out / "runs").iterdir())  # models are kept by --ensemble alone


def test_page_table_and_predictions_show_the_result(validated, model, phantoms, capsys):
    out, results = validated
    runs.crossval(config(model, phantoms, out))
    printed = capsys.readouterr().out
    text = (out / "index.html").read_text()
    check_whole(text)
    for one in results["classes"].values():
        assert f"{one['auroc']['value']:.3f}" in text
        assert f"{one['auroc']['value']:.3f}" in printed
        for floor in ("pixels", "HOG"):
            assert f"{one['floors'][floor]['auroc']['value']:.3f}" in text
    assert all(line in printed for line in results["next"])
    assert "next: mrm finetune tiny" in printed
    predictions = read_predictions(out / "predictions.csv")
    assert predictions.classes == CLASSES
    assert len(predictions.names) == results["tested"]
    assert json.loads((out / "crossval.json").read_text())["classes"] == results["classes"]


def test_more_repeats_are_added_and_other_folds_refused(validated, model, phantoms):
    out, results = validated
    with pytest.raises(OutputError, match="holds another cross-validation"):
        runs.crossval(config(model, phantoms, out, folds=4))
    more = runs.crossval(config(model, phantoms, out, repeats=3, floors=False))
    assert len(more["fold_aurocs"]) == 9
    assert more["fold_aurocs"][:6] == results["fold_aurocs"]
    assert more["classes"]["mean"]["floors"] == {}


def test_models_are_kept_for_an_ensemble(model, phantoms, tmp_path):
    given = config(model, phantoms, tmp_path / "out", repeats=1, folds=2, floors=False, ensemble=True)
    runs.crossval(given)
    kept = sorted((tmp_path / "out" / "runs").iterdir())
    assert [folder.name for folder in kept] == ["repeat1-fold1", "repeat1-fold2"]
    assert all(model_folder.kind_at(folder) == "classifier" for folder in kept)
    joined = model_folder.load(tmp_path / "out" / "ensemble")
    assert (len(joined.members), joined.config.classes) == (2, CLASSES)


def test_an_image_that_cannot_be_read_is_left_out_of_every_repeat_and_named(model, phantoms, tmp_path):
    records = Records.load(phantoms / "records.csv", CLASSES)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    rows = [replace(records[0], image=tmp_path / "broken.png", name="broken.png"), *records.rows[1:]]
    file = replace(records, rows=rows).to_csv(tmp_path / "records.csv")
    given = replace(config(model, phantoms, tmp_path / "out", repeats=1, folds=2), records=file)
    with pytest.warns(UserWarning, match=r"broken\.png"):
        results = runs.crossval(given)
    assert results["unreadable"] == ["broken.png"]
    assert results["tested"] == len(records) - 1


# What is refused ---------------------------------------------------------------------------------------


def labelled(phantoms, tmp_path, change):
    """The phantoms in a file of their own, each record as `change` makes it of its number and itself."""
    records = Records.load(phantoms / "records.csv", CLASSES)
    rows = [change(i, r) for i, r in enumerate(records)]
    return replace(records, rows=rows).to_csv(tmp_path / "records.csv")


def test_fewer_positive_patients_than_folds_are_named_with_what_to_do(model, phantoms, tmp_path, capsys):
    few = labelled(phantoms, tmp_path, lambda i, r: replace(r, patient=f"p{i}", labels=(float(i < 3), float(i % 2))))
    with pytest.raises(SystemExit) as stop:
        cli.main(["crossval", "tiny", "--records", str(few), "--init", str(model), "--out", str(tmp_path / "out"),
                  "--classes", *CLASSES])  # fmt: skip
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "fewer than the 5 folds: effusion has 3 positive patients; take --folds 3" in error
    assert not (tmp_path / "out").exists()


def test_folds_of_one_patient_are_refused(model, phantoms, tmp_path):
    one = labelled(phantoms, tmp_path, lambda i, r: replace(r, patient=f"p{i % 5}"))
    with pytest.raises(RecordError, match=r"5 patients in 5 folds leave a fold with one patient.*--folds 2"):
        runs.crossval(replace(config(model, phantoms, tmp_path / "out", folds=5), records=one))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"folds": 1}, RecordError, "--folds must be 2 or more"),
        ({"repeats": 0}, RecordError, "--repeats 1 or more"),
        ({"val_share": 1.0}, RunError, "above 0 and below 1"),
        ({"recipe": "no-such"}, ConfigError, "unknown recipe 'no-such'"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, phantoms, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        runs.crossval(replace(config(model, phantoms, tmp_path / "out"), **changes))


def test_a_validation_part_without_both_labels_is_named_before_anything_is_trained(model, phantoms, tmp_path):
    """Two positive patients in the training part of a fold: one of them validates, and one trains."""
    rare = labelled(phantoms, tmp_path, lambda i, r: replace(r, patient=f"p{i}", labels=(float(i < 2), 0.0)))
    given = replace(config(model, phantoms, tmp_path / "out", classes=("effusion",), folds=2), records=rare)
    with pytest.raises(RecordError, match=r"repeat1-fold1: .*positives.*--folds"):
        runs.crossval(given)
    assert not list(tmp_path.glob("out/runs/*"))


def test_a_class_that_a_fold_lacks_is_named_and_the_fold_does_not_count_for_it(model, phantoms, tmp_path):
    """Effusion has no positive in the last third of the records, which are the third fold."""
    file = labelled(
        phantoms, tmp_path, lambda i, r: replace(r, patient=f"p{i}", labels=(float(i % 2 and i < 32), i % 3 // 2))
    )
    records, folds_RN = Records.load(file, CLASSES), np.repeat([0, 1, 2], 16)[None]
    given = replace(config(model, phantoms, tmp_path / "out"), records=file)
    with pytest.warns(
        UserWarning,
        match=r"records.csv: only one label value of effusion in repeat1-fold3; these folds do not count for it",
    ):
        crossvalidating.require_both_labels(given, [Fold(0, fold) for fold in range(3)], records, folds_RN)
    scores_RNC = np.random.default_rng(0).random((1, 48, 2))
    whole = cross_validated_auroc(records.labels_NC, scores_RNC, folds_RN, CLASSES)
    two = cross_validated_auroc(records.labels_NC[:32], scores_RNC[:, :32], folds_RN[:, :32], CLASSES)
    assert whole["effusion"].value == two["effusion"].value
    assert whole["cardiomegaly"].value != two["cardiomegaly"].value


def test_settings_of_a_file_override_the_recipe(model, phantoms, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("pooling: attention\ntraining:\n  steps: 1\n")
    given = config(model, phantoms, tmp_path / "out", repeats=1, folds=2, floors=False, settings=file, max_steps=None)
    results = runs.crossval(given)
    assert results["fine_tuning"]["pooling"] == "attention"
    assert results["fine_tuning"]["training"]["steps"] == 1
    assert results["fine_tuning"]["training"]["optimizer"] == "adamw"  # the recipe's
    assert results["classes"]["mean"]["floors"] == {}


def test_an_image_size_is_that_of_every_fine_tuning_and_one_that_patches_do_not_divide_is_refused(
    model, phantoms, tmp_path
):
    from mrm.runs.crossvalidating import fine_tuning

    assert fine_tuning(config(model, phantoms, tmp_path / "out", image_size=96)).image_size == 96
    with pytest.raises(ConfigError, match=r"image_size 100 x 100 does not divide"):
        runs.crossval(config(model, phantoms, tmp_path / "out", image_size=100, floors=False))
