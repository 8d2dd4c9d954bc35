"""A model at another image size: the same function as timm's own resampling, and what cannot be resized is named."""

from dataclasses import asdict

import pytest
import timm
import torch

from mrm.inference import predict
from mrm.models import noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.ensemble import Ensemble, EnsembleConfig
from mrm.models.image_sizes import at_size
from mrm.system.errors import ConfigError
from tests.support.configs import MICRO
from tests.support.models import classifier_of, mrm_model


@pytest.mark.parametrize("side", [32, 96, 128])
@pytest.mark.parametrize("make", [mrm_model, classifier_of])
def test_features_at_another_size_are_those_of_timm_with_resampled_positions(make, side):
    """timm resamples positions in every pass where `dynamic_img_size` is set: another way to the same features."""
    model = make().eval()
    options = {**MICRO.encoder_options, "dynamic_img_size": True, "num_classes": 0}
    fc_norm = isinstance(model, Classifier)
    reference = timm.create_model(MICRO.encoder, img_size=64, global_pool="avg", fc_norm=fc_norm, **options).eval()
    reference.load_state_dict(model.encoder.state_dict(), strict=False)
    image_BCHW = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    resized = at_size(model, side)
    assert resized.config.image_size == side
    with torch.inference_mode():
        expected = reference.forward_head(reference.forward_features(image_BCHW), pre_logits=True)
        torch.testing.assert_close(predict.feature_function(resized, "pooled")(image_BCHW), expected)


def test_a_classifier_keeps_its_head_and_a_model_at_its_own_size_is_the_model():
    model = classifier_of().eval()
    larger = at_size(model, 96)
    assert torch.equal(larger.encoder.head.weight, model.encoder.head.weight)
    assert larger.card is model.card
    assert at_size(model, None) is model
    assert at_size(model, 64) is model


def test_a_network_of_stages_takes_any_size_that_it_divides():
    options = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
    with noise.seeded(0):
        model = Classifier(ClassifierConfig(("a",), "convnext_atto", options, 64)).eval()
    image_BCHW = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(at_size(model, 96)(image_BCHW), model(image_BCHW))


def test_windows_of_another_size_are_refused():
    """At 32 pixels the second stage of this Swin has 4 x 4 patches, one window of half the side that its weights are for."""
    options = {"embed_dim": 24, "depths": [1, 1], "num_heads": [3, 3], "window_size": 8}
    with noise.seeded(0):
        model = Classifier(ClassifierConfig(("a",), "swin_tiny_patch4_window7_224", options, 64)).eval()
    with pytest.raises(
        ConfigError,
        match=r"swin_tiny_patch4_window7_224 cannot take images of 32 pixels: encoder\.layers\.1\..*relative_position_bias_table "
        "is for 64; leave out --image-size",
    ):
        at_size(model, 32)


def test_sizes_that_patches_do_not_divide_and_ensembles_are_refused():
    with pytest.raises(
        ConfigError, match=r"image_size 100 x 100 does not divide.*the nearest size that does is 96 x 96"
    ):
        at_size(classifier_of(), 100)
    with pytest.raises(ConfigError, match="ensemble has the image size of its members"):
        at_size(Ensemble(EnsembleConfig(**asdict(classifier_of().config), members=2)), 96)
