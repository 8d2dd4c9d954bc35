"""Model folders, published weights, and files that are not what they say."""

import argparse
import hashlib
import json
import os
import pickle
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import safetensors
import timm
import torch
from timm.models.vision_transformer import checkpoint_filter_fn

import mrm
from mrm.data.reports import Tokenizer
from mrm.models import model_folder, noise
from mrm.models.card import Card, PastTest
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.mrm import MRM
from mrm.system.errors import CheckpointError
from tests.support.configs import SMALL

VIT_B = replace(SMALL, encoder="vit_base_patch16_224", encoder_options={}, image_size=224, keep=49)
CLASSES = ("effusion", "mass, left", "edema")
FEW = ClassifierConfig(CLASSES, SMALL.encoder, SMALL.encoder_options, SMALL.image_size, uncertain={"edema": "ones"})
TENSORS = {"a": torch.arange(6.0).view(2, 3)}


def small_mrm(seed: int = 0, **changes) -> MRM:
    with noise.seeded(seed):
        return MRM(replace(SMALL, **changes)).eval()


def small_classifier(seed: int = 0, **changes) -> Classifier:
    with noise.seeded(seed):
        model = Classifier(replace(FEW, **changes)).eval()
        torch.nn.init.normal_(model.encoder.head.weight)  # from 2e-5, logits would say nothing of the encoder
    return model


@torch.no_grad()
def answers(model) -> torch.Tensor:
    """Something that depends on every part of a model."""
    g = torch.Generator().manual_seed(1)
    side = model.config.image_size
    if isinstance(model, Classifier):
        return model(torch.randn(2, 3, side, side, generator=g))
    crop = torch.randn(2, 3, 2 * side, 2 * side, generator=g)
    kept = torch.stack([torch.randperm(model.patches, generator=g)[: model.config.keep] for _ in range(2)])
    ids = torch.randint(4, model.config.vocabulary, (2, 12), generator=g)
    masked = ids.clone()
    masked[:, 3:6] = 3
    return torch.stack([*mrm.pretrain_losses(model, crop, masked, ids, ids != 0, kept).values()])


# Model folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [small_mrm, small_classifier])
def test_a_model_answers_after_loading_as_before_saving(make, tmp_path):
    model = make(seed=3)
    loaded = mrm.load(model_folder.save(tmp_path / "model", model))
    assert torch.equal(answers(loaded), answers(model))
    assert not torch.equal(answers(loaded), answers(make(seed=4)))
    assert loaded.config == model.config
    assert not loaded.training


def test_what_a_folder_knows_of_its_model_comes_back(tmp_path):
    card = Card(
        "classifier",
        asdict(FEW),
        origin={"records": "train.csv", "n": 350, "init": None},
        tested=[PastTest("test.csv", "ab", 20, [], {"mean of classes": {"auroc": {"value": 0.8, "low": 0.7}}})],
        thresholds={"edema": 0.25},
    )
    folder = model_folder.save(tmp_path / "model", small_classifier(), card)
    read = mrm.load(folder).card
    assert replace(read, architecture={}) == replace(card, architecture={})
    assert mrm.load(folder).config == FEW
    model_folder.change_card(folder, lambda card: replace(card, thresholds={"edema": 0.5}))
    assert mrm.load(folder).card.thresholds == {"edema": 0.5}
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_model_loaded_and_saved_again_keeps_its_card_and_tokenizer(tmp_path):
    tokenizer = Tokenizer.train(["no effusion"], 50)
    card = Card("mrm", asdict(SMALL), origin={"seed": 7})
    first = mrm.load(model_folder.save(tmp_path / "a", small_mrm(), card, tokenizer))
    again = mrm.load(model_folder.save(tmp_path / "b", first))
    assert again.card.origin == {"seed": 7}
    assert again.tokenizer.to_json() == tokenizer.to_json()


def test_a_folder_without_a_tokenizer_has_none(tmp_path):
    assert mrm.load(model_folder.save(tmp_path / "m", small_mrm())).tokenizer is None


def test_saving_over_a_model_replaces_it_and_leaves_nothing_beside_it(tmp_path):
    model_folder.save(tmp_path / "model", small_mrm(1), tokenizer=Tokenizer.train(["x"], 50))
    model_folder.save(tmp_path / "model", small_mrm(2))
    assert torch.equal(answers(mrm.load(tmp_path / "model")), answers(small_mrm(2)))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "tokenizer.json").exists()


@pytest.mark.parametrize("failing", ["save_file", "write_bytes"])
def test_a_full_disk_leaves_the_old_model_and_nothing_else(tmp_path, monkeypatch, failing):
    folder = model_folder.save(tmp_path / "model", small_mrm(1))

    def full(*_, **__):
        if failing == "save_file":
            raise safetensors.SafetensorError("No space left on device")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((model_folder, "save_file") if failing == "save_file" else (Path, "write_bytes")), full)
    with pytest.raises(CheckpointError, match=r"model: cannot be written .*No space left"):
        model_folder.save(folder, small_mrm(2))
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert torch.equal(answers(mrm.load(folder)), answers(small_mrm(1)))


def test_a_place_where_no_folder_can_be_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CheckpointError, match=r"file/model: cannot be written .*Not a directory"):
        model_folder.save(tmp_path / "file" / "model", small_mrm(1))


def test_a_run_is_loaded_by_its_best_checkpoint_else_its_last(tmp_path):
    run = tmp_path / "run"
    for step, link in enumerate(("last", "best"), 1):
        model_folder.save(run / "checkpoints" / f"step-{step}", small_mrm(step))
        (run / link).symlink_to(Path("checkpoints") / f"step-{step}")
        assert torch.equal(answers(mrm.load(run)), answers(small_mrm(step)))
    (run / "best").unlink()
    assert torch.equal(answers(mrm.load(run)), answers(small_mrm(1)))


# Folders that are not whole ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return model_folder.save(tmp_path_factory.mktemp("whole") / "model", small_mrm())


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A model folder of one's own, to damage."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def test_a_path_that_leads_nowhere_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none: no such file or folder; a model folder, a run or a \.pth"):
        mrm.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no config\.json in it, nor in best/ or last/"):
        mrm.load(tmp_path)


def test_a_folder_without_weights_is_incomplete(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model: has config\.json but no model\.safetensors"):
        mrm.load(folder)


GARBAGE = [
    "",
    "{",
    "[]",
    "3",
    '"text"',
    "{}",
    '{"kind": "mrm"}',
    '{"kind": "mrm", "architecture": []}',
    '{"kind": ["mrm"], "architecture": {}}',
]


@pytest.mark.parametrize("content", [*(g.encode() for g in GARBAGE), b"\xff\xfe{"])
def test_a_config_that_is_no_card_is_named(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json: not a model's config\.json"):
        mrm.load(folder)


def edit_card(folder: Path, **changes) -> None:
    card = json.loads((folder / "config.json").read_text())
    card["architecture"].update(changes.pop("architecture", {}))
    (folder / "config.json").write_text(json.dumps({**card, **changes}))


def test_an_unknown_kind_is_answered_with_the_kinds_there_are(folder):
    edit_card(folder, kind="diffusion")
    with pytest.raises(CheckpointError, match=r"unknown kind 'diffusion'; expected one of mrm, ensemble, classifier"):
        mrm.load(folder)


def test_settings_of_a_newer_version_are_named(folder):
    edit_card(folder, architecture={"rotary": True})
    with pytest.raises(CheckpointError, match=r"model: unknown settings \['rotary'\]; written by a newer version"):
        mrm.load(folder)


def test_further_entries_of_a_card_are_no_obstacle(folder):
    edit_card(folder, comment="by hand")
    assert mrm.load(folder).config == SMALL


@pytest.mark.parametrize("changes", [{"encoder": "vit_of_tomorrow"}, {"image_size": "wide"}, {"keep": 16}])
def test_settings_no_model_can_be_built_of_are_refused(folder, changes):
    edit_card(folder, architecture=changes)
    with pytest.raises(CheckpointError, match=r"model: no model can be built from its settings"):
        mrm.load(folder)


def test_a_classifier_without_classes_is_refused(folder):
    edit_card(folder, kind="classifier", architecture={})
    with pytest.raises(CheckpointError, match="unknown settings"):
        mrm.load(folder)
    (folder / "config.json").write_text('{"kind": "classifier", "architecture": {"image_size": 64}}')
    with pytest.raises(CheckpointError, match=r"settings are missing .*classes"):
        mrm.load(folder)


def test_weights_of_another_architecture_are_refused_with_what_did_not_fit(folder):
    edit_card(folder, architecture={"report_depth": 3, "vocabulary": 60})
    with pytest.raises(CheckpointError) as error:
        mrm.load(folder)
    message = str(error.value)
    assert "model.safetensors: weights of another architecture" in message
    assert "not in the file (12): report_decoder.blocks.2.qkv.weight" in message
    assert "other shape: report_decoder.words.weight: file (50, 48), model (60, 48)" in message
    edit_card(folder, architecture={"report_depth": 1, "vocabulary": 50})
    with pytest.raises(CheckpointError, match=r"not used \(12\): report_decoder\.blocks\.1\."):
        mrm.load(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_safetensors_are_named(folder, share):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: truncated or not a file of weights .*; copy it again"
    ):
        mrm.load(folder)


# Files of weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrapped", [TENSORS, {"model": TENSORS}, {"state_dict": TENSORS}, {"model": {"module.a": TENSORS["a"]}}]
)
def test_weights_are_found_bare_or_wrapped_as_training_scripts_do(tmp_path, wrapped):
    torch.save(wrapped, tmp_path / "w.pth")
    read = model_folder.read_weights(tmp_path / "w.pth")
    assert list(read) == ["a"]
    assert torch.equal(read["a"], TENSORS["a"])


@pytest.mark.parametrize("legacy", [False, True])
def test_the_arguments_of_a_training_script_are_let_through_as_data(tmp_path, legacy):
    """MAE and the published MRM keep `argparse.Namespace` beside their weights."""
    content = {"model": TENSORS, "args": argparse.Namespace(lr=1e-3, name="mrm"), "epoch": 199}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    assert torch.equal(model_folder.read_weights(tmp_path / "w.pth")["a"], TENSORS["a"])
    with pytest.raises(pickle.UnpicklingError):  # the exception is made for one read, not for the process
        torch.load(tmp_path / "w.pth", weights_only=True)


class Attack:
    """Leaves a file behind when it is unpickled by something that runs what it reads."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 2"])
def test_a_pickle_with_code_is_refused_with_what_it_asks_for_and_not_run(tmp_path, form):
    mark, path = tmp_path / "was run", tmp_path / "w.pth"
    content = {"model": TENSORS, "extra": Attack(mark)}
    if form == "pickle 2":
        path.write_bytes(pickle.dumps({"extra": Attack(mark)}, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    for read in (mrm.load, mrm.load_encoder, model_folder.read_pickle):
        with pytest.raises(
            CheckpointError, match=r"w\.pth: refused, since it imports posix\.mkdir, .*ask its author for \.safetensors"
        ):
            read(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Attack(mark)))
    assert mark.exists()  # so the attack would have worked


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_of_another_protocol_is_not_run_either(tmp_path):
    mark, path = tmp_path / "was run", tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"extra": Attack(mark)}, protocol=4))
    with pytest.raises(CheckpointError, match=r"w\.pth: "):
        model_folder.read_weights(path)
    assert not mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_pth_is_named(tmp_path, legacy, share):
    path = tmp_path / "w.pth"
    torch.save({"model": {"a": torch.zeros(1000)}}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=r"w\.pth: (truncated or not|not a file of weights|has no state dict).*"):
        model_folder.read_weights(path)


@pytest.mark.parametrize(
    "content", [b"<html>404</html>", b"\x89PNG\r\n", b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_file_that_is_something_else_is_not_called_dangerous(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.pth: not a file of weights") as error:
        model_folder.read_weights(tmp_path / "w.pth")
    assert "refused" not in str(error.value)


def test_numbers_after_whole_numbers_are_looked_at_too(tmp_path):
    torch.save({"model": {"count": torch.tensor([3]), "a": torch.tensor([1.0, float("inf")])}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: a has 1 values that are NaN or infinite"):
        model_folder.read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(("dtype", "value"), [(torch.float64, 1e300), (torch.float8_e5m2, 2.0**15), (torch.int8, 127)])
def test_the_largest_numbers_of_a_type_are_finite(tmp_path, dtype, value):
    torch.save({"model": {"a": torch.tensor([value], dtype=dtype)}}, tmp_path / "w.pth")
    assert model_folder.read_weights(tmp_path / "w.pth")["a"].double().tolist() == [value]


@pytest.mark.parametrize(("content", "keys"), [([1, 2], None), ({"model": "mrm"}, "model"), ({"epoch": 3}, "epoch")])
def test_a_file_without_a_state_dict_is_named_with_its_keys(tmp_path, content, keys):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: has no state dict") as error:
        model_folder.read_weights(tmp_path / "w.pth")
    assert (f"its keys are {keys}" in str(error.value)) == (keys is not None)
    assert ("its keys are" in str(error.value)) == (keys is not None)


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a" * 100, "a" * 100), ("a" * 101, repr("a" * 100)), ("a\nb", r"'a\\nb'")],
)
def test_the_name_of_a_tensor_is_shown_in_a_hundred_letters_of_one_line(tmp_path, name, shown):
    torch.save({name: torch.tensor([1.0, float("nan")])}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=f"w.pth: {shown} has 1 values that are NaN or infinite"):
        model_folder.read_weights(tmp_path / "w.pth")


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pth: no such file"):
        model_folder.read_weights(tmp_path / "none.pth")


# The published layout ---------------------------------------------------------------------------------


def test_an_exported_model_answers_the_same_when_it_is_loaded(tmp_path):
    model = small_mrm(5)
    loaded = mrm.load(model_folder.export_published(model, tmp_path / "MRM.pth"))
    assert loaded.config == SMALL
    assert torch.equal(answers(loaded), answers(model))
    assert [p.name for p in tmp_path.iterdir()] == ["MRM.pth"]


def test_token_types_of_a_published_file_are_folded_into_its_positions(tmp_path):
    """The published BERT adds the vector of type 0 everywhere; of type 1 nothing is ever."""
    weights = model_folder.to_published(small_mrm())
    types = torch.randn(2, 48, generator=torch.Generator().manual_seed(0))
    weights[f"{model_folder.BERT}embeddings.token_type_embeddings.weight"] = types
    torch.save({"model": weights, "config": asdict(SMALL)}, tmp_path / "MRM.pth")
    positions = mrm.load(tmp_path / "MRM.pth").report_decoder.positions.weight
    torch.testing.assert_close(positions, small_mrm().report_decoder.positions.weight + types[0])


def test_published_weights_with_a_part_missing_say_which(tmp_path):
    weights = model_folder.to_published(small_mrm())
    for name in [n for n in weights if "layer.1.attention.self.key" in n or "position_embeddings" in n]:
        del weights[name]
    torch.save({"model": weights, "config": asdict(SMALL)}, tmp_path / "MRM.pth")
    with pytest.raises(CheckpointError, match=r"not in the file \(3\): report_decoder\.positions.*blocks\.1\.qkv"):
        mrm.load(tmp_path / "MRM.pth")


def test_a_classifier_has_no_published_layout(tmp_path):
    with pytest.raises(CheckpointError, match="only a pre-trained MRM has the published layout, not a classifier"):
        model_folder.export_published(small_classifier(), tmp_path / "x.pth")


def test_a_file_is_a_published_model_and_a_folder_what_its_card_says(tmp_path):
    assert model_folder.kind_at(model_folder.export_published(small_mrm(), tmp_path / "MRM.pth")) == "mrm"
    assert model_folder.kind_at(model_folder.save(tmp_path / "c", small_classifier())) == "classifier"


def test_the_digest_of_a_model_is_that_of_the_bytes_of_its_weights(tmp_path):
    file = model_folder.export_published(small_mrm(), tmp_path / "MRM.pth")
    folder = model_folder.save(tmp_path / "m", small_mrm())
    for path, weights in ((file, file), (folder, folder / "model.safetensors")):
        assert model_folder.weights_digest(path) == hashlib.blake2b(weights.read_bytes(), digest_size=8).hexdigest()


def test_a_failed_export_says_so_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = model_folder.export_published(small_mrm(1), tmp_path / "MRM.pth")
    before = path.read_bytes()

    def full(_, file):
        Path(file).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 704 vs 598")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"MRM\.pth: cannot be written \(\[enforce fail"):
        model_folder.export_published(small_mrm(2), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["MRM.pth"]


def test_weights_of_a_plain_vit_are_no_mrm(tmp_path):
    torch.save({"model": mae_weights(small_mrm())}, tmp_path / "mae.pth")
    with pytest.raises(
        CheckpointError, match=r"mae\.pth: not an MRM model, since it has no report decoder; .*load_encoder or --init"
    ):
        mrm.load(tmp_path / "mae.pth")


def test_an_encoder_other_than_vit_b_needs_a_file_that_says_what_it_is(tmp_path):
    torch.save({"model": mae_weights(small_mrm())}, tmp_path / "mae.pth")
    with pytest.raises(CheckpointError, match=r"mae\.pth: not a ViT-B/16 \(patch weights \[\(48, 3, 16, 16\)\]\)"):
        mrm.load_encoder(tmp_path / "mae.pth")


@pytest.fixture(scope="module")
def vit_b(tmp_path_factory):
    """A ViT-B/16 with small decoders, and its export: its tensors have the published names."""
    with noise.seeded(0):
        model = MRM(VIT_B)
    return model, model_folder.export_published(model, tmp_path_factory.mktemp("vit_b") / "MRM.pth")


def test_an_exported_file_loads_into_plain_timm_as_the_published_one_does(vit_b):
    model, path = vit_b
    plain = timm.create_model("vit_base_patch16_224", global_pool="avg").eval()
    weights = torch.load(path)["model"]
    missing, unexpected = plain.load_state_dict(weights, strict=False)
    assert sorted(missing) == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]
    assert {k.split(".")[0] for k in unexpected} == {
        *("mask_token", "decoder_pos_embed", "decoder_embed", "decoder_blocks", "decoder_norm", "decoder_pred"),
        *("bert_encoder", "bert_mlp"),
        "norm",  # of the encoder: timm pools first and has its own fc_norm
    }
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before_norm = plain.forward_features(image)
        torch.testing.assert_close(model.encoder.norm(before_norm), model.encode(image))


def test_weights_of_mae_become_an_encoder_ready_to_fine_tune(vit_b, tmp_path):
    """`{"model": ...}` with an encoder alone, as MAE's `mae_pretrain_vit_base.pth`: positions come from the file."""
    model, _ = vit_b
    weights = mae_weights(model)
    weights["pos_embed"] = torch.randn(1, 197, 768, generator=torch.Generator().manual_seed(0))
    torch.save({"model": weights}, tmp_path / "mae.pth")
    encoder = mrm.load_encoder(tmp_path / "mae.pth", num_classes=14, drop_path_rate=0.1)
    assert torch.equal(encoder.pos_embed, weights["pos_embed"])
    for name, value in encoder.state_dict().items():
        if name.split(".")[0] not in ("head", "fc_norm"):
            assert torch.equal(value, weights[name]), name
    assert tuple(encoder.head.weight.shape) == (14, 768)
    assert encoder.head.weight.std().item() == pytest.approx(2e-5, rel=0.1)
    assert encoder.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)
    assert all(p.requires_grad for name, p in encoder.named_parameters() if name != "pos_embed")


# Starting from weights --------------------------------------------------------------------------------


def mae_weights(model: MRM) -> dict[str, torch.Tensor]:
    """The encoder's weights under the names of a plain ViT."""
    return {k: v.clone() for k, v in model.encoder.state_dict().items()}


def test_a_model_starts_from_mae_weights_positions_and_all(tmp_path):
    weights = mae_weights(small_mrm(1))
    weights["pos_embed"] = weights["pos_embed"] + 1.0
    torch.save({"model": weights}, tmp_path / "mae.pth")
    model = small_mrm(2)
    before = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("encoder.")}
    report = model_folder.start_from(model, tmp_path / "mae.pth")
    assert not report.unexpected
    assert not report.mismatched
    assert sorted(report.matched) == sorted(f"encoder.{k}" for k in weights)
    for name, value in weights.items():
        assert torch.equal(model.encoder.state_dict()[name], value), name
    for name, value in before.items():  # the decoders start fresh
        assert torch.equal(model.state_dict()[name], value), name


def test_the_decoder_of_a_full_mae_checkpoint_is_left_where_it_does_not_fit(tmp_path):
    weights = {
        **mae_weights(small_mrm(1)),
        "decoder_embed.weight": torch.zeros(32, 48),
        "decoder_blocks.7.mlp.fc1.bias": torch.zeros(4),
    }
    torch.save({"model": weights}, tmp_path / "mae.pth")
    report = model_folder.start_from(small_mrm(2), tmp_path / "mae.pth")
    assert report.mismatched == {"image_decoder.embed.weight": "file (32, 48), model (48, 48)"}
    assert report.unexpected == ["image_decoder.blocks.7.mlp.fc1.bias"]
    assert "other shape: image_decoder.embed.weight: file (32, 48), model (48, 48)" in str(report)


def test_positions_of_another_grid_are_resampled_as_timm_does(tmp_path):
    weights = mae_weights(small_mrm(1))
    torch.save({"model": weights}, tmp_path / "mae.pth")
    model = small_mrm(2, image_size=96)
    model_folder.start_from(model, tmp_path / "mae.pth")
    plain = timm.create_model(SMALL.encoder, img_size=96, num_classes=0, **SMALL.encoder_options)
    expected = checkpoint_filter_fn(dict(weights), plain)["pos_embed"]
    torch.testing.assert_close(model.encoder.pos_embed, expected)
    assert not torch.allclose(model.encoder.pos_embed, small_mrm(2, image_size=96).encoder.pos_embed)


def test_a_classifier_starts_from_a_folder_a_run_or_a_published_file(whole, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last").symlink_to(whole)
    exported = model_folder.export_published(mrm.load(whole), tmp_path / "MRM.pth")
    expected = mrm.load(whole).encoder.state_dict()
    for path in (whole, whole / "model.safetensors", tmp_path / "run", exported):
        model = small_classifier(7)
        report = model_folder.start_from(model, path)
        assert sorted(report.missing) == [
            f"encoder.{k}" for k in ("fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight")
        ]
        for name, value in model.encoder.state_dict().items():
            if name in expected:
                assert torch.equal(value, expected[name]), name


def test_a_classifier_starts_from_a_classifier_of_other_classes_without_its_head(tmp_path):
    folder = model_folder.save(tmp_path / "m", small_classifier(1, classes=("edema",), uncertain={}))
    model = small_classifier(2)
    report = model_folder.start_from(model, folder)
    assert sorted(report.mismatched) == ["encoder.head.bias", "encoder.head.weight"]
    assert torch.equal(model.encoder.fc_norm.weight, small_classifier(1).encoder.fc_norm.weight)
    assert torch.equal(model.encoder.head.weight, small_classifier(2).encoder.head.weight)


def test_weights_of_another_encoder_are_refused_with_the_first_that_does_not_fit(whole):
    wide = small_mrm(0, encoder_options={"depth": 2, "embed_dim": 96, "num_heads": 3})
    with pytest.raises(
        CheckpointError,
        match=r"another encoder; 26 of 26 tensors of patches and blocks do not fit, first encoder\.patch_embed\.proj\.weight \(file \(48, 3, 16, 16\), model \(96, 3, 16, 16\)\)",
    ):
        model_folder.start_from(wide, whole)
    deep = small_mrm(0, encoder_options={"depth": 3, "embed_dim": 48, "num_heads": 3})
    before = answers(deep)
    with pytest.raises(
        CheckpointError, match=r"12 of 38 tensors .*encoder\.blocks\.2\.norm1\.weight \(not in the file\)"
    ):
        model_folder.start_from(deep, whole)
    assert torch.equal(answers(deep), before)  # nothing half-loaded


def test_the_architecture_of_an_encoder_is_known_without_its_weights(whole, tmp_path):
    exported = model_folder.export_published(mrm.load(whole), tmp_path / "MRM.pth")
    assert model_folder.architecture(whole) == model_folder.architecture(exported) == SMALL
    assert model_folder.architecture(model_folder.save(tmp_path / "c", small_classifier())) == FEW


def test_an_encoder_is_loaded_from_a_fine_tuned_classifier_with_its_head(tmp_path):
    model = small_classifier(1)
    folder = model_folder.save(tmp_path / "c", model)
    encoder = mrm.load_encoder(folder, num_classes=3).eval()
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(encoder(image), model(image))
        assert mrm.load_encoder(folder).eval()(image).shape == (2, 48)  # without a head its features
