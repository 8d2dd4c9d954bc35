"""The demo from end to end, small."""

import re
from dataclasses import replace

import pytest

from mrm.data.records import Records
from mrm.data.sections import select_sections
from mrm.runs import demonstrating
from mrm.runs.demo_measures import QUERIES


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    shallow = {**demonstrating.MODEL.encoder_options, "depth": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demonstrating, "COUNTS", {"test": 60, "labelled": 40, "choosing": 30, "pretrain": 64})
        patch.setattr(demonstrating, "MODEL", replace(demonstrating.MODEL, encoder_options=shallow))
        patch.setattr(demonstrating, "LABELS", (20, 36))
        patch.setattr(demonstrating, "FEW", 36)
        patch.setattr(demonstrating, "STEPS", 4)
        patch.setattr(demonstrating, "TUNING_STEPS", 4)
        folder = tmp_path_factory.mktemp("demo")
        demonstrating.demo(folder)
        return folder


def test_the_page_shows_every_part(out):
    page = (out / "index.html").read_text()
    for words in ("random encoder", "pre-trained encoder", "HOG features", "Processor time", "not for clinical use"):
        assert words in page
    assert "left pleural effusion" in page
    assert "No restored reports" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_no_patient_is_in_two_sets(out):
    sets = [set(Records.load(out / "phantoms" / name / "records.csv").patients) for name in demonstrating.COUNTS]
    assert sum(map(len, sets)) == len(set.union(*sets))


def test_both_encoders_had_the_same_settings_but_for_the_layer_decay(out):
    a, b = ((out / name / "config.yaml").read_text().splitlines() for name in ("finetuned", "scratch"))
    assert {line.split(":")[0].strip() for line in set(a) ^ set(b)} == {"out", "scratch", "layer_decay"}


def test_half_of_each_image_is_hidden_as_the_page_says(out):
    model = demonstrating.MODEL
    assert 2 * model.keep == (model.image_size // model.encoder_options["patch_size"]) ** 2
    assert "Half of each image" in (out / "index.html").read_text()


def test_every_search_means_what_some_report_says(out):
    files = [out / "phantoms" / name / "records.csv" for name in demonstrating.COUNTS]
    reports = [select_sections(r.report, demonstrating.SECTIONS).lower() for file in files for r in Records.load(file)]
    for text, pattern in QUERIES.items():
        assert any(re.search(pattern, report) for report in reports), text
        assert re.search(pattern, text), text
