"""A run on other numbers of processes and nodes, in parts, compiled: the same run, and one that can be gone on with."""

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mrm import runs
from mrm.models import model_folder
from mrm.system.errors import TrainingError
from mrm.system.hardware import computes_bf16
from mrm.training import parallel
from mrm.training.config import TrainConfig
from mrm.training.optimization import build_optimizer, update
from mrm.training.trainer import Stopped, Trainer
from tests.support.commands import start_pretraining
from tests.support.configs import MICRO, pretrain_config
from tests.support.run_files import trace, weights

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
pytestmark = pytest.mark.filterwarnings("ignore:.*No CUDA runtime.*")


def launched(tmp_path: Path, cfg, *launcher: str) -> str:
    """The run from a command line, to its end; what it printed."""
    process = start_pretraining(tmp_path, cfg, *launcher)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    return output


def assert_same_losses(run: Path, other: Path, rel: float = 1e-5) -> None:
    rows, others = trace(run), trace(other)
    assert [r["step"] for r in rows] == [r["step"] for r in others]
    for a, b in zip(rows, others, strict=True):
        for name in {"image", "report", "contrast", "features"} & set(b):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=rel)
        assert float(a["gradient"]) == pytest.approx(float(b["gradient"]), rel=10 * rel)


@pytest.fixture(scope="module")
def whole(phantoms, tmp_path_factory):
    """Ten steps in one process, with everything that several processes could get wrong."""
    return runs.pretrain(pretrain_config(phantoms, tmp_path_factory.mktemp("scale") / "whole", **EVERYTHING))


EVERYTHING = {"ema": 0.9, "clip": 1.0, "micro_batch": 2}  # an average, clipped gradients, accumulated


@pytest.fixture(scope="module")
def halves(phantoms, tmp_path_factory):
    """The same ten steps in two processes: {sharding: run}, with its checkpoints after steps 4, 8 and 10."""
    folder = tmp_path_factory.mktemp("halves")
    made = {}
    for sharding in ("none", "full"):
        cfg = pretrain_config(phantoms, folder / sharding, sharding=sharding, keep=9, **EVERYTHING)
        launched(folder, cfg, *TWO)
        made[sharding] = cfg.out
    return made


def left_at(step: int, run: Path, copy: Path) -> Path:
    """The run as it would be had it been killed after the checkpoint of this step."""
    shutil.copytree(run, copy, symlinks=True)
    for folder in (copy / "checkpoints").glob("step-*"):
        if folder.name > f"step-{step:08d}":
            shutil.rmtree(folder)
    return copy


@pytest.mark.slow  # a minute of starting processes
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_equal_one(whole, halves, sharding):
    """Accumulation, clipping and the average of weights included. What they wrote is the same model folder."""
    assert_same_losses(halves[sharding], whole)
    ours, theirs = weights(halves[sharding]), weights(whole)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)
    model_folder.load(halves[sharding])
    state = torch.load(halves[sharding] / "last" / "training.pt", weights_only=True)
    moments = torch.load(whole / "last" / "training.pt", weights_only=True)["optimizer"]["state"]
    for number, values in state["optimizer"]["state"].items():
        assert {k: v.shape for k, v in values.items()} == {k: v.shape for k, v in moments[number].items()}


VARIANTS = {
    "model": replace(MICRO, contrast_width=16, feature_blocks=2),
    "contrast_weight": 0.5,
    "feature_weight": 1.0,
    "steps": 5,
}


@pytest.fixture(scope="module")
def with_variants(phantoms, tmp_path_factory):
    """A run whose contrast compares all pairs of a step, and whose features come from the average of the weights."""
    return runs.pretrain(pretrain_config(phantoms, tmp_path_factory.mktemp("variants") / "one", ema=0.9, **VARIANTS))


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_with_contrast_and_features_equal_one(with_variants, phantoms, tmp_path, sharding):
    out = tmp_path / "two"
    launched(
        tmp_path, pretrain_config(phantoms, out, sharding=sharding, **EVERYTHING | {"clip": None}, **VARIANTS), *TWO
    )
    assert_same_losses(out, with_variants)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_go_on_in_one(whole, halves, phantoms, tmp_path, sharding):
    out = left_at(4, halves[sharding], tmp_path / "run")
    runs.pretrain(pretrain_config(phantoms, out, sharding=sharding, **EVERYTHING))
    assert_same_losses(out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_one_process_goes_on_in_two(whole, phantoms, tmp_path, sharding):
    """From the checkpoint of step 8, whichever way the weights are held from there on; rows of step 9 and 10 are new."""
    one = runs.pretrain(pretrain_config(phantoms, tmp_path / "one", keep=9, **EVERYTHING))
    out = left_at(8, one, tmp_path / "run")
    said = launched(tmp_path, pretrain_config(phantoms, out, sharding=sharding, **EVERYTHING), *TWO)
    assert "resuming from step 8/10" in said
    assert_same_losses(out, whole)


@pytest.mark.slow
def test_the_same_two_processes_go_on_to_the_same_bits(halves, phantoms, tmp_path):
    """A row of the log that began before the checkpoint and ends after it has both processes' sums in it."""
    sparse = {**EVERYTHING, "log_every": 5}
    straight = pretrain_config(phantoms, tmp_path / "straight", sharding="full", keep=9, **sparse)
    launched(tmp_path, straight, *TWO)
    again = replace(straight, out=left_at(4, straight.out, tmp_path / "again"))
    launched(tmp_path, again, *TWO)
    assert trace(again.out) == trace(straight.out)
    assert len(trace(again.out)) == 2
    assert all(torch.equal(v, weights(straight.out)[k]) for k, v in weights(again.out).items())


@pytest.mark.slow
@pytest.mark.skipif(not computes_bf16(torch.device("cpu")), reason="this processor has no bf16 instructions")
def test_bf16_in_parts_follows_bf16_whole(phantoms, tmp_path):
    one = runs.pretrain(pretrain_config(phantoms, tmp_path / "one", steps=4, precision="bf16"))
    two = pretrain_config(phantoms, tmp_path / "two", steps=4, precision="bf16", sharding="full")
    launched(tmp_path, two, *TWO)
    assert_same_losses(two.out, one, rel=5e-3)


@pytest.mark.slow
def test_two_nodes_of_one_process(phantoms, tmp_path):
    """Two launches that find each other over a port of loopback, as two nodes do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cfg = pretrain_config(phantoms, tmp_path / "run")
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test")
    node = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meeting)
    nodes = [start_pretraining(tmp_path, cfg, *node, "--node-rank", str(rank)) for rank in (0, 1)]
    said = [process.communicate(timeout=280)[0] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], said
    assert_same_losses(cfg.out, runs.pretrain(pretrain_config(phantoms, tmp_path / "one")))


@pytest.mark.slow
def test_a_scheduler_that_signals_every_process_loses_nothing(phantoms, tmp_path):
    """SIGTERM reaches torchrun and its processes at once, and those again from torchrun: save, then stop."""
    cfg = pretrain_config(phantoms, tmp_path / "run", steps=400, save_every=400)
    file = tmp_path / "run.yaml"
    from mrm import recipes

    file.write_text(recipes.to_yaml(cfg))
    process = subprocess.Popen(
        [sys.executable, *TWO, "-m", "mrm", "pretrain", "--config", str(file)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    log = cfg.out / "log.csv"
    while process.poll() is None and (not log.is_file() or log.read_text().count("\n") < 4):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    step = int((cfg.out / "last").resolve().name.removeprefix("step-"))
    assert process.returncode != 0
    assert f"stopped and saved at step {step}/400" in said
    assert 3 <= step == int(trace(cfg.out)[-1]["step"]) < 400


def test_a_second_sigterm_does_not_kill_a_run_that_is_saving(phantoms, tmp_path, monkeypatch):
    after = Trainer._after_step

    def twice(self):
        after(self)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_after_step", twice)
    with pytest.raises(Stopped):
        runs.pretrain(pretrain_config(phantoms, tmp_path / "run"))
    assert (tmp_path / "run" / "last").resolve().name == "step-00000001"


def test_nodes_that_do_not_share_the_runs_folder_are_told(phantoms, tmp_path, monkeypatch):
    run = runs.pretrain(pretrain_config(phantoms, tmp_path / "run", steps=4))
    monkeypatch.setattr("accelerate.Accelerator.reduce", lambda self, steps, how: torch.maximum(steps, steps * 0))
    with pytest.raises(TrainingError, match=r"different steps, from 0 to 4; put --out on storage that all nodes share"):
        runs.pretrain(pretrain_config(phantoms, run, steps=4))


# What the device decides -------------------------------------------------------------------------------


class _Waits(TorchDispatchMode):
    """Counts the operations for which a host waits for its device: numbers read out of a tensor, results of unknown size."""

    def __init__(self, monkeypatch) -> None:
        super().__init__()
        self.seen, tolist = 0, torch.Tensor.tolist
        monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: self.note() or tolist(tensor))  # not dispatched

    def note(self) -> None:
        self.seen += 1

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select", "equal"):
            self.note()
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("variants", [{}, VARIANTS | {"steps": 10, "micro_batch": 4}])
def test_the_loop_waits_for_the_device_only_to_log_check_and_save(variants, phantoms, tmp_path, monkeypatch):
    waits, mode = {}, _Waits(monkeypatch)
    step, after = Trainer._step, Trainer._after_step

    def counted(self, micro_batches):
        counts = {id(batch): self.task.counts(batch) for batch in micro_batches}  # of batches still on the host
        self.task.counts = lambda batch: counts[id(batch)]
        mode.seen = 0
        with mode:
            step(self, micro_batches)
            after(self)
        waits[self.step] = mode.seen
        del self.task.counts

    for name, replacement in (("_step", counted), ("_after_step", lambda self: None)):
        monkeypatch.setattr(Trainer, name, replacement)
    rare = {"log_every": 5, "validate_every": 50, "save_every": 50}
    runs.pretrain(pretrain_config(phantoms, tmp_path / "run", ema=0.9, clip=1.0, **rare, **variants))
    assert {s for s in waits if waits[s]} == {5, 10}, waits
    with mode:
        assert torch.ones(()).isfinite()
    assert mode.seen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_step_does_not_wait(phantoms, tmp_path, monkeypatch):
    step = Trainer._step

    def strict(self, micro_batches):
        torch.cuda.set_sync_debug_mode("error" if self.step else "default")  # the first step allocates
        try:
            step(self, micro_batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Trainer, "_step", strict)
    runs.pretrain(pretrain_config(phantoms, tmp_path / "run", log_every=5))


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_an_update_that_is_not_finite_changes_nothing(kind):
    """Weights, moments and the count of steps; and the next finite update is what it would have been."""

    def trained(gradients: list[float]) -> tuple[torch.Tensor, dict]:
        model = torch.nn.Linear(3, 2)
        with torch.no_grad():
            model.weight.fill_(0.5), model.bias.fill_(-0.5)
        optimizer = build_optimizer(model, TrainConfig(optimizer=kind, lr_batch=None))
        for value in gradients:
            for p in model.parameters():
                p.grad = torch.full_like(p, value)
            update(optimizer, 0.1, parallel.gradient_norm(model, 1.0), torch.amp.GradScaler("cpu", enabled=False))
        return model.weight.detach().clone(), optimizer.state_dict()["state"]

    for bad in (math.nan, math.inf):
        (weight, state), (expected, expected_state) = trained([1.0, bad, 2.0, bad]), trained([1.0, 2.0])
        assert torch.equal(weight, expected)
        for number, values in expected_state.items():
            for name, value in values.items():
                assert torch.equal(torch.as_tensor(state[number][name]), torch.as_tensor(value)), name
    assert not torch.equal(trained([1.0])[0], trained([])[0])


# Compiled ----------------------------------------------------------------------------------------------


def has_compiler() -> bool:
    return bool(shutil.which("g++") or shutil.which("c++") or shutil.which("clang++"))


@pytest.mark.slow  # compiling takes minutes on a slow core
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_run_is_the_same_run_in_few_graphs(phantoms, tmp_path):
    """Also its average and its resume; a length of reports costs one graph each, a number of words none."""
    from torch._dynamo.utils import counters

    counters.clear()
    plain = runs.pretrain(pretrain_config(phantoms, tmp_path / "plain", ema=0.9, keep=9))
    out = left_at(4, plain, tmp_path / "compiled")
    runs.pretrain(pretrain_config(phantoms, out, ema=0.9, compile=True))
    assert_same_losses(out, plain)
    assert weights(out).keys() == weights(plain).keys()
    assert counters["stats"]["unique_graphs"] <= 2  # reports of up to 96 and up to 100 tokens
    assert not counters["graph_break"]
    assert model_folder.load(out).config.image_size == MICRO.image_size


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler on a CPU")
def test_two_compiled_processes_equal_one(phantoms, tmp_path):
    one = runs.pretrain(pretrain_config(phantoms, tmp_path / "one", steps=3))
    two = pretrain_config(phantoms, tmp_path / "two", steps=3, compile=True)
    launched(tmp_path, two, *TWO)
    assert_same_losses(two.out, one)


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_told(phantoms, tmp_path):
    cfg = pretrain_config(phantoms, tmp_path / "run", steps=2, compile=True)
    process = start_pretraining(
        tmp_path, cfg, env={"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    )
    said, _ = process.communicate(timeout=200)
    if torch.cuda.is_available():
        pytest.skip("a GPU compiles with Triton")
    assert process.returncode == 2
    assert "cannot be compiled on this machine" in said
    assert "Leave out --training.compile" in said


def test_a_model_in_parts_is_not_compiled():
    with pytest.raises(TrainingError, match=r"choose either --training.compile or --training.sharding full"):
        TrainConfig(compile=True, sharding="full")
