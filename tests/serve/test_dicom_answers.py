"""Answers of the service as DICOM objects: those that `mrm predict` writes, with the same identifiers, and refusals."""

import io

import numpy as np
import pydicom
import pytest

from mrm.data import images
from mrm.models import model_folder, noise
from mrm.models.segmenter import Segmenter, SegmenterConfig
from mrm.runs.predicting import predict_table
from mrm.runs.reading_options import Reading
from mrm.serve import dicom_answers, server
from tests.support.configs import MICRO
from tests.support.dicom_tools import faults, output_of
from tests.support.service import ask, dicom

hd = pytest.importorskip("highdicom")
fastapi_testclient = pytest.importorskip("fastapi.testclient")
BASE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def client(page_models):
    with fastapi_testclient.TestClient(server.application(page_models / "classifier"), BASE) as client:
        yield client


def radiograph(image_HW, number, study="1.2.3", **tags) -> bytes:
    uids = {"SOPInstanceUID": f"{study}.1.{number}", "SeriesInstanceUID": f"{study}.1", "StudyInstanceUID": study}
    return dicom(image_HW, PatientID="p1", **uids, **tags)


def sent(*files: bytes):
    return [("image", ("a.dcm", data)) for data in files]


def certainties(made: pydicom.Dataset) -> list[float]:
    """The percentages of a report, as highdicom reads them."""
    groups = hd.sr.EnhancedSR.from_dataset(made).content.get_image_measurement_groups()
    return [group.get_measurements()[0].value for group in groups]


@pytest.mark.parametrize("count", [1, 2])
def test_a_report_is_that_of_the_command(client, page_models, radiographs, tmp_path, count):
    files = [radiograph(image_HW, number) for number, image_HW in enumerate(radiographs[:count])]
    for number, data in enumerate(files):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number}.dcm").write_bytes(data)
    answer = client.post("/dicom", files=sent(*files))
    assert answer.headers["content-type"] == dicom_answers.MEDIA_TYPE
    made = pydicom.dcmread(io.BytesIO(answer.content))
    reading = Reading(workers=0, by_study="mean" if count > 1 else None)
    predict_table(page_models / "classifier", [tmp_path / "in"], tmp_path / "p.csv", reading, tmp_path / "sr")
    expected = pydicom.dcmread(tmp_path / "sr" / "0.sr.dcm")
    assert made.SOPInstanceUID == expected.SOPInstanceUID  # so that an archive holds it once
    assert (made.PatientID, made.StudyInstanceUID) == ("p1", "1.2.3")
    assert certainties(made) == pytest.approx(certainties(expected), abs=1e-3)
    findings = client.post("/predict-study", files=sent(*files)).json()["findings"]
    assert certainties(made) == pytest.approx([100 * f["probability"] for f in findings], abs=1e-3)


def test_other_readers_find_no_fault_in_a_report(client, radiographs, tmp_path):
    (tmp_path / "a.sr.dcm").write_bytes(ask(client, "/dicom", radiograph(radiographs[0], 1)).content)
    assert faults(tmp_path / "a.sr.dcm") == []
    assert "not for clinical use" in output_of("dsr2html", tmp_path / "a.sr.dcm")


def test_what_no_report_can_be_about_is_refused_with_a_reason(client, radiographs):
    (image_HW, other_HW) = radiographs[:2]
    refused = {
        "only be about DICOM images": sent(images.encode_png(image_HW)),
        "the images are of 2 studies": sent(radiograph(image_HW, 1), radiograph(other_HW, 2, "1.2.4")),
        "has no StudyInstanceUID": sent(dicom(image_HW, SeriesInstanceUID="1.2", StudyInstanceUID="")),
    }
    for reason, files in refused.items():
        answer = client.post("/dicom", files=files)
        assert answer.status_code == 422
        assert reason in answer.json()["error"]


def test_without_highdicom_it_is_not_offered(client, radiographs, monkeypatch):
    assert "dicom" in client.get("/model").json()["capabilities"]
    monkeypatch.setattr(dicom_answers, "is_available", lambda: False)
    assert "dicom" not in client.get("/model").json()["capabilities"]
    refused = ask(client, "/dicom", radiograph(radiographs[0], 1))
    assert refused.status_code == 404
    assert "install mrm-radiograph[seg]" in refused.json()["error"]


def test_a_segmenter_answers_with_a_segmentation(radiographs, tmp_path):
    with noise.seeded(0):
        config = SegmenterConfig(("lung",), MICRO.encoder, MICRO.encoder_options, (64, 64), blocks=(1, 1, 2, 2), head="linear", channels=16)  # fmt: skip
        model_folder.save(tmp_path / "segmenter", Segmenter(config).eval())
    with fastapi_testclient.TestClient(server.application(tmp_path / "segmenter"), BASE) as client:
        data = radiograph(radiographs[0], 1)
        (finding,) = ask(client, "/predict", data).json()["findings"]
        made = pydicom.dcmread(io.BytesIO(ask(client, "/dicom", data).content))
        two = client.post("/dicom", files=sent(data, data))
    assert made.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    assert np.mean(made.pixel_array) == pytest.approx(finding["area"])
    assert 0 < finding["area"] < 1
    assert made.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == "1.2.3.1.1"
    assert two.status_code == 422
    assert "one image at a time" in two.json()["error"]
