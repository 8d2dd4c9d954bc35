"""Commands that start from, or compute with, an encoder of another program."""

import json

import numpy as np
import pytest
import torch

import mrm
from mrm import runs
from mrm.data import images
from mrm.inference import heat_maps, predict
from mrm.models import model_folder
from mrm.models.mrm import normalise
from mrm.system.errors import ConfigError, ExplainError, PredictError
from tests.support.commands import run_cli
from tests.support.configs import finetune_config, pretrain_config, segment_config
from tests.support.foreign_encoders import write_timm, write_transformers

SHORT = {"steps": 2, "warmup_steps": 1, "validate_every": 2, "save_every": 2, "global_batch": 8}
COLOURS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return write_transformers("dinov2_with_registers", tmp_path_factory.mktemp("foreign") / "dinov2")


@pytest.fixture(scope="module")
def convnext(tmp_path_factory):
    return write_timm("convnext_tiny", tmp_path_factory.mktemp("foreign") / "convnext")


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224"])
def test_a_classifier_is_fine_tuned_from_each_family_and_tested(name, phantoms, tmp_path, capsys):
    foreign = write_timm(name, tmp_path / "encoder")
    config = finetune_config(phantoms, foreign.init, tmp_path / "run", layer_decay=0.75, audit="names", **SHORT)
    run = runs.finetune(config)
    assert f"read as a model of timm ({name}" in capsys.readouterr().out
    model = mrm.load(run)
    assert (model.config.encoder, model.config.image_size) == (name, foreign.size)
    assert (model.config.mean, model.config.std) == ((0.5, 0.4, 0.3), (0.3, 0.2, 0.1))
    card = json.loads((run / "best" / "config.json").read_text())
    assert card["architecture"]["mean"] == [0.5, 0.4, 0.3]
    assert card["origin"]["init"] == "encoder"
    if name == "convnext_tiny":  # whose head is named otherwise than that of the others
        results = runs.evaluate(run, phantoms / "records.csv", tmp_path / "test", draws=50)
        assert 0 <= results["classes"]["mean"]["auroc"]["value"] <= 1
        line = (
            "the encoder that it started from (encoder) cannot be compared with the test records, so overlap cannot be"
        )
        assert [one for one in results["overlap"] if one.startswith(line) and one.endswith("trained on: unknown")]


def test_a_classifier_of_dinov2_takes_other_sizes_means_and_a_probe_first(dinov2, phantoms, tmp_path):
    changes = {"image_size": 70, "mean": (0.5,), "std": (0.2, 0.3, 0.4), "probe_first": True}
    run = runs.finetune(finetune_config(phantoms, dinov2.init, tmp_path / "run", **changes, **SHORT))
    config = mrm.load(run).config
    assert (config.image_size, config.mean, config.std) == (70, 0.5, (0.2, 0.3, 0.4))


def test_the_loader_gives_an_encoder_images_as_it_wants_them(dinov2, phantoms, tmp_path):
    """`mrm embed` against the encoder's own program, on an image that is prepared by hand."""
    file = sorted((phantoms / "images").iterdir())[0]
    runs.embed(dinov2.init, [file], tmp_path / "f.npy")
    grey = torch.from_numpy(images.resize(images.read(file), dinov2.size, dinov2.size)).float() / 255
    mean, std = (torch.tensor(level)[:, None, None] for level in COLOURS)
    with torch.no_grad():
        expected = dinov2.features(((grey - mean) / std)[None])
    np.testing.assert_allclose(np.load(tmp_path / "f.npy"), expected.numpy(), rtol=0, atol=1e-4)
    assert json.loads((tmp_path / "f.json").read_text())["model_kind"] == "encoder"


def test_a_segmenter_is_trained_from_dinov2(dinov2, discs, tmp_path):
    config = segment_config(discs, dinov2.init, tmp_path / "run", image_size=(56, 42), steps=2, validate_every=2)
    model = mrm.load(runs.segment(config))
    assert (model.config.mean, model.config.std) == COLOURS


def test_pre_training_from_convnext_is_refused_with_the_reason(convnext, phantoms, tmp_path):
    source = model_folder.architecture(convnext.init)
    config = pretrain_config(phantoms, tmp_path / "run", init=convnext.init)
    model = type(config.model)(
        **{**vars(config.model), "encoder": source.encoder, "encoder_options": source.encoder_options}
    )
    with pytest.raises(ConfigError, match=r"\(convnext\) cannot be used for pre-training: MRM drops patches"):
        runs.pretrain(type(config)(**{**vars(config), "model": model}))


def test_what_needs_patches_says_so(convnext, phantoms, tmp_path):
    with pytest.raises(PredictError, match=r"convnext_tiny \(convnext\) has no features of patches"):
        runs.embed(convnext.init, [phantoms / "images"], tmp_path / "f.npy", "patches")
    run = runs.finetune(finetune_config(phantoms, convnext.init, tmp_path / "run", **SHORT))
    with pytest.raises(ExplainError, match="has no patches of one size, so there is no heat map"):
        heat_maps.heat_map(mrm.load(run), np.zeros((64, 64), np.uint8), 0)


def test_a_timm_name_is_an_option_of_the_command(convnext, phantoms, tmp_path, capsys):
    records, place = phantoms / "records.csv", f"timm:convnext_tiny={convnext.init}"
    words = ["finetune", "tiny", "--train", records, "--val", records, "--out", tmp_path / "run", "--max-steps", 1]
    code, out, error = run_cli(capsys, *map(str, words), "--init", place, "--training.workers", "0")
    assert code == 0, error
    assert "read as a model of timm (convnext_tiny" in out
    code, _, error = run_cli(capsys, *map(str, words), "--init", f"timm:convnext_tiny={tmp_path / 'gone'}")
    assert (code, error.count("\n")) == (2, 1)
    assert "no such file or folder" in error


def test_features_are_pooled_alike_by_predict_and_by_the_model(convnext):
    model = mrm.load(convnext.init)
    image = normalise(torch.randint(0, 256, (2, 64, 64), dtype=torch.uint8), model.config.mean, model.config.std)
    with torch.no_grad():
        assert torch.equal(predict.feature_function(model, "pooled")(image), model(image))
    assert predict.feature_shape(model, "pooled") == (32,)
