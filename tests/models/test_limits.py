"""What a configuration or a card may hold: names and numbers that a network can have, and nothing that reaches out."""

import socket
from dataclasses import replace

import numpy as np
import pytest
import timm
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from mrm.models import encoder
from mrm.models.classifier import Classifier, ClassifierConfig, build_encoder
from mrm.models.config import ModelConfig
from mrm.models.limits import ENCODER_OPTIONS, LIMITS, check_patches
from mrm.models.segmenter import Segmenter, SegmenterConfig
from mrm.system.errors import ConfigError
from tests.support.configs import ENCODER, MICRO


@pytest.fixture
def offline(monkeypatch):
    """Any attempt to reach the network fails the test."""

    def refuse(*_, **__):
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


REACHING_OUT = [
    {"pretrained": True},
    {"pretrained_cfg": {"url": "http://192.0.2.1/weights.pth"}},
    {"pretrained_cfg_overlay": {"file": "/etc/passwd"}},
    {"checkpoint_path": "/etc/passwd"},
    {"cache_dir": "/tmp"},
    {"features_only": True},
    {"pruned": True},
    {"block_fn": "x"},
    {"img_size": 64},
    {"scriptable": True},
]


@pytest.mark.parametrize("options", REACHING_OUT, ids=lambda o: next(iter(o)))
@pytest.mark.parametrize("config", [MICRO, ENCODER, SegmenterConfig(("a",))], ids=["mrm", "classifier", "segmenter"])
def test_options_that_reach_out_are_refused(config, options, offline):
    with pytest.raises(ConfigError, match=f"encoder_options: '{next(iter(options))}' is not accepted; choose from"):
        replace(config, encoder_options=options)


@pytest.mark.parametrize(
    "name",
    ["hf-hub:a/b", "hf_hub:a/b", "local-dir:/tmp/model", "timm/vit_tiny", "../vit", "http://x", "", "vit\n", "a b"],
)
def test_names_that_reach_out_are_refused(name, offline):
    with pytest.raises(ConfigError, match="is not the name of a timm model"):
        replace(ENCODER, encoder=name)
    with pytest.raises(ConfigError, match="is not the name of a timm model"):
        encoder.create(name, {}, 64)


def test_every_option_is_one_that_timm_knows():
    classes = (VisionTransformer, Eva, ConvNeXt, SwinTransformer)
    known = {name for cls in classes for name in cls.__init__.__annotations__}
    assert set(ENCODER_OPTIONS) - {"norm_eps"} <= known
    assert not {"embed_layer", "block_fn", "attn_layer", "device", "dtype"} & set(ENCODER_OPTIONS)


def test_an_encoder_is_never_pretrained(monkeypatch):
    given = {}
    monkeypatch.setattr(timm, "create_model", lambda name, **options: given.update(options) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_encoder(ENCODER, 1)
    assert given["pretrained"] is False


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 10**6},
        {"depth": 0},
        {"depth": 2.0},
        {"depth": True},
        {"depth": "2"},
        {"embed_dim": 10**9},
        {"patch_size": 0},
        {"mlp_ratio": float("nan")},
        {"mlp_ratio": float("inf")},
        {"drop_rate": 1.5},
        {"class_token": 1},
        {"pos_embed": "rope"},
        {"act_layer": "os.system"},
        {"reg_tokens": -1},
        {"qkv_bias": None, "init_values": "x"},
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=r"encoder_options(: \w+)? must be "):
        replace(ENCODER, encoder_options=options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": 0.0}, r"std must be a number from 1e-06 to 1e\+06, not 0.0"),
        ({"std": float("nan")}, "std must be a number from"),
        ({"std": "0.2"}, "std must be a number.*, not '0.2'"),
        ({"mean": float("inf")}, "mean must be a number from"),
        ({"image_size": 0}, "image_size must be a whole number from 1 to 8192, not 0"),
        ({"image_size": 64.0}, "image_size must be a whole number, not 64.0"),
        ({"image_size": True}, "image_size must be a whole number, not True"),
        ({"classes": "effusion"}, "classes must be a list in which each item is text"),
        ({"classes": ("a", 3)}, "classes must be a list in which each item is text"),
        ({"classes": ("a", "a")}, "classes: a occurs more than once"),
        ({"classes": ("a", "")}, "classes: '' is not a name that can be shown"),
        ({"classes": ("a\x1b[2J",)}, r"classes: 'a\\x1b\[2J' is not a name that can be shown"),
        ({"view": "sideways"}, "view must be one of whole, centre"),
        ({"pooling": None}, "pooling must be one of mean, attention, class"),
        ({"uncertain": {"a": 1}}, "uncertain must be a mapping of names, each to text"),
        ({"drop_path": 2.0}, "drop_path must be a number from 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(ENCODER, **change)


@pytest.mark.parametrize("name", ["decoder_depth", "report_depth", "vocabulary", "report_length", "report_mlp", "keep"])
def test_sizes_of_a_model_have_an_end(name):
    assert getattr(replace(ModelConfig(), **{name: int(LIMITS[name][0])}), name) == LIMITS[name][0]
    for wrong in (0, -1, 10**9, 1.5, "2", None):
        with pytest.raises(ConfigError, match=f"{name} must be a whole number"):
            replace(ModelConfig(), **{name: wrong})


def test_an_image_has_at_most_so_many_patches():
    check_patches(2048, (16, 16))
    check_patches((1024, 4096), (16, 16))
    with pytest.raises(
        ConfigError, match=r"image_size 2064 x 2064 has 16,641 patches, but at most 16,384 are possible"
    ):
        check_patches(2064, (16, 16))
    with pytest.raises(ConfigError, match="patches"):
        Classifier(ClassifierConfig(("a",), "vit_tiny_patch16_224", {"depth": 1, "patch_size": 1}, image_size=256))


def test_what_models_are_made_of_is_accepted():
    replace(ModelConfig(), predicted=None, encoder_options={"init_values": None, "mlp_ratio": 2, "pos_embed": "none"})
    changed = replace(ENCODER, classes=["a", "β, left"], std=np.float64(0.3), mean=0)
    assert (list(changed.classes), changed.std, changed.mean) == (["a", "β, left"], 0.3, 0)
    Segmenter(
        SegmenterConfig(("a",), ENCODER.encoder, {"depth": 4, "embed_dim": 48, "num_heads": 3}, (32, 48), channels=8)
    )


def test_an_option_of_another_family_is_named():
    with pytest.raises(ConfigError, match=r"encoder 'convnext_atto' does not take these options \(.*embed_dim"):
        encoder.create("convnext_atto", {"embed_dim": 48}, 64)
