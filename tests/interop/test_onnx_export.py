"""ONNX agrees with PyTorch or is not kept."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrm.inference import predict
from mrm.interop import loading_page, onnx_export
from mrm.models.classifier import Classifier
from mrm.models.mrm import normalise
from mrm.system.errors import CheckpointError
from tests.support.configs import MICRO
from tests.support.models import classifier_of, mrm_model, segmenter_of

CLASSES = ("nodule", "effusion")  # of the classifier


def answers(path: Path, image_BHW: np.ndarray) -> dict[str, np.ndarray]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image_BHW}), strict=True))


def test_a_classifier_in_onnx_gives_logits_and_tempered_probabilities_of_any_batch(classifier, exported):
    for count in (1, 2, 7):
        images = np.random.default_rng(count).integers(0, 256, (count, 64, 64), dtype=np.uint8)
        got = answers(exported, images)
        true = classifier(normalise(torch.from_numpy(images), 0.4978, 0.2449)).numpy()
        np.testing.assert_allclose(got["logits"], true, atol=1e-4 * np.abs(true).max())
        np.testing.assert_allclose(got["probabilities"], 1 / (1 + np.exp(-true / [2.5, 1.0])), atol=1e-4)
    assert [p.name for p in exported.parent.iterdir()] == ["a.onnx"]


def test_a_classifier_that_pools_for_each_class_in_onnx_is_the_same(tmp_path):
    model = classifier_of(CLASSES, pooling="class")
    torch.nn.init.normal_(model.encoder.attn_pool.query)
    onnx_export.export_onnx(model.requires_grad_(False), tmp_path / "a.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    true = model(normalise(torch.from_numpy(images), 0.4978, 0.2449)).numpy()
    np.testing.assert_allclose(answers(tmp_path / "a.onnx", images)["logits"], true, atol=1e-4 * np.abs(true).max())


def test_an_encoder_in_onnx_gives_its_features(tmp_path):
    model = mrm_model().requires_grad_(False)
    onnx_export.export_onnx(model, tmp_path / "a.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    got = answers(tmp_path / "a.onnx", images)
    normal = normalise(torch.from_numpy(images), MICRO.mean, MICRO.std)
    for kind in ("pooled", "patches"):
        np.testing.assert_allclose(got[kind], predict.feature_function(model, kind)(normal), atol=1e-4)


@pytest.mark.parametrize(
    "head", ["upernet", pytest.param("dpt", marks=pytest.mark.slow), pytest.param("linear", marks=pytest.mark.slow)]
)
def test_a_segmenter_in_onnx_gives_probabilities_of_pixels(head, tmp_path):
    model = segmenter_of(CLASSES, head)
    onnx_export.export_onnx(model, tmp_path / "a.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 96), dtype=np.uint8)
    got = answers(tmp_path / "a.onnx", images)
    true = model(normalise(torch.from_numpy(images), 0.4978, 0.2449)).logits_BCHW
    np.testing.assert_allclose(got["logits"], true, atol=1e-4 * max(1, true.abs().max()))
    np.testing.assert_allclose(got["probabilities"], true.sigmoid(), atol=1e-4)


def test_the_file_says_how_an_image_is_prepared(exported):
    onnx = pytest.importorskip("onnx")
    facts = json.loads({p.key: p.value for p in onnx.load(exported).metadata_props}["mrm"])
    assert facts["classes"] == list(CLASSES)
    assert facts["thresholds"] == {"nodule": 0.3}
    assert facts["temperatures"] == {"nodule": 2.5, "effusion": 1.0}
    assert facts["input"]["shape"] == ["batch", 64, 64]
    assert "the whole image resized to 64 x 64" in facts["input"]["resize"]
    assert "in the middle of black" in onnx_export.preparation(segmenter_of(CLASSES, "linear"))["input"]["resize"]


def test_a_file_that_disagrees_is_not_left_and_what_was_there_stays(classifier, tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"before")
    real = onnx_export._write_onnx

    def write(network, model, temporary):
        with torch.no_grad():
            model.encoder.head.bias += 0.01  # what is written is another model than what it is compared with
        real(network, model, temporary)
        with torch.no_grad():
            model.encoder.head.bias -= 0.01

    monkeypatch.setattr(onnx_export, "_write_onnx", write)
    with pytest.raises(CheckpointError, match=r"differs from PyTorch by 0\.0\d+ of its values.* the file was not kept"):
        onnx_export.export_onnx(classifier, path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def test_a_model_that_gives_nan_is_refused(classifier, tmp_path):
    broken = Classifier(classifier.config).eval().requires_grad_(False)
    broken.encoder.head.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="differs from PyTorch by nan"):
        onnx_export.export_onnx(broken, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_packages_the_extra_is_named(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"ONNX needs onnx, onnxruntime, onnxscript: .*\[onnx\]"):
        onnx_export.export_onnx(classifier, tmp_path / "a.onnx")


def test_a_folder_and_too_many_weights_are_refused(classifier, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="is a folder"):
        onnx_export.export_onnx(classifier, tmp_path)
    monkeypatch.setattr(onnx_export, "LARGEST", 1000)
    with pytest.raises(CheckpointError, match="bytes of weights; an ONNX file holds at most 1,000"):
        onnx_export.export_onnx(classifier, tmp_path / "a.onnx")


def test_it_says_what_is_done_to_an_image_besides_resizing(classifier):
    """In the metadata, and on the page of a hub folder."""
    assert onnx_export.preparation(classifier)["input"]["changes"] == ""
    changed = Classifier(replace(classifier.config, crop_borders=True, greys="matched")).eval()
    words = "borders cut off and its greys matched"
    assert words in onnx_export.preparation(changed)["input"]["changes"]
    assert words in loading_page.images(changed)
    assert words not in loading_page.images(classifier)
