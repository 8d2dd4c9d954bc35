"""A MONAI bundle passes MONAI's own verification, runs without mrm, and gives the numbers of mrm."""

import csv
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mrm import runs
from mrm.interop import monai_bundle
from mrm.interop.publication import Publication
from mrm.models import model_folder
from mrm.models.card import OutlineThreshold
from mrm.models.classifier import Classifier
from mrm.models.mrm import normalise
from mrm.system.errors import CheckpointError
from tests.support.commands import run_cli
from tests.support.models import mrm_model, segmenter_of

SCHEMA = (
    Path(__file__).parents[1] / "support" / "monai_metadata_schema.json"
)  # in place of the one that MONAI would fetch
FILES = ["configs/inference.json", "configs/metadata.json", "docs/README.md", "models/model.pt"]
HOSTILE = "$__import__('os').abort()"  # the name of a class, which MONAI must not take for code
CHECK = """
import json, sys, warnings
warnings.simplefilter("ignore")
sys.modules["mrm"] = None  # importing it fails
import monai.bundle
from monai.bundle import ConfigWorkflow
schema, *roots = sys.argv[1:]
missing = {}
for root in roots:
    if root.endswith("segmenter"):
        del sys.modules["mrm"]
    config, meta = f"{root}/configs/inference.json", f"{root}/configs/metadata.json"
    monai.bundle.verify_metadata(meta_file=meta, filepath=schema)
    monai.bundle.verify_net_in_out("network", meta_file=meta, config_file=config, device="cpu")
    workflow = ConfigWorkflow(config, meta, workflow_type="infer", bundle_root=root, device="$torch.device('cpu')")
    workflow.initialize()
    missing[root] = workflow.check_properties()
    workflow.run()
    workflow.finalize()
print("CHECKED", json.dumps(missing))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory, classifier) -> dict[str, Path]:
    """Model folders, one of each kind."""
    root = tmp_path_factory.mktemp("models")
    resized = Classifier(replace(classifier.config, resize="bilinear"))
    resized.load_state_dict(classifier.state_dict())
    card = replace(classifier.card, architecture=vars(resized.config))
    segmenter = segmenter_of(("a", HOSTILE), head="dpt")
    chosen = {"a": OutlineThreshold(0.48, 0.1), HOSTILE: OutlineThreshold(0.51)}
    return {
        "classifier": model_folder.save(root / "classifier", resized, card),
        "mrm": model_folder.save(root / "mrm", mrm_model()),
        "segmenter": model_folder.save(
            root / "segmenter", segmenter, replace(segmenter.card, outline_thresholds=chosen)
        ),
    }


@pytest.fixture(scope="module")
def bundles(models, tmp_path_factory) -> dict[str, Path]:
    """The bundles of these models."""
    root = tmp_path_factory.mktemp("bundles")
    return {kind: monai_bundle.write_bundle(folder, root / kind, Publication("mit")) for kind, folder in models.items()}


@pytest.fixture(scope="module")
def checked(bundles, tmp_path_factory) -> dict[str, Path]:
    """Copies of the bundles with images, which MONAI has verified and run in a process of its own."""
    if importlib.util.find_spec("monai") is None:
        pytest.skip("MONAI is not installed")
    copies = {}
    for kind, shapes in {
        "classifier": [(90, 70), (300, 180)],
        "mrm": [(64, 64)] * 2,
        "segmenter": [(64, 96)] * 2,
    }.items():
        copies[kind] = tmp_path_factory.mktemp("run") / kind
        write_images(copies[kind] / "images", shapes)
        for name in FILES:
            (copies[kind] / name).parent.mkdir(exist_ok=True)
            (copies[kind] / name).write_bytes((bundles[kind] / name).read_bytes())
    words = [sys.executable, "-c", CHECK, str(SCHEMA), *map(str, copies.values())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=500, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.split("CHECKED")[1]) == {str(copy): [] for copy in copies.values()}
    return copies


def write_images(folder: Path, shapes: list[tuple[int, int]]) -> None:
    folder.mkdir(parents=True)
    for number, shape in enumerate(shapes):
        noise = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")


def rows(table: Path) -> np.ndarray:
    """The numbers of a table that MONAI wrote: no header, the path first."""
    with open(table, newline="") as file:
        return np.array([[float(cell) for cell in row[1:]] for row in csv.reader(file)])


def test_a_classifier_in_monai_gives_the_probabilities_of_predict(checked, models, tmp_path):
    bundle = checked["classifier"]
    runs.predict(models["classifier"], [bundle / "images"], tmp_path / "p.csv", runs.Reading(workers=0))
    with open(tmp_path / "p.csv", newline="") as file:
        expected = [[float(row["nodule"]), float(row["effusion"])] for row in csv.DictReader(file)]
    np.testing.assert_allclose(rows(bundle / "eval" / "predictions.csv"), expected, atol=1e-5)
    assert np.std(expected) > 0.01


def test_an_encoder_in_monai_gives_the_features_of_embed(checked, models, tmp_path):
    bundle = checked["mrm"]
    runs.embed(models["mrm"], [bundle / "images"], tmp_path / "f.npy", reading=runs.Reading(workers=0))
    np.testing.assert_allclose(rows(bundle / "eval" / "features.csv"), np.load(tmp_path / "f.npy"), atol=1e-5)


def test_a_segmenter_in_monai_gives_the_masks_of_its_thresholds(checked, models):
    bundle, model = checked["segmenter"], model_folder.load(models["segmenter"])
    seen = set()
    for number in range(2):
        grey_HW = np.array(Image.open(bundle / "images" / f"{number}.png"))
        logits_CHW = model(normalise(torch.from_numpy(grey_HW)[None], 0.4978, 0.2449)).logits_BCHW[0]
        probability_CHW = logits_CHW.sigmoid().numpy()
        inside_CHW = probability_CHW >= np.array([0.48, 0.51])[:, None, None]
        expected = np.where(inside_CHW.any(0), (probability_CHW * inside_CHW).argmax(0) + 1, 0)
        given = np.array(Image.open(bundle / "eval" / f"{number}_mask.png"))
        assert (given == expected).mean() > 0.999  # a probability may lie on a threshold, within rounding
        seen |= set(np.unique(expected))
    assert seen == {0, 1, 2}


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def test_a_name_in_a_card_is_never_code_to_monai(bundles):
    for name in ("configs/inference.json", "configs/metadata.json"):
        content = json.loads((bundles["segmenter"] / name).read_text())
        texts = list(strings(content))
        assert any(HOSTILE in text for text in texts)
        assert not [text for text in texts if text.startswith(HOSTILE[:8])]
        assert "__import__" not in "".join(text for text in texts if text.startswith(("$", "@", "%")))


def test_the_metadata_say_what_the_card_knows(bundles):
    facts = json.loads((bundles["classifier"] / "configs" / "metadata.json").read_text())
    assert facts["eval_metrics"] == {"test.csv: auroc, mean of classes": 0.8123}
    assert facts["copyright"] == "licence mit"
    assert facts["data_source"] == "training records: training.csv"
    assert facts["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "logit of nodule",
        "1": "logit of effusion",
    }
    assert "mrm-radiograph" not in facts["required_packages_version"]
    low, high = facts["network_data_format"]["inputs"]["image"]["value_range"]
    assert (low, high) == pytest.approx((-0.4978 / 0.2449, (1 - 0.4978) / 0.2449), abs=1e-4)
    readme = (bundles["classifier"] / "docs" / "README.md").read_text()
    for said in (
        "1,234 records of 987 patients",
        "Not for clinical use",
        "monai.bundle run",
        "nodule, effusion",
        "Licence: mit",
    ):
        assert said in readme, said
    for name in ("segmenter", "mrm"):
        assert "monai.bundle run" in (bundles[name] / "docs" / "README.md").read_text()
    needed = json.loads((bundles["segmenter"] / "configs" / "metadata.json").read_text())["required_packages_version"]
    assert "mrm-radiograph" in needed


def test_it_tells_nothing_of_the_machine_it_was_made_on(bundles):
    for name in FILES[:3]:
        text = (bundles["classifier"] / name).read_text()
        assert "/home/someone" not in text
        assert "secret" not in text


def test_the_command_writes_it_and_replaces_only_a_bundle(models, tmp_path, capsys):
    out = tmp_path / "bundle"
    words = ["export", str(models["classifier"]), "--format", "monai", "--out", str(out)]
    for _ in range(2):
        code, said, _ = run_cli(capsys, *words, "--license", "cc-by-4.0")
        assert code == 0
        assert re.search(r"wrote .*bundle.*without the fingerprints", said)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == FILES
    (out / "models" / "mine.pt").write_text("trained for a week")
    code, _, error = run_cli(capsys, *words)
    assert (code, error.count("\n")) == (2, 1)
    assert "exists and holds more than a MONAI bundle" in error
    assert (out / "models" / "mine.pt").read_text() == "trained for a week"


@pytest.mark.parametrize("option", ["--push", "--base-model", "--datasets"])
def test_options_of_a_hub_folder_are_refused(models, tmp_path, capsys, option):
    words = ["export", str(models["mrm"]), "--format", "monai", "--out", str(tmp_path / "x"), option, "a/b"]
    code, _, error = run_cli(capsys, *words)
    assert (code, error.count("\n")) == (2, 1)
    assert f"{option} goes with --format hub, not with --format monai" in error


def test_a_bundle_that_timm_computes_otherwise_is_not_kept(models, tmp_path, monkeypatch):
    real = monai_bundle.network
    monkeypatch.setattr(monai_bundle, "network", lambda model: {**real(model), "act_layer": "relu"})
    with pytest.raises(CheckpointError, match="what timm computes differs from the model"):
        monai_bundle.write_bundle(models["classifier"], tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(models, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:778] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr(monai_bundle.torch, "save", full)
    with pytest.raises(CheckpointError, match=r"b: cannot be written \(.*PytorchStreamWriter failed"):
        monai_bundle.write_bundle(models["classifier"], tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_whose_images_are_cropped_or_matched_first_is_refused(classifier, tmp_path):
    changed = Classifier(replace(classifier.config, greys="matched")).eval()
    model_folder.save(tmp_path / "model", changed)
    with pytest.raises(CheckpointError, match=r"greys matched .*which MONAI has no transform for; export it as onnx"):
        monai_bundle.write_bundle(tmp_path / "model", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
