"""A hub folder opens in mrm, timm and transformers with the same numbers, and says what the model knows."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import mrm
from mrm import cli, runs
from mrm.data import images
from mrm.data.reports import Tokenizer
from mrm.inference.predict import feature_function
from mrm.interop import export_folder, hub_folder, model_card
from mrm.interop.publication import Publication
from mrm.models import model_folder
from mrm.models.card import Card, PastTest
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.mrm import normalise
from mrm.system.errors import CheckpointError, ConfigError
from tests.support.commands import run_cli
from tests.support.configs import MICRO
from tests.support.models import classifier_of, mrm_model, segmenter_of

CLASSES = ("nodule", "effusion")
NAMES = ["README.md", "config.json", "model.safetensors", "mrm.json"]  # and no fingerprints of records
PUBLICATION = Publication("cc-by-nc-4.0", ("nih-chest-xrays", "someone/more"), "someone/mrm")


@pytest.fixture(scope="module")
def hub(folder, tmp_path_factory) -> Path:
    return hub_folder.write_hub_folder(folder, tmp_path_factory.mktemp("hub") / "chest-findings", PUBLICATION)


@pytest.fixture(scope="module")
def grey_BHW() -> torch.Tensor:
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    return torch.from_numpy(noise)


def transformers_model(kind: str, folder: Path):
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(transformers, kind).from_pretrained(folder)


def assert_close(given, expected):
    torch.testing.assert_close(torch.as_tensor(given), torch.as_tensor(expected), atol=1e-5, rtol=1e-5)


# What it computes --------------------------------------------------------------------------------------------


def test_a_classifier_gives_the_same_logits_in_every_library(hub, classifier, exported, grey_BHW):
    image_BCHW = normalise(grey_BHW, 0.4978, 0.2449)
    expected = classifier(image_BCHW)
    assert expected.std() > 0.1  # numbers that tell images apart
    with torch.inference_mode():
        assert_close(mrm.load(hub)(image_BCHW), expected)
        assert_close(timm.create_model(f"local-dir:{hub}", pretrained=True).eval()(image_BCHW), expected)
        assert_close(transformers_model("AutoModelForImageClassification", hub)(image_BCHW).logits, expected)
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    assert_close(session.run(["logits"], {"image": grey_BHW.numpy()})[0], expected)


@pytest.mark.parametrize("kind", ["mrm", "classifier", "attention", "registers"])
def test_features_in_transformers_are_those_of_embed(kind, grey_BHW, tmp_path):
    model = {"mrm": mrm_model, "classifier": classifier_of}.get(kind, lambda: special_classifier(kind))()
    out = hub_folder.write_hub_folder(model_folder.save(tmp_path / "model", model), tmp_path / "hub")
    image_BCHW = normalise(grey_BHW, 0.4978, 0.2449)
    with torch.inference_mode():
        expected = feature_function(model, "pooled")(image_BCHW)
        assert_close(transformers_model("AutoModel", out)(image_BCHW).pooler_output, expected)
        given = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).eval()(image_BCHW)
    assert_close(given, expected)


def special_classifier(kind: str) -> Classifier:
    options = {**MICRO.encoder_options, "init_values": 0.1, "reg_tokens": 2, "act_layer": "gelu_tanh", "qk_norm": True}
    changes = {"attention": {"pooling": "attention"}, "registers": {"encoder_options": options, "view": "centre"}}[kind]
    settings = {"encoder_options": MICRO.encoder_options, **changes}
    return Classifier(ClassifierConfig(CLASSES, MICRO.encoder, image_size=64, resize="bicubic", **settings)).eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convnext_atto", {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}),
        (
            "swin_tiny_patch4_window7_224",
            {"embed_dim": 12, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 3, 6), "window_size": 4},
        ),
        ("eva02_tiny_patch14_224", {"depth": 2, "patch_size": 16}),
    ],
)
def test_classifiers_on_encoders_of_other_families_open_too(name, options, grey_BHW, tmp_path):
    model = Classifier(ClassifierConfig(CLASSES, name, options, image_size=64, mean=(0.48, 0.46, 0.41))).eval()
    torch.nn.init.normal_(model.encoder.get_classifier().weight, generator=torch.Generator().manual_seed(0))
    out = hub_folder.write_hub_folder(model_folder.save(tmp_path / "model", model), tmp_path / "hub")
    image_BCHW = normalise(grey_BHW, model.config.mean, model.config.std)
    with torch.inference_mode():
        expected = model(image_BCHW)
        assert_close(transformers_model("AutoModelForImageClassification", out)(image_BCHW).logits, expected)
        assert_close(mrm.load(out)(image_BCHW), expected)
        opened = timm.create_model(f"local-dir:{out}", pretrained=True)
        timm.models.save_for_hf(opened, tmp_path / "saved", safe_serialization=True)
        assert_close(mrm.load(tmp_path / "saved")(image_BCHW), expected)
    assert mrm.load(tmp_path / "saved").config.mean == (0.48, 0.46, 0.41)
    assert "mrm predict" in (out / "README.md").read_text()


def test_the_pipeline_of_transformers_gives_the_sigmoid_of_each_finding(hub, classifier, grey_BHW):
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    given = transformers.pipeline("image-classification", str(hub))(Image.fromarray(grey_BHW[0].numpy()))
    expected = classifier(normalise(grey_BHW[:1], 0.4978, 0.2449)).sigmoid()[0].tolist()
    assert {one["label"]: one["score"] for one in given} == pytest.approx(
        dict(zip(CLASSES, expected, strict=True)), abs=1e-5
    )
    assert sum(expected) != pytest.approx(1, abs=0.01)  # a softmax would make it 1


@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "area"])
def test_the_transform_of_timm_resizes_as_the_page_says(resize, tmp_path):
    model = Classifier(ClassifierConfig(CLASSES, MICRO.encoder, MICRO.encoder_options, image_size=64, resize=resize))
    out = hub_folder.write_hub_folder(model_folder.save(tmp_path / "model", model), tmp_path / "hub")
    opened = timm.create_model(f"local-dir:{out}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(opened))
    rows = np.linspace(0, 255, 200)[:, None] * np.linspace(0.2, 1, 150)
    radiograph = (rows + np.random.default_rng(0).normal(0, 10, rows.shape)).clip(0, 255).astype(np.uint8)
    given = transform(Image.fromarray(radiograph).convert("RGB")) * 0.2449 + 0.4978
    expected = images.resize(radiograph, 64, 64, resize)
    difference = np.abs(given.numpy() * 255 - expected)
    if resize != "area":
        assert difference.max() < 0.01
        assert "by the same filter" in (out / "README.md").read_text()
        return
    others = [
        np.abs(images.resize(radiograph, 64, 64, other).astype(float) - expected) for other in ("bilinear", "bicubic")
    ]
    assert 0 < difference.mean() < min(other.mean() for other in others)
    assert "takes the nearest" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("head", "changes"), [("upernet", {}), ("linear", {"blocks": (1, 2, 3, 3), "layer_scale": 0.1}), ("dpt", {})]
)
def test_a_segmenter_is_restored_whole_and_its_encoder_opens_in_timm(head, changes, tmp_path):
    model = segmenter_of(CLASSES, head, **changes)
    out = hub_folder.write_hub_folder(model_folder.save(tmp_path / "model", model), tmp_path / "hub")
    image_BCHW = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mrm.load(out)(image_BCHW).logits_BCHW, model(image_BCHW).logits_BCHW)
    opened = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    with torch.inference_mode():
        assert_close(opened.forward_features(image_BCHW), model.encoder.forward_features(image_BCHW))
    assert not {name for name in load_file(out / "decoders.safetensors") if name.startswith("encoder.")}


def test_relative_positions_open_in_mrm_alone_and_nobody_else_takes_them_for_their_own(tmp_path):
    model = segmenter_of(CLASSES, relative_positions=True)
    with torch.no_grad():
        for block in model.encoder.blocks:
            block.attn.rel_pos.relative_position_bias_table.normal_(generator=torch.Generator().manual_seed(0))
    out = hub_folder.write_hub_folder(model_folder.save(tmp_path / "model", model), tmp_path / "hub")
    image_BCHW = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mrm.load(out)(image_BCHW).logits_BCHW, model(image_BCHW).logits_BCHW)
    with pytest.raises(RuntimeError, match="relative_position_bias_table"):
        timm.create_model(f"local-dir:{out}", pretrained=True)
    assert "cannot open this folder" in (out / "README.md").read_text().replace("\n", " ")


def test_a_pretrained_model_is_restored_with_both_decoders_and_starts_others(tmp_path):
    model = mrm_model()
    model.tokenizer = Tokenizer.train(["the heart is large", "no effusion"], 40)
    out = hub_folder.write_hub_folder(model_folder.save(tmp_path / "model", model), tmp_path / "hub")
    loaded = mrm.load(out)
    assert sorted(loaded.state_dict()) == sorted(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert loaded.tokenizer.to_json() == model.tokenizer.to_json()
    encoder = mrm.load_encoder(out, num_classes=3)
    assert torch.equal(encoder.blocks[1].attn.qkv.weight, model.encoder.blocks[1].attn.qkv.weight)


# What it keeps -------------------------------------------------------------------------------------------------


def test_nothing_of_the_card_is_lost_but_what_is_not_shared(hub, classifier):
    assert sorted(p.name for p in hub.iterdir()) == NAMES
    card = mrm.load(hub).card
    assert card.thresholds == {"nodule": 0.3}
    assert card.temperatures == {"nodule": 2.5}
    assert replace(card, architecture={}) == replace(export_folder.shareable(classifier.card), architecture={})
    assert model_folder.read_config("classifier", card.architecture, hub) == classifier.config


@pytest.mark.parametrize("safe", [True, False])
def test_what_timm_saves_again_loads_as_the_classifier_it_was(hub, classifier, safe, grey_BHW, tmp_path):
    opened = timm.create_model(f"local-dir:{hub}", pretrained=True)
    timm.models.save_for_hf(opened, tmp_path / "saved", safe_serialization=safe)
    loaded = mrm.load(tmp_path / "saved")
    assert_close(loaded(normalise(grey_BHW, 0.4978, 0.2449)), classifier(normalise(grey_BHW, 0.4978, 0.2449)))
    assert loaded.config == replace(classifier.config, drop_path=0.0)  # for training, which the file does not say
    assert loaded.card.thresholds == {}


def test_what_transformers_saves_again_loads_too(hub, classifier, grey_BHW, tmp_path):
    transformers_model("AutoModelForImageClassification", hub).save_pretrained(tmp_path / "saved")
    loaded = mrm.load(tmp_path / "saved")
    assert_close(loaded(normalise(grey_BHW, 0.4978, 0.2449)), classifier(normalise(grey_BHW, 0.4978, 0.2449)))
    assert loaded.config == replace(classifier.config, drop_path=0.0)


def test_a_card_is_changed_in_its_own_file_and_timm_still_opens_the_folder(hub, tmp_path):
    out = hub_folder.write_hub_folder(hub, tmp_path / "copy")
    before = (out / "config.json").read_bytes()
    model_folder.change_card(out, lambda card: replace(card, thresholds={"effusion": 0.25}))
    assert mrm.load(out).card.thresholds == {"effusion": 0.25}
    assert (out / "config.json").read_bytes() == before


def test_calibrating_and_testing_a_hub_folder_write_its_page_anew(phantoms, tmp_path):
    """With the publisher's words and the name that it had, also when the folder has another name now."""
    model = model_folder.save(tmp_path / "model", classifier_of(("effusion", "cardiomegaly")))
    out = hub_folder.write_hub_folder(model, tmp_path / "chest", PUBLICATION).rename(tmp_path / "moved")
    records, reading = phantoms / "records.csv", runs.Reading(workers=0)
    runs.calibrate(out, records, reading=reading, outliers=False)
    runs.evaluate(out, records, tmp_path / "test", reading, draws=20)
    text, card = (out / "README.md").read_text(), mrm.load(out).card
    assert text == model_card.model_card(mrm.load(out), export_folder.shareable(card), "chest", PUBLICATION)
    assert f"| effusion | {card.thresholds['effusion']:.4g} |" in text
    assert "It has not been tested" not in text
    (out / "README.md").write_text(text + "Written by hand.\n")
    with pytest.warns(UserWarning, match=r"README.md: is not as mrm .* wrote it, so it was left as it is"):
        runs.calibrate(out, records, reading=reading, outliers=False)
    assert (out / "README.md").read_text() == text + "Written by hand.\n"


def test_the_digest_covers_the_decoders(tmp_path):
    out = hub_folder.write_hub_folder(model_folder.save(tmp_path / "model", mrm_model()), tmp_path / "hub")
    before = model_folder.weights_digest(out)
    content = bytearray((out / "decoders.safetensors").read_bytes())
    content[-1] ^= 1
    (out / "decoders.safetensors").write_bytes(content)
    assert model_folder.weights_digest(out) != before


def test_a_folder_that_timm_computes_otherwise_is_not_kept(folder, tmp_path, monkeypatch):
    real = hub_folder.hub_layout.timm_arguments
    monkeypatch.setattr(hub_folder.hub_layout, "timm_arguments", lambda model: {**real(model), "act_layer": "relu"})
    with pytest.raises(CheckpointError, match=r"what timm computes differs from the model by 0\.\d+ of its values"):
        hub_folder.write_hub_folder(folder, tmp_path / "hub")
    monkeypatch.setattr(hub_folder.hub_layout, "timm_arguments", lambda model: {**real(model), "depth": 3})
    with pytest.raises(
        CheckpointError, match=r"timm .* cannot open the encoder of this model \(Error.* in loading state"
    ):
        hub_folder.write_hub_folder(folder, tmp_path / "hub")
    assert list(tmp_path.iterdir()) == []


# What it says --------------------------------------------------------------------------------------------------


def test_its_model_card_says_what_the_folder_knows(hub):
    body = (hub / "README.md").read_text().split("---\n", 2)[2]
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
        "before the temperatures",
        "takes the nearest, hamming",
        "DICOM, 16-bit images",
    ):
        assert said in body, said


def test_the_hub_reads_its_metadata_as_they_are_meant(hub):
    from huggingface_hub import EvalResult, ModelCard

    data = ModelCard.load(hub / "README.md").data
    assert data.license == "cc-by-nc-4.0"
    assert data.datasets == ["nih-chest-xrays", "someone/more"]
    assert data.base_model == "someone/mrm"
    assert (data.library_name, data.pipeline_tag) == ("timm", "image-classification")
    assert data.metrics == ["roc_auc"]
    assert {"chest-x-ray", "timm", "transformers", "mrm"} <= set(data.tags)
    (result,) = data.eval_results
    assert result.is_equal_except_value(
        EvalResult(
            task_type="image-classification",
            dataset_type="test.csv",
            dataset_name="test.csv",
            metric_type="roc_auc",
            metric_value=0.5,
            metric_name="auroc, mean of classes",
            metric_args={"low": 0.7512, "high": 0.8719, "n": 345, "positives": 44},
        )
    )
    assert result.metric_value == 0.8123


def test_what_nobody_has_said_is_left_out_of_the_metadata(folder, tmp_path):
    out = hub_folder.write_hub_folder(folder, tmp_path / "hub")
    facts = yaml.safe_load((out / "README.md").read_text().split("---\n", 2)[1])
    assert not {"license", "datasets", "base_model"} & set(facts)
    assert "license" not in json.loads((out / "config.json").read_text())["pretrained_cfg"]


def test_it_tells_nothing_of_the_machine_it_was_made_on(hub):
    for file in ("README.md", "config.json", "mrm.json"):
        assert "/home/someone" not in (hub / file).read_text()
        assert "secret" not in (hub / file).read_text()


def test_its_snippets_run(hub, classifier, grey_BHW, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.chdir(hub)
    snippets = re.findall(r"```python\n(.*?)```", (hub / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 3
    made: dict = {}
    for snippet in snippets:
        exec(snippet, made)
    image_BCHW = normalise(grey_BHW, 0.4978, 0.2449)
    torch.testing.assert_close(made["model"](image_BCHW), classifier(image_BCHW))
    assert_close(made["encoder"](image_BCHW), classifier(image_BCHW))
    assert made["classify"].task == "image-classification"


def test_encoders_and_segmenters_have_cards_too(tmp_path, monkeypatch):
    model = mrm_model()
    model.tokenizer = Tokenizer.train(["the heart is large", "no effusion"], 40)
    for name, made in (("mrm", model), ("segmenter", segmenter_of(CLASSES))):
        out = hub_folder.write_hub_folder(model_folder.save(tmp_path / name, made), tmp_path / f"hub-{name}")
        text = (out / "README.md").read_text()
        assert "The model folder does not say what it was trained on" in text
        assert "It has not been tested" in text
        assert "Nobody has looked for overlap" in text
        assert ("check that no names are among them" in text) == (name == "mrm")
        monkeypatch.chdir(out)
        for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            if "transformers" not in snippet:
                exec(snippet, {})
        assert type(mrm.load(out)) is type(made)


def test_results_of_segmenters_are_told_by_class():
    measure = {"value": None, "low": None, "high": None, "n": 9, "positives": 0}
    card = Card("segmenter", {}, tested=[PastTest("a|b", "ab", 9, [], {"lung": {"dice_positive": measure}})])
    assert "| a/b | lung | dice positive | undefined | 9 | 0 |" in model_card._results(card)


def test_a_card_is_shared_without_its_command(classifier):
    shared = export_folder.shareable(replace(classifier.card, origin={"command": "x", "n": 3}))
    assert shared.origin == {"n": 3}


# Where it is written -------------------------------------------------------------------------------------------


def test_only_a_hub_folder_is_replaced(folder, hub, tmp_path):
    before = (hub / "model.safetensors").read_bytes()
    assert hub_folder.write_hub_folder(folder, hub, PUBLICATION) == hub
    assert (hub / "model.safetensors").read_bytes() == before
    (tmp_path / "thesis.docx").write_text("mine")
    for name in NAMES:  # as a checkout of a project has them
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
    assert "say which one with --license before you publish it" in capsys.readouterr().out
    cli.main([*words, "--push", "someone/chest", "--license", "mit"])
    assert fake_hub.asked == [
        ("create", "someone/chest", {"private": True, "exist_ok": True}),
        ("upload", "someone/chest", NAMES),
    ]
    said = capsys.readouterr().out
    assert "uploaded to https://hub.invalid/someone/chest" in said
    assert "licence" not in said


def test_a_refused_upload_is_one_line(hub, fake_hub, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(fake_hub, "create_repo", refuse)
    with pytest.raises(CheckpointError, match=r"someone/chest: not uploaded \(no route to host\); log in"):
        hub_folder.push(hub, "someone/chest")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "onnx", "--push", "a/b"], "--push goes with --format hub, not with --format onnx"),
        (["--format", "mrm", "--license", "mit"], "--license goes with --format hub"),
        (["--format", "hub", "--push", "a/b"], "--push needs --license"),
        (["--format", "hub", "--license", "Apache 2.0"], "'Apache 2.0' is not an identifier of a licence"),
        (["--format", "hub", "--base-model", "C:/models/mrm"], "--base-model 'C:/models/mrm' is not a name on the hub"),
        (["--format", "mrm"], "only a pre-trained MRM has the published layout"),
    ],
)
def test_what_does_not_go_together_is_one_line(folder, tmp_path, capsys, words, message):
    code, _, error = run_cli(capsys, "export", str(folder), "--out", str(tmp_path / "x"), *words)
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_name_of_a_data_set_is_a_name():
    with pytest.raises(ConfigError, match=r"--datasets '\.\./x' is not a name on the hub"):
        Publication(datasets=("nih", "../x"))


def test_an_incomplete_model_is_refused_by_every_format(folder, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((folder / "config.json").read_bytes())
    for name in ("mrm", "onnx", "hub"):
        code, _, error = run_cli(capsys, "export", str(broken), "--out", str(tmp_path / "x"), "--format", name)
        assert code == 2
        assert "no model.safetensors" in error


def test_a_classifier_that_pools_for_each_class_is_for_mrm_alone_and_says_so(tmp_path):
    model = classifier_of(("a", "b"), pooling="class")
    torch.nn.init.normal_(model.encoder.attn_pool.query)
    out = hub_folder.write_hub_folder(model_folder.save(tmp_path / "model", model), tmp_path / "hub")
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mrm.load(out)(image), model(image))
    assert "a head that pools for each class" in (out / "README.md").read_text()
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"attn_pool.query\""):
        timm.create_model(f"local-dir:{out}", pretrained=True)
