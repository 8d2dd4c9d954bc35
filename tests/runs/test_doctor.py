"""`mrm doctor`: what it measures, what it concludes, what it refuses."""

import json
from dataclasses import replace

import pytest

from mrm import cli, recipes
from mrm.data.records import Record
from mrm.models.mrm import MRM
from mrm.runs import doctor
from mrm.runs.doctor import Diagnosis
from mrm.runs.stage_times import READING, STEP, Stage
from mrm.runs.step_memory import StepMemory, memory_advice
from mrm.system.errors import ConfigError, RecordError, RunError
from mrm.training.config import TrainConfig


@pytest.fixture(scope="module")
def found(phantoms) -> Diagnosis:
    return doctor.examine(phantoms / "records.csv", "tiny", batch=4, sample=6, steps=2, price=3.0)


def test_every_stage_is_measured_by_itself(found):
    assert [s.name for s in found.stages] == [*READING, *STEP]
    for stage in found.stages:
        assert 0 < stage.low <= stage.median <= stage.high
        assert stage.n == (6 if stage.name in READING else 2)


def test_rates_time_and_cost_follow_from_the_stages(found):
    times = {s.name: s.median for s in found.stages}
    assert found.step == pytest.approx(1 / sum(times[n] for n in STEP))
    assert found.loader == pytest.approx(max(found.workers, 1) / sum(times[n] for n in READING))
    assert found.images == 15 * 64  # 48 records, 20 epochs, steps of 64
    assert found.seconds >= found.images / found.step
    assert found.cost == pytest.approx(3.0 * found.seconds / 3600)
    assert found.peak_share is None  # of a GPU only
    assert found.bound == ("loader" if found.loader < found.step else "step")


def test_the_table_says_what_bounds_the_run(found):
    text = found.table()
    assert f"the {found.bound} bounds the run" in text
    assert all(stage.name in text for stage in found.stages)


def diagnosis(reading: float, step: float, **changes) -> Diagnosis:
    """What would be found where an image takes so many seconds to read, and in the step."""
    stages = [Stage(n, reading / 4, 0, 1, 1) for n in READING] + [Stage(n, step / 4, 0, 1, 1) for n in STEP]
    empty = Diagnosis(
        tuple(stages), "NVIDIA H200", 64, "bf16", 2, loader=2 / reading, step=1 / step, other_precision=0.1,
        half_batch=None, flops=1e9, peak_share=0.4, bound="loader" if 2 / reading < 1 / step else "step",
        memory=StepMemory(10**9, 10**8, 10**11), images=100, seconds=1.0, cost=None, unreadable={}, advice=(),
    )  # fmt: skip
    return replace(empty, **changes)


def advice(found: Diagnosis, tmp_path) -> str:
    return "\n".join(doctor.advice(found, [Record(tmp_path / "a.jpg")]))


def test_a_slow_loader_is_told_to_pack_and_to_use_more_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.hardware, "cores", lambda: 16)
    said = advice(diagnosis(reading=0.08, step=0.01), tmp_path)
    assert "mrm pack" in said
    assert "--training.workers 8" in said
    monkeypatch.setattr(doctor.hardware, "cores", lambda: 4)
    assert "8 cores would feed this step; this machine has 4" in advice(diagnosis(0.08, 0.01), tmp_path)


def test_packed_records_are_not_told_to_pack(tmp_path):
    class Stored:
        def read_bytes(self) -> bytes:
            return b""

    assert "mrm pack" not in "\n".join(doctor.advice(diagnosis(0.08, 0.01), [Record(Stored())]))


def test_the_faster_precision_and_a_larger_batch_are_advised_if_measured_faster(tmp_path):
    slow = diagnosis(0.001, 0.1)
    assert advice(slow, tmp_path) == "nothing: loader and step are in balance"
    assert "--training.precision bf16 makes the step 2.5 times" in advice(
        replace(slow, precision="fp32", other_precision=25.0), tmp_path
    )
    assert "fp32: this machine computes it 2.0 times" in advice(replace(slow, other_precision=20.0), tmp_path)
    assert "--training.micro-batch" in advice(replace(slow, half_batch=7.0), tmp_path)
    assert "a GPU" in advice(replace(slow, device="CPU of some make, 2 threads"), tmp_path)


def test_memory_counts_weights_and_what_a_step_keeps_of_an_image(found):
    """`tiny` keeps no average: its weights are there four times, as weights, gradients and two moments of AdamW."""
    weights = sum(p.numel() for p in MRM(recipes.TINY_MODEL).parameters())
    assert found.memory.fixed == pytest.approx(16 * weights, rel=0.25)  # the vocabulary is that of the records
    assert found.memory.image > 0
    assert f"about {found.memory.fits():,} images fit" in found.table()


def test_a_step_that_does_not_fit_is_told_to_be_computed_in_parts():
    """Of 10 GB 8 can be used; 2 are for the weights, so 6 images of 1 GB fit in parts of 4, which divides 64."""
    training = TrainConfig(global_batch=64)
    memory = StepMemory(2 * 10**9, 10**9, 10**10)
    assert memory.fits() == 6
    assert memory_advice(memory, training) == [
        "a step of 64 images needs about 66.0 GB, and 8.0 GB can be used: --training.micro-batch 4 computes it in parts, "
        "with the same result"
    ]
    assert memory_advice(memory, replace(training, micro_batch=4)) == []
    assert "not even one image fits" in memory_advice(StepMemory(2 * 10**9, 7 * 10**9, 10**10), training)[0]


def test_a_fine_tuning_is_measured_at_the_size_that_is_asked_for(phantoms, pretrained_run):
    """Four times the patches keep about four times as much, and compute four times as much and more in attention."""
    small, large = (
        doctor.examine(
            phantoms / "records.csv", init=pretrained_run, batch=2, sample=2, steps=1, finetune="tiny", image_size=side
        )
        for side in (64, 128)
    )
    assert 3.2 < large.memory.image / small.memory.image < 8
    assert 3.5 < large.flops / small.flops < 8
    assert [s.name for s in large.stages] == [*READING, *STEP]
    assert large.images == 300 * 32
    with pytest.raises(
        ConfigError, match=r"image_size 100 x 100 does not divide.*the nearest size that does is 96 x 96"
    ):
        doctor.examine(phantoms / "records.csv", init=pretrained_run, finetune="tiny", image_size=100)
    with pytest.raises(RunError, match=r"--image-size is that of --finetune RECIPE"):
        doctor.examine(phantoms / "records.csv", "tiny", image_size=64)


def test_images_that_cannot_be_read_are_left_out_and_named(phantoms, tmp_path):
    whole = sorted((phantoms / "images").iterdir())[:2]
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(whole[0].read_bytes()[:500])
    lines = [f"{path},clear lungs" for path in (whole[0], damaged, whole[1])]
    (tmp_path / "records.csv").write_text("\n".join(["image_path,report_content", *lines]) + "\n")
    found = doctor.examine(tmp_path / "records.csv", "tiny", batch=2, sample=3, steps=1)
    assert len(found.unreadable) == 1
    assert damaged.name in next(iter(found.unreadable))
    assert found.stages[0].n == 2
    assert "1 of the images tried cannot be read" in found.table()


def test_no_readable_image_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "records.csv").write_text("image_path,report_content\na.png,clear\n")
    with pytest.raises(RunError, match=r"none of the 1 images tried could be read; first error: .*a\.png"):
        doctor.examine(tmp_path / "records.csv", "tiny")


def test_a_fine_tuning_needs_labels(phantoms, tmp_path):
    image = sorted((phantoms / "images").iterdir())[0]
    (tmp_path / "records.csv").write_text(f"image_path,report_content\n{image},clear\n")
    with pytest.raises(
        RecordError, match=r"records\.csv: no numeric column to use as a class; the columns are image_path"
    ):
        doctor.examine(tmp_path / "records.csv", finetune="nih-1")


def test_unknown_recipes_and_empty_measurements_are_refused(phantoms):
    with pytest.raises(ConfigError, match="unknown recipe 'mimik'"):
        doctor.examine(phantoms / "records.csv", "mimik")
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        doctor.examine(phantoms / "records.csv", "none.yaml")
    with pytest.raises(RunError, match="must be at least 1, not 0"):
        doctor.examine(phantoms / "records.csv", "tiny", sample=0)


def test_the_command_takes_a_configuration_and_writes_json(phantoms, tmp_path, capsys):
    config = recipes.tiny(phantoms / "records.csv", tmp_path / "run")
    config = replace(config, model=replace(config.model, image_decoder="cross"))
    (tmp_path / "config.yaml").write_text(recipes.to_yaml(config))
    arguments = ["--batch", "2", "--sample", "2", "--steps", "1", "--json", str(tmp_path / "found.json")]
    cli.main(["doctor", str(phantoms / "records.csv"), str(tmp_path / "config.yaml"), *arguments])
    assert "bounds the run" in capsys.readouterr().out
    written = json.loads((tmp_path / "found.json").read_text())
    assert [s["name"] for s in written["stages"]] == [*READING, *STEP]
