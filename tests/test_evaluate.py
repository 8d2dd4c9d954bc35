"""Predictions as files, two of them side by side, and a test from model to page."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_pages import PHONE, check_whole, chromium, widths  # noqa: F401 (a fixture)
from test_training import MICRO

import mrm
from mrm import checkpoint, predict, runs
from mrm.classifier import Classifier, ClassifierConfig
from mrm.evaluate import Predictions, pair, people, read_predictions, write_results
from mrm.records import Record, RecordError, Records

CLASSES = ("effusion", "cardiomegaly")


def probed_classifier(phantoms, folder):
    """A model folder: a random encoder of which a linear probe of the phantoms is the head."""
    with mrm.noise.seeded(0):
        model = Classifier(ClassifierConfig(CLASSES, MICRO.encoder, MICRO.encoder_options, MICRO.image_size)).eval()
    predict.fit_head(model, Records.load(phantoms / "records.csv", CLASSES), workers=0)
    return checkpoint.save(folder, model)


def test_predictions_come_back_as_they_were_written(tmp_path):
    labels = np.array([[1.0, np.nan], [0.0, 1.0]])
    made = Predictions(
        ["a, b.png", "c.png"], ["p1", "p2"], ("effusion", "mass"), labels, np.array([[0.1, 1 / 3], [1, 0]])
    )
    write_results(tmp_path, {}, made)
    read = read_predictions(tmp_path / "predictions.csv")
    assert (read.names, read.patients, read.classes) == (made.names, made.patients, made.classes)
    np.testing.assert_array_equal(read.labels_NC, labels)
    np.testing.assert_array_equal(read.probabilities_NC, made.probabilities_NC)


def test_unknown_patients_stay_unknown(tmp_path):
    write_results(tmp_path, {}, Predictions(["a"], None, ("x",), np.array([[1.0]]), np.array([[0.5]])))
    assert read_predictions(tmp_path / "predictions.csv").patients is None


@pytest.mark.parametrize("text", ["name,effusion\na,0.5\n", "name,patient_id\na,p\n", "x,y,z label,z\n1,2,3,4\n"])
def test_another_table_is_refused_with_its_columns(tmp_path, text):
    (tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(RecordError, match=r"not a predictions.csv of `mrm evaluate`; its columns are"):
        read_predictions(tmp_path / "predictions.csv")


# Files that cannot be ---------------------------------------------------------------------------------


def written(folder, names=("a", "b", "c"), patients=None, classes=("x", "y"), labels=None, probabilities=None):
    n = len(names)
    labels = np.array([[i % 2, 1 - i % 2] for i in range(n)], dtype=float) if labels is None else labels
    probabilities = np.full((n, len(classes)), 0.25) if probabilities is None else probabilities
    write_results(folder, {}, Predictions(list(names), patients, classes, labels[:, : len(classes)], probabilities))
    return read_predictions(folder / "predictions.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,p,1,0,0.5,1.5", "line 2: a, y: probability 1.5 is outside 0 to 1"),
        ("a,p,1,0,-3,0.5", "line 2: a, x: probability -3 is outside 0 to 1"),
        ("a,p,1,0,,0.5", "line 2: a, x: probability nan is outside 0 to 1"),
        ("a,p,2,0,0.5,0.5", "line 2: a, x: label 2 is not 1, 0 or empty"),
        ("a,p,1,0,high,0.5", "line 2: a: 'high' is no number"),
        ("a,p,1,0,0.5", "line 2: 5 fields, the header has 6"),
    ],
)
def test_values_that_cannot_be_are_named_with_their_line(tmp_path, row, message):
    (tmp_path / "predictions.csv").write_text(f"name,patient_id,x label,y label,x,y\n{row}\n")
    with pytest.raises(RecordError, match=message):
        read_predictions(tmp_path / "predictions.csv")


def test_the_same_records_in_another_order_are_paired(tmp_path):
    first = written(tmp_path / "a", patients=["p", "q", "r"])
    second = written(
        tmp_path / "b", ("c", "a", "b"), ["r", "p", "q"], ("y", "x", "z"),
        labels=np.array([[1.0, 0, 1], [1, 0, 1], [0, 1, 1]]), probabilities=np.array([[0.1, 0.2, 0], [0.3, 0.4, 0], [0.5, 0.6, 0]]),
    )  # fmt: skip
    paired = pair(first, second, ("A", "B"))
    assert paired.classes == ("x", "y")
    assert paired.left_out == ("z",)
    np.testing.assert_array_equal(paired.second_NC, [[0.4, 0.3], [0.6, 0.5], [0.2, 0.1]])
    assert paired.patients == ["p", "q", "r"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("a", "b", "d")}, r"do not cover the same records: 1 of 3 only in A \(first: c\); 1 of 3 only in B \(first: d\)"),
        ({"names": ("a", "b")}, r"1 of 3 only in A \(first: c\)"),
        ({"names": ("a", "b", "b")}, r"B: 1 records come more than once, the first is b"),
        ({"labels": np.array([[0.0, 1], [1, 0], [1, np.nan]])}, "2 labels differ between A and B; the first is x of c: 0 and 1"),
        ({"classes": ("z",)}, "no class in common"),
        ({"patients": ["p", "q", "q"]}, "name other patients for the same records"),
    ],
)  # fmt: skip
def test_predictions_that_cannot_be_paired_are_refused_by_name(tmp_path, changes, message):
    first = written(tmp_path / "a", patients=["p", "q", "r"])
    with pytest.raises(RecordError, match=message):
        pair(first, written(tmp_path / "b", **changes), ("A", "B"))


# A test, whole ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(phantoms, tmp_path_factory):
    return probed_classifier(phantoms, tmp_path_factory.mktemp("model") / "classifier")


def test_who_was_tested_is_told_as_far_as_known():
    rows = [
        Record(b"", view="PA" if i else "", extra={"sex": "F" if i < 3 else "M", "age": str(20 + i)}) for i in range(5)
    ]
    told = people(Records(rows))
    assert told == {
        "Sex": "3 F, 2 M", "View": "4 PA, 1 not stated", "Age": "median 22 years, middle half 21–23",
    }  # fmt: skip
    assert people(Records([Record(b"")])) == {}


def test_an_uncalibrated_model_shows_its_calibration_and_no_operating_point(phantoms, model, tmp_path):
    results = runs.evaluate(model, phantoms / "records.csv", tmp_path, draws=50, workers=0)
    assert results["operating_points"] == {}
    assert results["abstained"] is None
    one = results["calibration"]["effusion"]
    assert one["temperature"] is None
    p = read_predictions(tmp_path / "predictions.csv")
    assert one["brier"]["value"] == pytest.approx(np.mean((p.labels_NC[:, 0] - p.probabilities_NC[:, 0]) ** 2))
    assert one["brier"] == one["brier_before"]
    text = (tmp_path / "index.html").read_text()
    assert "never calibrated" in text
    assert "chosen thresholds" not in text


def test_groups_are_tested_and_shown(phantoms, model, tmp_path):
    results = runs.evaluate(model, phantoms / "records.csv", tmp_path, draws=50, workers=0, by=("sex", "age"))
    by_sex, by_age = results["subgroups"]
    assert {g["name"] for g in by_sex["groups"]} == {"F", "M"}
    assert sum(g["n"] for g in by_age["groups"]) == 48
    text = (tmp_path / "index.html").read_text()
    check_whole(text.replace('href="reliability.png"', 'href="roc.png"'))
    for group in (*by_sex["groups"], *by_age["groups"]):
        assert f'<span class="name">{group["name"]}</span>' in text
    assert "No two groups are large enough to compare" in text


def test_a_column_that_is_not_there_is_named(phantoms, model, tmp_path):
    with pytest.raises(RecordError, match="no column 'scanner' to group by; there are view, "):
        runs.evaluate(model, phantoms / "records.csv", tmp_path, workers=0, by=("scanner",))


def test_a_class_absent_from_the_test_set_is_undefined_everywhere(phantoms, model, tmp_path):
    records = Records.load(phantoms / "records.csv", ("effusion", "cardiomegaly"))
    rows = [replace(r, labels=(r.labels[0], 0.0)) for r in records]
    file = Records(rows, records.classes).to_csv(tmp_path / "test.csv")
    results = runs.evaluate(model, file, tmp_path / "out", draws=50, workers=0, by=("sex",))
    assert results["classes"]["cardiomegaly"]["auroc"]["value"] is None
    assert results["calibration"]["cardiomegaly"]["brier"]["value"] is None
    json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)
    assert "only negatives" in (tmp_path / "out" / "index.html").read_text()


def test_one_patient_only_gives_numbers_without_intervals(phantoms, model, tmp_path):
    records = Records.load(phantoms / "records.csv", ("effusion", "cardiomegaly"))
    file = Records([replace(r, patient="p") for r in records], records.classes).to_csv(tmp_path / "test.csv")
    results = runs.evaluate(model, file, tmp_path / "out", draws=50, workers=0, by=("sex",))
    assert results["classes"]["effusion"]["auroc"]["value"] is not None
    assert results["classes"]["effusion"]["auroc"]["low"] is None
    assert "one patient only" in (tmp_path / "out" / "index.html").read_text()


def test_a_whole_page_fits_a_phone(phantoms, model, tmp_path, request):
    browser = request.getfixturevalue("chromium")
    runs.calibrate(model, phantoms / "records.csv", workers=0, outliers=False)
    runs.evaluate(model, phantoms / "records.csv", tmp_path, draws=50, workers=0, by=("sex", "age"))
    scroll, client = widths(browser, tmp_path / "index.html", tmp_path)
    assert client > PHONE - 20
    assert scroll <= client
