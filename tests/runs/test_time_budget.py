"""A training that fills a time: the plan by hand, what is measured, and that the same command resumes the same plan."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mrm import recipes, runs
from mrm.data.records import Records
from mrm.data.samples import LabelData
from mrm.recipes import FinetuneConfig
from mrm.runs import stage_times, time_budget
from mrm.runs.crossval_plan import CrossvalConfig
from mrm.runs.finetuning import label_records, start_of
from mrm.runs.time_budget import Cost, plan_of
from mrm.system.errors import ConfigError, OutputError, RunError
from tests.support.configs import finetune_config
from tests.support.run_files import sigterm_after, trace, weights


def cost(size: int, step: float, reading: float = 0.0, workers: int = 1) -> Cost:
    return Cost(size, reading, step, threads=1, workers=workers)


# The plan, by hand ----------------------------------------------------------------------------------------


def test_the_steps_fill_the_time_less_a_margin_and_the_validations():
    """1,000 s less 5 % are 950. Ten validations of 900 images at a third of 0.03 s take 90, which is below a tenth;
    eleven would take 99, twelve 108. What is left of 950 after 10 of them, 860 s, are 28,666 images: 895 steps of 32."""
    plan = plan_of([cost(96, 0.03)], train=1_000, val=900, seconds=1_000)
    assert (plan.steps, plan.batch, plan.validate_every) == (895, 32, 90)
    assert plan.passes == pytest.approx(895 * 32 / 1_000)
    assert plan.seconds == pytest.approx(895 * 32 * 0.03 + 10 * 9)
    assert plan.seconds <= 950


@pytest.mark.parametrize(("steps", "size"), [((0.01, 0.02, 0.08), 128), ((0.01, 0.09, 0.2), 96), ((0.1, 0.2), 96)])
def test_the_largest_size_is_taken_at_which_every_image_is_seen_twelve_times(steps, size):
    """Of 5,000 images 12 passes are 60,000 images: 600 s at 0.01 s and 1,200 s at 0.02 s, of about 1,300 s."""
    costs = [cost(side, step) for side, step in zip((96, 128, 160), steps, strict=False)]
    assert plan_of(costs, train=5_000, val=100, seconds=1_500).cost.size == size


def test_few_images_end_before_the_time_does():
    """50 images are seen 40,000 / 50 = 800 times at most, in steps of 16."""
    plan = plan_of([cost(96, 0.001)], train=50, val=20, seconds=3_600)
    assert (plan.steps, plan.batch, plan.passes) == (2_500, 16, 800)
    assert plan.seconds < 60
    assert plan_of([cost(96, 0.001)], train=10, val=20, seconds=3_600).batch == 10


def test_reading_counts_where_it_is_slower_than_the_step_or_done_by_the_same_process():
    assert cost(96, 0.01, reading=0.03, workers=2).seconds() == 0.015
    assert cost(96, 0.01, reading=0.005, workers=1).seconds() == 0.01
    assert cost(96, 0.01, reading=0.005, workers=0).seconds() == 0.015
    assert cost(96, 0.03, workers=1).seconds(forward=True) == 0.01


def test_too_little_time_is_refused_with_what_is_needed():
    with pytest.raises(
        RunError, match=r"--budget is too short: 5 steps fit in it, and at least 20 are needed; give \d+s"
    ):
        plan_of([cost(96, 1.0)], train=1_000, val=10, seconds=200)


# A run ----------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch):
    """Costs as if they had been measured, and how often they were asked for; plans of a few steps."""
    calls = []

    def costs(config: FinetuneConfig, *_) -> list[Cost]:
        calls.append(config.out)
        return [Cost(64, 0.0, 0.01, 1, 0)]

    monkeypatch.setattr(time_budget, "measured", costs)
    monkeypatch.setattr(time_budget, "LEAST_STEPS", 1)
    return calls


def config_of(phantoms, init, out, **changes) -> FinetuneConfig:
    plain = finetune_config(phantoms, init, out, log_every=1)
    return replace(plain, budget="3s", **changes)


def test_a_stopped_run_resumes_by_the_plan_of_its_start_bit_for_bit(phantoms, pretrained_run, tmp_path, measured):
    whole = runs.finetune(config_of(phantoms, pretrained_run, tmp_path / "whole"))
    planned = recipes.read_yaml(FinetuneConfig, whole / "config.yaml")
    assert (planned.budget, planned.image_size, planned.training.global_batch) == ("3s", 64, 16)
    assert planned.training.steps == len(trace(whole)) > 8
    stopped = config_of(phantoms, pretrained_run, tmp_path / "stopped")
    with sigterm_after(3), pytest.raises(SystemExit):
        runs.finetune(stopped)
    before = len(measured)
    resumed = runs.finetune(stopped)
    assert len(measured) == before  # nothing is measured again
    assert [row["labels"] for row in trace(resumed)] == [row["labels"] for row in trace(whole)]
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())


def test_the_plan_is_printed_in_a_sentence_and_kept_with_what_was_measured(
    phantoms, pretrained_run, tmp_path, measured, capsys
):
    run = runs.finetune(config_of(phantoms, pretrained_run, tmp_path / "run", max_steps=2))
    assert len(trace(run)) == 2  # --max-steps shortens the planned run
    kept = json.loads((run / "plan.json").read_text())
    assert kept["cost"] == {"size": 64, "reading": 0.0, "step": 0.01, "threads": 1, "workers": 0}
    printed = capsys.readouterr().out
    assert f"plan: {kept['steps']} steps of 16 images of 64 x 64 pixels" in printed


def test_another_budget_is_another_run(phantoms, pretrained_run, tmp_path, measured):
    config = config_of(phantoms, pretrained_run, tmp_path / "run", max_steps=1)
    runs.finetune(config)
    with pytest.raises(OutputError, match="budget: 3s, now 4s"):
        runs.finetune(replace(config, budget="4s"))


def test_a_run_without_a_model_starts_from_random_weights_of_an_encoder(phantoms, tmp_path, capsys):
    config = finetune_config(phantoms, None, tmp_path / "run", steps=1)
    config = replace(config, encoder="vit_tiny_patch16_224", encoder_options={"depth": 1}, image_size=32)
    run = runs.finetune(config)
    assert json.loads((run / "last" / "config.json").read_text())["origin"]["init"] is None
    for changes in ({"tune": "head"}, {"probe_first": True}):
        with pytest.raises(ConfigError, match="without --init all weights are random"):
            runs.finetune(replace(config, out=tmp_path / "other", **changes))
    assert not (tmp_path / "other").exists()


def test_sizes_grow_from_that_of_the_encoder_to_that_of_the_images(phantoms, pretrained_run, tmp_path, monkeypatch):
    """These phantoms have 128 pixels; the encoder sees 64 in patches of 16, a random one starts from 64."""
    monkeypatch.setattr(time_budget, "STEPS", 1)
    monkeypatch.setattr(time_budget, "SAMPLE", 2)
    monkeypatch.setattr(time_budget, "PASSES", 0)
    config = config_of(phantoms, pretrained_run, tmp_path / "run")
    train = label_records(config)[0]
    costs = time_budget.measured(config, start_of(config), train, len(train), 10, 3_600)
    assert [one.size for one in costs] == [64, 80, 112, 128]
    assert all(one.step > 0 and one.reading > 0 for one in costs)
    fixed = time_budget.measured(replace(config, image_size=96), start_of(config), train, len(train), 10, 3_600)
    assert [one.size for one in fixed] == [96]
    random = replace(
        config, init=None, encoder="convnext_atto", encoder_options={"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
    )
    assert time_budget.sizes_of(random, start_of(random), train) == [64, 96, 128]


def test_steps_are_measured_with_as_many_images_as_the_run_has(phantoms, pretrained_run, tmp_path, monkeypatch):
    """A step of 16 images costs more for each of them than one of 32, so a plan from other steps leaves time unused.

    Here a step takes 8 ms, and 1 ms for each image: 1.25 ms an image in steps of 32, 1.5 ms in those of 16. An image is read in
    2 ms, but for the first time in 50 ms.
    """
    clock, seen = [0.0], set()
    monkeypatch.setattr(stage_times, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def step(bench, batch, precision):
        took = 0.008 + 0.001 * len(batch.index_B)
        return 0.0, took / 4, took / 2, took / 4

    def sample(data, epoch, index):
        clock[0] += 0.002 if index in seen else 0.05
        seen.add(index)
        return read(data, epoch, index)

    read = LabelData.sample
    monkeypatch.setattr(stage_times.StepBench, "_step", step)
    monkeypatch.setattr(LabelData, "sample", sample)
    config = config_of(phantoms, pretrained_run, tmp_path / "run")
    config = replace(config, image_size=32, training=replace(config.training, threads=1, workers=0))
    train, *_ = label_records(config)
    for epoch, batch in ((400, 32), (200, 16)):
        (cost,) = time_budget.measured(config, start_of(config), train, epoch, 10, 3_600)
        assert cost.step == pytest.approx(0.001 + 0.008 / batch)
        assert cost.reading == pytest.approx(0.002)
    two = SimpleNamespace(device=torch.device("cpu"), num_processes=2)
    monkeypatch.setattr(time_budget, "processes", lambda: two)
    (cost,) = time_budget.measured(config, start_of(config), train, 400, 10, 3_600)
    assert cost.step == pytest.approx((0.008 + 0.001 * 16) / 32)  # each rank takes 16 of the 32 images
    assert cost.reading == pytest.approx(0.001)


def test_an_epoch_that_takes_some_records_more_often_counts_as_it_is(phantoms, pretrained_run, tmp_path, measured):
    """Half of the records come from a site that an epoch takes three times: a pass is twice as many images."""
    records = Records.load(phantoms / "records.csv")
    rows = [replace(row, extra={**row.extra, "site": "ab"[number % 2]}) for number, row in enumerate(records)]
    table = replace(records, rows=rows).to_csv(tmp_path / "sites.csv")
    passes = {}
    for name, by_site in (("plain", {}), ("weighted", {"a": 3.0})):
        config = config_of(phantoms, pretrained_run, tmp_path / name, max_steps=1, site_weights=by_site, train=table)
        plan = json.loads((runs.finetune(config) / "plan.json").read_text())
        passes[name] = plan["passes"] / (plan["steps"] * plan["batch"])
    assert passes["plain"] == pytest.approx(2 * passes["weighted"])


def test_all_folds_of_a_cross_validation_follow_one_plan(phantoms, tmp_path, measured):
    settings = tmp_path / "settings.yaml"
    settings.write_text("encoder: vit_tiny_patch16_224\nencoder_options: {depth: 1}\naugment: {rotate: 5}\n")
    config = CrossvalConfig(
        "cpu", phantoms / "records.csv", None, tmp_path / "out", folds=2, repeats=1, classes=("effusion",), budget="2s",
        settings=settings, max_steps=1, workers=0, floors=False,
    )  # fmt: skip
    results = runs.crossval(config)
    assert len(measured) == 1
    planned = recipes.read_yaml(FinetuneConfig, tmp_path / "out" / "fine-tuning.yaml")
    assert (planned.budget, planned.image_size, planned.augment.rotate) == ("2s", 64, 5)
    (tmp_path / "out" / "units" / "repeat1-fold2.npz").unlink()
    assert runs.crossval(config) == results  # by the same plan, which is not made again
    assert len(measured) == 1
    assert "--budget 2s" in results["next"][-1]
