"""Encoders of other programs: each is written by its own library in its own layout, and its features are its own."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mrm
from mrm.models import encoder_files, model_folder, noise
from mrm.models.bare_encoder import BareEncoder
from mrm.models.classifier import Classifier
from mrm.models.encoder import create, fit_positions
from mrm.models.mrm import MRM, normalise
from mrm.models.segmenter import Segmenter, SegmenterConfig
from mrm.system.errors import CheckpointError, ConfigError, RunError
from tests.support.configs import ENCODER, MICRO
from tests.support.foreign_encoders import (
    TRANSFORMER,
    Foreign,
    timm_features,
    timm_model,
    tiny_vit,
    write_checkpoint,
    write_timm,
    write_transformers,
)

TRANSFORMERS = ("vit", "vit_mae", "dinov2", "dinov2_with_registers")
TIMM = (
    *("vit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3", "convnext_tiny"),
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"),
)


def images(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def check_features(foreign, loaded: BareEncoder) -> None:
    image = images(foreign.size)
    with torch.no_grad():
        expected = foreign.features(image)
        torch.testing.assert_close(loaded(image), expected, rtol=0, atol=1e-4)
    assert expected.abs().max() > 0.05


# Features ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_features_of_transformers_are_its_own(kind, tmp_path):
    foreign = write_transformers(kind, tmp_path / "model")
    loaded = mrm.load(foreign.init)
    check_features(foreign, loaded)
    assert not loaded.training
    keys = loaded.card.origin["keys"]
    assert keys.startswith(f"read as {encoder_files.transformers_layout.MODEL_TYPES[kind]} (")
    assert "tensors matched\nnot used (" in keys


def test_gated_units_of_dinov2_are_read(tmp_path):
    foreign = write_transformers("dinov2", tmp_path / "model", use_swiglu_ffn=True)
    loaded = mrm.load(foreign.init)
    check_features(foreign, loaded)
    assert "giant" in loaded.config.encoder


@pytest.mark.parametrize("changes", [{"num_register_tokens": 3}, {"patch_size": 7}, {"qkv_bias": False}], ids=str)
def test_registers_patches_and_biases_of_other_numbers(tmp_path, changes):
    foreign = write_transformers("dinov2_with_registers", tmp_path / "model", **changes)
    check_features(foreign, mrm.load(foreign.init))


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers"])
def test_an_encoder_brings_its_preparation_and_resamples_positions_as_its_program_does(kind, tmp_path):
    """As RAD-DINO: its file of preparation asks for another size than the positions have."""
    prepared = {
        "do_normalize": True, "image_mean": [0.5307] * 3, "image_std": [0.2583] * 3, "do_center_crop": True,
        "crop_size": {"height": 84, "width": 84}, "size": {"shortest_edge": 84},
    }  # fmt: skip
    foreign = write_transformers(kind, tmp_path / "model", prepared)
    loaded = mrm.load(foreign.init)
    assert (loaded.config.image_size, loaded.config.mean, loaded.config.std) == (84, 0.5307, 0.2583)
    check_features(foreign._replace(size=84), loaded)


def test_without_a_file_of_preparation_the_programs_own_default_holds(tmp_path):
    config = model_folder.architecture(write_transformers("vit", tmp_path / "vit").init)
    assert (config.image_size, config.mean, config.std) == (32, 0.5, 0.5)
    config = model_folder.architecture(write_transformers("dinov2", tmp_path / "dinov2").init)
    assert (config.mean, config.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", TIMM)
def test_features_of_a_timm_folder_are_timms(name, tmp_path):
    pooling = {"global_pool": "avg"} if name == "vit_tiny_patch16_224" else {}
    foreign = write_timm(name, tmp_path / "model", **pooling)
    loaded = mrm.load(foreign.init)
    check_features(foreign, loaded)
    config = loaded.config
    assert (config.image_size, config.mean, config.std) == (foreign.size, (0.5, 0.4, 0.3), (0.3, 0.2, 0.1))


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "convnext_tiny"])
def test_a_timm_name_with_a_folder_or_a_file(name, tmp_path):
    foreign = write_timm(name, tmp_path / "model")
    check_features(foreign, mrm.load(f"timm:{name}={foreign.init}"))


def test_a_timm_name_with_a_bare_file(tmp_path):
    model, _ = tiny_vit(depth=12, img_size=224)
    torch.save(model.state_dict(), tmp_path / "weights.bin")
    path = Path(f"timm:vit_tiny_patch16_224={tmp_path / 'weights.bin'}")
    loaded = mrm.load(path)
    image = images(224)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), timm_features(model)(image), rtol=0, atol=1e-4)
    assert (loaded.config.image_size, loaded.config.mean, loaded.config.std) == (224, 0.5, 0.5)  # as timm has it


@pytest.mark.parametrize(("patch", "stated"), [(16, None), (8, 8), (32, 32)])
def test_the_patches_of_a_checkpoint_may_have_another_size(patch, stated, tmp_path):
    model, features = tiny_vit(patch_size=patch)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    loaded = mrm.load(tmp_path / "weights.pth")
    assert loaded.config.encoder_options.get("patch_size") == stated
    check_features(Foreign(tmp_path / "weights.pth", 64, features), loaded)


@pytest.mark.parametrize("positions", [None, torch.zeros(17, 192), torch.zeros(1, 18, 192), torch.zeros(1, 1, 192)])
def test_a_file_without_positions_of_a_square_image_asks_for_a_name(positions, tmp_path):
    weights = {name: value for name, value in tiny_vit()[0].state_dict().items() if name != "pos_embed"}
    weights |= {} if positions is None else {"pos_embed": positions}
    torch.save({"model": weights}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"no positions of a square image in it; give the model's name in timm"):
        mrm.load_encoder(tmp_path / "weights.pth")


@pytest.mark.parametrize("lacking", ["patches in four dimensions", "blocks"])
def test_a_file_without_patches_or_without_blocks_is_no_vision_transformer(lacking, tmp_path):
    weights = dict(tiny_vit()[0].state_dict())
    if lacking == "blocks":
        weights = {name: value for name, value in weights.items() if not name.startswith("blocks.")}
    else:
        weights["patch_embed.proj.weight"] = weights["patch_embed.proj.weight"].flatten(1)
    torch.save({"model": weights}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth: no Vision Transformer in it; the file has names such as"):
        mrm.load_encoder(tmp_path / "weights.pth")


@pytest.mark.filterwarnings("ignore:.*names of weights are read without")
@pytest.mark.parametrize(
    ("kind", "mean"), [("mae", 0.4978), ("mgca", 0.5), ("eva_x", 0.5), ("dinov2", (0.485, 0.456, 0.406))]
)
def test_published_checkpoints_are_known_by_their_names(kind, mean, tmp_path):
    foreign = write_checkpoint(kind, tmp_path)
    loaded = mrm.load(foreign.init)
    check_features(foreign, loaded)
    assert (loaded.config.image_size, loaded.config.mean) == (foreign.size, mean)
    assert ("as the file states none" in loaded.card.origin["read_as"]) == (kind == "mae")


def test_of_moco_the_encoder_is_read_and_its_average_is_not(tmp_path):
    foreign = write_checkpoint("moco", tmp_path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        check_features(foreign, mrm.load(foreign.init))
    said = "\n".join(str(w.message) for w in warned)
    assert "names of weights are read without module., base_encoder." in said
    assert "momentum_encoder. is the moving average of base_encoder. and is not read" in said


def test_several_files_of_weights_are_read_by_their_index(tmp_path):
    foreign = write_transformers("vit", tmp_path / "model")
    weights = load_file(foreign.init / "model.safetensors")
    names = sorted(weights)
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: weights[name] for name in part}, foreign.init / f"part-{number}.safetensors")
        index |= dict.fromkeys(part, f"part-{number}.safetensors")
    (foreign.init / "model.safetensors").unlink()
    (foreign.init / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    check_features(foreign, mrm.load(foreign.init))
    index[names[0]] = "../elsewhere.safetensors"
    (foreign.init / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(CheckpointError, match=r"'\.\./elsewhere\.safetensors' is not the name of a file beside it"):
        mrm.load(foreign.init)


def test_colours_have_a_mean_of_their_own():
    image = torch.tensor([[[0, 255], [51, 102]]], dtype=torch.uint8)
    normalised = normalise(image, (0.5, 0.4, 0.3), (0.5, 0.25, 0.1))
    expected = torch.tensor([[-1.0, 1.0], [-0.6, -0.2]]), torch.tensor([[-1.6, 2.4], [-0.8, 0.0]])
    torch.testing.assert_close(normalised[0, 0], expected[0])
    torch.testing.assert_close(normalised[0, 1], expected[1])
    torch.testing.assert_close(normalise(image, 0.5, 0.5)[0, 2], normalise(image, (0.5,) * 3, 0.5)[0, 2])


# Starting a model -------------------------------------------------------------------------------------


def test_the_encoder_of_another_program_becomes_a_timm_encoder_to_fine_tune(tmp_path):
    foreign = write_transformers("dinov2_with_registers", tmp_path / "model")
    encoder = mrm.load_encoder(foreign.init, num_classes=2)
    theirs = mrm.load(foreign.init).encoder.state_dict()
    own = encoder.state_dict()
    assert set(theirs) - set(own) == {"norm.weight", "norm.bias"}  # a classifier has a fresh norm after its mean
    assert all(torch.equal(own[name], value) for name, value in theirs.items() if name in own)


def test_a_head_of_as_many_classes_is_not_taken(tmp_path):
    foreign = write_timm("convnext_tiny", tmp_path / "model")
    encoder = mrm.load_encoder(foreign.init, num_classes=5)
    assert encoder.get_classifier().weight.std() < 1e-3  # as a new head starts
    assert torch.equal(encoder.head.norm.weight, load_file(foreign.init / "model.safetensors")["head.norm.weight"])


def test_positions_are_resampled_to_the_images_of_a_classifier(tmp_path):
    foreign = write_transformers("dinov2", tmp_path / "model")
    source = model_folder.architecture(foreign.init)
    config = Classifier(type(ENCODER)(("a",), source.encoder, source.encoder_options, image_size=84)).config
    model = Classifier(config)
    model_folder.start_from(model, foreign.init)
    theirs = load_file(foreign.init / "model.safetensors")["embeddings.position_embeddings"]
    expected = fit_positions(model.encoder, {"pos_embed": theirs}, antialias=False)["pos_embed"]
    assert torch.equal(model.encoder.pos_embed, expected)


def test_positions_that_one_side_lacks_are_left_as_they_are():
    with_positions = create("vit_tiny_patch16_224", {"depth": 1}, 64)
    without = create("convnext_tiny", {"depths": (1, 1, 1, 1)}, 64)
    weights = {"a": torch.ones(1), "pos_embed": torch.ones(1, 197, 192)}
    assert fit_positions(with_positions, {"a": weights["a"]}) == {"a": weights["a"]}
    assert fit_positions(without, weights) == weights
    narrow = {"pos_embed": torch.ones(1, 197, 96)}  # of another width
    assert fit_positions(with_positions, narrow) == narrow
    assert fit_positions(with_positions, weights)["pos_embed"].shape == (1, 17, 192)


@pytest.mark.parametrize("kind", ["dinov2", "eva"])
def test_a_segmenter_starts_from_encoders_with_patches(kind, tmp_path):
    name = "eva02_tiny_patch14_224"
    foreign = write_transformers(kind, tmp_path / "m") if kind == "dinov2" else write_timm(name, tmp_path / "m")
    source = model_folder.architecture(foreign.init)
    config = SegmenterConfig(
        ("a",), source.encoder, source.encoder_options, (56, 84), source.mean, source.std, channels=16, auxiliary=8
    )
    model = Segmenter(config).eval()
    report = model_folder.start_from(model, foreign.init)
    assert all(name.startswith(("head.", "auxiliary.")) for name in report.missing)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 56, 84)).logits_BCHW.shape == (1, 1, 56, 84)


def test_pre_training_starts_from_a_foreign_vit_of_its_own_architecture(tmp_path):
    foreign = write_transformers("vit_mae", tmp_path / "model")
    source = model_folder.architecture(foreign.init)
    with noise.seeded(0):
        model = MRM(
            type(MICRO)(
                **{
                    **vars(MICRO),
                    "encoder": source.encoder,
                    "encoder_options": source.encoder_options,
                    "image_size": 32,
                }
            )
        )
    report = model_folder.start_from(model, foreign.init)
    assert not [name for name in report.missing if name.startswith("encoder.")]
    image = images(32)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(image)[:, 1:].mean(1), foreign.features(image), rtol=0, atol=1e-4)


# Refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transformers", "timm", "file"])
def test_half_of_the_tensors_are_not_an_encoder(kind, tmp_path):
    if kind == "file":
        path = write_checkpoint("mae", tmp_path).init
        weights = torch.load(path)["model"]
        halved = {name: value for name, value in weights.items() if not name.startswith("blocks.0.")}
        torch.save({"model": halved}, path)
    else:
        folder = tmp_path / "model"
        path = write_transformers("vit", folder).init if kind == "transformers" else write_timm(TIMM[0], folder).init
        weights = load_file(path / "model.safetensors")
        kept = {name: value for name, value in weights.items() if ".0." not in name}
        save_file(kept, path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"\d+ of 30 tensors are missing") as error:
        mrm.load_encoder(path)
    assert "not in the file (" in str(error.value)


def test_a_folder_of_neither_kind_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden": 3}')
    with pytest.raises(CheckpointError, match=r"config\.json: not a model's config\.json: neither one of mrm"):
        mrm.load_encoder(tmp_path)


def test_a_kind_of_model_that_is_not_known_is_answered_with_those_that_are(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 3}')
    with pytest.raises(
        CheckpointError, match="type 'bert' cannot be read; choose from vit, vit_mae, dinov2, dinov2_with"
    ):
        mrm.load_encoder(tmp_path)


def test_an_architecture_that_timm_does_not_know_is_named(tmp_path):
    write_timm("convnext_tiny", tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for name, message in (("vit_of_tomorrow", "unknown to timm"), ("resnet18", "'resnet18' is not supported; choose")):
        (tmp_path / "config.json").write_text(json.dumps({**settings, "architecture": name}))
        with pytest.raises(ConfigError, match=message):
            mrm.load_encoder(tmp_path)


@pytest.mark.parametrize("options", [{"pretrained": True}, {"checkpoint_path": "x"}, {"pretrained_cfg": {"url": "u"}}])
def test_arguments_of_a_folder_that_reach_out_are_refused(options, tmp_path):
    write_timm("convnext_tiny", tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "model_args": options}))
    with pytest.raises(CheckpointError, match=f"'{next(iter(options))}' is not accepted"):
        mrm.load_encoder(tmp_path)


@pytest.mark.parametrize("text", ["timm:vit_tiny_patch16_224", "timm:=weights.pth", "timm:vit="])
def test_a_timm_name_needs_weights(text):
    with pytest.raises(ConfigError, match=r"expected timm:NAME=PATH.*nothing is fetched"):
        mrm.load_encoder(text)


def test_a_folder_of_another_model_than_the_name_says(tmp_path):
    write_timm("convnext_tiny", tmp_path)
    with pytest.raises(CheckpointError, match="is of 'convnext_tiny', not of 'convnext_small'"):
        mrm.load_encoder(f"timm:convnext_small={tmp_path}")


def test_weights_of_another_model_than_the_name_says(tmp_path):
    torch.save(tiny_vit()[0].state_dict(), tmp_path / "vit.pth")
    with pytest.raises(
        CheckpointError, match=r"not the weights of a model of timm \(vit_tiny_patch16_224; .* are missing"
    ):
        mrm.load_encoder(f"timm:vit_tiny_patch16_224={tmp_path / 'vit.pth'}")
    torch.save(timm_model("convnext_tiny")[0].state_dict(), tmp_path / "convnext.pth")
    with pytest.raises(CheckpointError, match=r"not the weights of a model of timm|timm cannot read it as weights of"):
        mrm.load_encoder(f"timm:convnext_tiny={tmp_path / 'convnext.pth'}")


def test_an_encoder_whose_blocks_have_more_than_ours_is_refused(tmp_path):
    """Without its layer scales a DINOv2 would compute something else, and no message would say so."""
    foreign = write_transformers("dinov2", tmp_path / "model", patch_size=8, image_size=64)
    plain = type(MICRO)(**{**vars(MICRO), "encoder_options": {**MICRO.encoder_options, "patch_size": 8}, "keep": 16})
    with pytest.raises(CheckpointError, match=r"weights of another encoder, DINOv2 .*ls1\.gamma \(not in the model\)"):
        model_folder.start_from(MRM(plain), foreign.init)


def test_weights_with_a_nan_are_refused(tmp_path):
    foreign = write_transformers("vit", tmp_path / "model")
    weights = load_file(foreign.init / "model.safetensors")
    weights["layernorm.bias"][3] = float("nan")
    save_file(weights, foreign.init / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layernorm\.bias has 1 values that are NaN"):
        mrm.load_encoder(foreign.init)


def test_weights_of_transformers_without_their_settings_ask_for_the_folder(tmp_path):
    foreign = write_transformers("vit", tmp_path / "model")
    shutil.copy(foreign.init / "model.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(CheckpointError, match="weights of transformers; give the folder"):
        mrm.load_encoder(tmp_path / "alone.safetensors")


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224"])
def test_pre_training_refuses_what_is_no_plain_vit(name):
    with pytest.raises(ConfigError, match=rf"'{name}' \(\w+\) cannot be used for pre-training: MRM drops patches"):
        MRM(type(MICRO)(**{**vars(MICRO), "encoder": name, "encoder_options": {}}))


def test_outlines_refuse_an_encoder_without_patches_of_one_size():
    with pytest.raises(ConfigError, match=r"'convnext_tiny' \(convnext\) cannot be used for outlines"):
        Segmenter(SegmenterConfig(("a",), "convnext_tiny"))


def test_attention_pooling_needs_a_vision_transformer():
    with pytest.raises(ConfigError, match="cannot be used for attention pooling; leave --pooling out"):
        Classifier(type(ENCODER)(("a",), "convnext_tiny", pooling="attention"))


def test_a_patch_that_does_not_divide_the_images_is_named_with_the_nearest_size(tmp_path):
    foreign = write_transformers("dinov2", tmp_path / "model")
    source = model_folder.architecture(foreign.init)
    with pytest.raises(
        ConfigError, match=r"image_size 64 x 64 does not divide .* 14 x 14 pixels; the nearest .* 70 x 70"
    ):
        Classifier(type(ENCODER)(("a",), source.encoder, source.encoder_options, image_size=64))


def test_another_kind_of_model_is_asked_for_in_words(tmp_path):
    foreign = write_timm("convnext_tiny", tmp_path / "model")
    assert model_folder.kind_at(foreign.init) == "encoder"
    with pytest.raises(RunError, match="expected a classifier, found an encoder; fine-tune it first"):
        model_folder.load_as(foreign.init, Classifier)


def test_a_folder_without_weights_is_incomplete(tmp_path):
    foreign = write_transformers("vit", tmp_path / "model")
    (foreign.init / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"no model\.safetensors or pytorch_model\.bin in it; the folder is incompl"
    ):
        mrm.load_encoder(foreign.init)


def test_settings_without_sizes_are_named(tmp_path):
    write_transformers("vit", tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    for name in ("hidden_size", "num_hidden_layers"):
        (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if k != name}))
        with pytest.raises(CheckpointError, match=f"not the settings of a Vision Transformer.*{name}"):
            mrm.load_encoder(tmp_path)
    assert TRANSFORMER["hidden_size"] == settings["hidden_size"]


def test_the_digest_of_a_folder_changes_with_its_weights(tmp_path):
    foreign = write_transformers("vit", tmp_path / "model")
    before = model_folder.weights_digest(foreign.init)
    weights = load_file(foreign.init / "model.safetensors")
    save_file({**weights, "layernorm.bias": weights["layernorm.bias"] + 1}, foreign.init / "model.safetensors")
    assert model_folder.weights_digest(foreign.init) != before
    assert model_folder.weights_digest(f"timm:vit_tiny_patch16_224={foreign.init}") != before
