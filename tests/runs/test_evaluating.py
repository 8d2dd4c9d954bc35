"""Tests of a classifier: numbers with their intervals, and overlap with training said next to them."""

import json
import shutil

import pytest

import mrm
from mrm import runs
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.evaluation.predictions import read_predictions
from mrm.models import model_folder
from mrm.runs.evaluating import findings_table
from mrm.statistics import ranking
from mrm.system.errors import RunError
from tests.support.commands import run_cli
from tests.support.configs import finetune_config
from tests.support.odd_images import records_with


@pytest.fixture(scope="module")
def tuned(phantoms, pretrained_run, tmp_path_factory):
    return runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path_factory.mktemp("tuned") / "run"))


@pytest.fixture(scope="module")
def tested(phantoms, tuned, tmp_path_factory):
    out = tmp_path_factory.mktemp("tested")
    return out, runs.evaluate(tuned, phantoms / "records.csv", out, draws=100, reading=runs.Reading(workers=0))


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


def test_a_table_in_the_terminal_has_values_intervals_n_and_positives(tested):
    results = tested[1]
    head, *lines = findings_table(results).splitlines()
    assert head.split() == [
        "finding",
        "AUROC",
        "95",
        "%",
        "interval",
        "avg.",
        "precision",
        "95",
        "%",
        "interval",
        "n",
        "positives",
    ]
    assert [line.split()[0] for line in lines] == ["mean", *FINDINGS]
    assert max(map(len, lines)) <= 100
    effusion = results["classes"]["effusion"]["auroc"]
    (line,) = (line for line in lines if line.startswith("effusion"))
    assert f"{effusion['value']:.3f}  {effusion['low']:.3f} to {effusion['high']:.3f}" in line
    assert line.split()[-2:] == ["48", str(effusion["positives"])]


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


def test_a_pretrained_model_cannot_be_tested_as_a_classifier(phantoms, pretrained_run, tmp_path):
    with pytest.raises(RunError, match="expected a classifier, found an MRM model; fine-tune it first"):
        runs.evaluate(pretrained_run, phantoms / "records.csv", tmp_path / "out")


def test_unreadable_test_images_are_counted_and_listed(phantoms, tuned, tmp_path):
    file = records_with(phantoms, tmp_path, "truncated")
    results = runs.evaluate(tuned, file, tmp_path / "out", draws=20, reading=runs.Reading(workers=0))
    assert results["n"] == 15
    assert list(results["unreadable"]) == ["images/odd.jpg"]


@pytest.mark.parametrize("kind", ["truncated", "missing"])
def test_the_exit_status_says_that_images_could_not_be_read(phantoms, tuned, tmp_path, capsys, kind):
    file = records_with(phantoms, tmp_path, kind)
    words = ["evaluate", str(tuned), "--records", str(file), "--out", str(tmp_path / "out"), "--draws", "20"]
    assert run_cli(capsys, *words, "--workers", "0")[0] == 3
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())["unreadable"]) == ["images/odd.jpg"]


def test_a_folder_of_images_that_is_gone_leaves_no_results(phantoms, tuned, tmp_path, capsys):
    shutil.copytree(phantoms, tmp_path / "share")
    (tmp_path / "share" / "images").rename(tmp_path / "aside")
    words = [
        "evaluate",
        str(tuned),
        "--records",
        str(tmp_path / "share" / "records.csv"),
        "--out",
        str(tmp_path / "out"),
    ]
    status, _, err = run_cli(capsys, *words, "--workers", "0")
    assert status == 3
    assert "share/images: the folder of the images is not there" in err
    assert not (tmp_path / "out").exists()
