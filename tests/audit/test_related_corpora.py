"""Corpora that took their images from another, told by the names of their files."""

import pytest

from mrm.audit.overlaps import AuditReport, audit
from mrm.audit.related_corpora import corpora_of, related
from mrm.data.records import Record, Records

NIH = ["images_001/images/00000001_000.png", "00030805_012.png"]
RSNA = [
    "stage_2_train_images/0004cfab-14fd-4e49-80ba-63a80b6bddd6.dcm",
    "stage_2_test_images/000E3A7D-c0ca-4349-bb26-5af2d8993c3d.dcm",
]
SIIM = [
    "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm",
    "a/1.2.276.0.7230010.3.1.4.8323329.13666.1517875247.117800",
]
RANZCR = ["train/1.2.826.0.1.3680043.8.498.26697628953273228189375557799582420561.jpg"]
CHESTX_DET = ["ChestX-Det/train_data/36199.png", "test_data/37001.png"]
OTHERS = [
    "train/00001.png",
    "p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg",
    "scan.png",
    "36199.png",
]


@pytest.mark.parametrize(
    ("corpus", "names"), [("nih", NIH), ("rsna", RSNA), ("siim", SIIM), ("ranzcr", RANZCR), ("chestx-det", CHESTX_DET)]
)
def test_the_names_of_a_corpus_tell_of_it(corpus, names):
    assert corpora_of(names) == {corpus: len(names)}


def test_other_names_tell_of_no_corpus_of_the_family_and_a_few_among_many_do_not_count():
    assert set(corpora_of(OTHERS)) <= {"mimic"}
    assert corpora_of([*["scan.png"] * 60, *RSNA]) == {}


def test_two_sets_of_one_family_are_named_and_others_are_not():
    notes = related({"train": RSNA, "test": NIH, "other": OTHERS})
    assert len(notes) == 1
    assert notes[0].startswith(
        "train has images named as in RSNA Pneumonia (2 of 2), test has images named as in NIH ChestX-ray14 (2 of 2); the images of "
        "RSNA Pneumonia come from NIH ChestX-ray14"
    )
    assert len(related({"a": SIIM, "b": RSNA})) == 1  # both from NIH
    assert related({"a": NIH, "b": NIH[:1]}) == []
    assert related({"a": OTHERS, "b": OTHERS}) == []


def test_the_audit_says_so_and_keeps_it_in_its_file(tmp_path):
    sets = {
        name: Records([Record(tmp_path / file, name=file) for file in files])
        for name, files in (("train", RSNA), ("test", NIH))
    }
    report = audit(sets, images=False)
    assert "note: train has images named as in RSNA Pneumonia" in report.table()
    assert AuditReport.from_json(report.to_json()).related == report.related != ()
    assert report.clean  # by names nothing overlaps
