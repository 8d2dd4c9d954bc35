"""Predictions, features and neighbours of files as a hospital has them: whatever is given, a row or one clear line."""

import io
import json
import os
import socket
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet
import pydicom
import pytest
import torch
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

import mrm
from mrm import cli, runs
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import finding_files, images, samples
from mrm.data.headers import MAX_BYTES
from mrm.data.records import Record, Records
from mrm.inference import neighbours, outliers, predict
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.mrm import MRM
from mrm.runs import predicting, work
from mrm.runs.reading_options import Reading
from mrm.statistics import calibration
from mrm.system import table_files
from mrm.system.errors import CheckpointError, OutputError, RecordError, RunError
from mrm.system.partial_results import Partial
from tests.support.configs import MICRO
from tests.support.run_files import table

HERE = Reading(batch=8, workers=0)  # read in this process: the tests are many, and small


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    with noise.seeded(0):
        classifier = Classifier(ClassifierConfig(FINDINGS, MICRO.encoder, MICRO.encoder_options, MICRO.image_size))
        torch.nn.init.normal_(classifier.encoder.head.weight)
    return model_folder.save(tmp_path_factory.mktemp("model") / "classifier", classifier.eval())


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    with noise.seeded(0):
        return model_folder.save(tmp_path_factory.mktemp("model") / "mrm", MRM(MICRO).eval())


def knowing(source: Path, folder: Path, **changes) -> Path:
    """The same model with another card."""
    loaded = mrm.load(source)
    return model_folder.save(folder, loaded, replace(loaded.card, **changes))


def run(model: Path, paths, out: Path, reading: Reading = HERE) -> list[dict[str, str]]:
    predicting.predict_table(model, paths, out, reading)
    return table(out)


# ---- what is given -------------------------------------------------------------------------------------------


def test_files_folders_globs_lists_and_tables_name_the_same_images(phantoms, tmp_path):
    files = sorted((phantoms / "images").iterdir())
    plain, listed, label_list = tmp_path / "plain.txt", tmp_path / "list.csv", tmp_path / "labels.txt"
    plain.write_text("\n".join(f.name for f in files))
    listed.write_text("\n".join(str(f) for f in files) + "\n")
    label_list.write_text("".join(f"{f.name} 0 1 0\n" for f in files))
    ways = [files, [phantoms / "images"], [str(phantoms / "images" / "*.jpg")], [plain], [listed], [label_list]]
    for given in ways:
        found = finding_files.records_at(given, phantoms / "images" if given[0] in (plain, label_list) else None)
        assert [Path(r.image).resolve() for r in found] == [f.resolve() for f in files], given
    known = finding_files.records_at([phantoms / "records.csv"])
    assert {Path(r.image).name for r in known} == {f.name for f in files}
    assert all(r.patient and r.study for r in known)


def test_shards_are_given_as_their_folder(model, phantoms, tmp_path):
    pack = pytest.importorskip("mrm.data.packing")
    pack.pack(pack.open_source(phantoms / "records.csv"), tmp_path / "packed", pack.PackConfig(size=64), workers=1)
    got = run(model, [tmp_path / "packed"], tmp_path / "a.csv")
    assert [r["path"] for r in got] == [r.name for r in Records.load(phantoms / "records.csv")]
    assert not any(r["error"] for r in got)


def test_a_folder_leaves_out_what_is_no_image_and_an_image_may_have_any_name(phantoms, tmp_path):
    one = (phantoms / "images" / "S0-000000.jpg").read_bytes()
    for name in ("a.jpg", "b", "c.123", "labels.csv", "notes.txt", ".hidden.jpg", "DICOMDIR"):
        (tmp_path / name).write_bytes(one)
    assert [r.name for r in finding_files.records_at([tmp_path])] == [
        str(tmp_path / n) for n in ("a.jpg", "b", "c.123")
    ]
    assert [r.name for r in finding_files.records_at([tmp_path / "notes.txt"])] == [str(tmp_path / "notes.txt")]


def test_a_pattern_that_matches_folders_and_what_is_in_them_names_each_image_once(phantoms, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    one = (phantoms / "images" / "S0-000000.jpg").read_bytes()
    wanted = [tmp_path / "in" / name for name in ("a.jpg", "deep/b.jpg")]
    for file in wanted:
        file.write_bytes(one)
    for pattern in ("in/**", "**", "*", "**/*.jpg"):
        assert [r.image for r in finding_files.records_at([str(tmp_path / pattern)])] == wanted


def test_results_in_the_folder_of_the_images_are_not_taken_for_images(model, phantoms, tmp_path, monkeypatch):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes((phantoms / "images" / "S0-000000.jpg").read_bytes())
    one = replace(HERE, batch=1)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            run(model, [tmp_path], tmp_path / "a.csv", one)
    assert [r["error"] for r in run(model, [tmp_path], tmp_path / "a.csv", one)] == ["", ""]
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "a.png").write_bytes(images.encode_png(np.zeros((8, 8), np.uint8)))
    found = [Path(r.name).name for r in finding_files.records_at([tmp_path], out=tmp_path / "maps")]
    assert found == ["a.jpg", "b.jpg"]
    assert len(finding_files.records_at([tmp_path / "maps"], out=tmp_path / "maps")) == 1  # asked for by name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.txt", "../../../etc/passwd\nS0-000000.jpg\n", r"\.\./etc/passwd leads out of the folder"),
        ("list.txt", "images/../../x.png 0 1\n", "leads out of the folder"),
        ("table.csv", "image_path,patient_id\n../x.png,1\n", "leads out of the folder"),
        ("list.txt", "", "an empty list"),
        ("list.txt", "gone.png\n", "none of its 1 images found"),
        ("list.txt", b"\xff\xfe\x00x" * 9, "not a text file in UTF-8"),
        ("table.csv", "name,label\nx,1\n", "no column image_path"),
        ("none.png", None, "no such file or folder"),
        ("*.png", None, "nothing matches this pattern"),
    ],
)
def test_lists_and_paths_that_cannot_be_used_are_one_line(model, tmp_path, capsys, name, content, message):
    path = tmp_path / "in" / name
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", str(model), str(path), "--out", str(tmp_path / "out.csv")])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("mrm: error: ")
    assert error.count("\n") == 1
    with pytest.raises(RecordError, match=message):
        finding_files.records_at([path])
    assert not list(tmp_path.glob("out.csv*"))


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(RecordError, match="no images in it"):
        finding_files.records_at([tmp_path])


# ---- one row an image ---------------------------------------------------------------------------------------


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"x" * 999)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in some thousand bytes."""
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(60_001) * 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def dicom(image_HW: np.ndarray, **tags) -> bytes:
    """A DICOM radiograph with these 8-bit values."""
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.Modality, made.SamplesPerPixel, made.PixelRepresentation = "DX", 1, 0
    made.PhotometricInterpretation = "MONOCHROME2"
    made.Rows, made.Columns = image_HW.shape
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    made.PixelData = image_HW.tobytes() + b"\0" * (image_HW.size % 2)
    for name, value in tags.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    file = io.BytesIO()
    pydicom.dcmwrite(file, made, enforce_file_format=True)
    return file.getvalue()


def nan_tiff() -> bytes:
    values = np.ones((40, 40), np.float32)
    values[3, 4] = np.nan
    return cv2.imencode(".tif", values)[1].tobytes()


@pytest.fixture(scope="module")
def awkward(phantoms, tmp_path_factory) -> Path:
    """A folder of what a hospital's folder holds besides good images."""
    folder = tmp_path_factory.mktemp("awkward")
    radiograph = images.read(phantoms / "images" / "S0-000000.jpg")
    good = (phantoms / "images" / "S0-000000.jpg").read_bytes()
    contents = {
        "00-good.jpg": good,
        "01-zero-bytes.png": b"",
        "02-truncated.jpg": good[: len(good) // 2],
        "03-truncated.png": images.encode_png(radiograph)[:900],
        "04-text.jpg": b"patient,finding\n1,none\n" * 9,
        "05-bomb.png": bomb(),
        "06-zip.png": zipped(),
        "07-nan.tif": nan_tiff(),
        "08-no-pixels.dcm": dicom(radiograph, PixelData=None),
        "09-frames.dcm": dicom(np.concatenate([radiograph, radiograph]), Rows=radiograph.shape[0], NumberOfFrames=2),
        "10-lies.dcm": dicom(radiograph, Rows=radiograph.shape[0] + 9),
        "20-wrong-extension.png": good,
        "21-one-pixel.png": images.encode_png(np.full((1, 1), 7, np.uint8)),
        "22-all-black.png": images.encode_png(np.zeros((50, 60), np.uint8)),
        "23-ct.dcm": dicom(radiograph, Modality="CT", BodyPartExamined="ABDOMEN"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "11-gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "12-pipe.png")
    with open(folder / "13-video.dcm", "wb") as file:
        file.truncate(MAX_BYTES + 1)  # takes no room on the disk
    return folder


REASONS = {
    "01": "empty (0 bytes)",
    "02": "cut off",
    "03": "cut off or damaged",
    "04": "text, beginning",
    "05": "more than 100,000,000",
    "06": "a zip archive",
    "07": "NaN or infinite",
    "08": "no pixel data",
    "09": "2 frames",
    "10": "bytes of pixel data",
    "11": "no such file",
    "12": "a pipe or a device",
    "13": "more than any radiograph",
}


@pytest.mark.parametrize("workers", [0, 1])
def test_every_broken_image_is_a_row_with_its_reason_and_every_odd_one_is_predicted(model, awkward, tmp_path, workers):
    with pytest.warns(UserWarning, match="left out"):
        got = {
            Path(r["path"]).name[:2]: r
            for r in run(model, [awkward], tmp_path / "a.csv", replace(HERE, workers=workers))
        }
    assert list(got) == sorted(got)
    assert {number for number, row in got.items() if row["error"]} == set(REASONS)
    for number, reason in REASONS.items():
        assert reason in got[number]["error"]
        assert not any(got[number][c] for c in FINDINGS)
    for number in ("00", "20", "21", "22", "23"):
        assert all(0 <= float(got[number][c]) <= 1 for c in FINDINGS)
    assert "modality is CT" in got["23"]["warning"]
    assert "has nothing to say" in got["23"]["warning"]
    assert [n for n, row in got.items() if row["warning"]] == ["23"]
    for c in FINDINGS:  # nearly: how many images share a batch rounds otherwise
        assert float(got["20"][c]) == pytest.approx(float(got["00"][c]), rel=1e-4)


def test_a_ct_slice_is_warned_of_on_the_command_line(model, awkward, tmp_path):
    with pytest.warns(UserWarning, match=r"23-ct\.dcm: modality is CT, not CR, DX or RG and body part is ABDOMEN"):
        run(model, [awkward / "23-ct.dcm"], tmp_path / "a.csv")


def test_a_real_ct_slice_is_warned_of(model, shared_data, tmp_path):
    with pytest.warns(UserWarning, match="modality is CT"):
        (row,) = run(model, [shared_data / "dicom" / "anon_apct.dcm"], tmp_path / "a.csv")
    assert "modality is CT" in row["warning"]


def test_warnings_beyond_the_first_stand_in_the_table_alone(model, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(9):
        (tmp_path / "in" / f"{i}.png").write_bytes(b"")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(RunError, match=r"none of the 9 images could be read; first error: .*0\.png: empty"):
            run(model, [tmp_path / "in"], tmp_path / "a.csv")
    assert len(caught) == work.SHOWN + 1
    assert "in the table alone" in str(caught[-1].message)
    assert all("empty" in row["error"] for row in table(tmp_path / "a.csv"))  # written all the same
    assert not (tmp_path / "a.csv.partial").exists()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_made_from_a_jpeg_gives_the_prediction_of_the_jpeg(model, phantoms, tmp_path, photometric):
    for name in ("S0-000000", "S0-000007"):
        jpeg, made = tmp_path / f"{name}.jpg", tmp_path / f"{name}.dcm"
        radiograph = images.resize(images.read(phantoms / "images" / f"{name}.jpg"), 127, 100)
        jpeg.write_bytes(images.encode_jpeg(radiograph))
        radiograph = images.read(jpeg)
        stored = radiograph if photometric == "MONOCHROME2" else 255 - radiograph
        made.write_bytes(dicom(stored, PhotometricInterpretation=photometric))
        first, second = run(model, [jpeg, made], tmp_path / "a.csv")
        for c in FINDINGS:
            assert float(second[c]) == pytest.approx(float(first[c]), abs=1e-6)
        made.write_bytes(dicom(255 - stored, PhotometricInterpretation=photometric))
        (turned,) = run(model, [made], tmp_path / "b.csv")  # the test can fail
        assert any(abs(float(turned[c]) - float(first[c])) > 1e-3 for c in FINDINGS)


def test_a_large_jpeg_is_decoded_smaller_than_its_dicom_and_they_agree(model, phantoms, tmp_path):
    radiograph = images.read(phantoms / "images" / "S0-000000.jpg")
    (tmp_path / "large.jpg").write_bytes(images.encode_jpeg(images.resize(radiograph, 1000, 800)))
    (tmp_path / "large.dcm").write_bytes(dicom(images.read(tmp_path / "large.jpg")))
    seen = [samples.eval_image(Record(tmp_path / n), MICRO.image_size).astype(int) for n in ("large.jpg", "large.dcm")]
    assert 0 < np.abs(seen[0] - seen[1]).max() <= 3  # grey levels of 255
    first, second = run(model, [tmp_path / "large.jpg", tmp_path / "large.dcm"], tmp_path / "a.csv")
    assert max(abs(float(first[c]) - float(second[c])) for c in FINDINGS) < 0.005  # of logits up to 17


def test_burned_in_borders_are_cropped_on_request(model, phantoms, tmp_path):
    radiograph = images.read(phantoms / "images" / "S0-000003.jpg").clip(20, 230)
    framed = np.pad(np.pad(radiograph, 30, constant_values=255), ((0, 50), (17, 0)))
    for name, image in (("plain", radiograph), ("framed", framed)):
        (tmp_path / f"{name}.png").write_bytes(images.encode_png(image))
    (tmp_path / "framed.dcm").write_bytes(dicom(framed))
    files = [tmp_path / n for n in ("plain.png", "framed.png", "framed.dcm")]
    plain, framed_png, framed_dcm = run(model, files, tmp_path / "a.csv", replace(HERE, crop_borders=True))
    uncropped = run(model, files, tmp_path / "b.csv")[1]
    for c in FINDINGS:
        assert float(framed_png[c]) == pytest.approx(float(plain[c]), abs=1e-6)
        assert float(framed_dcm[c]) == pytest.approx(float(plain[c]), abs=1e-6)
    assert any(abs(float(uncropped[c]) - float(plain[c])) > 1e-3 for c in FINDINGS)


def test_rows_are_what_classify_says_in_the_order_of_the_table_with_patient_and_study(model, phantoms, tmp_path):
    records = Records.load(phantoms / "records.csv")
    expected = predict.classify(mrm.load(model), records, workers=0).probabilities_NC
    got = run(model, [phantoms / "records.csv"], tmp_path / "a.csv")
    assert [(r["path"], r["patient_id"], r["study_id"]) for r in got] == [(r.name, r.patient, r.study) for r in records]
    np.testing.assert_allclose([[float(r[c]) for c in FINDINGS] for r in got], expected, rtol=1e-4, atol=1e-6)


def test_csv_parquet_json_and_lines_hold_the_same(model, phantoms, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    given = [phantoms / "images" / "S0-000000.jpg", tmp_path / "bad.png"]
    for name in ("a.csv", "a.parquet", "a.json", "a.jsonl"):
        predicting.predict_table(model, given, tmp_path / name, HERE)
    whole = json.loads((tmp_path / "a.json").read_text())
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == whole
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist() == whole
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in whole] == table(tmp_path / "a.csv")
    assert whole[1]["nodule"] is None
    assert "empty" in whole[1]["error"]
    for name, message in (
        ("a.xlsx", r"a\.xlsx: unknown suffix .*; choose a name for --out that ends in \.csv"),
        ("folder.csv", "is a folder"),
    ):
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        with pytest.raises(RecordError, match=message):
            predicting.predict_table(model, given, tmp_path / name, HERE)


def test_what_is_read_is_never_overwritten(model, pretrained, phantoms, tmp_path):
    table_, image = tmp_path / "radiographs.csv", tmp_path / "radiograph.jpg"
    table_.write_bytes((phantoms / "records.csv").read_bytes())
    image.write_bytes((phantoms / "images" / "S0-000000.jpg").read_bytes())
    (tmp_path / "radiograph.csv").symlink_to(image)  # an image may have any name
    with pytest.raises(RunError, match=r"radiographs\.csv: is read, and would be overwritten; choose another --out"):
        predicting.predict_table(model, [table_], table_, replace(HERE, images=phantoms))
    with pytest.raises(RunError, match=r"radiographs\.csv: is read"):  # the names beside the array
        runs.embed(pretrained, [table_], tmp_path / "radiographs.npy", "pooled", replace(HERE, images=phantoms))
    with pytest.raises(RunError, match=r"radiograph\.csv: is read"):
        predicting.predict_table(model, [image], tmp_path / "radiograph.csv", HERE)
    assert table_.read_bytes() == (phantoms / "records.csv").read_bytes()
    runs.embed(pretrained, [image], tmp_path / "radiographs.parquet", "pooled", HERE)  # which writes no radiographs.csv


# ---- thresholds, temperatures, outliers ----------------------------------------------------------------------


def test_temperature_comes_before_the_threshold_and_decisions_follow(model, phantoms, tmp_path):
    thresholds, temperatures = {"nodule": 0.6, "oedema": 0.2}, {"nodule": 4.0}
    cut = knowing(model, tmp_path / "cut", thresholds=thresholds, temperatures=temperatures)
    got = run(cut, [phantoms / "records.csv"], tmp_path / "a.csv")
    logits = predict.classify(mrm.load(model), Records.load(phantoms / "records.csv"), workers=0).logits_NC
    c = FINDINGS.index("nodule")
    warm = calibration.calibrated_probabilities(logits[:, [c]], [4.0])[:, 0]
    np.testing.assert_allclose([float(r["nodule"]) for r in got], warm, rtol=1e-3, atol=1e-6)
    assert {r["nodule decision"] for r in got} == {"0", "1"}
    for row in got:
        for name, threshold in thresholds.items():
            assert row[f"{name} threshold"] == str(threshold)
            assert row[f"{name} decision"] == str(int(float(row[name]) >= threshold))
    assert "effusion decision" not in got[0]
    assert sum((warm >= 0.6) != (1 / (1 + np.exp(-logits[:, c])) >= 0.6)) > 0  # the order matters here


def test_an_image_unlike_those_known_gets_no_decision(model, phantoms, tmp_path):
    records = Records.load(phantoms / "records.csv")
    features, _ = predict.features(mrm.load(model), records, workers=0)
    reference = outliers.reference(features)
    scores = outliers.outlying(features, reference)
    reference = replace(reference, threshold=float(np.sort(scores)[-3]))
    wary = knowing(model, tmp_path / "wary", thresholds={"nodule": 0.5}, outliers=reference)
    got = run(wary, [phantoms / "records.csv"], tmp_path / "a.csv")
    np.testing.assert_allclose([float(r["outlier"]) for r in got], scores, rtol=1e-2)
    assert sum(r["abstain"] == "1" for r in got) == 2
    assert all((r["nodule decision"] == "") == (r["abstain"] == "1") for r in got)


def test_another_kind_of_model_and_a_broken_one_are_refused(model, pretrained, phantoms, tmp_path):
    with pytest.raises(RunError, match="expected a classifier, found an MRM model"):
        predicting.predict_table(pretrained, [phantoms / "images"], tmp_path / "a.csv", HERE)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_bytes((model / "config.json").read_bytes())
    for command in (predicting.predict_table, runs.embed):
        with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
            command(tmp_path / "m", [phantoms / "images"], tmp_path / "a.parquet", reading=HERE)


def test_windows_over_an_image_are_for_segmenters(model, phantoms, tmp_path):
    with pytest.raises(RunError, match="--slide is for segmenters"):
        runs.predict(model, [phantoms / "images"], tmp_path / "a.csv", HERE, slide=True)


def test_devices_and_numbers_that_are_not_there_are_refused(model, phantoms, tmp_path):
    for reading, message in (
        (replace(HERE, device="cuda:77"), "--device cuda:77 is not available"),
        (replace(HERE, device="toaster"), "--device toaster is not available"),
        (replace(HERE, batch=0), "--batch must be at least 1"),
    ):
        with pytest.raises(RunError, match=message):
            predicting.predict_table(model, [phantoms / "images"], tmp_path / "a.csv", reading)


def test_half_precision_is_close(model, phantoms, tmp_path):
    exact = run(model, [phantoms / "images"], tmp_path / "a.csv")
    half = run(model, [phantoms / "images"], tmp_path / "b.csv", replace(HERE, precision="bf16"))
    away = [abs(float(a[c]) - float(b[c])) for a, b in zip(exact, half, strict=True) for c in FINDINGS]
    assert 0 < max(away) < 0.1


# ---- stopped and taken up again ------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def stop_after(monkeypatch, batches: int) -> None:
    """Die in the middle of the batch after so many."""
    real, count = Partial.add, iter(range(10_000))

    def add(self, rank, rows, values=None):
        if next(count) == batches:
            with open(self.folder / f"part-{rank}.jsonl", "ab") as file:
                file.write(b'["half a li')  # as a kill leaves it
            raise Stopped
        real(self, rank, rows, values)

    monkeypatch.setattr(Partial, "add", add)


def test_the_same_command_goes_on_and_the_table_is_the_same(model, awkward, phantoms, tmp_path, monkeypatch):
    given = [phantoms / "images", awkward]
    whole = run(model, given, tmp_path / "whole.csv")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            run(model, given, tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()
    left = Partial(tmp_path / "a.csv").folder
    lines = (left / "part-0.jsonl").read_bytes().splitlines()
    assert len(lines) == 3 * 8 + 1
    seen = []
    real = images.read
    monkeypatch.setattr(images, "read", lambda source, **k: (seen.append(source), real(source, **k))[1])
    assert run(model, given, tmp_path / "a.csv") == whole
    assert len(seen) == len(whole) - 24
    assert not left.exists()


def test_images_that_came_meanwhile_are_taken_along(model, phantoms, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    names = sorted(p.name for p in (phantoms / "images").iterdir())[:20]
    for name in names[1:]:
        (folder / name).write_bytes((phantoms / "images" / name).read_bytes())
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            run(model, [folder], tmp_path / "a.csv")
    (folder / names[0]).write_bytes((phantoms / "images" / names[0]).read_bytes())
    (folder / names[5]).unlink()  # predicted already, and no longer asked for
    got = run(model, [folder], tmp_path / "a.csv")
    assert [Path(r["path"]).name for r in got] == names[:5] + names[6:]


def test_another_model_or_other_options_are_refused(model, phantoms, tmp_path, monkeypatch):
    given, out = [phantoms / "images"], tmp_path / "a.csv"
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            run(model, given, out)
    with pytest.raises(
        OutputError, match=r"a\.csv\.partial: holds another unfinished table .*precision: fp32, now bf16"
    ):
        run(model, given, out, replace(HERE, precision="bf16"))
    with pytest.raises(OutputError, match="crop_borders: False, now True"):
        run(model, given, out, replace(HERE, crop_borders=True))
    with pytest.raises(OutputError, match="card: "):
        run(knowing(model, tmp_path / "cut", thresholds={"nodule": 0.5}), given, out)
    with noise.seeded(1):
        other = model_folder.save(tmp_path / "other", Classifier(mrm.load(model).config))
    with pytest.raises(OutputError, match="model: "):
        run(other, given, out)
    assert len(run(model, given, out, replace(HERE, batch=3, workers=1))) == 48  # these may change


def test_a_folder_in_the_way_is_left_alone(model, phantoms, tmp_path):
    (tmp_path / "a.csv.partial").mkdir()
    (tmp_path / "a.csv.partial" / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match=r"is not empty and holds no unfinished table \(no settings\.json\)"):
        run(model, [phantoms / "images"], tmp_path / "a.csv")
    assert (tmp_path / "a.csv.partial" / "mine.txt").read_text() == "x"


def test_one_image_given_twice_has_two_rows(model, phantoms, tmp_path):
    image = phantoms / "images" / "S0-000000.jpg"
    first, second = run(model, [image, image], tmp_path / "a.csv")
    assert first == second


def launched(command: list[str], processes: int) -> list[str]:
    """What processes print that are started as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    each = [{**os.environ, **shared, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(processes)]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=e) for e in each
    ]
    ended = [process.communicate(timeout=200) for process in started]
    assert [p.returncode for p in started] == [0] * processes, ended
    return [out for out, _ in ended]


def test_several_processes_share_the_images_and_merge_them_in_order(model, awkward, phantoms, tmp_path):
    given = [phantoms / "images", awkward]
    alone = run(model, given, tmp_path / "alone.csv", replace(HERE, batch=4))
    words = [
        "predict",
        str(model),
        *map(str, given),
        "--out",
        str(tmp_path / "a.csv"),
        "--batch",
        "4",
        "--workers",
        "0",
    ]
    outputs = launched([sys.executable, "-m", "mrm", *words], processes=2)
    assert "".join(outputs).count("wrote") == 1
    together = table(tmp_path / "a.csv")
    assert [r["path"] for r in together] == [r["path"] for r in alone]
    for a, b in zip(alone, together, strict=True):
        assert a["error"] == b["error"]
        assert [a[c] == "" or float(a[c]) == pytest.approx(float(b[c]), rel=1e-4, abs=1e-7) for c in FINDINGS]


def test_values_without_their_line_and_lines_without_their_values_are_dropped(tmp_path):
    partial = Partial(tmp_path / "a.npy", width=3)
    partial.begin({})
    partial.add(0, [("a", {"x": 1}), ("b", {"x": 2})], np.arange(6).reshape(2, 3))
    with open(partial.folder / "part-0.f32", "ab") as file:
        file.write(bytes(7))
    again = Partial(tmp_path / "a.npy", width=3)
    again.begin({})
    again.add(0, [("c", {"x": 3})], np.full((1, 3), 9))
    assert [v.tolist() for v in again.values(["c", "a", "b"])] == [[9, 9, 9], [0, 1, 2], [3, 4, 5]]
    assert list(again.rows(["c", "a"])) == [{"x": 3}, {"x": 1}]
    os.truncate(partial.folder / "part-0.f32", 4 * 3 * 2 + 5)  # the disk was full
    once_more = Partial(tmp_path / "a.npy", width=3)
    once_more.begin({})
    assert set(once_more.places()) == {"a", "b"}


def test_a_table_without_rows_is_whole(tmp_path):
    for name in ("a.csv", "a.parquet", "a.json", "a.jsonl"):
        table_files.write_table(tmp_path / name, {"x": str, "y": float}, [])
    assert (tmp_path / "a.csv").read_text() == "x,y\n"
    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").column_names == ["x", "y"]
    assert json.loads((tmp_path / "a.json").read_text()) == []
    assert not (tmp_path / "a.jsonl").read_text()


# ---- features and neighbours ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pooled", "patches"])
def test_features_are_those_of_the_encoder_as_npy_and_as_parquet(pretrained, phantoms, tmp_path, kind):
    (tmp_path / "bad.png").write_bytes(b"")
    given = [phantoms / "images", tmp_path / "bad.png"]
    expected, unreadable = predict.features(mrm.load(pretrained), finding_files.records_at(given), kind, workers=0)
    assert len(unreadable) == 1
    for name in ("f.npy", "f.parquet"):
        written = runs.embed(pretrained, given, tmp_path / name, kind, HERE)
        assert (written.n, written.unreadable) == (49, 1)
    array = np.load(tmp_path / "f.npy")
    np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(array[48]).all()
    names = table(tmp_path / "f.csv")
    assert len(names) == 49
    assert "empty" in names[48]["error"]
    stored = pyarrow.parquet.read_table(tmp_path / "f.parquet")
    facts = json.loads(stored.schema.metadata[b"mrm"])
    assert facts == json.loads((tmp_path / "f.json").read_text())
    assert facts["shape"] == list(array.shape[1:])
    column = stored.column("feature").to_pylist()
    assert column[48] is None
    np.testing.assert_array_equal(np.array(column[:48], np.float32).reshape(array[:48].shape), array[:48])


def test_embedding_goes_on_too(pretrained, phantoms, tmp_path, monkeypatch):
    given = [phantoms / "images"]
    runs.embed(pretrained, given, tmp_path / "whole.npy", "pooled", HERE)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stopped):
            runs.embed(pretrained, given, tmp_path / "a.npy", "pooled", HERE)
    with pytest.raises(RecordError, match="kind was 'pooled'"):
        runs.embed(pretrained, given, tmp_path / "a.npy", "patches", HERE)
    runs.embed(pretrained, given, tmp_path / "a.npy", "pooled", HERE)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "whole.npy"))


@pytest.fixture(scope="module", params=[".npy", ".parquet"])
def index(request, pretrained, phantoms, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("index") / f"f{request.param}"
    (out.parent / "bad.png").write_bytes(b"")
    runs.embed(pretrained, [phantoms / "images", out.parent / "bad.png"], out, "pooled", HERE)
    return out


def test_neighbours_are_the_nearest_by_cosine(index, pretrained, phantoms, tmp_path):
    files = sorted((phantoms / "images").iterdir())
    features = predict.features(mrm.load(pretrained), finding_files.records_at(files), workers=0)[0]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = unit @ unit[5]
    copy = tmp_path / "copy.jpg"  # an image that the index does not know by its path
    copy.write_bytes(files[5].read_bytes())
    for query, order in ((copy, np.argsort(-expected)), (files[5], np.argsort(-expected)[1:])):
        got = runs.similar([query], index, pretrained, 6, HERE)
        assert [a["path"] for a in got] == [str(files[i]) for i in order[:6]]
        assert [a["rank"] for a in got] == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose([a["cosine"] for a in got], expected[order[:6]], atol=1e-5)
    assert runs.similar([files[5]], index, None, 6)[0]["query"] == str(files[5])  # needs no model
    assert len(runs.similar([files[5]], index, None, 500)) == 47  # not itself, and not the one unreadable


def test_neighbours_do_not_depend_on_the_blocks():
    features = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    features[[4, 30]] = np.nan
    features[11] = features[12] = features[40]
    own = np.array([3, -1, 40])
    whole = neighbours.nearest(features[[3, 20, 40]], iter([features]), 9, own)
    for size in (1, 7, 49):
        cut = neighbours.nearest(features[[3, 20, 40]], (features[i : i + size] for i in range(0, 50, size)), 9, own)
        np.testing.assert_array_equal(cut[1], whole[1])
    assert list(whole[1][2][:2]) == [11, 12]
    assert not {4, 30} & set(whole[1].ravel())


def test_searches_that_cannot_be_answered_are_refused(index, model, pretrained, phantoms, awkward, tmp_path):
    image = awkward / "00-good.jpg"
    search = lambda *a, **k: runs.similar(*a, **{"reading": HERE, **k})  # noqa: E731
    with pytest.raises(RunError, match="give its --model too"):
        search([image], index)
    with pytest.raises(RunError, match="made by another model"):
        search([image], index, model)
    with pytest.raises(RunError, match="made with precision 'fp32'"):
        search([image], index, pretrained, reading=replace(HERE, precision="bf16"))
    with pytest.raises(RunError, match="empty"):
        search([awkward / "01-zero-bytes.png"], index, pretrained)
    with pytest.raises(RecordError, match="has no features"):
        search([index.parent / "bad.png"], index)
    with pytest.raises(RunError, match="--top must be"):
        search([image], index, pretrained, 0)
    with pytest.raises(RecordError, match="no such file or folder"):
        search(["nowhere.png"], index, pretrained)
    runs.embed(pretrained, [phantoms / "images" / "S0-000000.jpg"], tmp_path / "p.npy", "patches", HERE)
    with pytest.raises(RecordError, match="--kind pooled"):
        search([image], tmp_path / "p.npy", pretrained)
    (tmp_path / "no.parquet").write_bytes(b"x")
    for name in ("no.parquet", "gone.npy", "index.csv"):
        with pytest.raises(RecordError, match=r"no index that|an index ends in"):
            search([image], tmp_path / name, pretrained)


def test_the_commands_say_what_they_wrote(model, pretrained, phantoms, tmp_path, capsys):
    images = str(phantoms / "images")
    cli.main(["predict", str(model), images, "--out", str(tmp_path / "a.csv"), "--workers", "0"])
    assert "a.csv: 48 images\n" in capsys.readouterr().out
    cli.main(["embed", str(pretrained), images, "--out", str(tmp_path / "f.parquet"), "--workers", "0"])
    capsys.readouterr()
    query = f"{images}/S0-000000.jpg"
    cli.main(["similar", query, "--index", str(tmp_path / "f.parquet"), "--top", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == query
    assert len(lines) == 3
    cli.main(["similar", query, "--index", str(tmp_path / "f.parquet"), "--out", str(tmp_path / "n.csv")])
    assert [row["rank"] for row in table(tmp_path / "n.csv")] == ["1", "2", "3", "4", "5"]


def test_records_in_memory_are_read_too(model, phantoms):
    image = (phantoms / "images" / "S0-000000.jpg").read_bytes()
    scores = predict.classify(mrm.load(model), Records([Record(image)]), workers=0)
    assert np.isfinite(scores.logits_NC).all()
