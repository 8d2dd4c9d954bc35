"""Where a model looks: maps of what was learnt meet the boxes better than the centre does; what does not fit is refused."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrm import runs
from mrm.data import images
from mrm.inference.predictor import Predictor
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.models.ensemble import ensemble_of
from mrm.runs.localising import localisation_table
from mrm.system.errors import ExplainError, RecordError, RunError
from mrm.system.files import write_csv
from tests.support.boxes import HEADER, write_squares
from tests.support.commands import run_cli
from tests.support.html_pages import check_whole
from tests.support.squares import untrained_on_squares

QUICK = runs.Reading(workers=0)


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    return write_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def model(squares_model, tmp_path_factory) -> Path:
    return model_folder.save(tmp_path_factory.mktemp("model") / "squares", squares_model)


@pytest.fixture(scope="module")
def tested(model, squares, tmp_path_factory):
    out = tmp_path_factory.mktemp("tested")
    boxes = runs.Boxes(squares / "boxes.csv")
    return out, runs.evaluate(model, squares / "records.csv", out, QUICK, draws=200, boxes=boxes)["localisation"]


def rows_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_a_model_that_has_learnt_the_place_beats_the_centre_and_chance(tested):
    for name in ("square", "ring"):
        measures = tested[1]["classes"][name]
        for measure in ("pointing", "energy", "found_mean"):
            for other in ("over_centre", "over_random"):
                assert measures[measure][other]["low"] > 0, (name, measure, other)


def test_the_numbers_are_those_of_the_rows_and_of_the_terminal(tested):
    out, facts = tested
    rows = rows_of(out / "localisation.csv")
    assert facts["counts"] == {
        "square": {"images with boxes": 18, "boxes": 18, "images judged": 24},
        "ring": {"images with boxes": 12, "boxes": 12, "images judged": 24},
    }
    for name in ("square", "ring"):
        own = [row for row in rows if row["class"] == name]
        measures = facts["classes"][name]
        for source in ("model", "centre", "random"):
            energy = [float(row[f"{source} energy"]) for row in own]
            assert measures["energy"][source]["value"] == pytest.approx(np.mean(energy), abs=1e-5)
            ious = [float(row[f"{source} iou"]) >= 0.3 for row in own]
            assert measures["iou_0.3"][source]["value"] == pytest.approx(np.mean(ious))
    marks = rows_of(out / "marks.csv")
    false = [row for row in marks if row["class"] == "ring" and row["verdict"] == "false"]
    on = [row for row in marks if row["class"] == "ring" and row["verdict"] == "on a box"]
    limit = sorted((float(row["score"]) for row in false), reverse=True)[24 // 4 : 24 // 4 + 1]  # 1/4 of 24 images
    found = {row["name"] for row in on if not limit or float(row["score"]) > limit[0]}  # one ring an image
    assert facts["classes"]["ring"]["found_0.25"]["model"]["value"] == pytest.approx(len(found) / 12)
    text = localisation_table(facts)
    assert f"{facts['classes']['ring']['energy']['model']['value']:.3f}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_marks_are_scored_with_the_probabilities_of_the_test_which_are_not_computed_again(
    tested, model, squares, tmp_path, monkeypatch
):
    """A mark's score is its mean heat, at most 1, times the probability; a part begins at half of the greatest heat."""
    out, _ = tested
    probabilities = {row["name"]: row for row in rows_of(out / "predictions.csv")}
    for mark in rows_of(out / "marks.csv"):
        probability = float(probabilities[mark["name"]][mark["class"]])
        assert 0.5 * probability - 1e-4 <= float(mark["score"]) <= probability + 1e-4
    monkeypatch.setattr(Predictor, "values", None)  # which would compute an image by itself
    runs.evaluate(model, squares / "records.csv", tmp_path, QUICK, draws=20, boxes=runs.Boxes(squares / "boxes.csv"))
    assert (tmp_path / "marks.csv").read_text() == (out / "marks.csv").read_text()


def test_results_and_page_hold_them(tested):
    out, facts = tested
    assert json.loads((out / "results.json").read_text())["localisation"]["classes"].keys() == {"all", "square", "ring"}
    page = (out / "index.html").read_text()
    check_whole(page)
    assert "Where the model looks" in page
    assert f"{facts['classes']['square']['pointing']['model']['value']:.3f}" in page
    assert 'aria-label="Free-response ROC: ring"' in page


# Boxes that do not fit ------------------------------------------------------------------------------------


def test_a_model_without_maps_is_refused_by_name(squares_model, squares, tmp_path):
    pair = ensemble_of({"a": squares_model, "b": untrained_on_squares()})
    path, boxes = model_folder.save(tmp_path / "pair", pair), runs.Boxes(squares / "boxes.csv")
    with pytest.raises(
        RunError, match="pair: --boxes needs heat maps, and this model gives none: an ensemble has no enc"
    ):
        runs.evaluate(path, squares / "records.csv", tmp_path / "out", QUICK, boxes=boxes)
    config = replace(squares_model.config, encoder="convnext_atto", encoder_options={}, image_size=64)
    path = model_folder.save(tmp_path / "convnext", Classifier(config))
    with pytest.raises(RunError, match=r"convnext: --boxes needs heat maps, .* has no patches of one size"):
        runs.evaluate(path, squares / "records.csv", tmp_path / "out", QUICK, boxes=boxes)
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_missing_library_is_no_fault_of_the_model(model, squares, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    boxes = runs.Boxes(squares / "boxes.csv")
    install = r"^heat maps by gradient need captum, which is not installed: pip install 'mrm-radiograph\[explain\]'"
    with pytest.raises(ExplainError, match=install):
        runs.evaluate(model, squares / "records.csv", tmp_path / "out", QUICK, boxes=boxes)
    with pytest.raises(ExplainError, match=install):
        runs.explain(model, [squares], tmp_path / "maps")
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--boxes", "gone.csv"], "--boxes gone.csv: no such file or folder"),
        (["--agree", "2"], "--agree, --tolerance, --level and --method are of --boxes; give a file of boxes"),
        (["--boxes", "BOXES", "--tolerance", "1.5"], "--tolerance is 1.5; a share of the longer side"),
        (["--boxes", "BOXES", "--level", "0"], "--level is 0; a share of the greatest heat"),
        (["--boxes", "BOXES", "--agree", "0"], "--agree is 0; at least one reader"),
        (["--boxes", "BOXES", "--flip"], "leave out --by-study, --flip and --crop-borders"),
        (["--boxes", "BOXES", "--method", "attention"], "takes the mean of the patches and has no attention"),
    ],
)
def test_options_that_do_not_fit_print_one_line_and_end_with_2(model, squares, tmp_path, capsys, words, message):
    words = [str(squares / "boxes.csv") if word == "BOXES" else word for word in words]
    place = ["--records", str(squares / "records.csv"), "--out", str(tmp_path / "out"), "--workers", "0"]
    status, _, err = run_cli(capsys, "evaluate", str(model), *place, *words)
    assert status == 2
    assert message in err
    assert not (tmp_path / "out" / "results.json").exists()


# Segmenters -----------------------------------------------------------------------------------------------


def boxes_around_discs(discs: Path, out: Path) -> Path:
    rows = []
    for file in sorted((discs / "annotations/test").iterdir()):
        rows_R, columns_R = np.nonzero(images.read(file))
        if len(rows_R):
            sides = [columns_R.min(), rows_R.min(), np.ptp(columns_R) + 1, np.ptp(rows_R) + 1]
            rows.append([str(discs / "images/test" / file.name), "lesion", *map(int, sides), "", ""])
    return write_csv(out / "boxes.csv", HEADER, rows)


def test_outlines_of_a_segmenter_are_measured_and_shown(discs, disc_segmenter, tmp_path):
    name = model_folder.read_card(disc_segmenter / "best").architecture["classes"][0]
    file = boxes_around_discs(discs, tmp_path)
    file.write_text(file.read_text().replace(",lesion,", f",{name},"))
    results = runs.evaluate(disc_segmenter, discs, tmp_path / "out", QUICK, draws=100, boxes=runs.Boxes(file))
    facts = results["localisation"]
    assert facts["maps"] == "outlines"
    assert facts["counts"][name] == {"images with boxes": 6, "boxes": 6, "images judged": 12}
    measures = facts["classes"][name]
    assert measures["iou_0.5"]["model"]["value"] == 1
    assert measures["energy"]["over_centre"]["low"] > 0
    assert "Where the model looks" in (tmp_path / "out/index.html").read_text()
    with pytest.raises(RunError, match="--method and --level are of heat maps, and a segmenter has outlines"):
        runs.evaluate(disc_segmenter, discs, tmp_path / "out", QUICK, boxes=runs.Boxes(file, level=0.2))
    file.write_text(f"{','.join(HEADER)}\ntest00.png,{name},50,60,100,100,,\n")
    with pytest.raises(RecordError, match="do not fit their images"):
        runs.evaluate(disc_segmenter, discs, tmp_path / "out", QUICK, boxes=runs.Boxes(file))
