"""Heat maps fall on what was learnt, at the image's own size; and not where nothing was learnt."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images
from mrm.inference import heat_maps
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.mrm import normalise
from mrm.system.errors import ExplainError
from tests.support.commands import run_cli
from tests.support.configs import MICRO

CLASSES = ("square", "ring")


def radiograph(rng: np.random.Generator, shown: tuple[int, int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Noise with a bright square, a dark ring, both or neither, each in a place of its own; and where they are."""
    image = rng.integers(100, 156, (64, 64)).astype(np.uint8)
    places = {name: np.zeros((64, 64), bool) for name in CLASSES}
    corners = rng.permutation(16)[:2]
    for name, is_shown, corner in zip(CLASSES, shown, corners, strict=True):
        if not is_shown:
            continue
        top, left = 16 * (corner // 4), 16 * (corner % 4)
        places[name][top : top + 16, left : left + 16] = True
        if name == "square":
            image[top + 1 : top + 15, left + 1 : left + 15] = 250
        else:
            image[top + 1 : top + 15, left + 1 : left + 15] = 10
            image[top + 5 : top + 11, left + 5 : left + 11] = 130
    return image, places


def untrained() -> Classifier:
    with noise.seeded(0):
        model = Classifier(ClassifierConfig(CLASSES, MICRO.encoder, MICRO.encoder_options, MICRO.image_size))
        torch.nn.init.normal_(model.encoder.head.weight, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    """A micro classifier after some seconds of squares and rings."""
    network = untrained().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    with noise.seeded(0):
        for _ in range(150):
            labels = rng.integers(0, 2, (32, 2))
            images = torch.from_numpy(np.stack([radiograph(rng, tuple(row))[0] for row in labels]))
            logits = network(normalise(images, network.config.mean, network.config.std))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.zero_grad()
    return network.eval().requires_grad_(False)


def mass_inside(model: Classifier, method: str, count: int = 24) -> np.ndarray:
    """The share of each map's mass that lies on what it is a map of; chance is 1/16."""
    rng = np.random.default_rng(9)
    shares = []
    for i in range(count):
        image, places = radiograph(rng, (1, 1))
        heat = heat_maps.heat_map(model, image, i % 2, method)
        shares.append(heat[places[CLASSES[i % 2]]].sum() / max(heat.sum(), 1e-9))
    return np.array(shares)


def test_the_map_of_a_finding_lies_on_it_and_not_on_another(model):
    shares = mass_inside(model, "gradcam")
    assert shares.mean() > 5 / 16  # five times chance
    low = np.quantile(
        [np.random.default_rng(i).choice(shares, len(shares)).mean() for i in range(500)], 0.025
    )  # bootstrap
    assert low > 4 / 16


def test_the_map_of_a_network_that_has_learnt_nothing_does_not(model):
    shares = mass_inside(untrained(), "gradcam")
    assert shares.mean() < 2.5 / 16
    assert shares.mean() < mass_inside(model, "gradcam").mean() / 2


def test_rollout_is_the_product_of_attentions_and_the_same_for_each_finding(model):
    grey_HW, _ = radiograph(np.random.default_rng(3), (1, 1))
    first, second = (heat_maps.heat_map(model, grey_HW, i, "rollout") for i in (0, 1))
    np.testing.assert_array_equal(first, second)
    image, _ = heat_maps.test_view(model, grey_HW)
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


@pytest.mark.parametrize("method", heat_maps.METHODS)
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
    assert np.isfinite(heat).all()


def test_maps_of_radiographs_that_are_not_square_lie_in_the_right_place_in_either_view(model):
    """A square near the right edge of a wide radiograph is found there where the whole radiograph is seen, and cut off else."""
    rng = np.random.default_rng(5)
    radiograph = rng.integers(100, 156, (64, 192)).astype(np.uint8)
    radiograph[16:32, 144:192] = 250  # as wide as one patch of the whole radiograph
    heat = heat_maps.heat_map(model, radiograph, 0)
    assert heat[16:32, 144:192].sum() / heat.sum() > 4 / 16
    centred = Classifier(replace(model.config, view="centre")).eval()
    centred.load_state_dict(model.state_dict())
    heat = heat_maps.heat_map(centred, radiograph, 0)
    assert (heat[:, :64] == 0).all()
    assert (heat[:, 128:] == 0).all()
    radiograph = rng.integers(100, 156, (64, 192)).astype(np.uint8)
    radiograph[16:32, 80:96] = 250
    heat = heat_maps.heat_map(centred, radiograph, 0)
    assert heat[16:32, 80:96].sum() / heat.sum() > 4 / 16


def test_making_a_map_leaves_the_network_as_it_was(model):
    grey_HW, _ = radiograph(np.random.default_rng(1), (1, 0))
    image, _ = heat_maps.test_view(model, grey_HW)
    before = model(image)
    for method in heat_maps.METHODS:
        heat_maps.heat_map(model, grey_HW, 0, method)
    assert torch.equal(model(image), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_bad_questions_are_named(model, monkeypatch):
    image = np.zeros((64, 64), np.uint8)
    with pytest.raises(ExplainError, match="no method 'lime'; there are gradcam, rollout"):
        heat_maps.heat_map(model, image, 0, "lime")
    for index in (-1, 2):
        with pytest.raises(ExplainError, match="square, ring"):
            heat_maps.heat_map(model, image, index)
    with pytest.raises(ExplainError, match="opacity"):
        heat_maps.overlay(image, image.astype(np.float32), 1.5)
    with pytest.raises(ExplainError, match="does not lie on"):
        heat_maps.overlay(image, np.zeros((3, 3), np.float32))
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ExplainError, match=r"mrm-radiograph\[explain\]"):
        heat_maps.heat_map(model, image, 0)


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


# The command -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    model_folder.save(out / "model", model)
    rng = np.random.default_rng(0)
    for name in ("a/radiograph.png", "b/radiograph.png"):
        (out / name).parent.mkdir()
        (out / name).write_bytes(images.encode_png(images.resize(radiograph(rng, (1, 1))[0], 120, 90)))
    (out / "broken.png").write_bytes(b"no image")
    return out


def test_the_command_writes_overlays_arrays_sheets_and_a_list_of_them(capsys, folder, tmp_path):
    paths = [str(folder / name) for name in ("a", "b", "broken.png")]
    with pytest.warns(UserWarning, match=r"left out .*broken"):
        code, _, err = run_cli(capsys, "explain", str(folder / "model"), *paths, "--out", str(tmp_path))
    assert code == 0, err
    rows = [line.split(",") for line in (tmp_path / "maps.csv").read_text().splitlines()]
    assert rows[0] == ["image", "finding", "probability", "method", "overlay", "array", "sheet", "error"]
    assert [r[4] for r in rows[1:5]] == [
        "radiograph.square.png",
        "radiograph.ring.png",
        "radiograph-2.square.png",
        "radiograph-2.ring.png",
    ]
    assert rows[5][1] == ""
    assert rows[5][-1]
    heat = np.load(tmp_path / "radiograph.square.npy")
    assert (heat.shape, float(heat.max())) == ((120, 90), 1.0)
    assert images.read(tmp_path / "radiograph.square.png").shape == (120, 90)
    assert images.read(tmp_path / "radiograph.sheet.png").shape[1] > 400
    assert 0 < float(rows[1][2]) < 1


def test_the_command_shows_only_the_findings_asked_for(capsys, folder, tmp_path):
    code, _, err = run_cli(
        capsys, "explain", str(folder / "model"), str(folder / "a"), "--out", str(tmp_path), "--finding", "ring", "--method", "rollout"
    )  # fmt: skip
    assert code == 0, err
    assert {p.name for p in tmp_path.iterdir()} == {
        "radiograph.ring.png",
        "radiograph.ring.npy",
        "radiograph.sheet.png",
        "maps.csv",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{f}/model", "{f}/a", "--finding", "cyst"], "no finding 'cyst'; it has square, ring"),
        (["{f}/model", "{f}/nowhere"], "nowhere"),
        (["{f}/model", "{f}/broken.png"], "not one of 1 images could be read"),
        (["{f}/nowhere", "{f}/a"], "no such file or folder"),
        (["{f}/model", "{f}/a", "--opacity", "2"], "opacity"),
    ],
)
@pytest.mark.filterwarnings("ignore:left out")
def test_the_command_names_bad_input_in_one_line(capsys, folder, tmp_path, arguments, message):
    code, _, err = run_cli(
        capsys, "explain", *(a.replace("{f}", str(folder)) for a in arguments), "--out", str(tmp_path)
    )
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_results_want_a_folder(capsys, folder):
    file = str(folder / "broken.png")
    code, _, err = run_cli(capsys, "explain", str(folder / "model"), str(folder / "a"), "--out", file)
    assert code == 2
    assert f"{file}: is a file, but a folder is needed" in err


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
