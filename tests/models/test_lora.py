"""LoRA: the update by its formula, merged into plain weights, and its dropout by sample."""

import pytest
import timm
import torch

from mrm.models import lora, model_folder, noise
from mrm.models.classifier import Classifier
from mrm.models.config import LoraConfig
from mrm.system.errors import ConfigError
from tests.support.models import classifier_of

IMAGE = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def with_update(dropout: float = 0.0) -> Classifier:
    """A tiny classifier whose LoRA, of rank 2, is no longer 0."""
    model = classifier_of(("a", "b"))
    with noise.seeded(1):
        lora.add_lora(model.encoder, LoraConfig(2, alpha=6, dropout=dropout), "the encoder")
        for block in model.encoder.blocks:
            torch.nn.init.normal_(block.attn.qkv.query_up)
            torch.nn.init.normal_(block.attn.qkv.value_up)
    return model.eval()


def test_training_starts_from_the_model_as_it_was():
    model, plain = classifier_of(("a",)), classifier_of(("a",))
    lora.add_lora(model.encoder, LoraConfig(4), "the encoder")
    assert torch.equal(model(IMAGE), plain(IMAGE))


def test_queries_and_values_get_the_scaled_product_and_keys_nothing():
    layer = with_update().encoder.blocks[0].attn.qkv
    query, key, value = (layer.plain().weight - layer.weight).chunk(3)
    torch.testing.assert_close(query, 6 / 2 * layer.query_up @ layer.query_down)
    torch.testing.assert_close(value, 6 / 2 * layer.value_up @ layer.value_down)
    assert key.abs().max() == 0
    assert query.abs().max() > 0.1


def test_merged_weights_give_equal_logits():
    model = with_update()
    plain = lora.merged(model)
    assert (plain(IMAGE) - model(IMAGE)).abs().max() < 1e-5 * model(IMAGE).abs().max()
    assert (plain(IMAGE) - classifier_of(("a", "b"))(IMAGE)).abs().max() > 1e-3
    assert plain.state_dict().keys() == classifier_of(("a", "b")).state_dict().keys()


def test_merging_copies_the_merged_weights_alone_and_leaves_the_model_as_it_was():
    model = with_update()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = lora.merged(model)
    shared = [n for n, p in plain.named_parameters() if p is not dict(model.named_parameters())[n]]
    assert shared == [f"encoder.blocks.{i}.attn.qkv.weight" for i in range(2)]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert lora.merged(plain) is plain


def test_what_is_saved_is_a_plain_model_folder(tmp_path):
    model = with_update()
    saved = model_folder.load(model_folder.save(tmp_path / "model", lora.merged(model)))
    torch.testing.assert_close(saved(IMAGE), model(IMAGE), atol=1e-5, rtol=1e-5)


def test_dropout_follows_the_sample_whatever_the_batch():
    model, keys = with_update(dropout=0.5).train(), noise.SampleKeys()
    noise.draw_by_key(model.encoder, keys)
    keys.keys_B = torch.tensor([5, 6, 7])
    together = model(IMAGE)
    assert torch.equal(model(IMAGE), together)
    keys.keys_B = torch.tensor([6])
    torch.testing.assert_close(model(IMAGE[1:2]), together[1:2])
    keys.keys_B = torch.tensor([5])
    assert not torch.allclose(model(IMAGE[1:2]), together[1:2])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "embed_dim": 24, "num_heads": (1, 2)}),
        ("eva02_tiny_patch14_224", {"depth": 1}),  # it multiplies by the weight itself: an update would be ignored
    ],
)
def test_an_encoder_without_plain_attention_is_refused_with_the_other_ways(name, options):
    encoder = timm.create_model(name, **options)
    with pytest.raises(ConfigError, match=rf"--tune lora: {name} does not have .* choose --tune full or head"):
        lora.add_lora(encoder, LoraConfig(), name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "lora.rank must be at least 1, not 0"),
        ({"alpha": 0}, "lora.alpha must be above 0, not 0"),
        ({"alpha": float("nan")}, "lora.alpha must be above 0, not nan"),
        ({"dropout": 1.0}, "lora.dropout must be at least 0 and below 1, not 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LoraConfig(**settings)
