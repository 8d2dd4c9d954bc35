"""Fine-tuning from an encoder: it learns, can be stopped, and refuses what it cannot learn from."""

import errno
import shutil
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import mrm
from mrm import recipes, runs
from mrm.audit.kept_hashes import FILE
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data.records import Records, resolve_uncertain
from mrm.evaluation import floors
from mrm.models import model_folder
from mrm.runs import finetuning, run_folder
from mrm.system.errors import ConfigError, OutputError, RecordError, RunError
from mrm.targets.target import Multilabel
from mrm.training.tasks import ClassifyTask
from tests.support.commands import run_ranks
from tests.support.configs import finetune_config
from tests.support.image_files import contents
from tests.support.run_files import sigterm_after, table, trace, weights


@pytest.fixture(scope="module")
def tuned(phantoms, pretrained_run, tmp_path_factory):
    return runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path_factory.mktemp("tuned") / "run"))


def test_the_encoder_is_the_pretrained_one_and_scratch_is_not(phantoms, pretrained_run, tmp_path):
    cfg = finetune_config(phantoms, pretrained_run, tmp_path / "a")
    start = model_folder.load(pretrained_run).encoder.state_dict()
    tuned = finetuning.classifier(cfg, Multilabel(FINDINGS), {}).encoder.state_dict()
    scratch = finetuning.classifier(replace(cfg, scratch=True), Multilabel(FINDINGS), {}).encoder.state_dict()
    assert torch.equal(tuned["blocks.1.mlp.fc1.weight"], start["blocks.1.mlp.fc1.weight"])
    assert not torch.equal(scratch["blocks.1.mlp.fc1.weight"], start["blocks.1.mlp.fc1.weight"])
    assert tuned.keys() == scratch.keys()


def test_random_weights_have_the_full_rate_in_every_block(phantoms, pretrained_run, tmp_path, capsys):
    """Of `tiny`, whose layer decay of 0.75 is for what was learnt in pre-training; by --scratch and without --init."""
    small = {"max_steps": 1, "encoder": "vit_tiny_patch16_224", "encoder_options": {"depth": 1}, "image_size": 64}
    decays, lines = [], []
    for name, settings in (("given", {}), ("scratch", {"scratch": True}), ("none", {"init": None, **small})):
        config = replace(finetune_config(phantoms, pretrained_run, tmp_path / name, max_steps=1), **settings)
        run = runs.finetune(config)
        decays.append(recipes.read_yaml(recipes.FinetuneConfig, run / "config.yaml").training.layer_decay)
        lines.append("layer decay 0.75 left out" in capsys.readouterr().out)
        assert runs.finetune(config) == run  # the same command resumes it
    assert decays == [0.75, None, None]
    assert lines == [False, True, True]


def test_a_model_remembers_to_cut_borders_off_and_to_match_greys(phantoms, pretrained_run, tmp_path):
    """Predictions of a framed image with twice the contrast are those of the image, without an option."""
    config = finetune_config(phantoms, pretrained_run, tmp_path / "run", steps=1, crop_borders=True, greys="matched")
    run = runs.finetune(config)
    assert runs.finetune(config) == run
    predictor = mrm.Predictor(run, batch=1)
    image = np.random.default_rng(0).integers(20, 120, (80, 70)).astype(np.uint8)
    framed = np.pad((image - 10) * 2, ((5, 0), (9, 4)))
    both = predictor([image, framed]).probabilities_NC
    np.testing.assert_array_equal(both[0], both[1])


def test_checkpointing_computes_blocks_twice_and_changes_no_gradient(phantoms, pretrained_run, tmp_path):
    gradients = []
    for checkpointing in (False, True):
        cfg = finetune_config(phantoms, pretrained_run, tmp_path / "a", drop_path=0.5, checkpointing=checkpointing)
        task, calls = ClassifyTask(finetuning.classifier(cfg, Multilabel(FINDINGS), {})).train(), []
        block, size = task.model.encoder.blocks[0], task.model.config.image_size
        block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        task.sample_keys.keys_B = torch.arange(4)  # dropped paths must be the same ones when computed again
        logits = task.logits((torch.arange(4 * size * size) % 251).to(torch.uint8).reshape(4, size, size))
        (logits - 1).square().sum().backward()
        gradients.append(block.attn.qkv.weight.grad)
        assert len(calls) == 1 + checkpointing
    torch.testing.assert_close(*gradients)


def test_fine_tuning_learns_its_training_records(phantoms, pretrained_run, tmp_path):
    run = runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "run", steps=80, ema=None, lr=3e-3))
    losses = [float(row["labels"]) for row in trace(run)]
    assert np.mean(losses[-2:]) < 0.8 * losses[0]


def test_a_stopped_fine_tuning_goes_on_to_the_same_bits(phantoms, pretrained_run, tuned, tmp_path, monkeypatch):
    from mrm.training.trainer import Stopped, Trainer

    after = Trainer._after_step
    monkeypatch.setattr(Trainer, "_after_step", lambda self: (after(self), setattr(self, "stop", self.step == 5))[0])
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        runs.finetune(finetune_config(phantoms, pretrained_run, run))
    monkeypatch.undo()
    runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "run"))
    one, other = (model_folder.read_weights(r / "last" / "model.safetensors") for r in (run, tuned))
    assert all(torch.equal(one[k], other[k]) for k in other)


def loaded_records(config):
    """The records of a fine-tuning as `Records.load` reads them into memory."""
    train = Records.load(config.train, config.classes or None, config.images, config.on_error)
    return train, Records.load(config.val, train.classes, config.images, config.on_error)


def test_mapped_records_train_to_the_bits_of_loaded_ones(phantoms, pretrained_run, tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, "label_records", loaded_records)
    run = runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "run"))
    assert sorted(f.name for f in (tuned / "records" / "training").iterdir()) == ["records.arrow", "records.json"]
    assert not (run / "records").exists()
    assert [r["labels"] for r in trace(run)] == [r["labels"] for r in trace(tuned)]
    assert table(run / "validation.csv") == table(tuned / "validation.csv")
    one, other = weights(run), weights(tuned)
    assert all(torch.equal(one[k], other[k]) for k in other)
    assert model_folder.load(run).card.origin["fingerprint"] == model_folder.load(tuned).card.origin["fingerprint"]


def test_a_later_start_neither_reads_the_lists_nor_all_records(phantoms, pretrained_run, tmp_path, monkeypatch):
    """Some labels are uncertain, so that those that are learned are others than those of the list."""
    monkeypatch.setattr("mrm.data.record_sources.RECENT", -1.0)  # as if the list were older than it is
    records = Records.load(phantoms / "records.csv", FINDINGS)
    labels_NC = records.labels_NC
    labels_NC[::5, 0] = -1
    (tmp_path / "lists").mkdir()
    stated = records.with_labels(labels_NC)
    stated.to_csv(tmp_path / "lists" / "train.csv")
    changes = {"train": tmp_path / "lists" / "train.csv", "classes": FINDINGS, "max_steps": 2, "audit": "names"}
    config = finetune_config(phantoms, pretrained_run, tmp_path / "run", **changes)
    first = model_folder.load(runs.finetune(config)).card.origin["fingerprint"]
    loaded = resolve_uncertain(Records.load(config.train, FINDINGS), "ignore")
    assert first == loaded.fingerprint() != stated.fingerprint()
    kept = config.out / "records" / "training" / "labels.json"
    for damage in ("", "{}", '{"made_of": "others", "fingerprint": "0", "unordered": "0"}'):
        kept.write_text(damage)
        shutil.rmtree(config.out / "checkpoints")
        (config.out / "last").unlink()
        assert model_folder.load(runs.finetune(config)).card.origin["fingerprint"] == first
    monkeypatch.setattr("mrm.data.record_sources.open_table", lambda *_: pytest.fail("a list was read"))
    monkeypatch.setattr("mrm.data.records.fingerprints_of", lambda *_: pytest.fail("all records were read"))
    assert runs.finetune(config) == config.out


def test_what_was_converted_for_a_run_that_is_refused_is_removed(phantoms, pretrained_run, tuned, tmp_path):
    config = finetune_config(phantoms, pretrained_run, tmp_path / "new" / "run", uncertain_by_class={"gout": "ones"})
    one_label = tmp_path / "one.csv"
    one_label.write_text("image_path," + ",".join(FINDINGS) + "\n" + "a.png" + ",0" * len(FINDINGS) + "\n")
    with pytest.raises(RunError, match="AUROC is undefined for every class"):
        runs.finetune(replace(config, val=one_label))
    assert not (tmp_path / "new").exists()
    before = contents(tuned / "records")
    with pytest.raises(OutputError, match=r"holds another run \(val: .*, now .*one\.csv\)"):
        runs.finetune(replace(finetune_config(phantoms, pretrained_run, tuned), val=one_label))
    assert contents(tuned / "records") == before  # of the run that is there
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"mine: is not empty and holds no run"):
        runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "mine"))
    assert list(contents(tmp_path / "mine")) == ["notes.txt"]


def test_a_disk_that_fills_while_the_lists_are_converted_leaves_nothing(
    phantoms, pretrained_run, tmp_path, monkeypatch
):
    def full(file, *_):
        file.write_bytes(b"ARROW1")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mrm.data.record_cache.write_rows", full)
    with pytest.raises(OutputError, match=r"training: cannot be written \(No space left on device\).*Free disk space"):
        runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "new" / "run"))
    assert not (tmp_path / "new").exists()


def test_a_run_that_was_killed_before_it_began_can_be_started(phantoms, pretrained_run, tuned, tmp_path):
    shutil.copytree(tuned / "records", tmp_path / "run" / "records")
    run = runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "run", max_steps=1))
    assert (run / "last").exists()


def test_lora_stopped_and_resumed_is_the_same_run_and_a_plain_model(phantoms, pretrained_run, tmp_path):
    """With dropout, drop path and an average of the weights; the frozen weights are those of --init."""
    from mrm.models.config import LoraConfig
    from mrm.training.trainer import Stopped

    settings = {"tune": "lora", "lora": LoraConfig(2, dropout=0.5), "steps": 6, "lr": 3e-2, "validate_every": 3}
    whole = runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "whole", **settings))
    run = tmp_path / "run"
    with sigterm_after(4), pytest.raises(Stopped):
        runs.finetune(finetune_config(phantoms, pretrained_run, run, **settings))
    runs.finetune(finetune_config(phantoms, pretrained_run, run, **settings))
    one, other = weights(run), weights(whole)
    assert all(torch.equal(one[k], other[k]) for k in other)
    assert [r["labels"] for r in trace(run)] == [r["labels"] for r in trace(whole)]
    assert table(run / "validation.csv") == table(whole / "validation.csv")
    model, start = mrm.load(run), mrm.load(pretrained_run).state_dict()
    assert model.card.origin["tune"] == "lora"
    frozen, tuned = "encoder.blocks.0.mlp.fc1.weight", "encoder.blocks.0.attn.qkv.weight"
    assert torch.equal(model.state_dict()[frozen], start[frozen])
    assert not torch.equal(model.state_dict()[tuned], start[tuned])
    keys = slice(48, 96)  # of the queries, keys and values of 48
    assert torch.equal(model.state_dict()[tuned][keys], start[tuned][keys])


@pytest.mark.slow
def test_lora_of_two_processes_equals_one(phantoms, pretrained_run, tmp_path):
    """With dropout, drop path, an average of the weights and a query for each class: the same losses, gradients and weights."""
    from mrm.models.config import LoraConfig

    settings = {"tune": "lora", "lora": LoraConfig(2, dropout=0.5), "pooling": "class", "steps": 4, "validate_every": 2}
    one, two = (
        finetune_config(phantoms, pretrained_run, tmp_path / name, audit="names", log_every=1, **settings)
        for name in ("one", "two")
    )
    runs.finetune(one)
    (tmp_path / "two.yaml").write_text(recipes.to_yaml(two))
    outputs = run_ranks([sys.executable, "-m", "mrm", "finetune", "--config", str(tmp_path / "two.yaml")], processes=2)
    assert "--tune lora" in outputs[0]
    for row, expected in zip(trace(two.out), trace(one.out), strict=True):
        assert row["step"] == expected["step"]
        assert float(row["labels"]) == pytest.approx(float(expected["labels"]), rel=1e-5)
        assert float(row["gradient"]) == pytest.approx(float(expected["gradient"]), rel=1e-4)
    for row, expected in zip(table(two.out / "validation.csv"), table(one.out / "validation.csv"), strict=True):
        assert {k: float(v) for k, v in row.items()} == pytest.approx(
            {k: float(v) for k, v in expected.items()}, abs=1e-3
        )
    start, trained = mrm.load(pretrained_run).state_dict(), weights(one.out)
    for name, value in weights(two.out).items():
        torch.testing.assert_close(value, trained[name], rtol=1e-3, atol=1e-5)
    tuned = "encoder.blocks.0.attn.qkv.weight"
    assert (trained[tuned] - start[tuned]).abs().max() > 1e-4  # far more than the ranks may differ by


def test_a_refused_setting_leaves_no_run_behind(phantoms, pretrained_run, tmp_path):
    with pytest.raises(ConfigError, match=r"--tune last-3: vit_tiny_patch16_224 has 2 blocks"):
        runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "run", tune="last-3"))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def scripted(monkeypatch):
    """Fine-tunings of twelve steps whose validation AUROC is written down: that of step 2 is the best before that of step 9."""
    scores = dict(enumerate((0.6, 0.7, 0.65, 0.6, 0.6, 0.6, 0.7, 0.69, 0.8, 0.5, 0.5, 0.5), 1))
    monkeypatch.setattr(finetuning, "validation", lambda *_: lambda model, step, state: {"score": scores[step]})
    return {"validate_every": 1, "save_every": 3, "log_every": 1}


def test_patience_ends_a_run_after_validations_without_a_better_one_and_keeps_the_best(
    phantoms, pretrained_run, tmp_path, scripted, capsys
):
    run, config = tmp_path / "run", finetune_config(phantoms, pretrained_run, tmp_path / "run", patience=2, **scripted)
    with sigterm_after(7), pytest.raises(SystemExit):
        runs.finetune(config)
    runs.finetune(config)
    said = capsys.readouterr().out  # the five steps without a gain in the first half do not count
    assert "ended at step 8/12, since the last 2 validations brought no gain over that at step 2" in said
    assert [row["step"] for row in trace(run)] == [str(step) for step in range(1, 9)]
    steps = {name: model_folder.read_card(run / name).origin["step"] for name in ("best", "last")}
    assert steps == {"best": 2, "last": 8}
    before = weights(run)
    runs.finetune(config)  # it has ended: nothing more is trained
    assert [row["step"] for row in table(run / "validation.csv")] == [str(step) for step in range(1, 9)]
    assert all(torch.equal(value, before[name]) for name, value in weights(run).items())
    runs.finetune(replace(config, patience=3, extend=True))  # more patience goes on, to a better one and the end
    assert model_folder.read_card(run / "best").origin["step"] == 9
    assert trace(run)[-1]["step"] == "12"


def test_a_better_validation_by_less_than_the_gain_is_the_best_but_prolongs_nothing(
    phantoms, pretrained_run, tmp_path, scripted, monkeypatch
):
    validate = lambda model, step, state: {"score": 0.7 + 0.0001 * step}  # noqa: E731
    monkeypatch.setattr(finetuning, "validation", lambda *_: validate)
    run = runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "run", patience=2, **scripted))
    assert trace(run)[-1]["step"] == "8"
    assert model_folder.read_card(run / "best").origin["step"] == 8


def test_without_patience_a_run_goes_to_its_end(phantoms, pretrained_run, tmp_path, scripted):
    run = runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "run", **scripted))
    assert trace(run)[-1]["step"] == "12"


@pytest.mark.parametrize("loss", ["focal", "asymmetric"])
def test_the_loss_that_is_asked_for_is_the_one_that_is_trained(phantoms, pretrained_run, tmp_path, loss):
    from mrm.training.losses import LabelLoss

    one_step = {"steps": 1, "warmup_steps": 0, "log_every": 1, "global_batch": 48}  # of all records
    run = runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "run", loss=loss, **one_step))
    labels = Records.load(phantoms / "records.csv", None).labels_NC
    expected = LabelLoss(loss, labels)(torch.zeros(labels.shape), torch.from_numpy(labels).float()).mean()
    assert float(trace(run)[0]["labels"]) == pytest.approx(float(expected), rel=1e-3)  # a new head gives logits near 0
    assert mrm.load(run).card.origin["loss"] == loss
    assert "val_average_precision" in table(run / "validation.csv")[0]


def test_validation_follows_every_epoch_if_asked_to_and_the_last_step(phantoms, pretrained_run, tmp_path):
    config = finetune_config(phantoms, pretrained_run, tmp_path / "run", steps=5, global_batch=20, validate_epochs=1)
    run = runs.finetune(config)  # 48 records: two full batches of 20 and one of 8
    assert [row["step"] for row in table(run / "validation.csv")] == ["3", "5"]


def test_a_validation_set_of_one_class_is_refused_with_its_counts(phantoms, pretrained_run, tmp_path):
    records = Records.load(phantoms / "records.csv", ("effusion",))
    file = records.where(lambda r: r.labels == (1.0,)).to_csv(tmp_path / "val.csv")
    cfg = finetune_config(phantoms, pretrained_run, tmp_path / "run", val=file, classes=("effusion",))
    with pytest.raises(RunError, match=r"AUROC is undefined for every class \(effusion: \d+ positive and 0 negative\)"):
        runs.finetune(cfg)


def test_uncertain_labels_follow_the_policy_that_the_model_keeps(phantoms, pretrained_run, tmp_path):
    records = Records.load(phantoms / "records.csv", ("effusion", "nodule"))
    rows = [replace(r, labels=(-1.0, r.labels[1])) if i % 3 == 0 else r for i, r in enumerate(records)]
    file = replace(records, rows=rows).to_csv(tmp_path / "records.csv")
    cfg = finetune_config(
        phantoms, pretrained_run, tmp_path / "run", train=file, val=file, classes=("effusion", "nodule"), steps=2,
        warmup_steps=1, uncertain_by_class={"effusion": "ones", "nodule": "ignore"},
    )  # fmt: skip
    run = runs.finetune(cfg)
    assert mrm.load(run).config.uncertain == {"effusion": "ones", "nodule": "ignore"}
    results = runs.evaluate(run, file, tmp_path / "out", draws=20, reading=runs.Reading(workers=0))
    assert results["classes"]["effusion"]["auroc"]["positives"] >= 16


def write_label_list(folder, labels: int):
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"")
    lines = [f"{name} {' '.join(str((i + j) % 2) for j in range(labels))}" for i, name in enumerate(("a.png", "b.png"))]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder / "list.txt"


NIH = [
    *[
        "Atelectasis",
        "Cardiomegaly",
        "Effusion",
        "Infiltration",
        "Mass",
        "Nodule",
        "Pneumonia",
        "Pneumothorax",
        "Consolidation",
    ]
]
NIH += [*["Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"]]


@pytest.mark.parametrize(
    ("recipe", "classes"),
    [
        ("nih-1", NIH),
        ("nih-100-modern", NIH),
        ("chexpert-10", ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]),
        ("rsna-1", ["Pneumonia"]),
        ("covid", ["label0", "label1"]),  # two tasks: the recipe cannot know which
    ],
)
def test_a_published_list_has_the_classes_that_its_recipe_knows(tmp_path, recipe, classes):
    file = write_label_list(tmp_path, len(classes))
    made = recipes.find(recipes.FINETUNE, recipe).make(file, file, tmp_path / "m", tmp_path / "r")
    train, val = finetuning.label_records(made)
    assert train.classes == val.classes == tuple(classes)
    named = finetuning.label_records(replace(made, classes=tuple(f"own{i}" for i in range(len(classes)))))[0]
    assert named.classes[0] == "own0"


def test_a_list_with_another_number_of_labels_is_refused_with_both_numbers(tmp_path):
    file = write_label_list(tmp_path, 5)
    made = recipes.find(recipes.FINETUNE, "nih-1").make(file, file, tmp_path / "m", tmp_path / "r")
    with pytest.raises(
        RecordError, match=r"has 5 labels a line, but 14 classes are expected \(Atelectasis, .*--classes"
    ):
        finetuning.label_records(made)


def test_a_table_keeps_the_names_of_its_columns_whatever_the_recipe_knows(tmp_path):
    (tmp_path / "own.csv").write_text("image_path,effusion\na.png,1\nb.png,0\n")
    file = tmp_path / "own.csv"
    made = recipes.find(recipes.FINETUNE, "nih-1").make(file, file, tmp_path / "m", tmp_path / "r")
    assert finetuning.label_records(made)[0].classes == ("effusion",)


def test_few_labels_in_validation_are_said_before_the_run_starts(phantoms, pretrained_run, tmp_path):
    labels = Records.load(phantoms / "records.csv", ("effusion",)).labels_NC
    positives, negatives = int((labels == 1).sum()), int((labels == 0).sum())
    with pytest.warns(
        UserWarning, match=rf"records\.csv: effusion has {positives} positives and {negatives} negatives"
    ):
        runs.finetune(finetune_config(phantoms, pretrained_run, tmp_path / "run", steps=1, classes=("effusion",)))


def test_a_fine_tuning_ends_with_what_needs_no_network_on_the_same_validation_records(
    phantoms, pretrained_run, tmp_path, capsys
):
    records = Records.load(phantoms / "records.csv", FINDINGS)
    train = records.select(range(0, 36)).to_csv(tmp_path / "train.csv")
    val = records.select(range(36, 48)).to_csv(tmp_path / "val.csv")
    cfg = finetune_config(
        phantoms, pretrained_run, tmp_path / "run", train=train, val=val, classes=FINDINGS, max_steps=1
    )
    runs.finetune(cfg)
    assert "Logistic regressions" not in capsys.readouterr().out
    runs.finetune(replace(cfg, floors=True))  # it may change when a run is resumed
    printed = capsys.readouterr().out
    features, _ = floors.features(records, workers=0)
    parts = {"train": range(36), "val": range(36, 48), "test": range(36, 48)}
    for floor, values in features.items():
        fitted = floors.fitted(
            {n: values[list(p)] for n, p in parts.items()}, {n: records.select(p) for n, p in parts.items()}
        )
        assert f"{floor} {fitted.val_auroc:.3f}" in printed
    assert "fitted on the same records" in printed


def test_the_closing_line_says_whether_the_network_beats_the_floors(phantoms):
    records = Records.load(phantoms / "records.csv", FINDINGS)
    lines = [finetuning.floors_beside(records, records, seed=0, workers=0, network=value) for value in (0.0, 1.01)]
    assert "The network reaches 0.000: it does not beat pixels and HOG: give it more time" in lines[0]
    assert "The network reaches 1.010: it beats them." in lines[1]


def test_floors_that_cannot_be_fitted_cost_the_run_nothing(phantoms):
    records = Records.load(phantoms / "records.csv", FINDINGS)
    one = replace(records, rows=[replace(r, labels=(1.0,) * len(FINDINGS)) for r in records])
    line = finetuning.floors_beside(one, records, seed=0, workers=0, network=0.5)
    assert "could not be fitted to compare with: the training records have no class with both" in line


def test_what_is_doubtful_of_the_validation_records_is_found_out_once(phantoms, tmp_path, monkeypatch):
    config = finetune_config(phantoms, None, tmp_path / "run", audit="images")
    config.out.mkdir()
    records = finetuning.label_records(config)[1]
    seen = run_folder.note_seen(config, "fine-tuning", records)

    def doubts() -> list[str]:
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            finetuning.warn_of_shared(config, seen, records, run_folder.run_hashes(config))
        return [str(warning.message) for warning in noted]

    first = doubts()
    assert "48 records of validation share an image with fine-tuning" in first
    monkeypatch.setattr(run_folder, "fingerprint", lambda *_, **__: 1 / 0)
    assert doubts() == first  # of a run that is started again
    assert not (config.out / FILE).exists()
