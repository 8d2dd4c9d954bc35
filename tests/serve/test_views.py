"""Lateral images in the service: refused alone, left out of a study, of a report and of what an archive or a modality sends."""

import io
import json

import numpy as np
import pydicom
import pytest

from mrm import runs
from mrm.data.images import encode_png
from mrm.models import model_folder
from mrm.serve import server, unattended
from mrm.serve.dicom_options import DicomOptions
from mrm.serve.view_options import ViewOptions
from mrm.system.errors import ConfigError
from tests.support.archives import Served, serving, use_account
from tests.support.dicom_files import dicom_bytes
from tests.support.models import classifier_of, mrm_model
from tests.support.service import ask, running
from tests.support.views import chest, write_view_classifier
from tests.support.waiting import until

fastapi_testclient = pytest.importorskip("fastapi.testclient")
CLASSES = ("effusion", "nodule")
LOOKS_LATERAL = "states no view, and the view classifier took it for lateral, which this service leaves out"
LOOKS_FRONTAL = "states no view, and the view classifier took it for frontal"
STATED = "is a lateral view (LL), which this service leaves out"


def image(number: int, lateral: bool) -> np.ndarray:
    return chest(np.random.default_rng([1, number]), lateral)


def dicom(number: int, lateral: bool, study: int = 1, **tags) -> bytes:
    """The DICOM file of image `number` of a study, of patient p1; it states no view unless `tags` say so."""
    uids = {"SOPInstanceUID": f"1.2.{study}.1.{number}", "SeriesInstanceUID": f"1.2.{study}.1"}
    known = {**uids, "StudyInstanceUID": f"1.2.{study}", "PatientID": "p1", "StudyDate": "20240102"}
    return dicom_bytes(image(number, lateral), **(known | tags))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_folder.save(tmp_path_factory.mktemp("model") / "classifier", classifier_of(CLASSES))


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    return write_view_classifier(tmp_path_factory.mktemp("views") / "views.json")


@pytest.fixture(scope="module")
def client(model, views):
    app = server.application(model, views=ViewOptions("frontal", views))
    with fastapi_testclient.TestClient(app, "http://127.0.0.1") as client:
        yield client


def of_study(client, path, *files: bytes):
    return client.post(path, files=[("image", ("a", data)) for data in files])


def probabilities(answer) -> list[float]:
    return [finding["probability"] for finding in answer.json()["findings"]]


def texts(report: pydicom.Dataset) -> str:
    return "\n".join(item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT")


@pytest.mark.parametrize(
    ("data", "view", "reason"),
    [
        (encode_png(image(0, lateral=True)), "lateral (guessed)", LOOKS_LATERAL),
        (dicom(0, lateral=True), "lateral (guessed)", LOOKS_LATERAL),
        (dicom(1, lateral=False, ViewPosition="LL"), "LL", STATED),  # whatever it looks like
    ],
)
def test_a_lateral_image_is_refused_with_what_says_so(client, data, view, reason):
    answer = ask(client, "/predict", data)
    assert (answer.status_code, answer.json()["error"]) == (422, f"the image {reason}")
    preview = ask(client, "/preview", data).json()
    assert (preview["view"], preview["left_out"]) == (view, reason)


@pytest.mark.parametrize(
    ("data", "view", "warnings"),
    [
        (encode_png(image(2, lateral=False)), "frontal (guessed)", [LOOKS_FRONTAL]),
        (dicom(2, lateral=False), "frontal (guessed)", [LOOKS_FRONTAL]),
        (dicom(3, lateral=True, ViewPosition="PA"), "PA", []),  # whatever it looks like
    ],
)
def test_a_frontal_image_is_answered_with_what_its_view_is_known_from(client, data, view, warnings):
    answer = ask(client, "/predict", data).json()
    assert (answer["views"], answer["warnings"], answer["left_out"]) == ([view], warnings, [])
    assert ask(client, "/preview", data).json()["left_out"] == ""


def test_a_study_is_answered_by_its_frontal_images_as_predict_does(client, model, views, tmp_path):
    files = [
        dicom(0, lateral=True),
        dicom(1, lateral=False),
        dicom(2, lateral=False),
        dicom(3, False, ViewPosition="LL"),
    ]
    for number, data in enumerate(files):
        (tmp_path / f"{number}.dcm").write_bytes(data)
    reading = runs.Reading(workers=0, by_study="mean", views="frontal", view_classifier=views)
    with pytest.warns(UserWarning, match="3 of 4 images state no view"):
        runs.predict(model, sorted(tmp_path.glob("*.dcm")), tmp_path / "p.json", reading, dicom_sr=tmp_path / "sr")
    (row,) = json.loads((tmp_path / "p.json").read_text())
    assert [part.rpartition("/")[2] for part in row["left_out"].split("; ")] == [
        "0.dcm (lateral, guessed)",
        "3.dcm (lateral)",
    ]
    assert row["warning"].count(LOOKS_FRONTAL) == 2
    answer = of_study(client, "/predict-study", *files)
    assert probabilities(answer) == pytest.approx([row[name] for name in CLASSES], abs=1e-6)
    content = answer.json()
    assert (content["images"], content["left_out"]) == (2, [1, 4])
    assert content["views"] == ["lateral (guessed)", "frontal (guessed)", "frontal (guessed)", "LL"]
    notes = [LOOKS_LATERAL, LOOKS_FRONTAL, LOOKS_FRONTAL, STATED]
    assert content["warnings"] == [f"image {number}: {note}" for number, note in enumerate(notes, 1)]
    made = pydicom.dcmread(io.BytesIO(of_study(client, "/dicom", *files).content))
    (expected,) = (pydicom.dcmread(file) for file in (tmp_path / "sr").iterdir())
    assert made.SOPInstanceUID == expected.SOPInstanceUID  # of the same two images
    assert f"an image {LOOKS_LATERAL}" in texts(made)


@pytest.mark.parametrize("path", ["/predict-study", "/dicom"])
def test_a_study_of_lateral_images_alone_is_refused(client, path):
    answer = of_study(client, path, dicom(0, lateral=True), dicom(3, lateral=False, ViewPosition="LL"))
    assert answer.status_code == 422
    assert answer.json()["error"] == f"every image of the study is left out; the first {LOOKS_LATERAL}"


def test_without_a_view_classifier_an_image_that_states_no_view_counts_as_frontal_and_is_named(model):
    app = server.application(model, views=ViewOptions("frontal"))
    with fastapi_testclient.TestClient(app, "http://127.0.0.1") as client:
        answer = ask(client, "/predict", dicom(0, lateral=True)).json()
        assert (answer["views"], answer["warnings"]) == ([""], ["states no view, so it was taken for frontal"])
        assert ask(client, "/predict", dicom(1, lateral=False, ViewPosition="LL")).status_code == 422
        assert client.get("/model").json()["views"] == "frontal"
    with fastapi_testclient.TestClient(server.application(model), "http://127.0.0.1") as client:
        answer = ask(client, "/predict", dicom(1, lateral=False, ViewPosition="LL")).json()
        assert (answer["views"], answer["warnings"]) == (["LL"], [])
        assert client.get("/model").json()["views"] == "all"


def test_options_without_a_use_and_a_file_of_something_else_are_refused(model, views, tmp_path):
    with pytest.raises(ConfigError, match="to leave them out: add --views frontal"):
        server.application(model, views=ViewOptions(view_classifier=views))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ConfigError, match="give a file that `mrm views` wrote"):
        server.application(model, views=ViewOptions("frontal", tmp_path / "other.json"))
    pretrained = model_folder.save(tmp_path / "mrm", mrm_model())
    with pytest.raises(ConfigError, match="--views and --view-classifier are for classifiers, and mrm is none"):
        server.application(pretrained, views=ViewOptions("frontal"))


# Studies that come unasked ------------------------------------------------------------------------------


@pytest.fixture
def account(monkeypatch):
    pytest.importorskip("dicomweb_client")
    pytest.importorskip("highdicom")
    use_account(monkeypatch)
    monkeypatch.setattr(unattended, "BUSY_SECONDS", 0.05)


def test_a_watched_archive_gets_reports_of_images_that_look_frontal(account, model, views):
    with serving(Served(keeps=True)) as archive:
        archive.add(dicom(0, lateral=True, study=1))
        archive.add(dicom(1, lateral=False, study=1))
        archive.add(dicom(2, lateral=True, study=2))
        options = {"watch": f"{archive.address}?StudyDate=20240101-", "watch_seconds": 0.1}
        app = server.application(model, views=ViewOptions(view_classifier=views), **options)
        with running(app):
            watch = app.state.service.watch
            until(lambda: len(watch.done) == 2)
            assert (watch.stored, watch.failures) == (1, 0)
        (content,) = archive.stored
    report = pydicom.dcmread(io.BytesIO(content))
    assert report.StudyInstanceUID == "1.2.1"
    assert f"an image {LOOKS_LATERAL}" in texts(report)
    assert LOOKS_FRONTAL in texts(report)


def test_images_that_are_sent_are_reported_without_those_that_look_lateral(account, model, views, tmp_path):
    pynetdicom = pytest.importorskip("pynetdicom")
    dicom_options = DicomOptions(0, dicom_quiet_seconds=0.1, dicom_out=tmp_path / "reports")
    app = server.application(model, dicom=dicom_options, views=ViewOptions(view_classifier=views))
    with running(app):
        reception = app.state.service.reception
        files = [dicom(0, lateral=True), dicom(1, lateral=False), dicom(2, lateral=True, study=2)]
        sets = [pydicom.dcmread(io.BytesIO(content)) for content in files]
        entity = pynetdicom.AE("XRAY")
        entity.add_requested_context(sets[0].SOPClassUID, [sets[0].file_meta.TransferSyntaxUID])
        association = entity.associate("127.0.0.1", reception.port, ae_title="MRM")
        assert [association.send_c_store(one).Status for one in sets] == [0, 0, 0]
        association.release()
        until(lambda: reception.reports == 1)
    (file,) = (tmp_path / "reports").glob("*.dcm")  # none of the study that looks lateral
    assert f"an image {LOOKS_LATERAL}" in texts(pydicom.dcmread(file))
