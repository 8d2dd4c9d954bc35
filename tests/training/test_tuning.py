"""Which weights are trained: all, the head, the last blocks, or updates of low rank."""

import re

import pytest
import torch

from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.config import LoraConfig
from mrm.models.noise import SampleKeys, draw_by_key
from mrm.system.errors import ConfigError
from mrm.training.config import TrainConfig, last_blocks
from mrm.training.optimization import build_optimizer
from mrm.training.tuning import choose_trained

HEAD = {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}


def classifier(**changes) -> Classifier:
    options = {"depth": 3, "embed_dim": 24, "num_heads": 1}
    return Classifier(ClassifierConfig(("a",), "vit_tiny_patch16_224", options, image_size=32, **changes))


def trained(model: Classifier) -> set[str]:
    return {name for name, p in model.encoder.named_parameters() if p.requires_grad}


def test_full_trains_every_weight():
    model = classifier()
    choose_trained(model, "full", LoraConfig(), 0)
    assert trained(model) == {name for name, _ in model.encoder.named_parameters()}


def test_head_trains_what_follows_the_patches():
    model = classifier()
    choose_trained(model, "head", LoraConfig(), 0)
    assert trained(model) == HEAD


def test_the_head_of_attention_pooling_is_trained_with_its_query_and_the_norm_before_it():
    model = classifier(pooling="attention")
    choose_trained(model, "head", LoraConfig(), 0)
    assert {"attn_pool.latent", "norm.weight", "head.weight"} <= trained(model)
    assert not any(name.startswith("blocks") for name in trained(model))


def test_the_last_blocks_are_trained_with_the_head():
    model = classifier()
    choose_trained(model, "last-2", LoraConfig(), 0)
    blocks = {name for name, _ in model.encoder.named_parameters() if re.match(r"blocks\.[12]\.", name)}
    assert trained(model) == HEAD | blocks


def test_lora_trains_its_updates_the_norms_and_the_head():
    model = classifier()
    choose_trained(model, "lora", LoraConfig(2), 0)
    parts = [f"attn.qkv.{side}_{way}" for side in ("query", "value") for way in ("up", "down")]
    parts += [f"norm{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")]
    assert trained(model) == HEAD | {f"blocks.{i}.{part}" for i in range(3) for part in parts}


def test_lora_starts_from_the_seed():
    first, again, other = (classifier() for _ in range(3))
    for model, seed in ((first, 0), (again, 0), (other, 1)):
        choose_trained(model, "lora", LoraConfig(2), seed)
    down = [m.encoder.blocks[0].attn.qkv.query_down for m in (first, again, other)]
    assert torch.equal(down[0], down[1])
    assert not torch.equal(down[0], down[2])


@pytest.mark.parametrize("rank", [4, 8, 16, 32])
def test_lora_trains_less_than_a_fiftieth_of_a_vit_b(rank):
    with torch.device("meta"):
        model = Classifier(ClassifierConfig(tuple(f"class {i}" for i in range(14))))
        line = choose_trained(model, "lora", LoraConfig(rank), 0)
    # by hand: in 12 blocks two updates of 768 x rank and rank x 768 and two norms; the norm before the head; the head
    by_hand = 12 * (4 * 768 * rank + 4 * 768) + 2 * 768 + 14 * 769
    total = sum(p.numel() for p in model.parameters())
    assert line == f"--tune lora: {by_hand:,} of {total:,} weights are trained ({by_hand / total:.2%})"
    assert by_hand < 0.02 * total


@pytest.mark.parametrize(("tune", "quiet"), [("head", (0, 1, 2)), ("last-1", (0, 1)), ("lora", ()), ("full", ())])
def test_a_frozen_block_is_never_skipped(tune, quiet):
    model = classifier(drop_path=0.5)
    choose_trained(model, tune, LoraConfig(), 0)
    draw_by_key(model.encoder, SampleKeys())
    rates = [getattr(block.drop_path1, "p", 0.0) for block in model.encoder.blocks]
    assert rates == [0.0 if i in quiet else 0.25 * i for i in range(3)]


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_the_optimiser_holds_what_is_trained_alone(layer_decay):
    model = classifier()
    choose_trained(model, "lora", LoraConfig(2), 0)
    groups = build_optimizer(model, TrainConfig(layer_decay=layer_decay)).param_groups
    scales = {id(p): g.get("lr_scale", 1.0) for g in groups for p in g["params"]}
    names = {name: scales[id(p)] for name, p in model.encoder.named_parameters() if id(p) in scales}
    assert names.keys() == trained(model)
    if layer_decay:  # an update learns at the rate of its block
        assert [names[f"blocks.{i}.attn.qkv.query_up"] for i in range(3)] == [0.125, 0.25, 0.5]


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ("last-4", r"--tune last-4: vit_tiny_patch16_224 has 3 blocks; choose from last-1 to last-3"),
        ("last-0", r"--tune last-0 trains no block; choose last-1 or more, or head"),
        ("Lora", r"unknown --tune 'Lora'; choose from full, lora, head, last-N"),
        ("last", r"unknown --tune 'last'"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_what_can(tune, message):
    with pytest.raises(ConfigError, match=message):
        choose_trained(classifier(), tune, LoraConfig(), 0)


def test_the_number_of_blocks_is_read_from_the_name():
    assert [last_blocks(tune) for tune in ("full", "lora", "head", "last-12")] == [None, None, None, 12]
