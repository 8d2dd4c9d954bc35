"""A test from model to page: calibration, operating points, groups, and who was tested."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mrm import runs
from mrm.audit.fingerprints import fingerprint
from mrm.audit.site_key import SiteKey
from mrm.data.records import Record, Records
from mrm.evaluation.classifier_test import overlaps, people
from mrm.evaluation.predictions import read_predictions
from mrm.system.errors import RecordError
from tests.support.html_pages import PHONE, check_whole, widths
from tests.support.models import probed_classifier

CLASSES = ("effusion", "cardiomegaly")


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


def test_a_model_of_another_site_is_compared_by_image_and_says_what_was_not_compared(phantoms, tmp_path):
    records = Records.load(phantoms / "records.csv")[:6]
    prints, foreign = fingerprint(records), SiteKey(bytes(32))
    prints.save(tmp_path / "seen" / "pre-training.npz")
    own = overlaps(tmp_path / "seen", records, "test")
    assert [line for line in own if "cannot be compared" in line] == []
    assert any(line.startswith("6 records of test share a patient with pre-training") for line in own)
    prints.keyed(foreign).save(tmp_path / "seen" / "fine-tuning.npz")
    both = overlaps(tmp_path / "seen", records, "test")
    assert set(own) < set(both)
    assert "6 records of test share an image with fine-tuning" in both
    assert not any("a patient with fine-tuning" in line for line in both)
    assert both[-1] == (
        "patients, studies and file names of the records of fine-tuning cannot be compared, because they were hashed with "
        "a site key that is not the one here; only images were compared, so overlap cannot be ruled out"
    )
    fingerprint(records, images=False).keyed(foreign).save(tmp_path / "names" / "training.npz")
    (nothing,) = overlaps(tmp_path / "names", records, "test")
    assert "their images are unknown, too, so that nothing was compared" in nothing


def test_a_model_whose_fingerprints_are_of_another_version_is_tested_and_that_is_said(phantoms, tmp_path):
    records = Records.load(phantoms / "records.csv")[:6]
    prints = fingerprint(records, images=False)
    prints.save(tmp_path / "fine-tuning.npz")
    of_today = overlaps(tmp_path, records, "test")
    replace(prints, version=2).save(tmp_path / "pre-training.npz")
    file = tmp_path / "pre-training.npz"
    said = f"{file}: fingerprints of another version of mrm, so overlap with these records cannot be ruled out"
    assert overlaps(tmp_path, records, "test") == [said, *of_today]
    assert any("share a patient with fine-tuning" in line for line in of_today)


def test_an_uncalibrated_model_shows_its_calibration_and_no_operating_point(phantoms, model, tmp_path):
    results = runs.evaluate(model, phantoms / "records.csv", tmp_path, draws=50, reading=runs.Reading(workers=0))
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
    results = runs.evaluate(
        model, phantoms / "records.csv", tmp_path, draws=50, reading=runs.Reading(workers=0), by=("sex", "age")
    )
    by_sex, by_age = results["subgroups"]
    assert {g["name"] for g in by_sex["groups"]} == {"F", "M"}
    assert sum(g["n"] for g in by_age["groups"]) == 48
    text = (tmp_path / "index.html").read_text()
    check_whole(text.replace('href="reliability.png"', 'href="roc.png"'))
    for group in (*by_sex["groups"], *by_age["groups"]):
        assert f'<span class="name">{group["name"]}</span>' in text
    assert "No two groups are large enough to compare" in text


def test_a_column_that_is_not_there_is_named(phantoms, model, tmp_path):
    with pytest.raises(RecordError, match="no column 'scanner' to group by; choose from view, "):
        runs.evaluate(
            model,
            phantoms / "records.csv",
            tmp_path,
            reading=runs.Reading(workers=0),
            by=("scanner",),
        )


def test_a_class_absent_from_the_test_set_is_undefined_everywhere(phantoms, model, tmp_path):
    records = Records.load(phantoms / "records.csv", ("effusion", "cardiomegaly"))
    rows = [replace(r, labels=(r.labels[0], 0.0)) for r in records]
    file = Records(rows, records.classes).to_csv(tmp_path / "test.csv")
    results = runs.evaluate(model, file, tmp_path / "out", draws=50, reading=runs.Reading(workers=0), by=("sex",))
    assert results["classes"]["cardiomegaly"]["auroc"]["value"] is None
    assert results["calibration"]["cardiomegaly"]["brier"]["value"] is None
    json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)
    assert "only negatives" in (tmp_path / "out" / "index.html").read_text()


def test_one_patient_only_gives_numbers_without_intervals(phantoms, model, tmp_path):
    records = Records.load(phantoms / "records.csv", ("effusion", "cardiomegaly"))
    file = Records([replace(r, patient="p") for r in records], records.classes).to_csv(tmp_path / "test.csv")
    results = runs.evaluate(model, file, tmp_path / "out", draws=50, reading=runs.Reading(workers=0), by=("sex",))
    assert results["classes"]["effusion"]["auroc"]["value"] is not None
    assert results["classes"]["effusion"]["auroc"]["low"] is None
    assert "only one patient" in (tmp_path / "out" / "index.html").read_text()


def test_a_whole_page_fits_a_phone(phantoms, model, tmp_path, chromium):
    runs.calibrate(model, phantoms / "records.csv", reading=runs.Reading(workers=0), outliers=False)
    runs.evaluate(
        model, phantoms / "records.csv", tmp_path, draws=50, reading=runs.Reading(workers=0), by=("sex", "age")
    )
    scroll, client = widths(chromium, tmp_path / "index.html", tmp_path)
    assert client > PHONE - 20
    assert scroll <= client
