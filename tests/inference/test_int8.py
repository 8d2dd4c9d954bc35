"""Models in 8 bits: each family of encoders, what is left in fp32, and which models are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

import mrm
from mrm.data.records import Record, Records
from mrm.inference import predict
from mrm.models import noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.ensemble import Ensemble, EnsembleConfig
from mrm.system import hardware, int8_products
from mrm.system.errors import ConfigError
from tests.support.configs import MICRO
from tests.support.models import classifier_of, segmenter_of

pytestmark = pytest.mark.skipif(not hardware.computes_int8(), reason="this processor has no products of 8 bits")
FAMILIES = {
    MICRO.encoder: MICRO.encoder_options,
    "eva02_tiny_patch14_224": {"depth": 2, "embed_dim": 48, "num_heads": 3},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1), "embed_dim": 24, "num_heads": (2, 3), "window_size": 4},
    "convnext_tiny": {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)},
}


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch):
    monkeypatch.setattr(int8_products, "LEAST_WEIGHTS", 1)


def of_family(encoder: str, options: dict, members: int = 0) -> Classifier:
    """A tiny classifier of this encoder, or an ensemble of two, with a head that tells images apart."""
    side = 56 if "patch14" in encoder else 64
    with noise.seeded(0):
        if members:
            model: Classifier = Ensemble(EnsembleConfig(("a", "b"), encoder, options, side, members=members))
        else:
            model = Classifier(ClassifierConfig(("a", "b"), encoder, options, side))
        for one in model.members if members else [model]:
            torch.nn.init.normal_(one.encoder.get_classifier().weight)
            for name, weight in one.named_parameters():  # ConvNeXt's blocks begin with scales that hide them
                weight.data.fill_(1) if name.endswith("gamma") else None
    return model.eval()


def noise_images(model: Classifier, count: int = 6) -> np.ndarray:
    side = model.config.image_size
    return np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)


@pytest.mark.parametrize(("encoder", "members"), [*((encoder, 0) for encoder in FAMILIES), (MICRO.encoder, 2)])
def test_logits_of_every_family_change_a_little_and_not_with_the_batch(encoder, members):
    model = of_family(encoder, FAMILIES[encoder], members)
    predictors = {name: mrm.Predictor(model, precision=name) for name in ("fp32", "int8")}
    image_BHW = noise_images(model)
    fp32, int8 = (predictor.values(image_BHW) for predictor in predictors.values())
    off = np.abs(int8 - fp32).max() / np.abs(fp32).max()
    assert 1e-5 < off < 0.1
    np.testing.assert_allclose(predictors["int8"].values(image_BHW[2:3]), int8[2:3], atol=0.02 * np.abs(fp32).max())
    assert np.array_equal(predictors["int8"].values(image_BHW), int8)
    assert np.array_equal(predictors["fp32"].values(image_BHW), fp32)


def test_the_head_and_the_patches_are_left_in_fp32(monkeypatch):
    """Of a ViT the four products of each block, and no others."""
    model, products = of_family(MICRO.encoder, MICRO.encoder_options), []
    real = hardware.Int8Products.__torch_function__

    def noted(self, function, types, args=(), options=None):
        if function is torch.nn.functional.linear and args[0].dim() > 2:
            products.append(tuple(args[1].shape))
        return real(self, function, types, args, options)

    monkeypatch.setattr(hardware.Int8Products, "__torch_function__", noted)
    mrm.Predictor(model, precision="int8").values(noise_images(model))
    assert products == 2 * [(144, 48), (48, 48), (192, 48), (48, 192)]


def test_features_change_a_little(model):
    image_BHW = torch.from_numpy(noise_images(model))
    for kind in ("pooled", "patches"):
        compute = predict.feature_function(model, kind)
        fp32, int8 = (predict.values_of(model, image_BHW, compute, name) for name in ("fp32", "int8"))
        assert 1e-5 < np.linalg.norm(int8 - fp32) / np.linalg.norm(fp32) < 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: of_family("convnext_atto", {}),
            "convnext_atto has no linear layer of 1 weights or more in its blocks",
        ),
        (
            lambda: segmenter_of(("disc",)),
            "int8 is for classifiers and encoders: a segmenter's time goes into convolutions",
        ),
    ],
)
def test_models_that_would_gain_nothing_are_refused(make, message):
    with pytest.raises(ConfigError, match=f"{message}.*; choose another precision"):
        mrm.Predictor(make(), precision="int8")


def test_narrow_models_are_refused_and_wide_ones_are_not(monkeypatch):
    monkeypatch.undo()
    message = "vit_tiny_patch16_224 has no linear layer of 262,144 weights or more in its blocks, as a ViT-S has, so int8 would not"
    with pytest.raises(ConfigError, match=message):
        mrm.Predictor(of_family("vit_tiny_patch16_224", {"depth": 1}), precision="int8")
    mrm.Predictor(of_family("vit_small_patch16_224", {"depth": 1}), precision="int8")
    with pytest.raises(ConfigError, match=message):
        predict.classify(classifier_of(), Records([Record(Path("a.png"))], ()), workers=0, precision="int8")


def test_a_processor_without_the_instructions_is_refused_before_any_image(monkeypatch):
    monkeypatch.setattr(hardware, "computes_int8", lambda: False)
    with pytest.raises(ConfigError, match="this processor has no instructions for products of 8 bits"):
        mrm.Predictor(classifier_of(), precision="int8")
