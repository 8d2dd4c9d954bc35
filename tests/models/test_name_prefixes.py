"""Weights of other programs: known prefixes are left out in words, and unknown ones are named as they are in the file."""

import warnings

import pytest
import torch
from safetensors.torch import save_file

from mrm.models import model_folder
from mrm.models.classifier import build_encoder
from mrm.models.name_prefixes import without_prefixes
from mrm.models.weights import read_weights
from mrm.system.errors import CheckpointError
from tests.support.configs import ENCODER

NAMES = ["patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.qkv.weight", "norm.weight"]


def values(*prefixes: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": torch.tensor([float(i)]) for prefix in prefixes for i, name in enumerate(NAMES)}


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "backbone.", "module.base_encoder."),
        *("teacher.", "model.backbone.", "student.backbone.", "module.module.", "net._orig_mod."),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_known_prefixes_are_left_out_and_named(tmp_path, prefix, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": values(prefix)}, path)
    else:
        save_file(values(prefix), path)
    with pytest.warns(UserWarning, match="names of weights are read without"):
        read = read_weights(path)
    assert {name: value.item() for name, value in read.items()} == {name: i for i, name in enumerate(NAMES)}


def test_a_model_of_which_a_part_was_compiled_has_the_prefix_inside(tmp_path):
    with pytest.warns(UserWarning, match=r"without _orig_mod\."):
        names = without_prefixes({"encoder._orig_mod.blocks.0.norm1.weight": 1, "head.weight": 2}, tmp_path)
    assert names == {"encoder.blocks.0.norm1.weight": 1, "head.weight": 2}


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_names_without_prefix_stay_without_a_word(tmp_path, prefix):
    weights = {**values(prefix), "decoder_blocks.0.norm1.weight": torch.zeros(1), "backbone.blocks.0.norm1.weight": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert without_prefixes(weights, tmp_path) == weights


def test_the_parts_of_an_mrm_keep_their_names_when_it_was_wrapped(tmp_path):
    wrapped = {"model.encoder.blocks.0.norm1.weight": 1, "model.image_decoder.blocks.0.norm1.weight": 2}
    with pytest.warns(UserWarning, match=r"without model\."):
        read = without_prefixes(wrapped, tmp_path)
    assert read == {"encoder.blocks.0.norm1.weight": 1, "image_decoder.blocks.0.norm1.weight": 2}


def test_several_encoders_in_one_file_are_named(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"holds several encoders \(student\., teacher\.\); save the weights of one"
    ):
        without_prefixes(values("student.", "teacher."), tmp_path)


def test_an_unknown_prefix_is_named_as_it_is_in_the_file(tmp_path):
    encoder = build_encoder(ENCODER, 0, 0.0)
    torch.save({f"our_own.thing.{k}": v for k, v in encoder.state_dict().items()}, tmp_path / "w.pth")
    model = torch.nn.ModuleDict({"encoder": encoder})
    with pytest.raises(CheckpointError, match=r"the file has names such as our_own\.thing\.blocks\.0\.\w+"):
        model_folder.start_from(model, tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{"teacher": values(""), "epoch": 3}, {"ema": values("")}])
def test_a_file_without_a_state_dict_under_a_known_key_names_its_keys(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=f"its keys are {', '.join(content)}\\. Save the weights that are meant"):
        read_weights(tmp_path / "w.pth")
