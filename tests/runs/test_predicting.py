"""The command `predict`: whatever file a hospital has, a row or one clear line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

import mrm
from mrm import cli, runs
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import finding_files, images
from mrm.data.records import Records
from mrm.inference import outliers, predict
from mrm.models import model_folder
from mrm.runs import predicting
from mrm.runs.reading_options import Reading
from mrm.statistics import calibration
from mrm.system import hardware, int8_products
from mrm.system.errors import CheckpointError, ConfigError, RecordError, RunError
from tests.support.configs import MICRO
from tests.support.dicom_files import dicom_bytes
from tests.support.models import segmenter_of, with_card
from tests.support.predictions import IN_PROCESS, Stopped, predicted_rows, stop_after
from tests.support.run_files import table

# ---- what is given -------------------------------------------------------------------------------------------


def test_shards_are_given_as_their_folder(model, phantoms, tmp_path):
    pack = pytest.importorskip("mrm.data.packing")
    pack.pack(pack.open_source(phantoms / "records.csv"), tmp_path / "packed", pack.PackConfig(size=64), workers=1)
    got = predicted_rows(model, [tmp_path / "packed"], tmp_path / "a.csv")
    assert [r["path"] for r in got] == [r.name for r in Records.load(phantoms / "records.csv")]
    assert not any(r["error"] for r in got)


def test_results_in_the_folder_of_the_images_are_not_taken_for_images(model, phantoms, tmp_path, monkeypatch):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes((phantoms / "images" / "S0-000000.jpg").read_bytes())
    one = replace(IN_PROCESS, batch=1)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            predicted_rows(model, [tmp_path], tmp_path / "a.csv", one)
    assert [r["error"] for r in predicted_rows(model, [tmp_path], tmp_path / "a.csv", one)] == ["", ""]
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
        ("list.txt", "gone.png\n", "none of its 1 images was found in"),
        ("list.txt", b"\xff\xfe\x00x" * 9 + b"x", "not a text file in UTF-16"),
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


# ---- one row an image ---------------------------------------------------------------------------------------


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
            for r in predicted_rows(model, [awkward], tmp_path / "a.csv", replace(IN_PROCESS, workers=workers))
        }
    assert list(got) == sorted(got)
    assert {number for number, row in got.items() if row["error"]} == set(REASONS)
    for number, reason in REASONS.items():
        assert reason in got[number]["error"]
        assert not any(got[number][c] for c in FINDINGS)
    for number in ("00", "20", "21", "22", "23"):
        assert all(0 <= float(got[number][c]) <= 1 for c in FINDINGS)
    assert "modality is CT" in got["23"]["warning"]
    assert "is meaningless for it" in got["23"]["warning"]
    assert [n for n, row in got.items() if row["warning"]] == ["21", "22", "23"]
    for number in ("21", "22"):
        assert "all pixels have the same value, so there is nothing to see in it" in got[number]["warning"]
    for c in FINDINGS:  # nearly: how many images share a batch rounds otherwise
        assert float(got["20"][c]) == pytest.approx(float(got["00"][c]), rel=1e-4)


def test_a_ct_slice_is_warned_of_on_the_command_line(model, awkward, tmp_path):
    with pytest.warns(UserWarning, match=r"23-ct\.dcm: modality is CT, not CR, DX or RG and body part is ABDOMEN"):
        predicted_rows(model, [awkward / "23-ct.dcm"], tmp_path / "a.csv")


def test_a_real_ct_slice_is_warned_of(model, shared_data, tmp_path):
    with pytest.warns(UserWarning, match="modality is CT"):
        (row,) = predicted_rows(model, [shared_data / "dicom" / "anon_apct.dcm"], tmp_path / "a.csv")
    assert "modality is CT" in row["warning"]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_made_from_a_jpeg_gives_the_prediction_of_the_jpeg(model, phantoms, tmp_path, photometric):
    for name in ("S0-000000", "S0-000007"):
        jpeg, made = tmp_path / f"{name}.jpg", tmp_path / f"{name}.dcm"
        radiograph = images.resize(images.read(phantoms / "images" / f"{name}.jpg"), 127, 100)
        jpeg.write_bytes(images.encode_jpeg(radiograph))
        radiograph = images.read(jpeg)
        stored = radiograph if photometric == "MONOCHROME2" else 255 - radiograph
        made.write_bytes(dicom_bytes(stored, PhotometricInterpretation=photometric))
        first, second = predicted_rows(model, [jpeg, made], tmp_path / "a.csv")
        for c in FINDINGS:
            assert float(second[c]) == pytest.approx(float(first[c]), abs=1e-6)
        made.write_bytes(dicom_bytes(255 - stored, PhotometricInterpretation=photometric))
        (turned,) = predicted_rows(model, [made], tmp_path / "b.csv")  # the test can fail
        assert any(abs(float(turned[c]) - float(first[c])) > 1e-3 for c in FINDINGS)


def test_a_large_jpeg_is_decoded_smaller_than_its_dicom_and_they_agree(model, phantoms, tmp_path):
    radiograph = images.read(phantoms / "images" / "S0-000000.jpg")
    (tmp_path / "large.jpg").write_bytes(images.encode_jpeg(images.resize(radiograph, 1000, 800)))
    (tmp_path / "large.dcm").write_bytes(dicom_bytes(images.read(tmp_path / "large.jpg")))
    seen = [images.eval_image(tmp_path / n, MICRO.image_size).astype(int) for n in ("large.jpg", "large.dcm")]
    assert 0 < np.abs(seen[0] - seen[1]).max() <= 3  # grey levels of 255
    first, second = predicted_rows(model, [tmp_path / "large.jpg", tmp_path / "large.dcm"], tmp_path / "a.csv")
    assert max(abs(float(first[c]) - float(second[c])) for c in FINDINGS) < 0.005  # of logits up to 17


def test_burned_in_borders_are_cropped_on_request(model, phantoms, tmp_path):
    radiograph = images.read(phantoms / "images" / "S0-000003.jpg").clip(20, 230)
    framed = np.pad(np.pad(radiograph, 30, constant_values=255), ((0, 50), (17, 0)))
    for name, image in (("plain", radiograph), ("framed", framed)):
        (tmp_path / f"{name}.png").write_bytes(images.encode_png(image))
    (tmp_path / "framed.dcm").write_bytes(dicom_bytes(framed))
    files = [tmp_path / n for n in ("plain.png", "framed.png", "framed.dcm")]
    plain, framed_png, framed_dcm = predicted_rows(
        model, files, tmp_path / "a.csv", replace(IN_PROCESS, crop_borders=True)
    )
    uncropped = predicted_rows(model, files, tmp_path / "b.csv")[1]
    for c in FINDINGS:
        assert float(framed_png[c]) == pytest.approx(float(plain[c]), abs=1e-6)
        assert float(framed_dcm[c]) == pytest.approx(float(plain[c]), abs=1e-6)
    assert any(abs(float(uncropped[c]) - float(plain[c])) > 1e-3 for c in FINDINGS)


def test_rows_are_what_classify_says_in_the_order_of_the_table_with_patient_and_study(model, phantoms, tmp_path):
    records = Records.load(phantoms / "records.csv")
    expected = predict.classify(mrm.load(model), records, workers=0).probabilities_NC
    got = predicted_rows(model, [phantoms / "records.csv"], tmp_path / "a.csv")
    assert [(r["path"], r["patient_id"], r["study_id"]) for r in got] == [(r.name, r.patient, r.study) for r in records]
    np.testing.assert_allclose([[float(r[c]) for c in FINDINGS] for r in got], expected, rtol=1e-4, atol=1e-6)


def test_csv_parquet_json_and_lines_hold_the_same(model, phantoms, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    given = [phantoms / "images" / "S0-000000.jpg", tmp_path / "bad.png"]
    for name in ("a.csv", "a.parquet", "a.json", "a.jsonl"):
        predicting.predict_table(model, given, tmp_path / name, IN_PROCESS)
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
            predicting.predict_table(model, given, tmp_path / name, IN_PROCESS)


def test_what_is_read_is_never_overwritten(model, pretrained, phantoms, tmp_path):
    table_, image = tmp_path / "radiographs.csv", tmp_path / "radiograph.jpg"
    table_.write_bytes((phantoms / "records.csv").read_bytes())
    image.write_bytes((phantoms / "images" / "S0-000000.jpg").read_bytes())
    (tmp_path / "radiograph.csv").symlink_to(image)  # an image may have any name
    with pytest.raises(
        RunError, match=r"radiographs\.csv: is an input, and would be overwritten; choose another --out"
    ):
        predicting.predict_table(model, [table_], table_, replace(IN_PROCESS, images=phantoms))
    with pytest.raises(RunError, match=r"radiographs\.csv: is an input"):  # the names beside the array
        runs.embed(pretrained, [table_], tmp_path / "radiographs.npy", "pooled", replace(IN_PROCESS, images=phantoms))
    with pytest.raises(RunError, match=r"radiograph\.csv: is an input"):
        predicting.predict_table(model, [image], tmp_path / "radiograph.csv", IN_PROCESS)
    assert table_.read_bytes() == (phantoms / "records.csv").read_bytes()
    runs.embed(
        pretrained, [image], tmp_path / "radiographs.parquet", "pooled", IN_PROCESS
    )  # which writes no radiographs.csv


# ---- thresholds, temperatures, outliers ----------------------------------------------------------------------


def test_temperature_comes_before_the_threshold_and_decisions_follow(model, phantoms, tmp_path):
    thresholds, temperatures = {"nodule": 0.6, "oedema": 0.2}, {"nodule": 4.0}
    cut = with_card(model, tmp_path / "cut", thresholds=thresholds, temperatures=temperatures)
    got = predicted_rows(cut, [phantoms / "records.csv"], tmp_path / "a.csv")
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
    wary = with_card(model, tmp_path / "wary", thresholds={"nodule": 0.5}, outliers=reference)
    got = predicted_rows(wary, [phantoms / "records.csv"], tmp_path / "a.csv")
    np.testing.assert_allclose([float(r["outlier"]) for r in got], scores, rtol=1e-2)
    assert sum(r["abstain"] == "1" for r in got) == 2
    assert all((r["nodule decision"] == "") == (r["abstain"] == "1") for r in got)


def test_another_kind_of_model_and_a_broken_one_are_refused(model, pretrained, phantoms, tmp_path):
    with pytest.raises(RunError, match="expected a classifier, found an MRM model"):
        predicting.predict_table(pretrained, [phantoms / "images"], tmp_path / "a.csv", IN_PROCESS)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_bytes((model / "config.json").read_bytes())
    for command in (predicting.predict_table, runs.embed):
        with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
            command(tmp_path / "m", [phantoms / "images"], tmp_path / "a.parquet", reading=IN_PROCESS)


def test_windows_over_an_image_are_for_segmenters(model, phantoms, tmp_path):
    with pytest.raises(RunError, match="--slide is for segmenters"):
        runs.predict(model, [phantoms / "images"], tmp_path / "a.csv", IN_PROCESS, slide=True)


def test_devices_and_numbers_that_are_not_there_are_refused(model, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr("mrm.system.hardware.computes_bf16", lambda _: False)
    for reading, message in (
        (replace(IN_PROCESS, precision="bf16"), "this processor has no bf16 .*; choose fp32 for the precision"),
        (replace(IN_PROCESS, device="cuda:77"), "--device cuda:77 is not available"),
        (replace(IN_PROCESS, device="toaster"), "--device toaster is not available"),
        (replace(IN_PROCESS, batch=0), "--batch must be at least 1"),
    ):
        with pytest.raises((ConfigError, RunError), match=message):
            predicting.predict_table(model, [phantoms / "images"], tmp_path / "a.csv", reading)


def test_half_precision_is_close(model, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr("mrm.system.hardware.computes_bf16", lambda _: True)
    exact = predicted_rows(model, [phantoms / "images"], tmp_path / "a.csv")
    half = predicted_rows(model, [phantoms / "images"], tmp_path / "b.csv", replace(IN_PROCESS, precision="bf16"))
    away = [abs(float(a[c]) - float(b[c])) for a, b in zip(exact, half, strict=True) for c in FINDINGS]
    assert 0 < max(away) < 0.1


# ---- features and neighbours ---------------------------------------------------------------------------------


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


@pytest.mark.skipif(not hardware.computes_int8(), reason="this processor has no products of 8 bits")
def test_a_table_in_8_bits_has_the_numbers_of_the_predictor_and_says_so(model, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(int8_products, "LEAST_WEIGHTS", 1)
    given, out = phantoms / "images", tmp_path / "a.parquet"
    arguments = ["predict", model, given, "--out", out, "--batch", 8, "--workers", 0, "--precision", "int8"]
    cli.main([str(argument) for argument in arguments])
    written = pyarrow.parquet.read_table(out)
    assert json.loads(written.schema.metadata[b"mrm"])["precision"] == "int8"
    fp32, int8 = (
        mrm.Predictor(model, batch=8, workers=0, precision=precision)(
            finding_files.records_at([given])
        ).probabilities_NC
        for precision in ("fp32", "int8")
    )
    np.testing.assert_allclose(np.transpose([written[name] for name in FINDINGS]), int8, atol=1e-6)
    assert 1e-5 < np.abs(int8 - fp32).max() < 0.05


def test_segmenters_are_not_for_8_bits(tmp_path):
    folder = model_folder.save(tmp_path / "segmenter", segmenter_of(("disc",)))
    for use in (
        lambda: runs.predict(folder, [tmp_path], tmp_path / "out", Reading(precision="int8")),
        lambda: runs.evaluate(folder, tmp_path, tmp_path / "out", Reading(precision="int8")),
    ):
        with pytest.raises(RunError, match="segmenter: int8 is for classifiers and encoders: a segmenter's time goes"):
            use()
    assert not (tmp_path / "out").exists()
