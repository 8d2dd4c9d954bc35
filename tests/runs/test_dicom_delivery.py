"""DICOM objects of the commands: reports of `predict`, captures of `explain`; one for each image or study, made once."""

import numpy as np
import pydicom
import pytest

from mrm import cli, runs
from mrm.data import images
from mrm.models import model_folder
from mrm.runs import predicting
from mrm.system.errors import OutputError, RunError
from tests.support.dicom_files import dicom_bytes
from tests.support.dicom_tools import faults, output_of
from tests.support.image_files import random_image
from tests.support.models import classifier_of, segmenter_of
from tests.support.predictions import IN_PROCESS, Stopped, predicted_rows, stop_after
from tests.support.run_files import table

hd = pytest.importorskip("highdicom")


CLASSES = ("effusion", "nodule")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_folder.save(tmp_path_factory.mktemp("model") / "classifier", classifier_of(CLASSES))


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    """Three studies of one patient: of two images, of a frontal and a lateral one, of one; and an image that is not DICOM."""
    folder = tmp_path_factory.mktemp("radiographs")
    for name, study, view in (("a", 1, "PA"), ("b", 1, "PA"), ("c", 2, "AP"), ("d", 2, "LL"), ("e", 3, "PA")):
        tags = {"PatientID": "p1", "StudyInstanceUID": f"1.2.{study}", "SeriesInstanceUID": f"1.2.{study}.1"}
        pixels = random_image(ord(name), 40, 32)
        uid = f"1.2.{study}.1.{ord(name)}"
        (folder / f"{name}.dcm").write_bytes(dicom_bytes(pixels, SOPInstanceUID=uid, ViewPosition=view, **tags))
    (folder / "f.png").write_bytes(images.encode_png(random_image(9, 40, 32)))
    return folder


def certainties(file) -> list[float]:
    """The percentages of a report, read back by highdicom."""
    groups = hd.sr.srread(file).content.get_image_measurement_groups()
    return [group.get_measurements()[0].value for group in groups]


def sources(file) -> list[str]:
    made = hd.sr.srread(file)
    evidence = made.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    return sorted(item.ReferencedSOPInstanceUID for series in evidence for item in series.ReferencedSOPSequence)


def test_each_dicom_image_gets_a_report_of_what_the_table_says(model, radiographs, tmp_path, capsys):
    with pytest.warns(UserWarning, match=r"f\.png: not DICOM, so no DICOM report can refer to it"):
        cli.main(["predict", str(model), str(radiographs), "--out", str(tmp_path / "p.csv"), "--workers", "0",
                  "--dicom-sr", str(tmp_path / "sr")])  # fmt: skip
    rows = table(tmp_path / "p.csv")
    assert sorted(p.name for p in (tmp_path / "sr").glob("*.dcm")) == [f"{name}.sr.dcm" for name in "abcde"]
    for row, name in zip(rows, "abcde", strict=False):
        expected = [100 * float(row[finding]) for finding in CLASSES]
        assert certainties(tmp_path / "sr" / f"{name}.sr.dcm") == pytest.approx(expected, abs=1e-3)
        assert sources(tmp_path / "sr" / f"{name}.sr.dcm")[0].endswith(str(ord(name)))
        assert row["warning"] == ""
    assert "not DICOM" in rows[5]["warning"]
    assert float(rows[5][CLASSES[0]]) > 0
    assert faults(tmp_path / "sr" / "a.sr.dcm") == []


def test_by_study_there_is_one_report_of_the_images_that_were_used(model, radiographs, tmp_path):
    reading = runs.Reading(workers=0, by_study="mean", views="frontal")
    paths = sorted(radiographs.glob("*.dcm"))
    runs.predict(model, paths, tmp_path / "p.csv", reading, dicom_sr=tmp_path / "sr")
    assert sorted(p.name for p in (tmp_path / "sr").glob("*.dcm")) == ["a.sr.dcm", "c.sr.dcm", "e.sr.dcm"]
    assert sources(tmp_path / "sr" / "a.sr.dcm") == ["1.2.1.1.97", "1.2.1.1.98"]
    assert sources(tmp_path / "sr" / "c.sr.dcm") == ["1.2.2.1.99"], "without the lateral image"
    row = table(tmp_path / "p.csv")[0]
    expected = [100 * float(row[name]) for name in CLASSES]
    assert certainties(tmp_path / "sr" / "a.sr.dcm") == pytest.approx(expected, abs=1e-3)
    assert "pooled by study: mean" in output_of("dsr2html", tmp_path / "sr" / "a.sr.dcm")


def test_a_lateral_image_that_is_left_out_has_no_report(model, radiographs, tmp_path):
    reading = runs.Reading(workers=0, views="frontal")
    runs.predict(model, sorted(radiographs.glob("*.dcm")), tmp_path / "p.csv", reading, dicom_sr=tmp_path / "sr")
    assert not (tmp_path / "sr" / "d.sr.dcm").exists()
    assert (tmp_path / "sr" / "c.sr.dcm").exists()


def test_a_stopped_command_writes_the_missing_reports_alone(model, radiographs, tmp_path, monkeypatch):
    paths = sorted(radiographs.glob("*.dcm"))
    one_by_one = runs.Reading(batch=1, workers=0)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            predicting.predict_table(model, paths, tmp_path / "p.csv", one_by_one, tmp_path / "sr")
    before = {p.name: p.read_bytes() for p in (tmp_path / "sr").glob("*.dcm")}
    assert sorted(before) == ["a.sr.dcm", "b.sr.dcm", "c.sr.dcm"], "the third was written, its row was not"
    with pytest.raises(OutputError, match="dicom_sr"):
        predicted_rows(model, paths, tmp_path / "p.csv")
    predicting.predict_table(model, paths, tmp_path / "p.csv", one_by_one, tmp_path / "sr")
    after = {p.name: p.read_bytes() for p in (tmp_path / "sr").glob("*.dcm")}
    assert sorted(after) == [f"{name}.sr.dcm" for name in "abcde"]
    assert all(after[name] == before[name] for name in ("a.sr.dcm", "b.sr.dcm"))
    uid = pydicom.dcmread(tmp_path / "sr" / "c.sr.dcm").SOPInstanceUID
    (tmp_path / "before.dcm").write_bytes(before["c.sr.dcm"])
    assert pydicom.dcmread(tmp_path / "before.dcm").SOPInstanceUID == uid, "made twice, it is the same object"


def test_a_dicom_image_without_a_study_keeps_its_row_and_says_why_there_is_no_report(model, tmp_path):
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(random_image(1, 40, 32)))
    with pytest.warns(UserWarning, match="no DICOM report can refer to it"):
        predicting.predict_table(model, [tmp_path / "a.dcm"], tmp_path / "p.csv", IN_PROCESS, tmp_path / "sr")
    (row,) = table(tmp_path / "p.csv")
    assert "because it has no SeriesInstanceUID" in row["warning"]
    assert row["error"] == ""


def test_a_folder_for_reports_that_is_a_file_is_refused(model, radiographs, tmp_path):
    (tmp_path / "sr").write_text("mine")
    with pytest.raises(OutputError, match="is a file, but a folder is needed"):
        predicting.predict_table(model, [radiographs], tmp_path / "p.csv", IN_PROCESS, tmp_path / "sr")
    assert (tmp_path / "sr").read_text() == "mine"


def test_heat_maps_become_captures_of_the_same_pixels(model, radiographs, tmp_path):
    with pytest.warns(UserWarning, match=r"f\.png: not DICOM"):
        runs.explain(
            model,
            [radiographs / "a.dcm", radiographs / "f.png"],
            tmp_path,
            ["nodule"],
            method="rollout",
            workers=0,
            dicom=True,
        )
    (file,) = tmp_path.glob("*.dcm")
    assert file.name == "a.nodule.dcm"
    made = pydicom.dcmread(file)
    overlay = tmp_path / "a.nodule.png"
    strip = made.Rows - images.read(overlay).shape[0]
    grey_HW = np.rint(made.pixel_array[strip:] @ [0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey_HW, images.read(overlay), atol=1.01)
    assert made.StudyInstanceUID == "1.2.1"
    assert (tmp_path / "f.nodule.png").exists()
    assert faults(file) == []


@pytest.fixture(scope="module")
def two_people(tmp_path_factory):
    """Radiographs of a pseudonym, 1.dcm, and of a name, 2.dcm."""
    folder = tmp_path_factory.mktemp("people")
    for number, name in enumerate(("P-0012", "Meyer^Anna"), 1):
        tags = {"PatientName": name, "StudyInstanceUID": f"1.2.{number}", "SeriesInstanceUID": f"1.2.{number}.1"}
        content = dicom_bytes(random_image(number, 40, 32), SOPInstanceUID=f"1.2.{number}.1.1", **tags)
        (folder / f"{number}.dcm").write_bytes(content)
    return folder


def test_deidentified_objects_are_made_of_images_that_name_nobody(model, two_people, tmp_path):
    folder = two_people
    with pytest.warns(UserWarning, match="PatientName looks like a name"):
        runs.predict(model, [folder], tmp_path / "p.csv", IN_PROCESS, dicom_sr=tmp_path / "sr", deidentified=True)
    first, second = table(tmp_path / "p.csv")
    assert sorted(file.name for file in (tmp_path / "sr").iterdir()) == ["1.sr.dcm"]
    assert "PatientName looks like a name" in second["warning"]
    assert "Meyer" not in (tmp_path / "p.csv").read_text()
    assert first["warning"] == ""
    assert second["effusion"] != ""
    with pytest.warns(UserWarning, match=r"2\.dcm: may name a person: PatientName looks like a name; only PNG"):
        runs.explain(model, [folder], tmp_path / "maps", workers=0, dicom=True, deidentified=True, method="rollout")
    assert {file.name[0] for file in (tmp_path / "maps").glob("*.dcm")} == {"1"}


def test_deidentified_outlines_are_of_images_that_name_nobody_and_each_is_opened_once(
    two_people, tmp_path, monkeypatch
):
    segmenter = model_folder.save(tmp_path / "segmenter", segmenter_of(("pneumothorax",)))
    opened = []
    open_image = images.open_image

    def counted(source):
        if not isinstance(source, images.ImageFile):
            opened.append(source.name)
        return open_image(source)

    monkeypatch.setattr(images, "open_image", counted)
    with pytest.warns(UserWarning, match=r"2\.dcm: may name a person: PatientName looks like a name; only the PNG"):
        runs.outline(segmenter, [two_people], tmp_path / "masks", deidentified=True)
    assert sorted(file.name for file in (tmp_path / "masks").glob("*.dcm")) == ["1.seg.dcm"]
    assert sorted(opened) == ["1.dcm", "2.dcm"]


def test_deidentified_without_an_object_is_refused(model, radiographs, tmp_path):
    with pytest.raises(RunError, match="--deidentified is about DICOM objects, and none is asked for"):
        runs.predict(model, [radiographs], tmp_path / "p.csv", IN_PROCESS, deidentified=True)
