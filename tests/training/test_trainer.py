"""The loop's contracts: a run can be stopped anywhere, divided anyhow, and never steps on a gradient that is not finite."""

import csv
import math
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrm import runs
from mrm.models import model_folder
from mrm.system.errors import ConfigError, TrainingError
from mrm.training import checkpoints, trainer
from mrm.training.trainer import Stopped, Trainer
from tests.support import forks
from tests.support.commands import start_pretraining
from tests.support.configs import pretrain_config
from tests.support.run_files import sigterm_after, trace, weights


@pytest.fixture(scope="module")
def whole(phantoms, tmp_path_factory):
    """A run from start to end, to compare with."""
    return runs.pretrain(pretrain_config(phantoms, tmp_path_factory.mktemp("whole") / "run"))


def test_losses_fall(phantoms, tmp_path):
    rows = trace(runs.pretrain(pretrain_config(phantoms, tmp_path / "run", steps=40, warmup_steps=4, lr=3e-3)))
    first, last = rows[:5], rows[-5:]
    for name in ("image", "report"):
        assert np.mean([float(r[name]) for r in last]) < 0.97 * np.mean([float(r[name]) for r in first])


def test_a_run_is_the_same_whenever_it_is_made(whole, phantoms, tmp_path):
    again = runs.pretrain(pretrain_config(phantoms, tmp_path / "again"))
    assert trace(again) == trace(whole)


def test_worker_processes_change_nothing(whole, phantoms, tmp_path):
    assert trace(runs.pretrain(pretrain_config(phantoms, tmp_path / "run", workers=2))) == trace(whole)


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_stop_and_resume_is_the_same_run(whole, phantoms, tmp_path, stop_at):
    """SIGTERM in the middle of an epoch saves and stops; the same command then resumes, equal to the bit."""
    run = tmp_path / "run"
    with sigterm_after(stop_at), pytest.raises(Stopped) as stopped:
        runs.pretrain(pretrain_config(phantoms, run))
    assert stopped.value.code == 75
    assert len(trace(run)) == stop_at
    runs.pretrain(pretrain_config(phantoms, tmp_path / "run"))
    assert trace(run) == trace(whole)
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(run).items())


def test_a_stop_before_the_first_step_leaves_no_checkpoint(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_agreed_to_stop", lambda self: True)
    with pytest.raises(Stopped):
        runs.pretrain(pretrain_config(phantoms, tmp_path / "run"))
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    assert not (tmp_path / "run" / "last").exists()


def test_killed_runs_go_on_from_the_last_checkpoint(phantoms, tmp_path, capsys):
    """kill -9 wherever it hits: rows after the last checkpoint are made again, equal to the bit."""
    cfg = pretrain_config(phantoms, tmp_path / "killed", steps=60)
    straight = runs.pretrain(replace(cfg, out=tmp_path / "straight"))
    process = start_pretraining(tmp_path, cfg)
    log = cfg.out / "log.csv"
    while process.poll() is None and (not log.is_file() or log.read_text().count("\n") < 8):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 7 <= len(trace(cfg.out)) < 60  # it was killed inside the run
    capsys.readouterr()
    runs.pretrain(cfg)
    assert "resuming from step" in capsys.readouterr().out
    assert trace(cfg.out) == trace(straight)


def test_8_by_1_equals_2_by_4_equals_1_by_8(whole, phantoms, tmp_path):
    """Reports differ in length, so a mean of means would not pass; dropout is on, so neither would batch noise."""
    for micro in (1, 4):
        run = runs.pretrain(pretrain_config(phantoms, tmp_path / str(micro), micro_batch=micro))
        for a, b in zip(trace(run), trace(whole), strict=True):
            assert float(a["image"]) == pytest.approx(float(b["image"]), rel=1e-5)
            assert float(a["report"]) == pytest.approx(float(b["report"]), rel=1e-5)
            assert float(a["gradient"]) == pytest.approx(float(b["gradient"]), rel=1e-4)


def test_two_processes_equal_one(whole, phantoms, tmp_path):
    cfg = pretrain_config(phantoms, tmp_path / "two")

    def one_of_two() -> None:
        runs.pretrain(cfg)
        assert trainer.processes().num_processes == 2

    assert forks.ranks(one_of_two, 2) == [0, 0]
    for a, b in zip(trace(cfg.out), trace(whole), strict=True):
        assert float(a["image"]) == pytest.approx(float(b["image"]), rel=1e-5)
        assert float(a["report"]) == pytest.approx(float(b["report"]), rel=1e-5)


def test_a_gradient_that_is_not_finite_is_not_stepped_and_a_run_of_them_stops(phantoms, tmp_path, monkeypatch, capsys):
    from mrm.training import tasks

    broken = {3, 4}
    forward, calls = tasks.PretrainTask.forward, []

    def poisoned(self, batch):
        terms = forward(self, batch)
        calls.append(1)
        bad = len(calls) in broken
        return {k: t._replace(sum=t.sum * math.nan) if bad else t for k, t in terms.items()}

    monkeypatch.setattr(tasks.PretrainTask, "forward", poisoned)
    run = runs.pretrain(pretrain_config(phantoms, tmp_path / "run"))
    assert capsys.readouterr().out.count("update skipped") == 2
    assert all(v.isfinite().all() for v in weights(run).values())
    broken.update(range(100))
    calls.clear()
    with pytest.raises(TrainingError, match="5 steps in a row without a finite gradient"):
        runs.pretrain(pretrain_config(phantoms, tmp_path / "bad", bad_steps=5))


@pytest.fixture
def poison(monkeypatch):
    """A function after which the losses of the given steps, counted from 1, are not numbers."""
    from mrm.training import tasks

    forward, calls, broken = tasks.PretrainTask.forward, [], set()

    def poisoned(self, batch):
        terms = forward(self, batch)
        calls.append(1)
        return {k: t._replace(sum=t.sum * (math.nan if len(calls) in broken else 1)) for k, t in terms.items()}

    def start(*steps: int) -> None:
        calls.clear()
        broken.clear()
        broken.update(steps)
        monkeypatch.setattr(tasks.PretrainTask, "forward", poisoned)

    return start


def test_a_skipped_step_is_left_out_of_the_means_of_the_log_and_counted(phantoms, tmp_path, poison):
    poison(3, 4, 6, 7, 8)
    by_step = trace(runs.pretrain(pretrain_config(phantoms, tmp_path / "a")))
    poison(3, 4, 6, 7, 8)
    by_three = trace(runs.pretrain(pretrain_config(phantoms, tmp_path / "b", log_every=3)))
    assert [row["skipped"] for row in by_step] == list("0011011100")
    assert [row["step"] for row in by_step if not row["image"]] == ["3", "4", "6", "7", "8"]
    assert all((row["image"] == "") == (row["report"] == "") == (row["gradient"] == "") for row in by_step)
    image = [
        float(row["image"] or "nan") for row in by_step
    ]  # as many patches in every step: the mean is that of steps
    assert [row["skipped"] for row in by_three] == ["1", "2", "2", "0"]
    expected = [(image[0] + image[1]) / 2, image[4], image[8], image[9]]
    assert [float(row["image"]) for row in by_three] == pytest.approx(expected, rel=1e-6)
    assert [row["gradient"] for row in by_three] == [by_step[i]["gradient"] for i in (1, 4, 8, 9)]


def test_a_stop_within_a_window_with_a_skipped_step_changes_no_row(phantoms, tmp_path, poison, monkeypatch):
    poison(2, 5)
    straight = trace(runs.pretrain(pretrain_config(phantoms, tmp_path / "a", log_every=5)))
    poison(2, 5)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_agreed_to_stop", lambda self: self.step == 4)
        with pytest.raises(Stopped):
            runs.pretrain(pretrain_config(phantoms, tmp_path / "b", log_every=5))
    poison(1)  # the fifth
    assert trace(runs.pretrain(pretrain_config(phantoms, tmp_path / "b", log_every=5))) == straight


class Killed(BaseException):
    pass


@pytest.mark.parametrize("link", ["last", "best"])
def test_a_kill_before_a_checkpoint_is_linked_leaves_no_link_behind(phantoms, tmp_path, monkeypatch, link):
    """The validations at 5 and 10 both find a better model, so both links move at 10."""
    cfg = pretrain_config(phantoms, tmp_path / "run", val=phantoms / "records.csv", lr=1e-4)
    real = checkpoints._link

    def killed(at: Path, folder: Path) -> None:
        if at.name == link and folder.name == "step-00000010":
            raise Killed
        real(at, folder)

    monkeypatch.setattr(checkpoints, "_link", killed)
    with pytest.raises(Killed):
        runs.pretrain(cfg)
    assert (cfg.out / link).resolve().name != "step-00000010"
    assert (cfg.out / "checkpoints" / "step-00000010").is_dir()
    (cfg.out / "checkpoints" / ".step-00000012.tmp").mkdir()  # as a kill within a checkpoint leaves it
    monkeypatch.undo()
    runs.pretrain(cfg)
    assert {(cfg.out / name).resolve().name for name in ("last", "best")} == {"step-00000010"}
    assert not list((cfg.out / "checkpoints").glob(".*"))


def test_an_average_of_weights_is_kept_and_survives_a_stop(phantoms, tmp_path, monkeypatch):
    plain = runs.pretrain(pretrain_config(phantoms, tmp_path / "plain", ema=0.9))
    assert torch.load(plain / "last" / "training.pt", weights_only=True)["weights"]
    raw = torch.load(plain / "last" / "training.pt", weights_only=True)["weights"]
    assert not torch.equal(raw["image_decoder.pixels.weight"], weights(plain)["image_decoder.pixels.weight"])
    stopped = pretrain_config(phantoms, tmp_path / "stopped", ema=0.9)
    after = Trainer._after_step

    def die(self):
        after(self)
        if self.step == 6:
            raise ConnectionAbortedError  # nothing is saved on the way out, as when a process is killed

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_after_step", die)
        with pytest.raises(ConnectionAbortedError):
            runs.pretrain(stopped)
    assert (stopped.out / "last").resolve().name == "step-00000004"
    runs.pretrain(stopped)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(stopped.out)[name], value)


def test_old_checkpoints_go_and_the_best_stays(phantoms, tmp_path):
    run = runs.pretrain(
        pretrain_config(phantoms, tmp_path / "run", steps=20, save_every=2, keep=2, val=phantoms / "records.csv")
    )
    kept = {p.name for p in (run / "checkpoints").iterdir()}
    assert {"step-00000018", "step-00000020"} <= kept
    assert (run / "best").resolve().name in kept
    assert len(kept) <= 3
    assert (run / "images" / "step-00000020.png").is_file()
    with open(run / "validation.csv", newline="") as text:
        assert set(next(csv.DictReader(text))) == {"step", "val_image", "val_report", "score"}


def test_a_full_disk_loses_nothing(whole, phantoms, tmp_path, monkeypatch):
    cfg = pretrain_config(phantoms, tmp_path / "run")
    write = model_folder.write_into

    def full(folder, *rest):
        write(folder, *rest)
        if "00000008" in folder.name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_folder, "write_into", full)
    with pytest.raises(TrainingError, match=r"cannot write a checkpoint.*No space left"):
        runs.pretrain(cfg)
    monkeypatch.undo()
    assert (cfg.out / "last").resolve().name == "step-00000004"
    assert not list((cfg.out / "checkpoints").glob(".*"))
    runs.pretrain(cfg)
    assert trace(cfg.out) == trace(whole)


def test_fewer_records_than_a_batch_is_an_error(phantoms, tmp_path):
    with pytest.raises(TrainingError, match="48 records are fewer than the global batch of 64"):
        runs.pretrain(pretrain_config(phantoms, tmp_path / "run", global_batch=64))


def test_a_batch_that_does_not_divide_is_an_error(phantoms, tmp_path):
    with pytest.raises(TrainingError, match="does not divide into micro-batches of 3"):
        runs.pretrain(pretrain_config(phantoms, tmp_path / "run", micro_batch=3))


def test_batch_size_one_works(phantoms, tmp_path):
    rows = trace(runs.pretrain(pretrain_config(phantoms, tmp_path / "run", global_batch=1, steps=3)))
    assert [float(row["epoch"]) for row in rows] == pytest.approx([1 / 48, 2 / 48, 3 / 48], abs=1e-4)
    assert all(0.9 < float(row["image"]) < 2.5 for row in rows)  # a fresh model knows nothing
    assert all(float(row["report"]) == pytest.approx(math.log(300), rel=0.1) for row in rows if float(row["report"]))


def test_bf16_follows_fp32(whole, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr("mrm.system.hardware.computes_bf16", lambda _: True)  # a processor without it imitates it
    for a, b in zip(
        trace(runs.pretrain(pretrain_config(phantoms, tmp_path / "run", precision="bf16"))), trace(whole), strict=True
    ):
        assert float(a["image"]) == pytest.approx(float(b["image"]), rel=0.03)
        assert float(a["report"]) == pytest.approx(float(b["report"]), rel=0.03)


@pytest.mark.parametrize(
    ("precision", "able", "used", "lines"),
    [("auto", False, "fp32", 1), ("auto", True, "bf16", 0), ("fp32", False, "fp32", 0)],
)
def test_a_processor_without_bf16_computes_in_fp32_and_says_so(
    phantoms, tmp_path, monkeypatch, capsys, precision, able, used, lines
):
    monkeypatch.setattr("mrm.system.hardware.computes_bf16", lambda _: able)
    run = runs.pretrain(pretrain_config(phantoms, tmp_path / "run", steps=1, warmup_steps=0, precision=precision))
    assert f"precision: {used}\n" in (run / "config.yaml").read_text()
    assert capsys.readouterr().out.count("precision fp32: this processor has no bf16 instructions\n") == lines


def test_bf16_that_is_asked_for_where_it_would_be_imitated_is_refused(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr("mrm.system.hardware.computes_bf16", lambda _: False)
    with pytest.raises(
        ConfigError, match=r"this processor has no bf16 .* slower than fp32; choose fp32 for the precision"
    ):
        runs.pretrain(pretrain_config(phantoms, tmp_path / "run", precision="bf16"))
    assert not (tmp_path / "run").exists()


def test_the_time_left_is_told_before_the_first_log(phantoms, tmp_path, monkeypatch, capsys):
    """In steps of a minute by the clock, the second of five is the first that tells enough: three minutes are left."""
    minutes = iter(range(0, 6000, 60))
    monkeypatch.setattr("mrm.training.run_log.time.perf_counter", lambda: float(next(minutes)))
    monkeypatch.setattr(trainer, "EARLY", 100.0)
    runs.pretrain(pretrain_config(phantoms, tmp_path / "run", steps=5, log_every=5, validate_every=9, save_every=9))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split("  ")[0] for line in said[:2]] == ["step 2/5", "step 5/5"]
    assert said[0].endswith("left, a first estimate")
