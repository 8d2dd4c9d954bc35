"""The reproduction ledger: resumable, honest about what failed, never a number without n and interval."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrm import checkpoint, noise, suites
from mrm.classifier import Classifier, ClassifierConfig
from mrm.cli import main
from mrm.corpora.phantom import FINDINGS
from mrm.evaluate import RunError
from mrm.recipes import ConfigError
from mrm.records import Records
from mrm.runs import ledger
from mrm.runs.ledger import BenchmarkConfig, Commands, over_seeds

ESTIMATE = {"value": 0.8, "low": 0.78, "high": 0.82, "n": 100, "positives": 40, "note": "bootstrap by 50 patients"}


@pytest.fixture
def lists(phantoms, tmp_path) -> Path:
    """A prepared corpus with all sets that nih needs."""
    records, folder = Records.load(phantoms / "records.csv", FINDINGS), tmp_path / "lists"
    for name in ("train", "train_10", "train_1", "val", "test"):
        records[: 20 if name == "train_1" else 48].to_csv(folder / f"{name}.csv")
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    with noise.seeded(0):
        options = {"depth": 1, "embed_dim": 24, "num_heads": 1}
        shape = ClassifierConfig(("a",), "vit_tiny_patch16_224", options, image_size=32)
        return checkpoint.save(tmp_path / "start", Classifier(shape))


class Pretended:
    """Commands that only note what they were asked, and test as told."""

    def __init__(self, fails: set[str] = frozenset()) -> None:
        self.asked, self.fails = [], set(fails)

    def finetune(self, config) -> Path:
        self.asked.append((config.out.parent.name, config.training.optimizer))
        if config.out.parent.name in self.fails:
            raise RunError("no disk left")
        steps = config.training.shortened(config.max_steps).steps
        with noise.seeded(0):
            shape = ClassifierConfig(
                FINDINGS, "vit_tiny_patch16_224", {"depth": 1, "embed_dim": 24, "num_heads": 1}, 32
            )
        checkpoint.save(
            config.out / "last", Classifier(shape), checkpoint.Card("classifier", vars(shape), {"step": steps})
        )
        return config.out

    def evaluate(self, run, records, out, **_):
        seed = int(run.parent.name.rpartition("-")[2])
        estimate = {k: v + 0.01 * seed if k in ("value", "low", "high") else v for k, v in ESTIMATE.items()}
        return {
            "classes": {"mean": {"auroc": estimate}},
            "fingerprint": "f" * 16,
            "patients": 50,
            "overlap": ["3 patients of test are in fine-tuning"],
            "unreadable": {},
        }

    def commands(self) -> Commands:
        return Commands(self.finetune, self.finetune, self.finetune, self.evaluate)


def config(out: Path, lists: Path, model: Path, **changes) -> BenchmarkConfig:
    return replace(BenchmarkConfig("nih", out, lists, (str(model),), only=("nih-1",)), **changes)


def test_the_ledger_has_all_that_a_reader_needs(tmp_path, lists, model):
    made = ledger.benchmark(config(tmp_path / "out", lists, model), Pretended().commands())
    (row,) = made["rows"]
    assert row["published"] == 0.794
    assert row["ours"]["value"] == pytest.approx(0.81)
    assert row["gap"]["value"] == pytest.approx(0.81 - 0.794)
    assert row["gap"]["low"] < row["gap"]["value"] < row["gap"]["high"]
    assert (row["ours"]["n"], row["ours"]["seeds"]) == (100, 3)
    assert row["overlap"] == ["3 patients of test are in fine-tuning"]
    train = Records.load(lists / "train_1.csv", None).fingerprint()
    assert train in row["fingerprints"][0]
    assert [c["command"].split()[:3] for c in row["cells"]] == [["mrm", "finetune", "nih-1"]] * 3
    for name in ("ledger.md", "ledger.html"):
        text = (tmp_path / "out" / name).read_text()
        for told in (
            "0.794",
            "0.810",
            "n=100, 40 positive",
            "3 done",
            train,
            "OVERLAP: 3 patients",
            "mrm finetune nih-1",
        ):
            assert told in text, (name, told)
    assert json.loads((tmp_path / "out" / "ledger.json").read_text()) == json.loads(json.dumps(made))


def test_what_failed_is_told_with_its_reason_and_tried_again_alone(tmp_path, lists, model):
    cfg = config(tmp_path / "out", lists, model)
    name = f"{model.stem}-1"
    made = ledger.benchmark(cfg, Pretended({name}).commands())
    assert [c["status"] for c in made["rows"][0]["cells"]] == ["done", "failed", "done"]
    assert made["rows"][0]["ours"]["seeds"] == 2
    assert "RunError: no disk left" in (tmp_path / "out" / "ledger.md").read_text()
    again = Pretended()
    made = ledger.benchmark(cfg, again.commands())
    assert [asked for asked, _ in again.asked] == [name]
    assert [c["status"] for c in made["rows"][0]["cells"]] == ["done"] * 3
    assert ledger.benchmark(cfg, Commands(*[None] * 4)) == made  # all is done: nothing is called


def test_an_interrupted_cell_is_begun_and_not_done(tmp_path, lists, model):
    class Stopped(Pretended):
        def finetune(self, config):
            run = super().finetune(config)
            folder = run / "last"
            card = checkpoint.read_card(folder)
            checkpoint.write_card(folder, replace(card, origin={"step": 7}))
            return run

    cfg = config(tmp_path / "out", lists, model)
    with pytest.raises(RunError, match=r"stopped at step 7 of 3000; the same command goes on"):
        ledger.benchmark(cfg, Stopped().commands())
    written = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert [c["status"] for c in written["rows"][0]["cells"]] == ["begun", "to do", "to do"]
    assert written["rows"][0]["ours"] is None
    assert [c["status"] for c in ledger.benchmark(cfg, Pretended().commands())["rows"][0]["cells"]] == ["done"] * 3


def test_a_rehearsal_has_no_gap(tmp_path, lists, model):
    made = ledger.benchmark(config(tmp_path / "out", lists, model, max_steps=5), Pretended().commands())
    assert made["rows"][0]["gap"] is None
    assert "A rehearsal: every run squeezed into 5 steps" in (tmp_path / "out" / "ledger.html").read_text()


def test_modern_recipes_on_the_same_lists(tmp_path, lists, model):
    pretended = Pretended()
    made = ledger.benchmark(config(tmp_path / "out", lists, model, modern=True, seeds=(0,)), pretended.commands())
    assert made["rows"][0]["recipe"] == "nih-1-modern"
    assert [optimizer for _, optimizer in pretended.asked] == ["adamw"]


def test_the_interval_over_seeds_covers_the_truth():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        values = 0.8 + rng.normal(0, 0.01) + rng.normal(0, 0.02, 3)
        one = over_seeds([{**ESTIMATE, "value": v, "low": v - 0.0196, "high": v + 0.0196} for v in values])
        covered += one["low"] <= 0.8 <= one["high"]
    assert 0.93 <= covered / 1000 <= 0.99
    assert over_seeds([ESTIMATE]) == {**ESTIMATE, "seeds": 1, "note": "one seed: interval over patients only"}
    undefined = over_seeds([{**ESTIMATE, "low": None, "high": None, "note": "one patient"}, ESTIMATE])
    assert (undefined["low"], undefined["note"]) == (None, "one patient")
    assert over_seeds([{**ESTIMATE, "value": None}]) is None


def test_the_suites_have_the_published_numbers():
    table = {e.name: e.published for s in suites.SUITES.values() for e in s.entries if e.published}
    assert table == {
        **{"nih-1": 0.794, "nih-10": 0.840, "nih-100": 0.859, "chexpert-1": 0.885, "chexpert-10": 0.885},
        **{
            "chexpert-100": 0.887,
            "rsna-1": 0.913,
            "rsna-10": 0.927,
            "rsna-100": 0.933,
            "siim-10": 0.732,
            "siim-100": 0.914,
        },
    }


# Bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", ["nih", "rsna", "chexpert", "covid", "siim"])
def test_missing_lists_are_all_named(tmp_path, model, suite):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError) as caught:
        ledger.benchmark(
            BenchmarkConfig(suite, tmp_path / "out", tmp_path / "empty", (str(model),)), Pretended().commands()
        )
    told = str(caught.value)
    names = {
        "covid": ["covid1/train.csv or covid1/train_list.txt", "viral5/test.csv"],
        "siim": ["images/training/ and annotations/training/", "train_10.csv or train_10.txt"],
    }
    for name in names.get(suite, ["train_1.csv or train_1.txt", "train_10.csv", "train.csv", "val.csv", "test.csv"]):
        assert name in told
    assert f"mrm prepare {suite}" in told


def test_wrong_names_are_answered_with_the_right_ones(tmp_path, lists, model):
    commands = Pretended().commands()
    with pytest.raises(ConfigError, match="no suite 'nhi'; there are nih, chexpert"):
        ledger.benchmark(BenchmarkConfig("nhi", tmp_path / "a"), commands)
    with pytest.raises(ConfigError, match="the suite nih has no 'nih-5'; there are nih-1, nih-10, nih-100"):
        ledger.benchmark(config(tmp_path / "b", lists, model, only=("nih-5",)), commands)
    with pytest.raises(ConfigError, match="needs --data DIR"):
        ledger.benchmark(config(tmp_path / "c", lists, model, data=None), commands)
    with pytest.raises(ConfigError, match="at least one model"):
        ledger.benchmark(config(tmp_path / "d", lists, model, models=("scratch",)), commands)
    with pytest.raises(ConfigError, match="at least one seed"):
        ledger.benchmark(config(tmp_path / "e", lists, model, seeds=()), commands)
    with pytest.raises(checkpoint.CheckpointError, match="no such file or folder"):
        ledger.benchmark(config(tmp_path / "f", lists, model, models=("nowhere",)), commands)


def test_a_folder_of_another_benchmark_is_refused(tmp_path, lists, model, capsys):
    ledger.benchmark(config(tmp_path / "out", lists, model, seeds=(0,)), Pretended().commands())
    with pytest.raises(RunError, match=r"holds another benchmark .suite: nih, now rsna"):
        ledger.benchmark(config(tmp_path / "out", lists, model, suite="rsna"), Pretended().commands())
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(SystemExit):
        main(["benchmark", "phantom", "--out", str(tmp_path / "letters")])
    assert "is not empty and holds no benchmark" in capsys.readouterr().err
