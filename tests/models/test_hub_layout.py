"""A folder in timm's layout from someone else: a classifier is read, and what cannot be right is refused in one line."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import mrm
from mrm.models import hub_layout, model_folder
from mrm.models.classifier import Classifier
from mrm.system.errors import CheckpointError, RunError
from tests.support.commands import run_cli
from tests.support.image_files import write_image
from tests.support.models import classifier_of, mrm_model

CLASSES = ("nodule", "effusion")


@pytest.fixture(scope="module")
def model() -> Classifier:
    return classifier_of(CLASSES)


@pytest.fixture
def folder(model, tmp_path) -> Path:
    """What timm has of a classifier: no card."""
    out = tmp_path / "model"
    out.mkdir()
    save_file(hub_layout.split(model.state_dict())[0], out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(hub_layout.timm_config(model)))
    return out


def edit(folder: Path, *removed: str, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    for part in ("model_args", "pretrained_cfg"):
        config[part].update(changes.pop(part, {}))
    config = {name: value for name, value in {**config, **changes}.items() if name not in removed}
    (folder / "config.json").write_text(json.dumps(config))


def test_a_classifier_is_read_from_timms_layout_alone(folder, model):
    loaded = mrm.load(folder)
    image_BCHW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(image_BCHW), model(image_BCHW))
    assert loaded.config.classes == CLASSES
    assert torch.equal(mrm.load_encoder(folder).blocks[0].mlp.fc1.weight, model.encoder.blocks[0].mlp.fc1.weight)


def test_labels_are_also_read_from_where_timm_keeps_them(folder):
    edit(folder, "label_names", "num_classes", pretrained_cfg={"label_names": {"1": "b", "0": "a"}})
    assert mrm.load(folder).config.classes == ("a", "b")


@pytest.mark.parametrize("classes", [2, 0])
def test_without_names_of_classes_it_is_an_encoder(folder, model, classes):
    edit(folder, label_names=None, num_classes=classes)
    loaded = mrm.load(folder)
    image_BCHW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pooled_BD = model.encoder.forward_head(model.encoder.forward_features(image_BCHW), pre_logits=True)
    torch.testing.assert_close(loaded(image_BCHW), pooled_BD)
    with pytest.raises(RunError, match="expected a classifier, found an encoder; fine-tune it first"):
        model_folder.load_as(folder, Classifier)


def test_channels_may_differ(folder):
    edit(folder, pretrained_cfg={"mean": [0.4, 0.5, 0.6]})
    loaded = mrm.load(folder)
    assert loaded.config.mean == (0.4, 0.5, 0.6)
    assert hub_layout.timm_config(loaded)["pretrained_cfg"]["mean"] == [0.4, 0.5, 0.6]


def test_where_timm_would_fetch_weights_from_is_not_read(folder, model, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something was fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    places = {
        "url": "https://example.invalid/a.pth",
        "hf_hub_id": "someone/model",
        "file": "/etc/passwd",
        "source": "url",
    }
    edit(folder, pretrained_cfg=places)
    assert torch.equal(mrm.load(folder).encoder.head.weight, model.encoder.head.weight)
    edit(folder, label_names=None)
    assert torch.equal(mrm.load_encoder(folder).blocks[0].mlp.fc1.weight, model.encoder.blocks[0].mlp.fc1.weight)


def test_calibrating_it_gives_it_a_card(folder):
    model_folder.change_card(folder, lambda card: replace(card, thresholds={"nodule": 0.2}))
    assert mrm.load(folder).card.thresholds == {"nodule": 0.2}
    assert "architecture" in json.loads((folder / "mrm.json").read_text())


WRONG = {
    "unknown architecture": ({"architecture": "vit_of_tomorrow"}, "architecture 'vit_of_tomorrow' is unknown to timm"),
    "no ViT": ({"architecture": "resnet18"}, "no model can be built from its settings"),
    "address": ({"architecture": "hf-hub:someone/model"}, "is not the name of a timm model"),
    "folder": ({"architecture": "local-dir:/etc"}, "is not the name of a timm model"),
    "file": ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "'checkpoint_path' is not accepted"),
    "fetching": ({"model_args": {"pretrained": True}}, "'pretrained' is not accepted"),
    "overlay": ({"model_args": {"pretrained_cfg_overlay": {"url": "x"}}}, "'pretrained_cfg_overlay' is not accepted"),
    "depth": ({"model_args": {"depth": 10**6}}, "depth must be a whole number from 1 to 128"),
    "too few labels": ({"label_names": ["nodule"]}, "label_names has 1 names, but num_classes is 2"),
    "repeated labels": ({"label_names": ["nodule", "nodule"]}, "nodule occurs more than once"),
    "labels and count": ({"label_names": list("abc"), "num_classes": 3}, "3 classes are named, but the head .* has 2"),
    "labels of a wrong type": ({"label_names": [1, 2]}, "label_names must be a list in which each item is text"),
    "other pooling": ({"model_args": {"global_pool": "token"}}, "global_pool 'token' is not one that"),
    "other norm": ({"model_args": {"fc_norm": False}}, "fc_norm is False with global_pool 'avg'"),
    "one channel": ({"model_args": {"in_chans": 1}}, "in_chans is 1, but"),
    "not square": ({"model_args": {"img_size": [64, 96]}}, "img_size 64 x 96 is not square"),
    "crop": ({"pretrained_cfg": {"crop_pct": 0.9}}, "with crop_pct 0.9 is not a view of mrm"),
    "filter": ({"pretrained_cfg": {"interpolation": "lanczos"}}, "interpolation 'lanczos' is not one"),
    "std": ({"pretrained_cfg": {"std": [0, 0, 0]}}, "std must be a number from"),
    "no preparation": ({"pretrained_cfg": 3}, "pretrained_cfg must be a mapping"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_right_is_named(folder, case):
    changes, message = WRONG[case]
    if changes.get("pretrained_cfg") == 3:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
    else:
        edit(folder, **changes)
    with pytest.raises(CheckpointError, match=f"model.*{message}"):
        mrm.load(folder)


@pytest.mark.parametrize(
    "content", [{"model_type": "bert", "hidden_size": 768}, {"architectures": ["ViTModel"]}, {}, {"weights": 1}]
)
def test_a_folder_of_neither_kind_is_named(folder, content, tmp_path, capsys):
    (folder / "config.json").write_text(json.dumps(content))
    write_image(tmp_path / "a.png", 0)
    for command in (["predict", str(folder), str(tmp_path / "a.png")], ["export", str(folder), "--format", "hub"]):
        code, _, error = run_cli(capsys, *command, "--out", str(tmp_path / "out.csv"))
        assert (code, error.count("\n")) == (2, 1)
        assert (
            "neither one of mrm (kind), nor of timm (architecture)" in error
            or "of the type 'bert' cannot be read" in error
        )
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(folder, value):
    weights = load_file(folder / "model.safetensors")
    weights["blocks.1.mlp.fc1.bias"][3] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: blocks\.1\.mlp\.fc1\.bias has 1 values that are NaN"
    ):
        mrm.load(folder)


def test_a_card_and_a_config_of_different_models_are_refused(folder, model):
    (folder / "mrm.json").write_text(json.dumps(model.card.to_dict()))
    assert mrm.load(folder).config == model.config
    edit(folder, label_names=["effusion", "nodule"])
    with pytest.raises(
        CheckpointError, match=r"label_names \(effusion, nodule\) are not the classes of mrm\.json \(nodule"
    ):
        mrm.load(folder)
    edit(folder, architecture="vit_small_patch16_224")
    with pytest.raises(
        CheckpointError, match=r"architecture is 'vit_small_patch16_224', but that of mrm\.json is 'vit_tiny"
    ):
        mrm.load(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json: not timm's layout"):
        mrm.load(folder)
    (folder / "mrm.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"mrm\.json: not a model's mrm\.json"):
        mrm.load(folder)


def test_decoders_that_are_missing_are_named(tmp_path):
    model = mrm_model()
    native, others = hub_layout.split(model.state_dict())
    save_file(native, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(hub_layout.timm_config(model)))
    (tmp_path / "mrm.json").write_text(json.dumps(model.card.to_dict()))
    with pytest.raises(CheckpointError, match=r"not in the file \(\d+\): image_decoder\.mask_token"):
        mrm.load(tmp_path)
    save_file(others, tmp_path / "decoders.safetensors")
    assert np.array_equal(mrm.load(tmp_path).report_decoder.word_bias, model.report_decoder.word_bias.detach())


def test_weights_without_a_header_are_read_and_damaged_ones_named(folder, model):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert torch.equal(mrm.load(folder).encoder.head.weight, model.encoder.head.weight)
    (folder / "pytorch_model.bin").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: "):
        mrm.load(folder)
