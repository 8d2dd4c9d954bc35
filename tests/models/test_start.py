"""The weights of a fresh model, layer by layer, against the formulas of the published start.

Golden values cannot see a start: they are computed for given weights. The expected numbers here are those of the
formulas: a uniform distribution from -a to a has the standard deviation a / sqrt(3), and Xavier's a is
sqrt(6 / (inputs + outputs)), so its standard deviation is sqrt(2 / (inputs + outputs)).
"""

import math
import re
from dataclasses import replace

import pytest
import torch

from mrm.data.reports import PAD
from mrm.models import model_folder, noise
from mrm.models.config import ModelConfig
from mrm.models.mrm import MRM
from mrm.models.published_layout import BERT, HEAD, to_published
from mrm.recipes import SMALL_MODEL, TINY_MODEL
from mrm.system.errors import ConfigError
from tests.support.configs import SMALL

# Published names: what is not learnt, or stands in an exported file for something that the model does not have.
NOT_DRAWN = r"pos_embed|decoder_pos_embed|.*position_ids|.*token_type_embeddings.*|.*pooler.*"
ONES = r".*norm\d?\.weight|.*LayerNorm\.weight"
ZEROS = r".*bias"
EMBEDDINGS = r".*(word|position)_embeddings\.weight"
TOKENS = r"cls_token|mask_token"


def fresh(config: ModelConfig, seed: int = 0) -> MRM:
    with noise.seeded(seed):
        return MRM(config)


@pytest.fixture(scope="module")
def published_start() -> dict[str, torch.Tensor]:
    """A new model of the published size, under the published names: queries, keys and values lie apart there."""
    return to_published(fresh(ModelConfig()))


def close(values: torch.Tensor, std: float) -> None:
    """Mean and standard deviation of independent draws, each within five deviations of what chance allows."""
    count = values.numel()
    assert values.mean().item() == pytest.approx(0.0, abs=5 * std / math.sqrt(count))
    assert values.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * count))


def is_xavier(weight: torch.Tensor, inputs: int, outputs: int) -> None:
    bound = math.sqrt(6 / (inputs + outputs))
    assert 0.999 * bound < weight.abs().max().item() <= bound  # uniform: nothing beyond, and nearly reached
    close(weight, math.sqrt(2 / (inputs + outputs)))


def test_every_weight_of_a_fresh_published_model_is_as_published(published_start):
    linear = 0
    for name, value in published_start.items():
        if re.fullmatch(NOT_DRAWN, name):
            continue
        if re.fullmatch(ONES, name):
            assert (value == 1).all(), name
        elif re.fullmatch(ZEROS, name):
            assert (value == 0).all(), name
        elif re.fullmatch(TOKENS, name):
            close(value, 0.02)
        elif re.fullmatch(EMBEDDINGS, name):
            close(value[PAD + 1 :], 0.02)
            assert value.abs().max() > 0.06, name  # normal, not uniform: tails reach beyond 3 deviations
        else:
            is_xavier(value, value[0].numel(), len(value))
            linear += 1
    # ViT: patches and 12 x 4; image decoder: 2 and 4 x 4; BERT: image, 6 x 6, transform, output words
    assert linear == 1 + 12 * 4 + 2 + 4 * 4 + 1 + 6 * 6 + 1 + 1


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("patch_embed.proj.weight", 0.0360844),  # sqrt(2 / (768 + 768)): 3 x 16 x 16 inputs
        ("blocks.0.attn.qkv.weight", 0.0255155),  # sqrt(2 / (768 + 2304)): one layer of timm's ViT
        ("blocks.11.mlp.fc1.weight", 0.0228218),  # sqrt(2 / (768 + 3072))
        ("decoder_pred.weight", 0.0228218),  # to 32 x 32 x 3 = 3072
        ("bert_mlp.weight", 0.0416667),  # sqrt(2 / (768 + 384))
        (f"{BERT}encoder.layer.5.attention.self.key.weight", 0.0510310),  # sqrt(2 / (384 + 384)), not of 3 x 384
        (f"{BERT}encoder.layer.0.intermediate.dense.weight", 0.0322749),  # sqrt(2 / (384 + 1536))
        (f"{HEAD}decoder.weight", 0.0081132),  # sqrt(2 / (384 + 30,000))
        (f"{BERT}embeddings.word_embeddings.weight", 0.02),
        ("cls_token", 0.02),
        ("mask_token", 0.02),
    ],
)
def test_standard_deviations_in_numbers(published_start, name, std):
    value = published_start[name]
    assert value.std().item() == pytest.approx(std, rel=0.12 if value.numel() < 1000 else 0.01)


def test_the_padding_row_is_zero_and_output_words_are_not_the_embeddings(published_start):
    words, output = (
        published_start[f"{BERT}embeddings.word_embeddings.weight"],
        published_start[f"{HEAD}decoder.weight"],
    )
    assert (words[PAD] == 0).all()
    assert (words[PAD + 1] != 0).any()
    assert not torch.equal(words, output)
    assert (output[PAD] != 0).any()


def test_positions_of_a_fresh_model_are_fixed(published_start):
    model = fresh(SMALL)
    assert not model.encoder.pos_embed.requires_grad
    assert (published_start["pos_embed"][0, 0] == 0).all()
    assert published_start["pos_embed"].abs().max() <= 1


# Siblings: the other start, other sizes, other decoders ----------------------------------------------------


@pytest.mark.parametrize("config", [TINY_MODEL, SMALL_MODEL, replace(SMALL, start="normal")], ids=str)
def test_the_start_of_bert_has_one_deviation_for_every_layer_of_the_report_decoder(config):
    decoder = fresh(config).report_decoder
    for name, value in decoder.named_parameters():
        if value.ndim == 2 and name != "words.weight":
            close(value.detach(), 0.02)
        elif name.endswith("bias"):
            assert (value == 0).all(), name
    assert (decoder.words.weight[PAD] == 0).all()
    close(decoder.words.weight[PAD + 1 :].detach(), 0.02)
    assert (decoder.word_output is None) == config.tied_words


def test_the_start_of_the_report_decoder_leaves_encoder_and_image_decoder_alone():
    one, other = fresh(SMALL).state_dict(), fresh(replace(SMALL, start="normal")).state_dict()
    assert one.keys() == other.keys()
    assert (one["encoder.blocks.0.mlp.fc1.weight"].std() / other["encoder.blocks.0.mlp.fc1.weight"].std()) == (
        pytest.approx(1.0, rel=0.05)
    )
    is_xavier(other["image_decoder.blocks.0.mlp.fc1.weight"], 48, 192)


def test_layers_of_the_cross_decoder_start_as_linear_layers_do():
    block = fresh(replace(SMALL, image_decoder="cross", decoder_width=192)).image_decoder.blocks[0]
    for layer, inputs, outputs in ((block.query, 192, 192), (block.key_value, 192, 384), (block.fc2, 768, 192)):
        is_xavier(layer.weight.detach(), inputs, outputs)
        assert (layer.bias == 0).all()


def test_a_patch_projection_of_another_size_starts_as_a_linear_layer_over_its_pixels():
    options = {**SMALL.encoder_options, "patch_size": 8, "embed_dim": 192}
    projection = fresh(replace(SMALL, encoder_options=options)).encoder.patch_embed.proj
    is_xavier(projection.weight.detach(), 3 * 8 * 8, 192)
    assert (projection.bias == 0).all()


def test_the_same_seed_gives_the_same_start_and_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    one, again, other = fresh(SMALL, 1), fresh(SMALL, 1), fresh(SMALL, 2)
    assert torch.equal(torch.rand(1), before)
    assert torch.equal(one.report_decoder.word_output, again.report_decoder.word_output)
    assert not torch.equal(one.report_decoder.word_output, other.report_decoder.word_output)


def test_a_start_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="start must be one of xavier, normal, not 'kaiming'"):
        fresh(replace(SMALL, start="kaiming"))


# Tied and untied words, when weights are given -------------------------------------------------------------


def test_an_untied_model_that_starts_from_tied_words_has_them_as_its_output_too(tmp_path):
    tied = fresh(replace(SMALL, tied_words=True), 5)
    folder = model_folder.save(tmp_path / "tied", tied)
    exported = model_folder.export_published(tied, tmp_path / "MRM.pth")
    for source in (folder, exported):
        model = fresh(SMALL, 6)
        report = model_folder.start_from(model, source)
        assert not report.missing
        assert torch.equal(model.report_decoder.word_output, tied.report_decoder.words.weight)


def test_an_untied_model_that_starts_from_untied_words_keeps_them_apart(tmp_path):
    folder = model_folder.save(tmp_path / "untied", fresh(SMALL, 5))
    model = fresh(SMALL, 6)
    model_folder.start_from(model, folder)
    assert torch.equal(model.report_decoder.word_output, fresh(SMALL, 5).report_decoder.word_output)


def test_a_tied_model_says_that_it_leaves_out_untied_words(tmp_path):
    folder = model_folder.save(tmp_path / "untied", fresh(SMALL, 5))
    report = model_folder.start_from(fresh(replace(SMALL, tied_words=True), 6), folder)
    assert report.unexpected == ["report_decoder.word_output"]


def test_untied_words_that_are_equal_survive_an_export(tmp_path):
    """As in a run of no step that started from tied words."""
    model = fresh(SMALL)
    with torch.no_grad():
        model.report_decoder.word_output.copy_(model.report_decoder.words.weight)
    back = model_folder.load(model_folder.export_published(model, tmp_path / "MRM.pth"))
    assert torch.equal(back.report_decoder.word_output, model.report_decoder.words.weight)
