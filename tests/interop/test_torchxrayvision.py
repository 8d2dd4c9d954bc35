"""A classifier behind TorchXRayVision's interface: the same numbers as in mrm, in its range and under its names."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import mrm
from mrm.inference.predict import feature_function
from mrm.interop import XRVModel
from mrm.interop.torchxrayvision import at_half, targets_of
from mrm.models import model_folder
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.mrm import normalise
from mrm.system.errors import CheckpointError, PredictError, RunError
from tests.support.configs import MICRO
from tests.support.models import mrm_model


@pytest.fixture(scope="module")
def grey_BHW() -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    return images


def scaled(grey_BHW: np.ndarray) -> torch.Tensor:
    """As `torchxrayvision.datasets.normalize` scales 8-bit images: (2 v / 255 - 1) 1024."""
    return torch.from_numpy((2 * (grey_BHW.astype(np.float32) / 255) - 1.0) * 1024)[:, None]


@pytest.fixture
def model(folder) -> XRVModel:
    return mrm.interop.XRVModel(folder)


def test_logits_and_features_are_those_of_mrm(model, classifier, grey_BHW):
    image_BCHW = normalise(torch.from_numpy(grey_BHW), 0.4978, 0.2449)
    torch.testing.assert_close(
        model.features(scaled(grey_BHW)), feature_function(classifier, "pooled")(image_BCHW), atol=1e-5, rtol=1e-5
    )
    model.op_threshs = None
    torch.testing.assert_close(model(scaled(grey_BHW)), classifier(image_BCHW), atol=1e-5, rtol=1e-5)
    model.apply_sigmoid = True
    tempered = (classifier(image_BCHW) / torch.tensor([2.5, 1.0])).sigmoid()
    torch.testing.assert_close(model(scaled(grey_BHW)), tempered, atol=1e-6, rtol=1e-5)


def test_a_threshold_becomes_one_half_and_a_finding_without_one_keeps_its_probability(model, classifier, grey_BHW):
    torch.testing.assert_close(model.op_threshs, torch.tensor([0.3, torch.nan]), equal_nan=True)
    given = model(scaled(grey_BHW))
    logits = classifier(normalise(torch.from_numpy(grey_BHW), 0.4978, 0.2449))
    probability = (logits / torch.tensor([2.5, 1.0])).sigmoid().numpy()
    expected = np.where(
        probability[:, 0] < 0.3, probability[:, 0] / 0.6, 1 - (1 - probability[:, 0]) / (2 * (1 - np.float32(0.3)))
    )
    np.testing.assert_allclose(given[:, 0], expected, atol=1e-5)
    np.testing.assert_allclose(given[:, 1], probability[:, 1], atol=1e-6)


def test_the_lines_meet_at_the_threshold_and_at_the_ends():
    probability = torch.tensor([[0.0], [0.1], [0.2], [0.6], [1.0]])
    assert at_half(probability, torch.tensor([0.2]))[:, 0].tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    for threshold in (0.0, 1.0, 1.000001):  # of a class that is always, or never, called
        assert torch.isfinite(at_half(probability, torch.tensor([threshold]))).all()


def test_its_findings_have_the_names_of_torchxrayvision_where_there_are_any(model):
    assert model.targets == ["Nodule", "Effusion"]
    assert model.pathologies is model.targets
    assert targets_of(("Pleural Effusion", "oedema", "covid19")) == ["Effusion", "Edema", "covid19"]
    assert targets_of(("Effusion", "Pleural Effusion", "Mass")) == ["Effusion", "Pleural Effusion", "Mass"]


def test_gradients_reach_the_image_for_heat_maps(model, grey_BHW):
    image = scaled(grey_BHW[:1]).requires_grad_()
    (gradient,) = torch.autograd.grad(model(image)[0, 0], image)
    assert gradient.abs().max() > 0
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("change", "warned"),
    [
        (lambda x: (x / 1024 + 1) / 2, True),
        (lambda x: (x / 1024 + 1) / 2 * 255, True),
        (lambda x: x * 4, True),
        (lambda x: x / 5, True),
        (lambda x: x, False),
        (lambda x: x * 0.9, False),
    ],
    ids=["0 to 1", "0 to 255", "-4096 to 4096", "narrow", "right", "faded"],
)
def test_a_wrong_range_is_warned_of_once(model, grey_BHW, change, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")  # as importing torchxrayvision does
        for _ in range(2):
            model(change(scaled(grey_BHW)))
    said = [str(one.message) for one in caught]
    assert len(said) == warned
    assert all("should have values from -1024 (black) to 1024 (white), but these have" in one for one in said)


def test_another_size_is_resized_with_a_warning(model):
    rows = torch.linspace(-1024, 1024, 300)[None, None, :, None].expand(2, 1, 300, 200)
    with pytest.warns(UserWarning, match="images of 300 x 200 are resized to 64 x 64"):
        given = model(rows)
    native = torch.linspace(-1024, 1024, 64)[None, None, :, None].expand(2, 1, 64, 64)
    torch.testing.assert_close(given, model(native), atol=0.05, rtol=0.05)
    torch.testing.assert_close(model(native[0]), model(native[:1]))  # (1, H, W) is one image


def test_a_model_of_the_central_square_sees_it(grey_BHW):
    centred = Classifier(ClassifierConfig(("a",), MICRO.encoder, MICRO.encoder_options, image_size=64, view="centre"))
    model = XRVModel(centred.eval())
    assert model.op_threshs is None
    inside = scaled(grey_BHW[:1])
    wide = torch.cat([torch.full((1, 1, 64, 20), -1024.0), inside, torch.full((1, 1, 64, 20), 1024.0)], dim=3)
    torch.testing.assert_close(model(wide), model(inside))


@pytest.mark.parametrize("shape", [(64, 64), (1, 3, 64, 64), (0, 1, 64, 64), (1, 1, 1, 64, 64)])
def test_another_shape_is_refused(model, shape):
    with pytest.raises(PredictError, match=r"images must be \(B, 1, H, W\), grey, not \("):
        model(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(model, grey_BHW, value):
    image = scaled(grey_BHW)
    image[1, 0, 5, 5] = value
    with pytest.raises(PredictError, match="NaN or infinite"):
        model.features(image)


def test_another_kind_of_model_and_no_model_are_refused(tmp_path):
    with pytest.raises(RunError, match="expected a classifier, found an MRM model"):
        XRVModel(model_folder.save(tmp_path / "mrm", mrm_model()))
    with pytest.raises(CheckpointError, match="no such file or folder"):
        XRVModel(tmp_path / "absent")


def test_code_of_torchxrayvision_takes_it_as_its_own(model, grey_BHW):
    xrv = pytest.importorskip("torchxrayvision")
    images = [xrv.datasets.normalize(image, maxval=255)[None] for image in grey_BHW]
    given = xrv.utils.infer(model, [{"img": torch.from_numpy(image)} for image in images], threads=1)
    np.testing.assert_allclose(given, model(scaled(grey_BHW)), atol=1e-6)
    assert set(model.targets) <= set(xrv.datasets.default_pathologies)
    probability, thresholds = torch.rand(9, 2), torch.tensor([0.3, 0.8])
    torch.testing.assert_close(at_half(probability, thresholds), xrv.models.op_norm(probability, thresholds))


def test_a_classifier_whose_images_are_cropped_or_matched_first_is_refused(classifier):
    for changes, words in (({"crop_borders": True}, "borders cut off"), ({"greys": "matched"}, "greys matched")):
        with pytest.raises(RunError, match=f"{words}.*; use mrm.Predictor"):
            XRVModel(Classifier(replace(classifier.config, **changes)))
