"""The reproduction ledger: resumable, honest about what failed, never a number without n and interval."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrm import runs
from mrm.cli import main
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data.records import Records
from mrm.evaluation.classifier_test import write_results
from mrm.evaluation.predictions import Predictions, read_predictions
from mrm.models import model_folder, noise
from mrm.models.card import Card
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.recipes import SEGMENT, splits, suites
from mrm.runs import benchmarking
from mrm.runs.benchmarking import BenchmarkConfig
from mrm.statistics import ranking, seeds
from mrm.system.errors import CheckpointError, ConfigError, OutputError, RunError
from mrm.training.trainer import Stopped
from tests.support.foreign_encoders import write_timm
from tests.support.prepared import write_prepared


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
        return model_folder.save(tmp_path / "start", Classifier(shape))


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
        model_folder.save(config.out / "last", Classifier(shape), Card("classifier", vars(shape), {"step": steps}))
        return config.out

    def evaluate(self, run, records, out, reading=None, draws=2000):
        """The test of 100 records of 50 patients, hard for all seeds alike and a little harder for some."""
        seed = int(run.parent.name.rpartition("-")[2])
        labels_N, patients = (np.arange(100) % 5 < 2).astype(float), [f"p{i // 2}" for i in range(100)]
        common_N, own_N = (np.random.default_rng(s).normal(size=100) for s in (99, seed))
        signal = 2.4 if run.parent.name.startswith("better") else 1.2
        scores_N1 = 1 / (1 + np.exp(-(signal * labels_N + common_N + 0.3 * own_N)))[:, None]
        found = Predictions([f"{i}.png" for i in range(100)], patients, ("nodule",), labels_N[:, None], scores_N1)
        report = ranking.classification_report(found.labels_NC, scores_N1, found.classes, patients, draws)
        write_results(out, {}, found)
        return {
            "classes": {"mean": {"auroc": report["mean"]["auroc"].to_dict()}},
            "fingerprint": "f" * 16,
            "patients": 50,
            "overlap": ["3 patients of test are in fine-tuning"],
            "unreadable": {},
        }

    def benchmark(self, config) -> dict:
        """The benchmark, with these commands in place of those it calls."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("pretrain", "finetune", "segment"):
                patch.setattr(benchmarking, name, self.finetune)
            patch.setattr(benchmarking, "evaluate", self.evaluate)
            return benchmarking.benchmark(config)


class Uncalled(Pretended):
    """Commands none of which may be called."""

    finetune = evaluate = None


def config(out: Path, lists: Path, model: Path, **changes) -> BenchmarkConfig:
    return replace(BenchmarkConfig("nih", out, lists, (str(model),), only=("nih-1",)), **changes)


@pytest.fixture
def on_its_split(monkeypatch):
    """The 100 images of a pretended test are those that the number of rsna-1 was published on."""
    known = splits.known()
    as_tested = {**known, "rsna-mrm": splits.Split("rsna", "the lists of this test", 100, r"\d+")}
    monkeypatch.setattr(splits, "known", lambda: as_tested)


def test_the_ledger_has_all_that_a_reader_needs(tmp_path, lists, model, on_its_split):
    made = Pretended().benchmark(config(tmp_path / "out", lists, model, suite="rsna", only=("rsna-1",)))
    (row,) = made["rows"]
    assert (row["published"], row["published_for"], row["split"], row["no_gap"]) == (0.913, "MRM", "rsna-mrm", "")
    mean = np.mean([cell["estimate"]["value"] for cell in row["cells"]])
    assert row["ours"]["value"] == pytest.approx(mean)
    assert row["gap"]["value"] == pytest.approx(mean - 0.913)
    assert row["gap"]["low"] < row["gap"]["value"] < row["gap"]["high"]
    assert (row["ours"]["n"], row["ours"]["seeds"]) == (100, 3)
    assert row["overlap"] == ["3 patients of test are in fine-tuning"]
    train = Records.load(lists / "train_1.csv", None).fingerprint()
    assert train in row["fingerprints"][0]
    assert [c["command"].split()[:3] for c in row["cells"]] == [["mrm", "finetune", "rsna-1"]] * 3
    for name in ("ledger.md", "ledger.html"):
        text = (tmp_path / "out" / name).read_text()
        for told in (
            "0.913 of MRM on rsna-mrm",
            "published, in percent: MRM 91.3 (Zhou et al. 2023, arXiv:2301.13155, main results)",
            f"{mean:.3f}",
            "n=100, 40 positive",
            "3 done",
            train,
            "OVERLAP: 3 patients",
            "mrm finetune rsna-1",
        ):
            assert told in text, (name, told)
    assert json.loads((tmp_path / "out" / "ledger.json").read_text()) == json.loads(json.dumps(made))


def test_what_failed_is_told_with_its_reason_and_tried_again_alone(tmp_path, lists, model):
    cfg = config(tmp_path / "out", lists, model)
    name = f"{model.stem}-1"
    made = Pretended({name}).benchmark(cfg)
    assert [c["status"] for c in made["rows"][0]["cells"]] == ["done", "failed", "done"]
    assert made["rows"][0]["ours"]["seeds"] == 2
    assert "RunError: no disk left" in (tmp_path / "out" / "ledger.md").read_text()
    again = Pretended()
    made = again.benchmark(cfg)
    assert [asked for asked, _ in again.asked] == [name]
    assert [c["status"] for c in made["rows"][0]["cells"]] == ["done"] * 3
    assert Uncalled().benchmark(cfg) == made  # all is done: nothing is called


def test_an_interrupted_cell_is_begun_and_not_done(tmp_path, lists, model):
    class Interrupted(Pretended):
        def finetune(self, config):
            super().finetune(config)
            raise Stopped(75)

    cfg = config(tmp_path / "out", lists, model)
    with pytest.raises(Stopped):
        Interrupted().benchmark(cfg)
    written = json.loads((tmp_path / "out" / "ledger.json").read_text())
    assert [c["status"] for c in written["rows"][0]["cells"]] == ["begun", "to do", "to do"]
    assert written["rows"][0]["ours"] is None
    assert [c["status"] for c in Pretended().benchmark(cfg)["rows"][0]["cells"]] == ["done"] * 3


def test_a_rehearsal_has_no_gap(tmp_path, lists, model):
    made = Pretended().benchmark(config(tmp_path / "out", lists, model, max_steps=5))
    assert made["rows"][0]["gap"] is None
    assert "A rehearsal: every run squeezed into 5 steps" in (tmp_path / "out" / "ledger.html").read_text()


def test_modern_recipes_on_the_same_lists(tmp_path, lists, model):
    pretended = Pretended()
    made = pretended.benchmark(config(tmp_path / "out", lists, model, modern=True, seeds=(0,)))
    assert made["rows"][0]["recipe"] == "nih-1-modern"
    assert [optimizer for _, optimizer in pretended.asked] == ["adamw"]


def test_the_interval_is_over_test_patients_and_seeds(tmp_path, lists, model):
    out = tmp_path / "out"
    (row,) = Pretended().benchmark(config(out, lists, model))["rows"]
    files = sorted(out.rglob("predictions.csv"))
    tests = [read_predictions(file) for file in files]
    scores_SNC = np.stack([one.probabilities_NC for one in tests])
    expected = seeds.auroc_over_seeds(tests[0].labels_NC, scores_SNC, ("nodule",), tests[0].patients)["mean"]
    assert row["ours"]["value"] == pytest.approx(expected.value)
    assert (row["ours"]["low"], row["ours"]["high"]) == pytest.approx((expected.low, expected.high), abs=0.015)
    assert row["ours"]["note"] == "3 seeds"
    kept = sorted(out.rglob("resamples.npz"))
    assert len(kept) == 3
    kept[0].unlink()  # as in a ledger that was stopped before it could write them
    assert Uncalled().benchmark(config(out, lists, model))["rows"] == [row]


def test_models_are_compared_in_pairs_with_the_first_and_corrected_for_all(tmp_path, lists, model):
    better = model.rename(model.with_name("better"))
    foreign = write_timm("convnext_tiny", tmp_path / "foreign").init
    models = (str(better), f"timm:convnext_tiny={foreign}", "scratch")
    out = tmp_path / "out"
    rows = Pretended().benchmark(config(out, lists, better, models=models, seeds=(0, 1)))["rows"]
    assert [row["label"] for row in rows] == ["better", "convnext_tiny", "scratch"]
    assert [row["trained_on"] for row in rows] == [
        "unknown: its card does not say",
        "unknown",
        "nothing: its weights are random",
    ]
    assert rows[0]["first_less_this"] is None
    scores = {
        label: [
            read_predictions(out / "cells" / "nih-1" / f"{label}-{seed}" / "test" / "predictions.csv")
            for seed in (0, 1)
        ]
        for label in ("better", "convnext_tiny")
    }
    first, second = (np.stack([test.probabilities_NC for test in tests]) for tests in scores.values())
    test = scores["better"][0]
    expected = seeds.difference_over_seeds(test.labels_NC, first, second, ("nodule",), test.patients)["mean"]
    compared = rows[1]["first_less_this"]
    assert compared["value"] == pytest.approx(expected.difference.value)
    assert compared["value"] > 0.05
    ends = (expected.difference.low, expected.difference.high)
    assert (compared["low"], compared["high"]) == pytest.approx(ends, abs=0.05)
    p = sorted(row["first_less_this"]["p"] for row in rows[1:])
    corrected = sorted(row["first_less_this"]["p_holm"] for row in rows[1:])
    assert corrected == pytest.approx([min(1, 2 * p[0]), max(min(1, 2 * p[0]), p[1])])
    page = (out / "ledger.html").read_text()
    assert f"{compared['value']:+.3f} (" in page
    assert "trained on: nothing: its weights are random" in page


def test_models_that_were_not_tested_on_the_same_records_are_not_compared(tmp_path, lists, model):
    class Fewer(Pretended):
        def evaluate(self, run, *options, **more):
            return super().evaluate(run, *options, **more) | {"fingerprint": run.parent.name.rpartition("-")[0]}

    rows = Fewer().benchmark(config(tmp_path / "out", lists, model, models=(str(model), "scratch"), seeds=(0,)))["rows"]
    assert [row["first_less_this"] for row in rows] == [None, None]


def test_one_seed_has_the_interval_of_its_test(tmp_path, lists, model):
    (row,) = Pretended().benchmark(config(tmp_path / "out", lists, model, seeds=(0,)))["rows"]
    (cell,) = row["cells"]
    assert [row["ours"][k] for k in ("value", "low", "high")] == [cell["estimate"][k] for k in ("value", "low", "high")]
    assert row["ours"]["note"].startswith("one seed")


def test_seeds_tested_on_other_records_have_no_interval(tmp_path, lists, model):
    class Fewer(Pretended):
        def evaluate(self, run, records, out, *options, **more):
            results = super().evaluate(run, records, out, *options, **more)
            return results | {"fingerprint": run.parent.name}

    made = Fewer().benchmark(config(tmp_path / "out", lists, model))
    ours = made["rows"][0]["ours"]
    assert (ours["low"], ours["high"]) == (None, None)
    assert "not tested on the same records" in ours["note"]
    assert "(no interval)" in (tmp_path / "out" / "ledger.md").read_text()


# Other images than those of the published number ------------------------------------------------------------


def test_a_number_that_was_published_on_other_images_is_not_shown_and_the_row_says_why(tmp_path, lists, model, capsys):
    made = Pretended().benchmark(config(tmp_path / "out", lists, model))
    (row,) = made["rows"]
    assert (row["published"], row["gap"], row["numbers"]) == (None, None, {})
    assert row["no_gap"] == (
        "the published number is on nih-mrm (22,433 images: the published MRM lists, 20 % at random by patient), tested were "
        "100 images (no split that numbers are published on)"
    )
    assert row["ours"]["value"] > 0.5
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "nih-1: no gap will be shown, because the published number is on nih-mrm" in said
    )  # before anything is trained
    assert "nih-1: no gap, because the published number is on nih-mrm" in said
    for name in ("ledger.md", "ledger.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "79.4" not in text
        assert "0.794" not in text
        assert "not comparable" in text
        assert "tested were 100 images" in text


def test_a_mean_over_another_number_of_findings_is_not_compared(tmp_path, lists, model, monkeypatch):
    known = {**splits.known(), "nih-mrm": splits.Split("nih", "the lists of this test", 100, r"\d+")}
    monkeypatch.setattr(splits, "known", lambda: known)
    (row,) = Pretended().benchmark(config(tmp_path / "out", lists, model))["rows"]
    assert row["no_gap"] == "the published number is the mean of 14 findings, tested were 1"
    assert (row["published"], row["gap"]) == (None, None)


def test_an_image_that_could_not_be_read_makes_it_another_test(tmp_path, lists, model, on_its_split):
    class Fewer(Pretended):
        def evaluate(self, run, records, out, *options, **more):
            results = super().evaluate(run, records, out, *options, **more)
            lines = (out / "predictions.csv").read_text().splitlines()
            (out / "predictions.csv").write_text("\n".join(lines[:-1]) + "\n")
            return results

    (row,) = Fewer().benchmark(config(tmp_path / "out", lists, model, suite="rsna", only=("rsna-1",)))["rows"]
    assert "(100 images: the lists of this test), tested were 99 images" in row["no_gap"]
    assert row["gap"] is None


def test_a_ledger_is_not_continued_with_other_images(tmp_path, lists, phantoms, model):
    cfg = config(tmp_path / "out", lists, model, seeds=(0,))
    before = Pretended().benchmark(cfg)
    other = tmp_path / "other"
    for file in lists.iterdir():
        Records.load(file, FINDINGS)[:20].to_csv(other / file.name)
    with pytest.raises(ConfigError, match=r"holds results of nih-1 on 48 images, but --data has 20 images for it"):
        Uncalled().benchmark(replace(cfg, data=other, seeds=(0, 1)))
    assert json.loads((tmp_path / "out" / "ledger.json").read_text()) == json.loads(json.dumps(before))
    moved = lists.rename(tmp_path / "moved")
    assert len(Pretended().benchmark(replace(cfg, data=moved, seeds=(0, 1)))["rows"][0]["cells"]) == 2


def test_what_is_published_and_cannot_be_run_stands_at_the_end_with_its_reason(tmp_path, model):
    suite = suites.find("medical-mae")
    data = write_prepared(suite, tmp_path / "data")
    cfg = BenchmarkConfig("medical-mae", tmp_path / "out", data, (str(model),), seeds=(0,))
    made = Pretended().benchmark(cfg)
    assert [row["entry"] for row in made["rows"]] == ["nih", "chexpert"]
    assert [one["entry"] for one in made["not_run"]] == ["covidx"]
    for name in ("ledger.md", "ledger.html"):
        text = (tmp_path / "out" / name).read_text()
        assert "covidx, not run" in text
        assert "it cannot be run: its lists COVIDx9A" in text
        assert "ViT-B/16 95.3, ViT-S/16 95.2 (Xiao et al. 2023, arXiv:2210.12843" in text
    with pytest.raises(ConfigError, match="the entry covidx cannot be run: its lists COVIDx9A"):
        Uncalled().benchmark(replace(cfg, out=tmp_path / "b", only=("covidx",)))


# Rehearsals of the suites of later work ---------------------------------------------------------------------


def rehearsed(name: str, tmp_path: Path, only: tuple[str, ...] = ()) -> dict:
    """Two steps of every entry of a suite, on made-up prepared corpora, with a network that is tiny; its decoder is too."""
    with noise.seeded(0):
        shape = ClassifierConfig(
            ("a",), "vit_tiny_patch16_224", {"depth": 4, "embed_dim": 32, "num_heads": 1}, image_size=32
        )
        start = model_folder.save(tmp_path / "start", Classifier(shape))
    data = write_prepared(suites.find(name), tmp_path / "data")
    config = BenchmarkConfig(name, tmp_path / "out", data, (str(start),), seeds=(0,), only=only, max_steps=2, draws=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SEGMENT, "siim-100", SEGMENT["tiny"])
        return runs.benchmark(config)


def assert_rehearsed(ledger: dict, entries: list[suites.Entry]) -> None:
    assert ledger["rehearsal"]
    assert [row["entry"] for row in ledger["rows"]] == [entry.name for entry in entries]
    for row, entry in zip(ledger["rows"], entries, strict=True):
        (cell,) = row["cells"]
        assert cell["status"] == "done", cell.get("reason")
        assert cell["tested"] == {"images": 8, "split": ""}
        assert row["ours"]["n"] == 8
        assert (row["metric"], row["gap"], row["published"]) == (entry.metric, None, None)
        assert row["no_gap"]


def test_an_entry_of_a_suite_of_several_corpora_is_rehearsed_by_its_measure(tmp_path):
    names = ("covidx-cxr4-1",)
    ledger = rehearsed("eva-x", tmp_path, names)
    assert_rehearsed(ledger, [e for e in suites.find("eva-x").entries if e.name in names])
    assert ledger["rows"][0]["no_gap"] == "no published number is stated here"
    (cell,) = ledger["rows"][0]["cells"]
    assert "--classes COVID-19" in cell["command"]
    test = tmp_path / "out/cells/covidx-cxr4-1/start-0/test"
    predictions = read_predictions(test / "predictions.csv")
    right_NC = (predictions.probabilities_NC >= 0.5) == predictions.labels_NC
    assert cell["estimate"]["value"] == pytest.approx(right_NC.mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["benchx", "medical-mae", "eva-x", "mrm-peft"])
def test_every_suite_of_later_work_is_rehearsed_from_end_to_end(tmp_path, name):
    assert_rehearsed(rehearsed(name, tmp_path), list(suites.find(name).runnable))


# Bad input --------------------------------------------------------------------------------------------


def test_all_that_a_suite_of_several_corpora_lacks_is_named_once_with_its_commands(tmp_path, model):
    suite = suites.find("benchx")
    data = write_prepared(suite, tmp_path / "data", count=1)
    for file in ("nih/train_10.csv", "vindr/val.csv"):
        (data / file).unlink()
    shutil.rmtree(data / "tbx11k/images/test")
    with pytest.raises(RunError) as caught:
        Uncalled().benchmark(BenchmarkConfig("benchx", tmp_path / "out", data, (str(model),)))
    assert str(caught.value) == (
        f"{data}: the suite benchx needs 3 more: nih/train_10.csv or nih/train_10.txt; vindr/val.csv or vindr/val_list.txt; "
        "tbx11k/images/test/ and tbx11k/annotations/test/. Make them with "
        "`mrm prepare nih --source ChestX-ray14 --out DIR/nih --splits MRM-LISTS`, "
        "`mrm prepare vindr --source vindr-cxr --out DIR/vindr --splits BENCHX-LISTS/VinDr_CXR`, "
        "`mrm prepare tbx11k --source TBX11K --out DIR/tbx11k --splits BENCHX-LISTS/TBX11K --box-masks`, "
        "or use the published lists"
    )


def test_a_suite_without_modern_recipes_says_so(tmp_path, model):
    data = write_prepared(suites.find("mrm-peft"), tmp_path / "data", count=1)
    cfg = BenchmarkConfig("mrm-peft", tmp_path / "out", data, (str(model),), only=("nih-1-lora",), modern=True)
    with pytest.raises(ConfigError, match="there is no modern recipe for nih-1-lora; leave --modern out"):
        Uncalled().benchmark(cfg)


@pytest.mark.parametrize("suite", ["nih", "rsna", "chexpert", "covid", "siim"])
def test_missing_lists_are_all_named(tmp_path, model, suite):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError) as caught:
        Pretended().benchmark(BenchmarkConfig(suite, tmp_path / "out", tmp_path / "empty", (str(model),)))
    told = str(caught.value)
    names = {
        "covid": ["covid1/train.csv or covid1/train_list.txt", "viral5/test.csv"],
        "siim": ["images/training/ and annotations/training/", "train_10.csv or train_10.txt"],
    }
    for name in names.get(suite, ["train_1.csv or train_1.txt", "train_10.csv", "train.csv", "val.csv", "test.csv"]):
        assert name in told
    assert f"mrm prepare {suite}" in told


def test_wrong_names_are_answered_with_the_right_ones(tmp_path, lists, model):
    pretended = Pretended()
    with pytest.raises(ConfigError, match="unknown suite 'nhi'; choose from nih, chexpert"):
        pretended.benchmark(BenchmarkConfig("nhi", tmp_path / "a"))
    with pytest.raises(ConfigError, match="unknown entry 'nih-5' of the suite nih; choose from nih-1, nih-10, nih-100"):
        pretended.benchmark(config(tmp_path / "b", lists, model, only=("nih-5",)))
    with pytest.raises(ConfigError, match="needs --data DIR"):
        pretended.benchmark(config(tmp_path / "c", lists, model, data=None))
    with pytest.raises(ConfigError, match="at least one model"):
        pretended.benchmark(config(tmp_path / "d", lists, model, models=("scratch",)))
    with pytest.raises(ConfigError, match="a model is given twice"):
        pretended.benchmark(config(tmp_path / "g", lists, model, models=(str(model), str(model))))
    with pytest.raises(ConfigError, match="at least one seed"):
        pretended.benchmark(config(tmp_path / "e", lists, model, seeds=()))
    with pytest.raises(CheckpointError, match="no such file or folder"):
        pretended.benchmark(config(tmp_path / "f", lists, model, models=("nowhere",)))


def test_a_folder_of_another_benchmark_is_refused(tmp_path, lists, model, capsys):
    Pretended().benchmark(config(tmp_path / "out", lists, model, seeds=(0,)))
    with pytest.raises(OutputError, match=r"holds another benchmark .suite: nih, now rsna"):
        Pretended().benchmark(config(tmp_path / "out", lists, model, suite="rsna"))
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(SystemExit):
        main(["benchmark", "phantom", "--out", str(tmp_path / "letters")])
    assert "is not empty and holds no benchmark" in capsys.readouterr().err
