"""Heat maps fall on what was learnt, at the image's own size; and not where nothing was learnt."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.inference import heat_maps
from mrm.models import noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.system.errors import ExplainError
from tests.support.squares import SHAPES, square_and_ring, trained_on_squares, untrained_on_squares


@pytest.fixture(scope="module")
def model(squares_model):
    return squares_model


def mass_inside(model: Classifier, method: str, count: int = 24) -> np.ndarray:
    """The share of each map's mass that lies on what it is a map of; chance is 1/16."""
    rng = np.random.default_rng(9)
    shares = []
    for i in range(count):
        image, places = square_and_ring(rng, (1, 1))
        heat = heat_maps.heat_map(model, image, i % 2, method)
        shares.append(heat[places[SHAPES[i % 2]]].sum() / max(heat.sum(), 1e-9))
    return np.array(shares)


def test_the_map_of_a_finding_lies_on_it_and_not_on_another(model):
    shares = mass_inside(model, "gradcam")
    assert shares.mean() > 5 / 16  # five times chance
    low = np.quantile(
        [np.random.default_rng(i).choice(shares, len(shares)).mean() for i in range(500)], 0.025
    )  # bootstrap
    assert low > 4 / 16


def test_the_map_of_a_network_that_has_learnt_nothing_does_not(model):
    shares = mass_inside(untrained_on_squares(), "gradcam")
    assert shares.mean() < 2.5 / 16
    assert shares.mean() < mass_inside(model, "gradcam").mean() / 2


@pytest.fixture(scope="module")
def looking():
    """The same network with a query for each class, trained as the other."""
    return trained_on_squares("class")


def test_the_attention_of_a_class_lies_on_what_the_class_is(looking):
    shares = mass_inside(looking, "attention")
    assert shares.mean() > 1.5 / 16
    assert shares.min() > 1 / 16  # every one of 24 maps is above chance
    assert mass_inside(untrained_on_squares("class"), "attention").mean() == 0  # every patch alike
    assert heat_maps.methods_of(looking) == ["gradcam", "rollout", "attention"]


def test_the_map_of_a_class_query_is_its_softmax_over_the_patches(looking):
    image, _ = heat_maps.evaluation_view(looking, square_and_ring(np.random.default_rng(3), (1, 1))[0])
    patches = looking.encoder.forward_features(image)[0, 1:].double()
    keys = (patches - patches.mean(1, keepdim=True)) / (patches.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    for number in (0, 1):
        scores = (keys @ looking.encoder.attn_pool.query[number].double()) / 48**0.5
        expected = scores.softmax(0).detach().numpy()
        grid = heat_maps.head_attention(looking, image, number)
        np.testing.assert_allclose(grid.ravel(), expected - expected.min(), atol=1e-5)


def test_the_attention_of_one_query_is_the_one_that_its_head_uses():
    """Against the module's own output: attention times values, projected."""
    model = untrained_on_squares("attention")
    pool, patches = model.encoder.attn_pool, torch.randn(1, 16, 48, generator=torch.Generator().manual_seed(0))
    pool.mlp, pool.num_heads, pool.head_dim, pool.scale = None, 1, 48, 48**-0.5  # the mean of one head is that head
    shares = heat_maps._attention_of_query(pool, patches)
    values = pool.kv(patches)[0, :, 48:]
    torch.testing.assert_close(pool.proj(shares @ values), pool(patches)[0], rtol=1e-4, atol=1e-5)


def test_a_head_that_takes_the_mean_has_no_attention_to_show(model):
    with pytest.raises(ExplainError, match=r"has no attention; choose from gradcam, rollout, or fine-tune with"):
        heat_maps.heat_map(model, np.zeros((64, 64), np.uint8), 0, "attention")


def test_rollout_is_the_product_of_attentions_and_the_same_for_each_finding(model):
    grey_HW, _ = square_and_ring(np.random.default_rng(3), (1, 1))
    first, second = (heat_maps.heat_map(model, grey_HW, i, "rollout") for i in (0, 1))
    np.testing.assert_array_equal(first, second)
    image, _ = heat_maps.evaluation_view(model, grey_HW)
    grid = heat_maps.rollout(model, image)
    assert grid.shape == (4, 4)
    assert grid.min() == 0
    flow = np.eye(17)
    for attention in heat_maps._attentions(model, image):
        np.testing.assert_allclose(attention.sum(-1), 1, rtol=1e-5)
        flow = (attention.mean(0).double().numpy() + np.eye(17)) / 2 @ flow
    np.testing.assert_allclose(flow.sum(1), 1, rtol=1e-5)
    expected = flow[1:, 1:].mean(0)
    np.testing.assert_allclose(grid.ravel(), expected - expected.min(), atol=1e-6)


def test_the_attention_worked_out_is_the_one_that_the_network_uses(model):
    """Against the module's own output: attention times values, projected."""
    module = model.encoder.blocks[1].attn
    x = torch.randn(1, 17, 48, generator=torch.Generator().manual_seed(0))
    values = module.qkv(x).unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)[2]
    ours = module.proj((heat_maps._attention(module, x) @ values[0]).transpose(0, 1).flatten(1))
    torch.testing.assert_close(ours, module(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["gradcam", "rollout"])
@pytest.mark.parametrize("shape", [(64, 64), (200, 90), (90, 200), (1, 1), (3, 700)])
def test_a_map_has_the_size_of_its_image_and_lies_from_0_to_1(model, method, shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    heat = heat_maps.heat_map(model, image, 0, method)
    assert (heat.shape, heat.dtype) == (shape, np.float32)
    assert np.isfinite(heat).all()
    assert heat.min() >= 0
    assert heat.max() in (0, 1)


def test_a_black_image_has_a_map_too(model):
    heat = heat_maps.heat_map(model, np.zeros((50, 40), np.uint8), 1)
    assert heat.shape == (50, 40)
    assert (heat.min() >= 0, heat.max() in (0, 1)) == (True, True)  # neither holds where one value is NaN


def test_maps_of_radiographs_that_are_not_square_lie_in_the_right_place_in_either_view(model):
    """A square near the right edge of a wide radiograph is found there where the whole radiograph is seen, and cut off else."""
    rng = np.random.default_rng(5)
    square_and_ring = rng.integers(100, 156, (64, 192)).astype(np.uint8)
    square_and_ring[16:32, 144:192] = 250  # as wide as one patch of the whole radiograph
    heat = heat_maps.heat_map(model, square_and_ring, 0)
    assert heat[16:32, 144:192].sum() / heat.sum() > 4 / 16
    centred = Classifier(replace(model.config, view="centre")).eval()
    centred.load_state_dict(model.state_dict())
    heat = heat_maps.heat_map(centred, square_and_ring, 0)
    assert (heat[:, :64] == 0).all()
    assert (heat[:, 128:] == 0).all()
    square_and_ring = rng.integers(100, 156, (64, 192)).astype(np.uint8)
    square_and_ring[16:32, 80:96] = 250
    heat = heat_maps.heat_map(centred, square_and_ring, 0)
    assert heat[16:32, 80:96].sum() / heat.sum() > 4 / 16


def test_making_a_map_leaves_the_network_as_it_was(model):
    grey_HW, _ = square_and_ring(np.random.default_rng(1), (1, 0))
    image, _ = heat_maps.evaluation_view(model, grey_HW)
    before = model(image)
    for method in heat_maps.methods_of(model):
        heat_maps.heat_map(model, grey_HW, 0, method)
    assert torch.equal(model(image), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_bad_questions_are_named(model, monkeypatch):
    image = np.zeros((64, 64), np.uint8)
    with pytest.raises(ExplainError, match="unknown method 'lime'; choose from gradcam, rollout"):
        heat_maps.heat_map(model, image, 0, "lime")
    for index in (-1, 2):
        with pytest.raises(ExplainError, match="square, ring"):
            heat_maps.heat_map(model, image, index)
    with pytest.raises(ExplainError, match="opacity"):
        heat_maps.overlay(image, image.astype(np.float32), 1.5)
    with pytest.raises(ExplainError, match="does not fit an image"):
        heat_maps.overlay(image, np.zeros((3, 3), np.float32))
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ExplainError, match=r"pip install 'mrm-radiograph\[explain\]', or choose the method rollout"):
        heat_maps.heat_map(model, image, 0)
    assert heat_maps.heat_map(model, image, 0, "rollout").shape == (64, 64)


def test_rollout_needs_the_queries_keys_and_values_of_one_layer():
    options = {"depth": 1, "embed_dim": 48, "num_heads": 3, "qkv_fused": False}
    with noise.seeded(0):
        apart = Classifier(ClassifierConfig(("a",), "eva02_tiny_patch14_224", options, 56)).eval()
    with pytest.raises(ExplainError, match=r"eva02_tiny_patch14_224: its attention has no qkv layer.*use gradcam"):
        heat_maps.heat_map(apart, np.zeros((56, 56), np.uint8), 0, "rollout")


def test_an_overlay_leaves_cold_places_as_they_are_and_colours_get_lighter_with_heat():
    image = np.full((4, 256), 77, np.uint8)
    heat = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (4, 1))
    shown = heat_maps.overlay(image, heat, 0.6)
    assert (shown.shape, shown.dtype) == ((4, 256, 3), np.uint8)
    assert (shown[:, 0] == 77).all()
    np.testing.assert_array_equal(heat_maps.overlay(image, heat, 0.0), np.repeat(image[..., None], 3, axis=2))
    lightness = heat_maps.colours(heat)[0].astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) > -1.5).all()
    assert lightness[-1] - lightness[0] > 200
    assert heat_maps.colours(heat)[0, 160, 0] > heat_maps.colours(heat)[0, 160, 2]  # red before blue


# On phantoms -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_maps_of_phantoms_fall_on_the_finding_far_above_chance_and_those_of_random_weights_do_not(
    tmp_path, monkeypatch
):
    """`benchmarks/heat_maps.py` at a small budget: minutes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    heat_maps = importlib.import_module("heat_maps")
    asked = heat_maps.arguments(["--out", str(tmp_path), *SLOW])
    report = heat_maps.benchmark(asked)
    trained, blind = (report["methods"]["gradcam"][name]["all"] for name in ("trained", "randomised"))
    assert set(report["auroc"]) == {"mean", *FINDINGS}
    assert trained["mass"].low > 1.5 * trained["area"].high
    assert blind["mass"].high < trained["mass"].low
    assert blind["mass"].value < 1.4 * blind["area"].value


SLOW = ["--count", "1000", "--test", "80", "--teach", "800", "--steps", "60", "--image", "128"]


def test_a_border_that_the_model_does_not_see_has_no_heat(model):
    """The map of a framed image is that of the image, within the frame."""
    image, _ = square_and_ring(np.random.default_rng(4), (1, 1))
    image = image.clip(10, 240)
    cropping = Classifier(replace(model.config, crop_borders=True)).eval()
    cropping.load_state_dict(model.state_dict())
    framed = np.pad(image, ((8, 3), (0, 5)))
    heat = heat_maps.heat_map(cropping, framed, 0)
    np.testing.assert_array_equal(heat[8:-3, :-5], heat_maps.heat_map(model, image, 0))
    assert heat.sum() == heat[8:-3, :-5].sum() > 0
