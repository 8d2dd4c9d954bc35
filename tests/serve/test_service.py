"""The service: the numbers of `mrm predict`, a reason for every bad request, and limits that hold."""

# Shapes: H W pixels
import base64
import hashlib
import io
import json
import logging
import math
import re
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import blank_images, display, images
from mrm.data.eval_view import EvalView
from mrm.data.records import Record, Records
from mrm.inference import heat_maps, predict, reconstruction, report_filling
from mrm.models import model_folder, noise
from mrm.models.segmenter import Segmenter, SegmenterConfig
from mrm.runs.predicting import predict_table
from mrm.runs.reading_options import Reading
from mrm.serve import server, uploads
from mrm.serve.admission import Admission, Refused
from mrm.serve.limits import Limits
from mrm.serve.worker import ModelWorker
from mrm.system.errors import MRMError
from tests.support.configs import MICRO
from tests.support.image_files import png_of_size
from tests.support.service import SMALL, TOKEN, ask, dicom, running, write_models
from tests.support.waiting import until

fastapi_testclient = pytest.importorskip("fastapi.testclient")
BASE = "http://127.0.0.1"
NAN = float("nan")


# Models and files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def client(folder):
    app = server.application(folder / "classifier", folder / "pretrained")
    with fastapi_testclient.TestClient(app, BASE) as client:
        yield client


@pytest.fixture(scope="module")
def image(phantoms):
    return images.read(sorted((phantoms / "images").iterdir())[0])


def without_pixels(data: bytes) -> bytes:
    """The same DICOM file without its image, as reports and presentation states are."""
    dataset, out = pydicom.dcmread(io.BytesIO(data)), io.BytesIO()
    del dataset.PixelData
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def shown(text: str) -> np.ndarray:
    """An image of an answer."""
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_UNCHANGED)


# Answers ------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_predict(client, folder, phantoms, tmp_path):
    files = sorted((phantoms / "images").iterdir())[:6]
    model = model_folder.load(folder / "classifier")
    direct = predict.classify(
        model, Records([Record(f.read_bytes(), labels=(NAN,) * 8) for f in files], FINDINGS), workers=0
    )
    predict_table(folder / "classifier", files, tmp_path / "rows.json")
    rows = {row["path"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    for file, logits_C in zip(files, direct.logits_NC, strict=True):
        answer = ask(client, "/predict", file.read_bytes())
        assert answer.status_code == 200
        findings = answer.json()["findings"]
        assert [f["finding"] for f in findings] == list(FINDINGS)
        temperatures = [model.card.temperatures.get(name, 1.0) for name in FINDINGS]
        expected = 1 / (1 + np.exp(-logits_C / temperatures))
        np.testing.assert_allclose([f["probability"] for f in findings], expected, atol=1e-6)
        row = rows[str(file)]
        for f in findings:
            assert f["probability"] == pytest.approx(row[f["finding"]], abs=1e-6)
            decision = row.get(f"{f['finding']} decision")
            assert f["decision"] == (None if decision is None else bool(decision))
            assert f["threshold"] == row.get(f"{f['finding']} threshold")
    assert answer.json()["model"] == "classifier"
    assert "not for clinical use" in answer.json()["notice"]


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_a_study_gets_one_answer_as_predict_gives_it(client, folder, phantoms, tmp_path, pool):
    files = sorted((phantoms / "images").iterdir())[:3]
    rows = [Record(file, patient="p", study="s") for file in files]
    table = Records(rows).to_csv(tmp_path / "study.csv")
    predict_table(folder / "classifier", [table], tmp_path / "row.json", Reading(workers=0, by_study=pool))
    (row,) = json.loads((tmp_path / "row.json").read_text())
    sent = [("image", (f"{i}.png", file.read_bytes())) for i, file in enumerate(files)]
    answer = client.post("/predict-study", files=sent, data={"pool": pool})
    assert answer.status_code == 200
    assert answer.json()["images"] == 3
    for f in answer.json()["findings"]:
        assert f["probability"] == pytest.approx(row[f["finding"]], abs=1e-6)
        assert f["set"] == row.get(f"{f['finding']} set")
    assert [f["set"] for f in answer.json()["findings"]][:2] == ["either", None]


def test_a_study_is_refused_whole_where_an_image_cannot_be_read_or_there_are_too_many(client, image):
    data = images.encode_png(image)
    one = ask(client, "/predict-study", data).json()
    assert [f["probability"] for f in one["findings"]] == pytest.approx(
        [f["probability"] for f in ask(client, "/predict", data).json()["findings"]], abs=1e-6
    )
    damaged = client.post("/predict-study", files=[("image", ("a", data)), ("image", ("b", b"nonsense"))])
    assert damaged.status_code == 422
    many = client.post("/predict-study", files=[("image", (str(i), data)) for i in range(9)])
    assert many.status_code == 400
    assert "Too many files" in many.json()["error"]
    assert client.post("/predict", files=[("image", ("a", data)), ("image", ("b", data))]).status_code == 400
    wrong = ask(client, "/predict-study", data, pool="median")
    assert wrong.status_code == 422
    assert "unknown pool 'median'; choose from mean, max" in wrong.json()["error"]


def test_the_answer_is_the_same_for_png_tiff_and_dicom_alone_or_in_a_batch(client, image):
    tiff = cv2.imencode(".tif", image)[1].tobytes()
    inverted = dicom(255 - image, PhotometricInterpretation="MONOCHROME1")
    sent = [images.encode_png(image), tiff, dicom(image), inverted] * 5
    alone = np.array([f["probability"] for f in ask(client, "/predict", sent[0]).json()["findings"]])
    service = client.app.state.service
    batches, before = service.worker.batches, service.worker.images
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda data: ask(client, "/predict", data), sent))
    assert {a.status_code for a in answers} == {200}
    for answer in answers:
        np.testing.assert_allclose([f["probability"] for f in answer.json()["findings"]], alone, atol=1e-5)
    assert service.worker.images - before == 20
    assert service.worker.batches - batches < 20  # some went together


@pytest.mark.parametrize("eval_view", [None, EvalView(32), EvalView(32, "centre", resize="bilinear")])
def test_an_uploaded_dicom_file_is_parsed_once(image, monkeypatch, eval_view):
    parsed, dcmread = [], pydicom.dcmread

    def count(file, **options):
        parsed.append(file)
        return dcmread(file, **options)

    monkeypatch.setattr(pydicom, "dcmread", count)
    upload = uploads.decode(dicom(image), Limits(), eval_view)
    assert (upload.height, upload.width) == image.shape
    assert len(parsed) == 1


def test_a_blank_image_is_answered_with_a_warning(client):
    (warning,) = ask(client, "/predict", images.encode_png(np.full((40, 30), 9, np.uint8))).json()["warnings"]
    assert warning == blank_images.BLANK


def test_a_ct_slice_is_answered_with_a_warning(client, image):
    plain = ask(client, "/predict", dicom(image)).json()["warnings"]
    (warning,) = ask(client, "/predict", dicom(image, Modality="CT", BodyPartExamined="HEAD")).json()["warnings"]
    assert plain == []
    assert "modality is CT" in warning
    assert "body part is HEAD" in warning


@pytest.mark.parametrize("method", ["gradcam", "rollout"])  # the head takes the mean: it has no attention
def test_explain_gives_the_heat_map_as_images_and_as_numbers(client, folder, image, method):
    data, finding = images.encode_png(image), FINDINGS[2]
    expected = heat_maps.heat_map(model_folder.load(folder / "classifier"), image, 2, method)
    answer = ask(client, "/explain", data, finding=finding, method=method).json()
    np.testing.assert_allclose(shown(answer["heat_map"]) / 255, expected, atol=0.003)
    np.testing.assert_array_equal(shown(answer["overlay"])[..., ::-1], heat_maps.overlay(image, expected))
    raw = ask(client, "/explain", data, finding=finding, method=method, format="array").json()
    array = np.frombuffer(base64.b64decode(raw["array"]), "<f4").reshape(raw["height"], raw["width"])
    np.testing.assert_allclose(array, expected, atol=1e-5)
    small = ask(client, "/explain", data, finding=finding, method=method, side="64").json()
    assert max(small["height"], small["width"]) == 64


def test_blanks_are_filled_as_the_library_fills_them(client, folder, image):
    text = "The heart is ____. No [MASK]."
    expected = report_filling.fill_in(model_folder.load(folder / "pretrained"), image, text, 3)
    answer = ask(client, "/fill-in", images.encode_png(image), report=text, top="3")
    assert answer.status_code == 200
    for blank, true in zip(answer.json()["blanks"], expected, strict=True):
        assert (blank["start"], blank["end"]) == (true.start, true.end)
        for key in ("with_image", "without_image"):
            assert [w["word"] for w in blank[key]] == [word for word, _ in getattr(true, key)]
            np.testing.assert_allclose(
                [w["probability"] for w in blank[key]], [p for _, p in getattr(true, key)], atol=1e-6
            )


def test_a_reconstruction_is_that_of_the_library(client, folder, image):
    expected = reconstruction.reconstruct(model_folder.load(folder / "pretrained"), image, 3)
    answer = ask(client, "/reconstruct", images.encode_png(image), seed="3").json()
    for key in ("masked", "restored", "original"):
        np.testing.assert_array_equal(shown(answer[key]), getattr(expected, key))
    np.testing.assert_array_equal(shown(answer["residual"]), cv2.absdiff(expected.original, expected.restored))
    assert answer["error"] == pytest.approx(expected.error, rel=1e-5)


def test_a_preview_is_what_the_reader_sees(client, image):
    deep = dicom(255 - image, PhotometricInterpretation="MONOCHROME1")
    answer = ask(client, "/preview", deep).json()
    np.testing.assert_array_equal(shown(answer["image"]), image)
    assert (answer["height"], answer["width"]) == image.shape


def test_a_preview_with_values_has_their_depth_and_the_window_of_the_file(client, image):
    deep = image.astype(np.uint16) * 16 + 7
    data = dicom(
        deep, BitsStored=12, HighBit=11, WindowCenter=900, WindowWidth=400, ViewPosition="PA", StudyDate="20240229"
    )
    answer = ask(client, "/preview", data, format="values").json()
    values = answer["values"]
    levels = np.frombuffer(base64.b64decode(values["levels"]), "<u2").reshape(values["height"], values["width"])
    np.testing.assert_array_equal(values["low"] + values["step"] * (levels.astype(float) - 1), deep)
    first = np.frombuffer(base64.b64decode(values["shown"]), np.uint8)[levels]
    np.testing.assert_array_equal(first, images.read(data))
    assert (values["center"], values["window_width"], values["function"]) == (900, 400, "LINEAR")
    assert not values["inverted"]
    assert (answer["image"], answer["is_dicom"], answer["view"], answer["date"]) == (None, True, "PA", "2024-02-29")
    small = ask(client, "/preview", data, format="values", side="32").json()["values"]
    assert max(small["height"], small["width"]) == 32
    assert ask(client, "/preview", data, format="raw").status_code == 422


def test_a_preview_tells_patients_apart_without_their_ids(client, folder, image):
    def patient(client, number):
        return ask(client, "/preview", dicom(image, PatientID=number)).json()["patient"]

    assert patient(client, "4711") == patient(client, "4711") != patient(client, "4712")
    assert ask(client, "/preview", images.encode_png(image)).json()["patient"] == ""
    guessed = {hashlib.sha256(str(number).encode()).hexdigest()[:16] for number in range(5000)}
    assert patient(client, "4711") not in guessed
    with fastapi_testclient.TestClient(server.application(folder / "classifier"), BASE) as another:
        assert patient(another, "4711") != patient(client, "4711")  # the key is that of one run


@pytest.mark.parametrize(
    ("tag", "values", "warning"),
    [
        ("PatientID", "AB", "the images state 2 different patients; check that they belong together"),
        (
            "StudyInstanceUID",
            ("1.2.3", "1.2.4"),
            "the images state 2 different studies; check that they belong together",
        ),
        ("PatientID", "AA", None),
        ("PatientID", ("A", ""), None),
    ],
)
def test_images_that_state_several_patients_or_studies_give_a_warning(client, image, tag, values, warning):
    sent = [("image", ("a", dicom(image, **{tag: value}))) for value in values]
    assert client.post("/predict-study", files=sent).json()["warnings"] == ([warning] if warning else [])


def test_a_segmenter_answers_with_its_mask(tmp_path, image):
    with noise.seeded(0):
        config = SegmenterConfig(
            ("lung", "heart"),
            MICRO.encoder,
            MICRO.encoder_options,
            (64, 64),
            blocks=(1, 1, 2, 2),
            head="linear",
            channels=16,
        )
        model = Segmenter(config).eval()
    model_folder.save(tmp_path / "segmenter", model)
    with fastapi_testclient.TestClient(server.application(tmp_path / "segmenter"), BASE) as client:
        answer = ask(client, "/predict", images.encode_png(image)).json()
        mask = shown(answer["mask"])
        assert mask.shape == image.shape
        for number, finding in enumerate(answer["findings"], 1):
            assert finding["area"] == pytest.approx((mask == number).mean())
            assert finding["decision"] == (finding["area"] > 0)
        refused = ask(client, "/explain", images.encode_png(image), finding="lung")
        assert refused.status_code == 404
        assert "no model for explain" in refused.json()["error"]


def test_a_service_of_a_pretrained_model_lists_its_capabilities(folder, image):
    app = server.application(folder / "pretrained")
    with fastapi_testclient.TestClient(app, BASE) as client:
        assert client.get("/model").json()["capabilities"] == ["fill-in", "reconstruct"]
        assert ask(client, "/reconstruct", images.encode_png(image)).status_code == 200
        assert ask(client, "/predict", images.encode_png(image)).status_code == 404


def test_it_describes_itself_without_the_internet(client):
    assert client.get("/health").json() == {"status": "ok"}
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/predict", "/explain", "/fill-in", "/reconstruct", "/preview", "/metrics", "/model"} <= set(paths)
    form = paths["/explain"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["image", "finding"]
    assert client.get("/docs").status_code == 404
    assert client.get("/docs").json() == {"error": "Not Found"}


def test_the_page_draws_in_the_colours_of_the_package(client):
    heat, classes = (
        json.loads(line.removeprefix("export ").split(" = ")[1].rstrip(";"))
        for line in client.get("/palette.js").text.splitlines()
    )
    shades_HW = np.linspace(0, 1, 256, dtype=np.float32)[None]
    np.testing.assert_array_equal(heat, heat_maps.colours(shades_HW)[0])
    assert [tuple(colour) for colour in classes] == list(display.CLASS_COLOURS)


def test_metrics_count_by_path_and_status(client, image):
    before = client.get("/metrics").text
    ask(client, "/predict", images.encode_png(image))
    ask(client, "/predict", b"nonsense")
    client.get('/nowhere/"quoted"')
    text = client.get("/metrics").text

    def value(text, name):
        line = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(line[1]) if line else 0.0

    for name in (
        'mrm_requests_total{path="/predict",status="200"}',
        'mrm_requests_total{path="/predict",status="422"}',
    ):
        assert value(text, name) == value(before, name) + 1
    assert value(text, 'mrm_requests_total{path="other",status="404"}') >= 1
    assert "quoted" not in text
    for name in (
        'mrm_request_duration_seconds_bucket{path="/predict",le="+Inf"}',
        'mrm_request_duration_seconds_count{path="/predict"}',
    ):
        assert value(text, name) == value(before, name) + 2
    assert value(text, "mrm_model_queue_length") == 0
    assert value(text, "mrm_reserved_bytes") == 0
    for line in text.splitlines():
        assert line.startswith("# ") or re.fullmatch(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+', line)


# Bad requests -------------------------------------------------------------------------------------------


def nan_tiff() -> bytes:
    values = np.ones((8, 8), np.float32)
    values[3, 3] = np.nan
    return cv2.imencode(".tif", values)[1].tobytes()


def zip_file() -> bytes:
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.png", images.encode_png(SMALL))
    return out.getvalue()


BAD = {
    "zero bytes": (lambda: b"", "0 bytes"),
    "text": (lambda: b"not an image, only words", "text, beginning"),
    "zip": (zip_file, "a zip archive"),
    "truncated PNG": (lambda: images.encode_png(SMALL)[:-30], "cut off"),
    "truncated JPEG": (lambda: images.encode_jpeg(SMALL)[:-30], "cut off"),
    "truncated DICOM": (lambda: dicom(SMALL)[:-100], "cut off"),
    "NaN": (nan_tiff, "NaN or infinite"),
    "100 megapixels": (lambda: png_of_size(10_000, 10_000), "at most 32 megapixels"),
    "bomb": (lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 2**31 - 1, 2**31 - 1), "megapixels"),
    "noise": (lambda: np.random.default_rng(0).bytes(5000), "not a JPEG, PNG, TIFF, PGM or DICOM"),
    "DICOM without rows": (lambda: dicom(SMALL, Rows=0), "this DICOM has no image"),
    "DICOM without pixels": (lambda: without_pixels(dicom(SMALL)), "this DICOM has no pixel data"),
    "run lengths of more than the header says": (
        lambda: dicom(SMALL, RLELossless, struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 1_000_000),
        "more than 8,192 bytes, but the header says 4,096",
    ),
    "frames": (lambda: dicom(np.tile(SMALL, (2, 1)), Rows=64, NumberOfFrames=2), "2 frames"),
    "wrong size": (lambda: dicom(SMALL, Rows=640), "header is wrong"),
    "a JPEG larger than its header": (
        lambda: dicom(SMALL, JPEGBaseline8Bit, images.encode_jpeg(np.zeros((2000, 2000), np.uint8))),
        "has 2000 x 2000 pixels, but the header says 64 x 64",
    ),
    "a JPEG 2000 larger than its header": (
        lambda: dicom(SMALL, JPEG2000Lossless, bytes.fromhex("ff4fff51002900000000ea600000ea60") + bytes(60) + b"\xff\xd9"),
        "has 60000 x 60000 pixels",
    ),
    "deflated": (
        lambda: dicom(SMALL, DeflatedExplicitVRLittleEndian, PixelData=bytes(300_000_000)),
        "inflates to more than 256 MiB",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k == "deflated")) for k in BAD])
def test_a_bad_file_is_422_with_a_reason(client, kind):
    make, reason = BAD[kind]
    answer = ask(client, "/predict", make())
    assert answer.status_code == 422
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    "image_HW", [np.zeros((1, 1), np.uint8), np.zeros((64, 64), np.uint8)], ids=["1 pixel", "black"]
)
def test_odd_images_are_answered(client, image_HW):
    data = images.encode_png(image_HW)
    for path, fields in (
        ("/predict", {}),
        ("/explain", {"finding": FINDINGS[0]}),
        ("/reconstruct", {}),
        ("/preview", {}),
    ):
        answer = ask(client, path, data, **fields)
        assert answer.status_code == 200, answer.text
    assert all(math.isfinite(f["probability"]) for f in ask(client, "/predict", data).json()["findings"])


BLANK = {"report": "The heart is ____."}


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        ("/explain", {}, "the field 'finding' is missing"),
        ("/explain", {"finding": "dragon"}, "unknown finding 'dragon'; choose from"),
        (
            "/explain",
            {"finding": FINDINGS[0], "method": "guess"},
            "unknown method 'guess'; choose from gradcam, rollout",
        ),
        ("/explain", {"finding": FINDINGS[0], "side": "1e9"}, "must be a whole number from 32 to 4096"),
        ("/explain", {"finding": FINDINGS[0], "side": "²"}, "must be a whole number"),
        ("/fill-in", {}, "the field 'report' is missing"),
        ("/fill-in", {"report": ""}, "0 blanks"),
        ("/fill-in", {"report": "____ " * 10_000}, "10,000 blanks"),
        ("/fill-in", {**BLANK, "top": "0"}, "from 1 to 20"),
        ("/reconstruct", {"seed": "-1"}, "must be a whole number"),
        ("/reconstruct", {"seed": "9" * 5000}, "must be a whole number"),
    ],
)
def test_a_bad_field_is_422_with_a_reason(client, path, fields, reason):
    answer = ask(client, path, images.encode_png(SMALL), **fields)
    assert answer.status_code == 422
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"json": {"image": "/etc/passwd"}}, 415, "multipart/form-data"),
        ({"content": b"{not json", "headers": {"content-type": "application/json"}}, 415, "multipart/form-data"),
        ({"content": b""}, 415, "multipart/form-data"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ({"content": b"x" * 99, "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, "form"),
        ({"files": {"other": ("a", b"x")}}, 422, "'image' is missing"),
        ({"files": {"a": (None, "1")}, "data": {"image": "/etc/passwd"}}, 422, "text, not a file"),
        ({"files": [("image", ("a", b"x")), ("image", ("b", b"y"))]}, 400, "Too many files"),
        ({"files": {"image": ("a", b"x")}, "data": {str(i): "1" for i in range(50)}}, 400, "Too many fields"),
        ({"files": {"image": ("a", b"x")}, "data": {"report": "x" * 300_000}}, 400, "maximum size"),
    ],
)  # fmt: skip
def test_a_bad_request_has_a_reason(client, request_, status, reason):
    answer = client.post("/predict", **request_)
    assert answer.status_code == status, answer.text
    assert reason in answer.json()["error"]


def test_other_paths_and_methods_say_so_in_the_same_shape(client):
    assert client.get("/predict").status_code == 405
    assert client.get("/predict").json()["error"]
    for path in (
        "/page.html",
        "/page/page.js",
        "/static/page.js",
        "/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/page.js/../app.py",
    ):
        answer = client.get(path)
        assert answer.status_code in (404, 200)
        if answer.status_code == 200:  # a client that resolves `..` itself
            assert answer.headers["content-type"].startswith("text/javascript")
        else:
            assert answer.json()["error"]


def test_no_request_makes_the_server_read_a_file(client, tmp_path, image):
    secret = tmp_path / "secret.png"
    secret.write_bytes(images.encode_png(image))
    answer = client.post("/predict", files={"image": (str(secret), str(secret).encode())}, data={"path": str(secret)})
    assert answer.status_code == 422
    named = client.post("/predict", files={"image": ("../../../etc/passwd", images.encode_png(image))})
    assert named.status_code == 200
    assert "passwd" not in named.text


def test_a_large_request_is_refused_before_it_is_held(folder):
    limits = Limits(body_mb=1)
    with fastapi_testclient.TestClient(server.application(folder / "classifier", limits=limits), BASE) as client:
        sent = 0

        def body(count):
            nonlocal sent
            yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
            for _ in range(count):
                sent += 100_000
                yield bytes(100_000)

        kind = {"content-type": "multipart/form-data; boundary=b"}
        stated = client.post("/predict", content=b"", headers={**kind, "content-length": str(10**9)})
        assert stated.status_code == 413
        assert "more than 1 MB" in stated.json()["error"]
        streamed = client.post("/predict", content=body(100), headers=kind)  # no Content-Length
        assert streamed.status_code == 413
        lied = client.post("/predict", content=body(100), headers={**kind, "content-length": "-1"})
        assert lied.status_code == 413
        assert client.app.state.service.admission.reserved_bytes == 0


# Limits -------------------------------------------------------------------------------------------------


def test_too_many_at_once_are_503_and_may_try_again(folder, image, monkeypatch):
    """One request occupies the model's thread, a second takes the last place, a third is refused; then all is well."""
    app = server.application(folder / "classifier", limits=Limits(max_requests=2, timeout_seconds=20))
    started, released = threading.Event(), threading.Event()
    service = app.state.service
    classify = type(service.models).classify

    def classify_once_released(models, images_BHW):
        started.set()
        released.wait(10)
        return classify(models, images_BHW)

    monkeypatch.setattr(type(service.models), "classify", classify_once_released)
    data = images.encode_png(image)
    with fastapi_testclient.TestClient(app, BASE) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, client, "/predict", data)
        assert started.wait(10)
        second = pool.submit(ask, client, "/predict", data)
        until(lambda: service.admission.in_progress == 2, 10)
        third = ask(client, "/predict", data)
        assert third.status_code == 503
        assert int(third.headers["retry-after"]) >= 1
        assert "try again" in third.json()["error"]
        assert client.get("/health").status_code == 200  # monitoring is answered even if the service is busy
        released.set()
        assert first.result().status_code == second.result().status_code == 200
        assert ask(client, "/predict", data).status_code == 200
        assert (service.admission.in_progress, service.admission.reserved_bytes) == (0, 0)


def test_too_long_is_504_and_leaves_nothing_behind(folder, image, monkeypatch):
    app = server.application(folder / "classifier", limits=Limits(timeout_seconds=0.3))
    released = threading.Event()
    service = app.state.service
    classify = type(service.models).classify

    def classify_once_released(models, images_BHW):
        released.wait(10)
        return classify(models, images_BHW)

    monkeypatch.setattr(type(service.models), "classify", classify_once_released)
    data = images.encode_png(image)
    with fastapi_testclient.TestClient(app, BASE) as client:
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: ask(client, "/predict", data), range(3)))
        assert {a.status_code for a in answers} == {504}
        assert "more than 0.3 s" in answers[0].json()["error"]
        assert len(service.worker) == 0
        assert (service.admission.in_progress, service.admission.reserved_bytes) == (0, 0)
        released.set()
        until(lambda: ask(client, "/predict", data).status_code == 200, 10)


def test_requests_in_progress_are_answered_before_the_service_ends(folder, image, monkeypatch):
    import httpx2

    app = server.application(folder / "classifier")
    started, classify = threading.Event(), type(app.state.service.models).classify

    def classify_slowly(models, images_BHW):
        started.set()
        time.sleep(0.7)
        return classify(models, images_BHW)

    monkeypatch.setattr(type(app.state.service.models), "classify", classify_slowly)
    with ThreadPoolExecutor(1) as pool:
        with running(app) as address:
            sent = {"image": ("a", images.encode_png(image))}
            answer = pool.submit(httpx2.post, f"{address}/predict", files=sent, timeout=20)
            assert started.wait(10)
        assert answer.result().status_code == 200  # the service has ended meanwhile
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{address}/health")


def test_an_error_inside_is_500_without_a_word_of_the_image(folder, image, monkeypatch, capsys, caplog):
    app = server.application(folder / "classifier")

    classify, failed = type(app.state.service.models).classify, []

    def fail_once(models, images_BHW):
        if failed:
            return classify(models, images_BHW)
        failed.append(True)
        raise RuntimeError("Secret^Name")

    monkeypatch.setattr(type(app.state.service.models), "classify", fail_once)
    with fastapi_testclient.TestClient(app, BASE) as client, caplog.at_level(logging.DEBUG):
        answer = ask(client, "/predict", images.encode_png(image))
        assert answer.status_code == 500
        assert answer.headers["content-security-policy"]
        assert ask(client, "/predict", images.encode_png(image)).status_code == 200  # the thread lives on
    written = capsys.readouterr()
    assert "RuntimeError at" in written.err
    assert "Secret" not in answer.text + written.out + written.err + caplog.text


def test_nothing_of_an_image_or_its_name_is_logged(client, capsys, caplog, image):
    with caplog.at_level(logging.DEBUG):
        client.post("/predict", files={"image": ("Secret-Name.dcm", dicom(image))})
        client.post("/predict", files={"image": ("Secret-Name.dcm", dicom(image)[:-9])})
        ask(client, "/fill-in", images.encode_png(image), report="Secret ____ Name")
    written = capsys.readouterr()
    ours = "".join(r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore", "asyncio")))
    assert "Secret" not in written.out + written.err + ours


def test_requests_reserve_only_so_many_bytes_together():
    admission = Admission(Limits(body_mb=1, memory_mb=2))
    with admission.admit() as first, admission.admit() as second:
        first.add(1_500_000)
        with pytest.raises(Refused, match="all the memory") as refused:
            second.add(600_000)
        assert refused.value.status == 503
        assert admission.reserved_bytes == 1_500_000
    assert admission.reserved_bytes == admission.in_progress == 0


def test_the_worker_batches_waiting_images_and_keeps_the_order():
    """Images that wait together form a batch; other work has its turn between batches."""
    import asyncio

    sizes, order = [], []

    def classify(images):
        sizes.append(len(images))
        time.sleep(0.02)
        return images[:, 0, :1].astype(float)

    async def go():
        worker = ModelWorker(classify, batch_size=4, batch_wait=0.05)
        images = [worker.classify(np.full((2, 2), i, np.uint8)) for i in range(10)]
        other = worker.run(lambda: order.append(len(sizes)))
        values = await asyncio.gather(*images, other)
        worker.close()
        return values

    values = asyncio.run(go())
    assert [float(v[0]) for v in values[:10]] == list(range(10))
    assert sizes == [4, 4, 2]
    assert order == [3]


# Access -------------------------------------------------------------------------------------------------


def test_a_token_guards_everything_but_the_page_and_the_health_check(folder, image):
    with fastapi_testclient.TestClient(server.application(folder / "classifier", token=TOKEN), BASE) as client:
        data = images.encode_png(image)
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer caf\xe9"},
        ):
            answer = client.post(
                "/predict",
                files={"image": ("a", data)},
                headers=[(k.encode(), v.encode("latin-1")) for k, v in headers.items()],
            )
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]
        for path in (
            "/model",
            "/metrics",
            "/openapi.json",
            "/openapi.json/",
            "/nowhere",
        ):  # these name the classes, or may
            assert client.get(path).status_code == 401
            assert FINDINGS[0] not in client.get(path).text
        assert client.get("/health").status_code == client.get("/").status_code == 200
        good = client.post("/predict", files={"image": ("a", data)}, headers={"Authorization": f"Bearer {TOKEN}"})
        assert good.status_code == 200


def test_without_a_token_it_answers_to_its_own_names_only(folder):
    names = frozenset({"127.0.0.1", "localhost", "[::1]"})
    with fastapi_testclient.TestClient(server.application(folder / "classifier", hosts=names), BASE) as client:
        for host, status in (("localhost:8000", 200), ("[::1]:8000", 200), ("127.0.0.1", 200), ("evil.example", 421)):
            assert client.get("/model", headers={"host": host}).status_code == status


NAVIGATED = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),  # a page in a sandbox, or a local file
        ({"origin": "http://127.0.0.1:3000"}, 403),  # another port is another origin
        ({"origin": "file://127.0.0.1"}, 403),
        ({"origin": "http://[bad"}, 403),
        ({"origin": "http://127.0.0.1"}, 200),
        ({"origin": "http://127.0.0.1:80"}, 200),
        ({"origin": "https://127.0.0.1"}, 200),  # a proxy with TLS is in front
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1"}, 403),
        ({"sec-fetch-site": "cross-site", **NAVIGATED, "origin": "http://evil.example"}, 403),  # a form that is submitted
        ({"sec-fetch-site": "same-origin", "origin": "https://behind.a.proxy"}, 200),  # the proxy changed the host name
        ({"sec-fetch-site": "none"}, 200),  # typed by a person
        ({}, 200),  # a program
    ],
)  # fmt: skip
def test_pages_of_other_sites_cannot_make_it_compute(client, image, headers, status):
    service = client.app.state.service
    before = service.worker.images
    answer = client.post("/predict", files={"image": ("a", images.encode_png(image))}, headers=headers)
    assert answer.status_code == status
    assert service.worker.images - before == (status == 200)
    assert client.get("/model", headers=headers).status_code == status


def test_a_link_from_another_site_opens_the_page(client):
    link = {"sec-fetch-site": "cross-site", **NAVIGATED}
    assert client.get("/", headers=link).status_code == 200
    assert client.get("/", headers={**link, "sec-fetch-dest": "iframe"}).status_code == 403


def test_one_address_cannot_take_all_places():
    admission = Admission(Limits(max_requests=3, requests_per_address=2))
    with admission.admit("a"), admission.admit("a"):
        with pytest.raises(Refused, match="from this address") as refused, admission.admit("a"):
            pass
        assert refused.value.status == 503
        with admission.admit("b"), pytest.raises(Refused, match="3 requests are in progress"), admission.admit("c"):
            pass
    assert not admission.by_address


def test_the_memory_of_a_long_answer_is_reserved_until_it_is_taken(folder, image):
    limits = Limits(body_mb=0.1, memory_mb=0.101)
    with fastapi_testclient.TestClient(server.application(folder / "classifier", limits=limits), BASE) as client:
        noise_HW = np.random.default_rng(0).integers(0, 255, (180, 180), np.uint8)  # 32 kB, as a PNG and as pixels
        answer = ask(client, "/explain", images.encode_png(noise_HW), finding=FINDINGS[0])  # two PNG images in base64
        assert answer.status_code == 503
        assert "all the memory" in answer.json()["error"]
        assert answer.headers["content-security-policy"]
        assert ask(client, "/predict", images.encode_png(image)).status_code == 200
        assert client.app.state.service.admission.reserved_bytes == 0


def test_every_answer_is_locked_down(client):
    for answer in (client.get("/"), client.get("/nowhere"), client.post("/predict"), client.get("/health")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
    preflight = client.options(
        "/predict", headers={"origin": "http://evil.example", "access-control-request-method": "POST"}
    )
    assert "access-control-allow-origin" not in preflight.headers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "can be reached from other machines"),
        ({"host": "example.org"}, "can be reached from other machines"),
        ({"token": "short"}, "at least 12"),
        ({"token": ""}, "at least 12"),
        ({"token": "twelve chars with spaces"}, "without spaces"),
        ({"port": 99999}, "cannot listen"),
        ({"model": "nowhere"}, "no such file or folder"),
        ({"model": "incomplete"}, "no model.safetensors"),
        ({"mrm": "classifier"}, "expected an MRM model, found a classifier"),
        ({"model": "pretrained", "mrm": "pretrained"}, "leave out --mrm"),
    ],
)
def test_a_service_that_cannot_start_says_why(folder, settings, message):
    (folder / "incomplete").mkdir(exist_ok=True)
    (folder / "incomplete" / "config.json").write_bytes((folder / "classifier" / "config.json").read_bytes())
    paths = {k: folder / v for k, v in settings.items() if k in ("model", "mrm")}
    with pytest.raises(MRMError, match=message):
        server.serve(**{"model": folder / "classifier", **settings, **paths})


@pytest.mark.parametrize("changes", [{"max_requests": 0}, {"timeout_seconds": NAN}, {"body_mb": -1}, {"body_mb": 600}])
def test_limits_without_a_meaning_are_refused(changes):
    with pytest.raises(MRMError, match="limits"):
        Limits(**changes)


def test_a_model_of_damaged_weights_is_refused_at_the_start(folder, tmp_path):
    model = model_folder.load(folder / "classifier")
    model.encoder.head.bias.data[0] = NAN
    model_folder.save(tmp_path / "broken", model)
    with pytest.raises(MRMError, match=r"head.bias has 1 values that are NaN"):
        server.application(tmp_path / "broken")


def test_a_missing_library_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MRMError, match=r"mrm-radiograph\[serve\]"):
        server.serve(folder / "classifier")
