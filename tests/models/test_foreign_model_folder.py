"""A model folder from someone else: a wrong card or wrong weights are refused in one line, before they cost anything."""

import base64
import json
import time
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mrm
from mrm.models import model_folder
from mrm.models.card import Gaussian, OutlierReference, OutlineThreshold, PastTest
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM
from mrm.models.weights import read_pickle, read_weights
from mrm.system.errors import CheckpointError, MRMError
from tests.support.commands import run_cli
from tests.support.configs import ENCODER, MICRO
from tests.support.image_files import write_image

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def folder(tmp_path) -> Path:
    return model_folder.save(tmp_path / "model", Classifier(ENCODER))


def edit(folder: Path, **changes) -> None:
    card = json.loads((folder / "config.json").read_text())
    card["architecture"].update(changes.pop("architecture", {}))
    (folder / "config.json").write_text(json.dumps({**card, **changes}))


def packed(*values: float) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


GAUSSIAN = {"mean": packed(0, 0), "directions": packed(1, 0), "variances": [2.0], "rest": 0.5}
OUTLIERS = {"gaussian": GAUSSIAN, "threshold": 1.5, "share": 0.99, "n": 30, "chosen_on": "30 records"}
TEST = {"records": "t", "fingerprint": "ab", "n": 5, "overlap": [], "classes": {"a": {"auroc": {"value": 0.5, "n": 5}}}}
WRONG_CARDS = {
    "NaN threshold": ({"thresholds": {"a": NAN}}, "thresholds must be"),
    "null threshold": ({"thresholds": {"a": None}}, "thresholds must be"),
    "text threshold": ({"thresholds": {"a": "0.5"}}, "thresholds must be"),
    "threshold above 1": ({"thresholds": {"a": 1.5}}, "thresholds must be"),
    "threshold of no class": ({"thresholds": {"b": 0.5}}, "thresholds: 'b' is not a class of this model"),
    "temperature 0": ({"temperatures": {"a": 0}}, "temperatures must be"),
    "temperature below 0": ({"temperatures": {"a": -1.0}}, "temperatures must be"),
    "infinite temperature": ({"temperatures": {"a": INF}}, "temperatures must be"),
    "temperature of no class": ({"temperatures": {"b": 2.0}}, "temperatures: 'b' is not a class"),
    "outline": ({"outline_thresholds": {"a": {"probability": NAN, "area": 0}}}, "probability must be"),
    "outline area": ({"outline_thresholds": {"a": {"probability": 0.5, "area": 2}}}, "area must be"),
    "outlier threshold": ({"outliers": {**OUTLIERS, "threshold": NAN}}, "threshold must be"),
    "outlier variance": ({"outliers": {**OUTLIERS, "gaussian": {**GAUSSIAN, "variances": [0.0]}}}, "variances must be"),
    "outlier rest": ({"outliers": {**OUTLIERS, "gaussian": {**GAUSSIAN, "rest": 0}}}, "rest must be"),
    "outlier mean": (
        {"outliers": {**OUTLIERS, "gaussian": {**GAUSSIAN, "mean": "###"}}},
        "mean is not a list of numbers",
    ),
    "outlier NaN": ({"outliers": {**OUTLIERS, "gaussian": {**GAUSSIAN, "mean": packed(NAN, 0)}}}, "mean has values"),
    "outlier width": (
        {"outliers": {**OUTLIERS, "gaussian": {**GAUSSIAN, "mean": packed(0)}}},
        "1 directions of 1 values",
    ),
    "origin": ({"origin": {"n": "many"}}, "origin: n must be a whole number"),
    "origin's audit": ({"origin": {"audit": {"clean": True, "overlaps": [3]}}}, "origin: audit must be"),
    "test": ({"tested": [{**TEST, "n": "5"}]}, "n must be a whole number"),
    "test's estimate": ({"tested": [{**TEST, "classes": {"a": {"auroc": {"value": "0.5"}}}}]}, "tested: value must be"),
    "test's measures": ({"tested": [{**TEST, "classes": {"a": 3}}]}, "classes must be a mapping"),
    "calibration": ({"calibration": {"n": "5"}}, "calibration: n must be"),
    "std 0": ({"architecture": {"std": 0}}, "std must be a number from"),
    "text for a number": ({"architecture": {"image_size": "64"}}, "image_size must be a whole number, not '64'"),
    "address": (
        {"architecture": {"encoder_options": {"checkpoint_path": "/etc/passwd"}}},
        "'checkpoint_path' is not acc",
    ),
    "hub": ({"architecture": {"encoder": "hf-hub:someone/model"}}, "is not the name of a timm model"),
    "depth": ({"architecture": {"encoder_options": {"depth": 10**6}}}, "depth must be a whole number from 1 to 128"),
}


@pytest.mark.parametrize("case", WRONG_CARDS)
def test_a_value_that_cannot_be_right_is_named(folder, case):
    changes, message = WRONG_CARDS[case]
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match=f"model.*{message}"):
        mrm.load(folder)
    with pytest.raises(CheckpointError):
        mrm.load_encoder(folder)


def test_a_right_card_is_read(folder):
    edit(folder, thresholds={"a": 0.5}, temperatures={"a": 2}, outliers=OUTLIERS, tested=[TEST], origin={"n": 3})
    card = mrm.load(folder).card
    assert card.outliers == OutlierReference(Gaussian(**{**GAUSSIAN, "variances": (2.0,)}), 1.5, 0.99, 30, "30 records")
    assert (card.thresholds, card.temperatures, card.tested) == ({"a": 0.5}, {"a": 2}, [PastTest(**TEST)])
    assert OutlineThreshold(0.5, 0.0) == OutlineThreshold()


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000, '{"n": ' + "9" * 5000 + "}"]
)
def test_json_that_python_cannot_read_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: not a model's config\.json"):
        mrm.load(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 128, "embed_dim": 16384, "num_heads": 1},
        {"depth": 3, "embed_dim": 48, "num_heads": 3},
        {"patch_size": 8},
    ],
)
def test_an_architecture_is_compared_with_the_weights_before_it_is_built(folder, options, monkeypatch):
    edit(folder, architecture={"encoder_options": options})

    def no_values(*_, **__):
        raise AssertionError("memory was taken for the model")

    monkeypatch.setattr(model_folder, "read_weights", no_values)
    start = time.process_time()
    for read in (mrm.load, mrm.load_encoder, model_folder.architecture):
        with pytest.raises(CheckpointError, match="weights of another architecture"):
            read(folder)
    assert time.process_time() - start < 20


def test_a_published_file_is_compared_with_its_architecture_too(tmp_path):
    path = model_folder.export_published(MRM(MICRO), tmp_path / "MRM.pth")
    content = torch.load(path, weights_only=True)
    content["config"]["encoder_options"] = {"depth": 100, "embed_dim": 16384, "num_heads": 1}
    torch.save(content, path)
    for read in (mrm.load, mrm.load_encoder):
        with pytest.raises(CheckpointError, match="weights of another architecture"):
            read(path)
    content["config"] |= {"std": 0.0}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="std must be a number"):
        mrm.load(path)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_weights_that_are_not_finite_are_refused(folder, tmp_path, value):
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["encoder.norm.weight" if "encoder.norm.weight" in weights else next(iter(weights))].view(-1)[0] = value
    save_file(weights, file)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: encoder\.\S+ has 1 values that are NaN or infinite"
    ):
        mrm.load(folder)
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: .* NaN or infinite"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int8])
def test_weights_of_other_types_are_read(tmp_path, dtype):
    save_file({"a": torch.ones(3).to(dtype)}, tmp_path / "a.safetensors")
    assert read_weights(tmp_path / "a.safetensors")["a"].float().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(2**40),
        torch.zeros(1).expand(10**6, 10**6),
        torch.zeros(3).to_sparse(),
        torch.empty(2**40, device="meta"),
    ],
    ids=["expanded", "square", "sparse", "meta"],
)
def test_tensors_that_are_not_plain_are_refused(tmp_path, tensor):
    torch.save({"model": {"a": tensor}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: "):
        read_weights(tmp_path / "a.pth")


def test_a_compressed_pth_is_refused(tmp_path):
    torch.save({"a": torch.zeros(2_000_000)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as whole,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as z,
    ):
        for info in whole.infolist():
            z.writestr(info.filename, whole.read(info))
    assert (tmp_path / "b.pth").stat().st_size < 20_000
    with pytest.raises(CheckpointError, match=r"b\.pth: its parts are compressed, which torch never does"):
        read_weights(tmp_path / "b.pth")


def test_bits_that_flip_in_a_pth_are_no_traceback(tmp_path):
    torch.save({"step": 3, "weights": {"a": torch.ones(4)}}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    read, bits = 0, range(0, 8 * len(whole), 97)
    for bit in bits:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "b.pt").write_bytes(changed)
        with suppress(CheckpointError):
            read += read_pickle(tmp_path / "b.pt").keys() == {"step", "weights"}
    assert 0 < read < len(bits)


@pytest.mark.parametrize("case", ["NaN threshold", "temperature 0", "std 0", "address", "depth", "test"])
def test_a_command_answers_in_one_line(folder, tmp_path, capsys, case):
    write_image(tmp_path / "a.png", 0)
    edit(folder, **WRONG_CARDS[case][0])
    code, out, err = run_cli(capsys, "predict", str(folder), str(tmp_path / "a.png"), "--out", str(tmp_path / "p.csv"))
    assert (code, out) == (2, "")
    assert err.startswith("mrm: error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "p.csv").exists()


def test_settings_of_a_run_are_checked_alike():
    with pytest.raises(MRMError, match="std must be a number"):
        replace(MICRO, std=0.0)
