"""Views learned from what tables state: how often they are right, and what a guess changes where none is stated."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrm import runs
from mrm.data.images import encode_png
from mrm.data.oriented_gradients import SIDE, hog
from mrm.data.records import Record, Records
from mrm.inference import view_classifier
from mrm.runs import learning_views
from mrm.system.errors import ConfigError, RecordError, RunError
from tests.support.commands import run_cli
from tests.support.models import PROBED, probed_classifier
from tests.support.views import chest


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    """Twelve patients of three images, the third lateral; every image states its view."""
    folder, rng = tmp_path_factory.mktemp("views"), np.random.default_rng(0)
    rows = []
    for number in range(36):
        view = "LL" if number % 3 == 2 else "PA"
        (folder / f"{number:02}.png").write_bytes(encode_png(chest(rng, view == "LL")))
        labels = (float(number % 2), float(number // 2 % 2))
        rows.append(
            Record(
                folder / f"{number:02}.png",
                patient=f"p{number // 3}",
                view=view,
                labels=labels,
                name=f"{number:02}.png",
            )
        )
    return Records(rows, PROBED).to_csv(folder / "records.csv")


@pytest.fixture(scope="module")
def learned(studies, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("learned") / "views.json"
    runs.learn_views(studies, file, workers=0)
    return file


@pytest.fixture(scope="module")
def model(phantoms, tmp_path_factory):
    return probed_classifier(phantoms, tmp_path_factory.mktemp("model") / "classifier")


def without_views(studies: Path, folder: Path, kept: int = 0) -> Path:
    """The records, of which the first `kept` state their view."""
    records = Records.load(studies, PROBED)
    rows = [replace(r, view=r.view if n < kept else "") for n, r in enumerate(records)]
    return replace(records, rows=rows).to_csv(folder / "unstated.csv")


def test_held_out_images_are_told_apart_and_the_file_says_how_well(learned):
    content = json.loads(learned.read_text())
    assert (content["n"], content["laterals"], content["patients"]) == (36, 12, 12)
    for measure, n in (("sensitivity", 12), ("specificity", 24)):
        estimate = content[measure]
        assert (estimate["value"], estimate["n"]) == (1.0, n)
        assert estimate["low"] < 0.95  # so few show no more


def test_new_images_are_told_apart_by_the_formula_of_a_logistic_regression(learned):
    classifier, rng = view_classifier.load(learned), np.random.default_rng(1)
    new = [(chest(rng, lateral), lateral) for lateral in (True, False) * 10]
    assert [classifier.is_lateral(image) for image, _ in new] == [lateral for _, lateral in new]
    content, features = (
        json.loads(learned.read_text()),
        hog(cv2.resize(new[0][0], (SIDE, SIDE), interpolation=cv2.INTER_AREA)),
    )
    expected = sum(w * f for w, f in zip(content["weights"], features.tolist(), strict=True)) + content["bias"]
    assert classifier.log_odds(features[None])[0] == pytest.approx(expected)


def test_views_without_a_meaning_are_held_out_at_chance():
    """Labels drawn at random have nothing to do with the images, so held-out guesses are right for about half."""
    rng = np.random.default_rng(2)
    lateral, people = rng.random(200) < 0.5, [f"p{n // 2}" for n in range(200)]
    log_odds = learning_views.held_out(rng.random((200, 40)), lateral, people, seed=0)
    assert 0.35 < ((log_odds > 0) == lateral).mean() < 0.65


def test_a_guessed_lateral_is_left_out_where_none_is_stated_and_what_is_stated_counts(
    studies, learned, model, tmp_path
):
    unstated = without_views(studies, tmp_path, kept=3)
    table = Records.load(unstated, PROBED)
    wrong = replace(table, rows=[replace(r, view="PA" if n == 2 else r.view) for n, r in enumerate(table)])
    file = wrong.to_csv(tmp_path / "wrong.csv")  # the third image is stated to be frontal
    reading = runs.Reading(workers=0, views="frontal", view_classifier=learned)
    with pytest.warns(UserWarning, match=r"33 of 36 images state no view; .*views.json takes 11 of them for lateral"):
        runs.predict(model, [file], tmp_path / "p.csv", reading)
    with open(tmp_path / "p.csv", newline="") as text:
        errors = [row["error"] for row in csv.DictReader(text)]
    assert [n for n, error in enumerate(errors) if error] == list(range(5, 36, 3))
    assert "taken for a lateral image by --view-classifier, which --views frontal leaves out" in errors[5]
    with pytest.warns(UserWarning, match="left out 11 lateral images"):
        assert runs.evaluate(model, file, tmp_path / "test", reading, draws=20)["n"] == 25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, view: "", "0 patients have an image whose view is stated as lateral, and 5 are needed"),
        (lambda n, view: view if n < 12 else "PA", "4 patients have an image whose view is stated as lateral"),
        (lambda n, view: "LL" if n > 5 else view, "2 patients have an image whose view is stated as frontal"),
    ],
)
def test_too_few_stated_views_are_refused(studies, tmp_path, change, message):
    records = Records.load(studies, PROBED)
    rows = [replace(r, view=change(n, r.view)) for n, r in enumerate(records)]
    file = replace(records, rows=rows).to_csv(tmp_path / "few.csv")
    with pytest.raises(RecordError, match=message):
        runs.learn_views(file, tmp_path / "views.json", workers=0)
    assert not (tmp_path / "views.json").exists()


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"kind": "mrm views", "bias": 0, "weights": [1, 2]}'])
def test_a_file_that_is_no_view_classifier_is_refused(studies, model, tmp_path, content):
    file = tmp_path / "views.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"--view-classifier .*views\.json: .*give a file that `mrm views` wrote"):
        runs.predict(
            model, [studies], tmp_path / "p.csv", runs.Reading(workers=0, views="frontal", view_classifier=file)
        )
    assert not (tmp_path / "p.csv").exists()


def test_a_classifier_of_views_without_a_reason_is_refused(studies, learned, model, tmp_path):
    with pytest.raises(RunError, match="add --views frontal"):
        runs.predict(model, [studies], tmp_path / "p.csv", runs.Reading(workers=0, view_classifier=learned))


def test_the_command_prints_how_often_it_is_right_and_what_comes_next(studies, tmp_path, capsys):
    rows = [f"{studies.parent / r.name},{r.patient},{r.view}" for r in Records.load(studies)]
    bare = tmp_path / "bare.csv"  # without reports and labels
    bare.write_text("\n".join(["image_path,patient_id,view", *rows]) + "\n")
    code, out, _ = run_cli(capsys, "views", str(bare), "--out", str(tmp_path / "v.json"), "--workers", "0")
    assert code == 0
    assert "lateral called lateral" in out
    assert f"next: mrm predict MODEL PATHS --views frontal --view-classifier {tmp_path / 'v.json'} --out FILE" in out
