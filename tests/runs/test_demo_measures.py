"""What the demo measures: words, searches and curves, on cases that can be counted by hand."""

import numpy as np
import pytest

from mrm.data import images
from mrm.data.records import Record, Records
from mrm.inference import predict
from mrm.pages.demo import FilledReport, Word
from mrm.runs.demo_measures import filled_reports, next_patient, searched, word_counts
from tests.support.bright_and_dark import TEXTS, bright_or_dark, with_contrast

NO_IMAGE = np.zeros((8, 8), np.uint8)


def test_words_are_counted_by_hand():
    """Two reports: of four masked words three are right with the image and one with the other; the full stop is no word."""
    yes, no = ("effusion", 0.9), ("nodule", 0.3)
    reports = [
        FilledReport(NO_IMAGE, [Word("Effusion", True, yes, no), Word(".", True, no, no), Word("left")]),
        FilledReport(
            NO_IMAGE, [Word("effusion", True, yes, yes), Word("effusion", True, yes, no), Word("large", True, no, no)]
        ),
    ]
    counts = word_counts(reports, ["a", "b"])
    assert counts.reports == 2
    assert (counts.with_image.value, counts.with_image.n) == (0.75, 4)
    assert (counts.with_other.value, counts.with_other.n) == (0.25, 4)
    assert counts.difference.value == 0.5
    assert counts.difference.low <= 0.5 <= counts.difference.high


def test_the_other_image_is_of_another_patient():
    patients = ["a", "a", "b", "c", "c"]
    assert [next_patient(patients, i) for i in range(5)] == [2, 2, 3, 0, 0]
    assert next_patient(["a", "a"], 0) == 0  # there is no other patient


@pytest.fixture(scope="module")
def records():
    rows = [
        Record(images.encode_png(bright_or_dark(i % 2 == 0, 700 + i)), TEXTS[i % 2], patient=str(i), name=str(i))
        for i in range(24)
    ]
    return Records(rows)


def test_a_model_that_sees_fills_in_more_with_the_image_than_with_another(bright_and_dark_model, records):
    counts = word_counts(filled_reports(bright_and_dark_model, records, (), 0), records.patients)
    assert counts.with_image.value > counts.with_other.value
    assert counts.difference.low > 0


def test_a_search_is_right_where_the_report_says_so(bright_and_dark_model, records, monkeypatch):
    """Twelve of the 24 images are bright, so all of the first ten can be right, and chance finds a half."""
    model = with_contrast(bright_and_dark_model)
    monkeypatch.setattr("mrm.runs.demo_measures.QUERIES", {TEXTS[0]: "bright", TEXTS[1]: "dark"})
    found = searched(model, records, predict.features(model, records, workers=0)[0], ())
    assert [(one.right, one.first, one.share) for one in found.searches] == [(10, 10, 0.5), (10, 10, 0.5)]
    assert found.precision.value == 1
    assert found.precision.n == 20
    assert found.chance == 0.5
