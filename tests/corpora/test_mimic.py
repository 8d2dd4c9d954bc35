"""MIMIC-CXR-JPG on a made-up tree with the publisher's layout: images, four tables, the archive of reports."""

import gzip
import json
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrm.corpora import prepare
from mrm.corpora.contract import Options
from mrm.corpora.mimic import CLASSES
from mrm.data.records import Records
from mrm.system.errors import RecordError
from tests.support.corpora.mimic import REPORT, write_tree


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "mimic-cxr-jpg")


def rewrite(source: Path, name: str, change) -> None:
    file = source / f"mimic-cxr-2.0.0-{name}.csv.gz"
    file.write_bytes(gzip.compress(change(gzip.decompress(file.read_bytes()).decode()).encode()))


def reasons(corpus) -> dict[str, int]:
    return corpus.facts["excluded"]


def test_the_whole_way(source, tmp_path, capsys):
    before = {p: p.stat().st_mtime_ns for p in source.rglob("*")}
    corpus = prepare("mimic", source, tmp_path / "out")
    assert {name: len(part) for name, part in corpus.splits.items()} == {"train": 4, "val": 1, "test": 1}
    facts = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert facts["found"]["studies"] == 5
    assert facts["found"]["reports"] == 4
    assert facts["found"]["images without report"] == 1
    assert facts["expected"]["train"] == 368_960
    assert facts["complete"] is False
    assert "partial download" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in source.rglob("*")} == before

    training = Records.load(tmp_path / "out" / "training.csv", classes=CLASSES)
    first = training[0]
    assert first.image.is_file()
    assert first.report == REPORT.format(study="50414267").strip()
    assert (first.patient, first.study, first.view) == ("10000032", "50414267", "PA")
    assert first.labels[:3] == (1, 0, -1)
    assert np.isnan(first.labels[3:]).all()
    assert [r.report == "" for r in training] == [False, False, False, True]
    assert np.isnan(training[3].labels).all()
    assert not set(training.patients) & set(corpus.splits["test"].patients)


def test_views_and_sections(source, tmp_path):
    options = Options(views=("PA", "AP"), sections=("findings", "impression"))
    corpus = prepare("mimic", source, tmp_path / "out", options)
    assert reasons(corpus) == {"another view": 2}
    assert "test" not in corpus.splits or len(corpus.splits["test"]) == 0
    expected = 'There is no focal consolidation, "effusion" or pneumothorax in study 50414267. No acute process.'
    assert corpus.records[0].report == expected


def test_reports_unpacked_beside_the_images_or_apart_are_the_same(source, tmp_path):
    wanted = [r.report for r in prepare("mimic", source, tmp_path / "a").records]
    with zipfile.ZipFile(source / "mimic-cxr-reports.zip") as archive:
        archive.extractall(tmp_path / "elsewhere")
        archive.extractall(source)
    (source / "mimic-cxr-reports.zip").rename(tmp_path / "mimic-cxr-reports.zip")
    assert [r.report for r in prepare("mimic", source, tmp_path / "b").records] == wanted
    for name, place in (("c", tmp_path / "elsewhere"), ("d", tmp_path / "mimic-cxr-reports.zip")):
        corpus = prepare("mimic", source, tmp_path / name, Options(reports=place))
        assert [r.report for r in corpus.records] == wanted


def test_a_partial_download_without_reports_and_labels(source, tmp_path):
    (source / "mimic-cxr-reports.zip").unlink()
    (source / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    next(source.rglob("2a2277a9.jpg")).unlink()
    corpus = prepare("mimic", source, tmp_path / "out")
    assert reasons(corpus) == {"image absent": 1}
    assert corpus.facts["found"]["images without report"] == 5
    notes = " ".join(corpus.facts["notes"])
    assert "mimic-cxr-reports.zip" in notes
    assert "no labels" in notes


def test_exclusions_are_counted_by_reason(source, tmp_path):
    rewrite(source, "split", lambda t: t.replace("c3f4ab7e,51967845,11000183,test", "x,1,2,test"))
    rewrite(
        source, "metadata", lambda t: t + "\n" + t.splitlines()[1] + "\n" + t.splitlines()[3].replace(",PA,", ",AP,")
    )
    extra = source / "files/p10/p10000032/s50414267/unlisted.jpg"
    cv2.imwrite(str(extra), np.zeros((9, 9), np.uint8))
    next(source.rglob("7ba273af.jpg")).write_bytes(b"\xff\xd8\xff\xe0 cut")
    corpus = prepare("mimic", source, tmp_path / "out")
    assert reasons(corpus) == {
        **{"image without split": 1, "duplicate row": 1, "rows contradict each other": 1},
        **{"image without label": 2, "unreadable image": 1},
    }


def test_a_damaged_report_is_counted_and_its_image_kept(source, tmp_path):
    archive = source / "mimic-cxr-reports.zip"
    raw = bytearray(archive.read_bytes())
    raw[80:90] = bytes(10)  # inside the first report
    archive.write_bytes(raw)
    corpus = prepare("mimic", source, tmp_path / "out")
    assert reasons(corpus) == {"report unreadable": 1}
    assert corpus.records[0].report == ""
    assert len(corpus.records) == 6


@pytest.mark.parametrize("damage", ["cut short", "of a later version"])
def test_an_archive_cut_short_or_of_a_later_version_is_named(source, tmp_path, damage):
    archive = source / "mimic-cxr-reports.zip"
    raw = bytearray(archive.read_bytes())
    if damage == "cut short":
        raw = raw[:300]
    else:  # the version that is needed to unpack the first file of the directory (APPNOTE 4.3.12)
        raw[raw.index(b"PK\x01\x02") + 6] = 255
    archive.write_bytes(raw)
    with pytest.raises(RecordError, match=r"mimic-cxr-reports\.zip: not a complete ZIP archive"):
        prepare("mimic", source, tmp_path / "out")
    assert not (tmp_path / "out" / "corpus.json").exists()


def test_reports_that_are_not_utf8_are_told(source, tmp_path):
    with zipfile.ZipFile(source / "mimic-cxr-reports.zip", "w") as archive:
        archive.writestr("files/p10/p10000032/s50414267.txt", b"IMPRESSION: caf\xe9.")
    with pytest.warns(UserWarning, match="1 reports have bytes that are not UTF-8"):
        corpus = prepare("mimic", source, tmp_path / "out")
    assert corpus.records[0].report == "IMPRESSION: caf\ufffd."


@pytest.mark.parametrize(("local", "central", "value"), [(6, 8, 1), (8, 10, 99)])  # encrypted; another packing
def test_an_archive_that_cannot_be_opened_is_named(source, tmp_path, local, central, value):
    archive = source / "mimic-cxr-reports.zip"
    content = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = -1
        while (at := content.find(mark, at + 1)) >= 0:
            content[at + offset] = value
    archive.write_bytes(content)
    with pytest.raises(RecordError, match=r"mimic-cxr-reports.zip: none of its reports can be read"):
        prepare("mimic", source, tmp_path / "out")


def test_rows_that_contradict_each_other_decide_nothing(source, tmp_path):
    rewrite(source, "split", lambda text: f"{text}\n096052b7,57375967,10000764,train")
    rewrite(source, "chexpert", lambda text: f"{text}\n10000032,50414267,0.0,0.0,-1.0" + "," * 11)
    corpus = prepare("mimic", source, tmp_path / "out")
    assert reasons(corpus) == {"rows contradict each other": 2, "image without split": 1}
    assert not corpus.splits.get("val")
    assert all(v != v for r in corpus.records if r.study == "50414267" for v in r.labels)


def test_without_images_that_is_what_is_said(source, tmp_path):
    shutil.rmtree(source / "files")
    with pytest.raises(RecordError, match="Unpack the images"):
        prepare("mimic", source, tmp_path / "out")


def test_an_archive_of_other_reports_is_refused(source, tmp_path):
    with zipfile.ZipFile(source / "mimic-cxr-reports.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(RecordError, match="has no reports of these studies"):
        prepare("mimic", source, tmp_path / "out")


def test_an_archive_that_is_not_there_is_named(source, tmp_path):
    with pytest.raises(RecordError, match="no such archive or folder of reports"):
        prepare("mimic", source, tmp_path / "out", Options(reports=tmp_path / "reports.zip"))


def test_a_path_that_leads_out_is_refused(source, tmp_path):
    rewrite(source, "metadata", lambda t: t.replace("2a2277a9,", "../../../../../secret,"))
    with pytest.raises(RecordError, match="leads out of the source folder"):
        prepare("mimic", source, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("metadata", lambda t: t.replace("ViewPosition", "View"), "no column ViewPosition"),
        ("split", lambda t: t.replace("dicom_id", "id"), "no column dicom_id"),
        ("chexpert", lambda t: t.replace("Edema", "Oedema"), "no column Edema"),
        ("chexpert", lambda t: t.replace("1.0", "maybe"), "label is 1.0, 0.0, -1.0 or empty"),
    ],
)
def test_a_table_of_another_kind_is_named(source, tmp_path, name, change, message):
    rewrite(source, name, change)
    with pytest.raises(RecordError, match=message):
        prepare("mimic", source, tmp_path / "out")


def test_a_missing_table_is_named(source, tmp_path):
    (source / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    with pytest.raises(RecordError, match=r"no mimic-cxr-2\.0\.0-split\.csv"):
        prepare("mimic", source, tmp_path / "out")


# The test set labelled by a radiologist -----------------------------------------------------------------------

HAND_LABELLED = "mimic-cxr-2.1.0-test-set-labeled.csv"


def write_hand_labels(source: Path, *rows: str, opacity: str = "Airspace Opacity") -> None:
    columns = sorted(opacity if c == "Lung Opacity" else c for c in CLASSES)
    (source / HAND_LABELLED).write_text("\n".join([",".join(["study_id", *columns]), *rows]) + "\n")


def test_labels_of_a_radiologist_are_a_set_of_their_own(source, tmp_path):
    write_hand_labels(source, "51967845,1.0,,,,,,,0.0,,,,,-1.0,", "59999999,1.0,,,,,,,,,,,,,")
    corpus = prepare("mimic", source, tmp_path / "out")
    (record,) = Records.load(tmp_path / "out/test_labeled.csv", CLASSES)
    assert record.study == "51967845"
    stated = {c: v for c, v in zip(CLASSES, record.labels, strict=True) if v == v}
    assert stated == {"Lung Opacity": 1.0, "Lung Lesion": 0.0, "Pneumothorax": -1.0}
    assert {name: len(part) for name, part in corpus.splits.items()} == {
        "train": 4,
        "val": 1,
        "test": 1,
        "test_labeled": 1,
    }
    assert HAND_LABELLED in {i["file"] for i in corpus.facts["inputs"]}


@pytest.mark.parametrize(
    ("row", "opacity", "message"),
    [
        ("51967845,1.0,,,,,,,0.0,,,,,-1.0,", "Lung Opacity", "no column Airspace Opacity"),
        (
            "51967845,yes,,,,,,,0.0,,,,,-1.0,",
            "Airspace Opacity",
            f"{HAND_LABELLED}, line 2: .*yes.*; a label is 1.0, 0.0",
        ),
        ("51967845,1.0", "Airspace Opacity", "line 2 has 2 fields"),
    ],
)
def test_a_damaged_table_of_a_radiologist_is_refused(source, tmp_path, row, opacity, message):
    write_hand_labels(source, row, opacity=opacity)
    with pytest.raises(RecordError, match=message):
        prepare("mimic", source, tmp_path / "out")
