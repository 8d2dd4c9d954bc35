"""Commands on images in an archive: a real Orthanc where there is one, and a server that fails where Orthanc does not."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pydicom
import pytest

from mrm import cli, runs
from mrm.data import archive
from mrm.inference.studies import LOOKS_FRONTAL
from mrm.models import model_folder
from mrm.runs import predicting
from mrm.system.errors import ArchiveError, LostArchiveError, RunError
from tests.support import archives
from tests.support.archives import Served, running_orthanc, send, serving, use_account
from tests.support.dicom_files import dicom_bytes
from tests.support.dicom_tools import faults, shown
from tests.support.models import classifier_of, segmenter_of
from tests.support.predictions import IN_PROCESS, Stopped, predicted_rows, stop_after
from tests.support.run_files import table
from tests.support.views import chest, write_view_classifier
from tests.support.waiting import until

pytest.importorskip("dicomweb_client")
pytest.importorskip("highdicom")

CLASSES = ("effusion", "nodule")
ONE_BY_ONE = runs.Reading(batch=1, workers=0)
NAMED = {"PatientName": "Müller^J", "SpecificCharacterSet": "ISO_IR 100", "ViewPosition": "PA"}
radiograph = partial(archives.radiograph, **NAMED)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_folder.save(tmp_path_factory.mktemp("model") / "classifier", classifier_of(CLASSES))


@pytest.fixture(autouse=True)
def account(monkeypatch):
    """The account of the tests' archives, no pauses between attempts, and a short patience."""
    use_account(monkeypatch)
    monkeypatch.setattr(archive, "BACKOFF", 0.0)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture
def filled(orthanc):
    """Six radiographs of three studies, one of them lateral, and an object that is none."""
    orthanc.add(*(radiograph(n, n // 2, ViewPosition="LL" if n == 3 else "PA") for n in range(6)))
    yield orthanc
    for name in orthanc.ask("GET", "/studies").json():
        orthanc.ask("DELETE", f"/studies/{name}")


@pytest.fixture
def served():
    content = Served()
    for number in range(4):
        content.add(radiograph(number, number))
    with serving(content):
        yield content


def test_predictions_of_an_archive_are_those_of_the_files_and_its_reports_are_stored_once(
    model, filled, tmp_path, capsys
):
    address = f"{filled.address}?StudyDate=20240101-20240131&ViewPosition=PA"
    for _ in range(2):
        cli.main(["predict", str(model), address, "--out", str(tmp_path / "a.csv"), "--workers", "1", "--store"])
        assert len(filled.instances("SR")) == 5
    for number in (0, 1, 2, 4, 5):
        (tmp_path / f"{number}.dcm").write_bytes(radiograph(number, number // 2))
    expected = predicted_rows(model, sorted(tmp_path.glob("*.dcm")), tmp_path / "b.csv")
    rows = {row["path"][-1]: row for row in table(tmp_path / "a.csv")}
    assert sorted(rows) == ["0", "1", "2", "4", "5"]
    for row in expected:
        there = rows[row["path"][-5]]
        assert [there[name] for name in ("patient_id", "study_id", "date")] == [
            row[name] for name in ("patient_id", "study_id", "date")
        ]
        assert [float(there[name]) for name in CLASSES] == pytest.approx(
            [float(row[name]) for name in CLASSES], abs=1e-6
        )
    for tags in filled.instances("SR"):
        (tmp_path / "x.sr.dcm").write_bytes(filled.file(tags["orthanc"]))
        assert faults(tmp_path / "x.sr.dcm") == []
        report = pydicom.dcmread(tmp_path / "x.sr.dcm")
        evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
        number = str(evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)[-1]
        assert f"{round(100 * float(rows[number]['effusion']), 4)} %" in shown(tmp_path / "x.sr.dcm")
        assert (tags["PatientID"], tags["StudyInstanceUID"]) == (f"p{int(number) // 2}", f"1.2.{int(number) // 2}")


def test_images_of_an_archive_that_state_no_view_are_guessed(model, tmp_path):
    content, views = Served(), write_view_classifier(tmp_path / "views.json")
    looks_lateral, states = (True, True, False), ("", "PA", "")
    for number, (lateral, view) in enumerate(zip(looks_lateral, states, strict=True)):
        image_HW = chest(np.random.default_rng([3, number]), lateral)
        uids = {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.1", "SOPInstanceUID": f"1.2.1.1.{number}"}
        content.add(dicom_bytes(image_HW, **uids, PatientID="p1", StudyDate="20240102", ViewPosition=view))
    reading = replace(ONE_BY_ONE, views="frontal", view_classifier=views)
    with serving(content), pytest.warns(UserWarning, match="2 of 3 images state no view"):
        runs.predict(model, [content.address], tmp_path / "a.csv", reading)
    rows = sorted(table(tmp_path / "a.csv"), key=lambda row: row["path"])
    assert "taken for a lateral image by --view-classifier" in rows[0]["error"]
    assert [row["error"] for row in rows[1:]] == ["", ""]
    assert [row["warning"] for row in rows[1:]] == ["", LOOKS_FRONTAL]


def test_by_study_one_report_is_stored_for_each_study(model, filled, tmp_path):
    reading = runs.Reading(workers=0, by_study="mean", views="frontal")
    runs.predict(model, [filled.address], tmp_path / "a.csv", reading, store=True)
    assert [row["images"] for row in sorted(table(tmp_path / "a.csv"), key=lambda row: row["study_id"])] == [
        "2",
        "1",
        "2",
    ]
    assert sorted(tags["StudyInstanceUID"] for tags in filled.instances("SR")) == ["1.2.0", "1.2.1", "1.2.2"]


def test_an_archive_that_is_killed_in_the_middle_costs_nothing_but_the_time(model, filled, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            predicting.predict_table(model, [filled.address], tmp_path / "a.csv", ONE_BY_ONE, store=True)
    kept = {tags["SOPInstanceUID"] for tags in filled.instances("SR")}
    assert len(kept) == 3, "the third was stored, and its row was lost"
    filled.kill()
    with pytest.raises(LostArchiveError, match="cannot be reached; what is done is kept"):
        predicting.predict_table(model, [filled.address], tmp_path / "a.csv", ONE_BY_ONE, store=True)
    filled.start()
    predicting.predict_table(model, [filled.address], tmp_path / "a.csv", ONE_BY_ONE, store=True)
    assert len({row["path"] for row in table(tmp_path / "a.csv")}) == len(table(tmp_path / "a.csv")) == 6
    stored = [tags["SOPInstanceUID"] for tags in filled.instances("SR")]
    assert len(stored) == len(set(stored)) == 6
    assert kept <= set(stored)


@pytest.mark.slow
def test_a_command_that_is_killed_in_the_middle_stores_the_rest_alone(model, filled, tmp_path):
    filled.add(*(radiograph(n, n) for n in range(10, 22)))
    words = ["predict", str(model), filled.address, "--out", str(tmp_path / "a.csv"), "--store"]
    command = [sys.executable, "-m", "mrm", *words, "--workers", "0", "--batch", "1"]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until(lambda: len(filled.instances("SR")) >= 3, 120, running)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    kept = {tags["SOPInstanceUID"] for tags in filled.instances("SR")}
    assert 3 <= len(kept) < 18
    predicting.predict_table(model, [filled.address], tmp_path / "a.csv", ONE_BY_ONE, store=True)
    assert len({row["path"] for row in table(tmp_path / "a.csv")}) == len(table(tmp_path / "a.csv")) == 18
    stored = [tags["SOPInstanceUID"] for tags in filled.instances("SR")]
    assert len(stored) == len(set(stored)) == 18
    assert kept <= set(stored)


def test_a_study_that_is_deleted_meanwhile_is_named_and_not_made_anew(model, filled, tmp_path, monkeypatch):
    """Once between the search and the reading, once between the reading and the report."""
    real, numbers = archive.Archive.read, iter(range(9))

    def read(self, place):
        number = next(numbers)
        if number == 0:
            filled.delete_study("1.2.1")
        content = real(self, place)
        if place.study == "1.2.2":
            filled.delete_study("1.2.2") if place.instance == "1.2.2.1.4" else None
        return content

    monkeypatch.setattr(archive.Archive, "read", read)
    with pytest.warns(UserWarning, match="it was deleted"):
        predicting.predict_table(model, [filled.address], tmp_path / "a.csv", ONE_BY_ONE, store=True)
    rows = {row["study_id"]: row for row in table(tmp_path / "a.csv")}
    assert rows["1.2.0"]["error"] == rows["1.2.0"]["warning"] == ""
    assert "is not in the archive (404); it was deleted" in rows["1.2.1"]["error"]
    assert {tags["StudyInstanceUID"] for tags in filled.instances("SR")} == {"1.2.0"}
    assert filled.ask("GET", "/studies").json().__len__() == 1, "a report does not bring a study back"


def test_outlines_and_heat_maps_are_stored_too(model, filled, tmp_path):
    segmenter = model_folder.save(tmp_path / "segmenter", segmenter_of(("lung",)))
    address = f"{filled.address}/studies/1.2.0/series/1.2.0.1/instances/1.2.0.1.0"
    for _ in range(2):
        runs.predict(segmenter, [address], tmp_path / "masks", IN_PROCESS, store=True)
        runs.explain(model, [address], tmp_path / "maps", ["nodule"], method="rollout", workers=0, store=True)
    (outline,), (capture,) = filled.instances("SEG"), filled.instances("OT")
    assert outline["StudyInstanceUID"] == capture["StudyInstanceUID"] == "1.2.0"
    assert (tmp_path / "masks" / "1.2.0.1.0.seg.dcm").exists()
    assert not list((tmp_path / "maps").glob("*.dcm"))
    (tmp_path / "seg.dcm").write_bytes(filled.file(outline["orthanc"]))
    assert faults(tmp_path / "seg.dcm") == []


def test_results_of_files_have_no_archive_to_be_stored_in(model, tmp_path):
    (tmp_path / "a.dcm").write_bytes(radiograph(1, 1))
    with pytest.raises(RunError, match=r"a\.dcm: comes from no archive, so there is nowhere to store results"):
        runs.predict(model, [tmp_path / "a.dcm"], tmp_path / "a.csv", IN_PROCESS, store=True)


def test_an_image_that_the_archive_does_not_give_is_tried_again_by_the_same_command_alone(model, served, tmp_path):
    served.instead = lambda handler, path: path.endswith("/1.2.2.1.2") and (send(handler, 500, b"oops") or True)
    with pytest.raises(SystemExit, match="3"), pytest.warns(UserWarning, match="the archive answered 500"):
        cli.main(["predict", str(model), served.address, "--out", str(tmp_path / "a.csv"), "--workers", "0"])
    rows = table(tmp_path / "a.csv")
    assert [bool(row["error"]) for row in rows] == [False, False, True, False]
    served.instead, served.asked = None, []
    assert all(not row["error"] for row in predicted_rows(model, [served.address], tmp_path / "a.csv"))
    read = [path for path in served.asked if re.search(r"instances/[\d.]+$", path)]
    assert len(read) == 1


def test_an_object_that_is_no_image_is_a_row_with_the_reason(model, served, tmp_path):
    served.add(radiograph(7, 7, Rows=None, Columns=None))
    with pytest.warns(UserWarning, match="this DICOM has no image"):
        rows = predicted_rows(model, [served.address], tmp_path / "a.csv")
    assert "choose the image objects" in rows[4]["error"]
    assert all(float(row["nodule"]) > 0 for row in rows[:4])


def test_credentials_that_expire_in_the_middle_stop_the_command_which_resumes(model, served, tmp_path):
    served.instead = lambda handler, path: path.endswith("/1.2.2.1.2") and (send(handler, 401, b"no") or True)
    with pytest.raises(ArchiveError, match="refuses the credentials"):
        predicting.predict_table(model, [served.address], tmp_path / "a.csv", ONE_BY_ONE)
    assert not (tmp_path / "a.csv").exists()
    served.instead, served.asked = None, []
    predicting.predict_table(model, [served.address], tmp_path / "a.csv", ONE_BY_ONE)
    assert [bool(row["error"]) for row in table(tmp_path / "a.csv")] == [False] * 4
    assert sum(path.endswith("/1.2.0.1.0") for path in served.asked) == 0


def test_a_report_whose_header_is_out_of_reach_is_made_by_the_next_run(model, served, tmp_path):
    served.instead = lambda handler, path: "1.2.2.1.2/metadata" in path and (send(handler, 500, b"oops") or True)
    with pytest.warns(UserWarning, match="the archive answered 500"):
        written = predicting.predict_table(model, [served.address], tmp_path / "a.csv", ONE_BY_ONE, store=True)
    assert (written.unreadable, written.again, len(served.stored)) == (1, 1, 3)
    served.instead = None
    predicting.predict_table(model, [served.address], tmp_path / "a.csv", ONE_BY_ONE, store=True)
    assert len(served.stored) == 4


def test_an_archive_that_takes_no_results_stops_the_command_before_the_row_counts(model, served, tmp_path):
    served.instead = lambda handler, path: handler.command == "POST" and (send(handler, 500, b"oops") or True)
    with pytest.raises(LostArchiveError, match="what is done is kept"):
        predicting.predict_table(model, [served.address], tmp_path / "a.csv", ONE_BY_ONE, store=True)
    served.instead = None
    predicting.predict_table(model, [served.address], tmp_path / "a.csv", ONE_BY_ONE, store=True)
    assert len(served.stored) == 4


def test_an_address_is_refused_before_anything_heavy_is_loaded(model, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["predict", str(model), "dicomweb://user:secret@host/x", "--out", str(tmp_path / "a.csv")])
    said = capsys.readouterr().err
    assert "must not contain a password" in said
    assert "secret" not in said
