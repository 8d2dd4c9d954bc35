"""Models for others: ONNX agrees with PyTorch or is not kept; a hub folder says what the model knows, and loads."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import mrm
from mrm import cli
from mrm.data.reports import Tokenizer
from mrm.inference import hub_folder, model_card, onnx_export, predict
from mrm.models import model_folder, noise
from mrm.models.card import Card, PastTest
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM, normalise
from mrm.models.segmenter import Segmenter, SegmenterConfig
from mrm.system.errors import CheckpointError
from tests.support.configs import MICRO
from tests.support.models import classifier_of

CLASSES = ("nodule", "effusion")
ORIGIN = {
    "records": "training.csv",
    "n": 1234,
    "with_report": 1200,
    "patients": 987,
    "init": "MRM.pth",
    "audit": {"clean": False, "overlaps": ["12 records of val share a patient with train"]},
    "command": "mrm finetune tiny --train /home/someone/secret/training.csv",
}
AUROC = {"value": 0.8123, "low": 0.7512, "high": 0.8719, "n": 345, "positives": 44}
TESTED = [
    PastTest(
        "/home/someone/test.csv",
        "abc",
        345,
        overlap=["7 records of test share an image with fine-tuning"],
        classes={"mean of classes": {"auroc": AUROC}},
    )
]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    model = classifier_of(CLASSES)
    model.card = Card("classifier", vars(model.config), ORIGIN, TESTED, {"nodule": 0.3}, {"nodule": 2.5})
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(classifier, tmp_path_factory) -> Path:
    return model_folder.save(tmp_path_factory.mktemp("models") / "classifier", classifier)


def segmenter(head: str) -> Segmenter:
    options = {**MICRO.encoder_options, "depth": 4}
    with noise.seeded(0):
        shape = SegmenterConfig(CLASSES, MICRO.encoder, options, (64, 96), head=head, channels=32, auxiliary=16)
        return Segmenter(shape).eval().requires_grad_(False)


def encoder() -> MRM:
    with noise.seeded(0):
        return MRM(MICRO).eval().requires_grad_(False)


# ---- ONNX ----------------------------------------------------------------------------------------------------


def answers(path: Path, image_BHW: np.ndarray) -> dict[str, np.ndarray]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image_BHW}), strict=True))


@pytest.fixture(scope="module")
def exported(classifier, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "a.onnx"
    assert onnx_export.export_onnx(classifier, path) <= onnx_export.TOLERANCE
    return path


def test_a_classifier_in_onnx_gives_logits_and_tempered_probabilities_of_any_batch(classifier, exported):
    for count in (1, 2, 7):
        images = np.random.default_rng(count).integers(0, 256, (count, 64, 64), dtype=np.uint8)
        got = answers(exported, images)
        true = classifier(normalise(torch.from_numpy(images), 0.4978, 0.2449)).numpy()
        np.testing.assert_allclose(got["logits"], true, atol=1e-4 * np.abs(true).max())
        np.testing.assert_allclose(got["probabilities"], 1 / (1 + np.exp(-true / [2.5, 1.0])), atol=1e-4)
    assert [p.name for p in exported.parent.iterdir()] == ["a.onnx"]


def test_an_encoder_in_onnx_gives_its_features(tmp_path):
    model = encoder()
    onnx_export.export_onnx(model, tmp_path / "a.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    got = answers(tmp_path / "a.onnx", images)
    normal = normalise(torch.from_numpy(images), MICRO.mean, MICRO.std)
    for kind in ("pooled", "patches"):
        np.testing.assert_allclose(got[kind], predict.feature_function(model, kind)(normal), atol=1e-4)


@pytest.mark.parametrize(
    "head", ["upernet", pytest.param("dpt", marks=pytest.mark.slow), pytest.param("linear", marks=pytest.mark.slow)]
)
def test_a_segmenter_in_onnx_gives_probabilities_of_pixels(head, tmp_path):
    model = segmenter(head)
    onnx_export.export_onnx(model, tmp_path / "a.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 96), dtype=np.uint8)
    got = answers(tmp_path / "a.onnx", images)
    true = model(normalise(torch.from_numpy(images), 0.4978, 0.2449)).logits_BCHW
    np.testing.assert_allclose(got["logits"], true, atol=1e-4 * max(1, true.abs().max()))
    np.testing.assert_allclose(got["probabilities"], true.sigmoid(), atol=1e-4)


def test_the_file_says_how_an_image_is_prepared(exported):
    onnx = pytest.importorskip("onnx")
    facts = json.loads({p.key: p.value for p in onnx.load(exported).metadata_props}["mrm"])
    assert facts["classes"] == list(CLASSES)
    assert facts["thresholds"] == {"nodule": 0.3}
    assert facts["temperatures"] == {"nodule": 2.5, "effusion": 1.0}
    assert facts["input"]["shape"] == ["batch", 64, 64]
    assert "the whole image resized to 64 x 64" in facts["input"]["resize"]
    assert "in the middle of black" in onnx_export.preparation(segmenter("linear"))["input"]["resize"]


def test_a_file_that_disagrees_is_not_left_and_what_was_there_stays(classifier, tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"before")
    real = onnx_export._write_onnx

    def write(network, model, temporary):
        with torch.no_grad():
            model.encoder.head.bias += 0.01  # what is written is another model than what it is compared with
        real(network, model, temporary)
        with torch.no_grad():
            model.encoder.head.bias -= 0.01

    monkeypatch.setattr(onnx_export, "_write_onnx", write)
    with pytest.raises(CheckpointError, match=r"differs from PyTorch by 0\.0\d+ of its values.* the file was not kept"):
        onnx_export.export_onnx(classifier, path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def test_a_model_that_gives_nan_is_refused(classifier, tmp_path):
    broken = Classifier(classifier.config).eval().requires_grad_(False)
    broken.encoder.head.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="differs from PyTorch by nan"):
        onnx_export.export_onnx(broken, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_packages_the_extra_is_named(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"ONNX needs onnx, onnxruntime, onnxscript: .*\[onnx\]"):
        onnx_export.export_onnx(classifier, tmp_path / "a.onnx")


def test_a_folder_and_too_many_weights_are_refused(classifier, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="is a folder"):
        onnx_export.export_onnx(classifier, tmp_path)
    monkeypatch.setattr(onnx_export, "LARGEST", 1000)
    with pytest.raises(CheckpointError, match="bytes of weights; an ONNX file holds at most 1,000"):
        onnx_export.export_onnx(classifier, tmp_path / "a.onnx")


# ---- hub -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(folder, tmp_path_factory) -> Path:
    return hub_folder.write_hub_folder(folder, tmp_path_factory.mktemp("hub") / "chest-findings")


def test_a_hub_folder_loads_as_the_model_it_was(hub, classifier):
    names = ["README.md", "config.json", "model.safetensors"]  # and no fingerprints of records
    assert sorted(p.name for p in hub.iterdir()) == names
    loaded = mrm.load(hub)
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(image), classifier(image))
    assert loaded.card.thresholds == {"nodule": 0.3}


def test_its_model_card_says_what_the_folder_knows(hub):
    text = (hub / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["pipeline_tag"] == "image-classification"
    assert "license" not in facts  # the publisher's to choose
    for said in (
        "1,234 records of 987 patients (training.csv)",
        "Initial weights: MRM.pth",
        "12 records of val share a patient with train",
        "7 records of test share an image with fine-tuning",
        "| test.csv | mean of classes | auroc | 0.812 (0.751 to 0.872) | 345 | 44 |",
        "| nodule | 0.3 | 2.5 |",
        "Not for clinical use",
        "Intended use",
        "Limits",
    ):
        assert said in body, said


def test_it_tells_nothing_of_the_machine_it_was_made_on(hub):
    for file in ("README.md", "config.json"):
        assert "/home/someone" not in (hub / file).read_text()
        assert "secret" not in (hub / file).read_text()


def test_its_snippets_run(hub, classifier, monkeypatch):
    monkeypatch.chdir(hub)
    snippets = re.findall(r"```python\n(.*?)```", (hub / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 2
    made: dict = {}
    for snippet in snippets:
        exec(snippet, made)
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(made["model"](image), classifier(image))
    torch.testing.assert_close(made["encoder"].eval()(image), classifier(image))


def test_encoders_and_segmenters_have_cards_too(tmp_path, monkeypatch):
    model = encoder()
    model.tokenizer = Tokenizer.train(["the heart is large", "no effusion"], 40)
    for name, made in (("mrm", model), ("segmenter", segmenter("linear"))):
        out = hub_folder.write_hub_folder(model_folder.save(tmp_path / name, made), tmp_path / f"hub-{name}")
        text = (out / "README.md").read_text()
        assert "The model folder does not say what it was trained on" in text
        assert "It has not been tested" in text
        assert "Nobody has looked for overlap" in text
        assert ("check that no names are among them" in text) == (name == "mrm")
        monkeypatch.chdir(out)
        for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(snippet, {})
        assert type(mrm.load(out)) is type(made)


def test_results_of_segmenters_are_told_by_class():
    measure = {"value": None, "low": None, "high": None, "n": 9, "positives": 0}
    card = Card("segmenter", {}, tested=[PastTest("a|b", "ab", 9, [], {"lung": {"dice_positive": measure}})])
    assert "| a/b | lung | dice positive | undefined | 9 | 0 |" in model_card._results(card)


def test_only_a_hub_folder_is_replaced(folder, hub, tmp_path):
    before = (hub / "model.safetensors").read_bytes()
    assert hub_folder.write_hub_folder(folder, hub) == hub
    assert (hub / "model.safetensors").read_bytes() == before
    (tmp_path / "thesis.docx").write_text("mine")
    for name in ("README.md", "config.json", "model.safetensors"):  # as a checkout of a project has them
        with pytest.raises(CheckpointError, match="exists and holds more than a hub folder"):
            hub_folder.write_hub_folder(folder, tmp_path)
        (tmp_path / name).write_text("mine too")
    with pytest.raises(CheckpointError, match="exists and holds more than a hub folder"):
        hub_folder.write_hub_folder(folder, tmp_path)
    assert (tmp_path / "thesis.docx").read_text() == "mine"
    with pytest.raises(CheckpointError, match=r"is the model itself|more than a hub folder"):
        hub_folder.write_hub_folder(folder, folder)
    with pytest.raises(CheckpointError, match="is the model itself"):
        hub_folder.write_hub_folder(hub, hub)


class FakeHub:
    """Writes down what it is asked."""

    asked: list

    def create_repo(self, repository, **options):
        self.asked.append(("create", repository, options))
        return f"https://hub.invalid/{repository}"

    def upload_folder(self, **options):
        self.asked.append(
            ("upload", options["repo_id"], sorted(p.name for p in Path(options["folder_path"]).iterdir()))
        )


@pytest.fixture
def fake_hub(monkeypatch):
    import huggingface_hub

    FakeHub.asked = []
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    return FakeHub


def test_a_folder_is_uploaded_when_asked_and_only_then_and_privately(folder, tmp_path, fake_hub, capsys):
    words = ["export", str(folder), "--out", str(tmp_path / "hub"), "--format", "hub"]
    cli.main(words)
    assert fake_hub.asked == []
    cli.main([*words, "--push", "someone/chest"])
    assert fake_hub.asked == [
        ("create", "someone/chest", {"private": True, "exist_ok": True}),
        ("upload", "someone/chest", ["README.md", "config.json", "model.safetensors"]),
    ]
    assert "uploaded to https://hub.invalid/someone/chest" in capsys.readouterr().out


def test_a_refused_upload_is_one_line(hub, fake_hub, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(fake_hub, "create_repo", refuse)
    with pytest.raises(CheckpointError, match=r"someone/chest: not uploaded \(no route to host\); log in"):
        hub_folder.push(hub, "someone/chest")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "onnx", "--push", "a/b"], "--push goes with --format hub"),
        (["--format", "mrm"], "only a pre-trained MRM has the published layout"),
    ],
)
def test_what_does_not_go_together_is_one_line(folder, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", str(folder), "--out", str(tmp_path / "x"), *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_an_incomplete_model_is_refused_by_every_format(folder, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((folder / "config.json").read_bytes())
    for name in ("mrm", "onnx", "hub"):
        with pytest.raises(SystemExit):
            cli.main(["export", str(broken), "--out", str(tmp_path / "x"), "--format", name])
        assert "no model.safetensors" in capsys.readouterr().err


def test_a_card_is_shared_without_its_command(classifier):
    shared = hub_folder.shareable(replace(classifier.card, origin={"command": "x", "n": 3}))
    assert shared.origin == {"n": 3}
