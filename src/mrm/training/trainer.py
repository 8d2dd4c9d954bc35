"""The training loop: a task and its data in, checkpoints and a log out.

It sees a task as "batch in, terms out". A run can be stopped anywhere and continued: the position in the
data is the step, schedules are functions of the step, and all noise follows from sample keys. Several
processes (`torchrun`) share the one order of samples and divide each loss by its count over all of them.
On a GPU the loop only queues work: it waits for the device where it logs, checks and saves, and nowhere else.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from mrm.data import loader, samples, sampling
from mrm.models import model_folder, noise
from mrm.models.weights import first_line
from mrm.system import hardware
from mrm.system.errors import TrainingError
from mrm.system.progress import duration
from mrm.training import parallel
from mrm.training.checkpoints import STATE, Checkpoints
from mrm.training.config import TrainConfig, lr_at
from mrm.training.optimization import build_optimizer, update
from mrm.training.run_log import Clock, Log
from mrm.training.tasks import Task

Validate = Callable[
    [nn.Module, int, Accelerator], dict[str, float]
]  # model, step -> metrics; "score": higher is better


class Stopped(SystemExit):
    """The run was asked to stop (SIGTERM, Ctrl-C), has saved, and goes on when started again.

    Nothing after it may take the run for finished, so it ends the program unless caught, with status 75: EX_TEMPFAIL
    of sysexits.h, try again.
    """


class Trainer:
    """One run in one folder: `log.csv`, `checkpoints/step-*`, and links `last` and `best` to two of them."""

    def __init__(
        self,
        task: Task,
        data: samples.Data,
        config: TrainConfig,
        run: Path,
        write_model: Callable[[Path, nn.Module, int], None],
        seed: int = 0,
        validate: Validate | None = None,
        order: Callable[[int, int, int], Iterator[sampling.Sample]] = sampling.shuffled,
        epoch: int | None = None,  # samples in one, where the order does not take every record once
    ) -> None:
        self.task, self.data, self.config, self.run = task, data, config, Path(run)
        self.write_model, self.seed, self.validate, self.order = write_model, seed, validate, order
        self.accelerator = _accelerator(config, self.run)
        self.epoch = len(data) if epoch is None else epoch
        self.total, self.warmup = config.plan(self.epoch)
        self.micro, self.accumulate = self._micro_batches()
        self.checkpoints = Checkpoints(self.run, config.keep)
        self.step, self.saved, self.bad, self.best = 0, 0, 0, -math.inf
        self.norms: list[Tensor] = []  # of the gradients of the last steps, on the device until they are read
        self.totals: dict[str, Tensor] = {}  # sums and counts since the last log, on the device
        self.skipped: dict[str, str] = {}
        self.stop = False
        self.asked = torch.zeros(())  # how many processes were asked to stop
        self._place()

    def _place(self) -> None:
        """Model and average on the device and over the processes, then the optimiser of what this process holds."""
        config, device, processes = self.config, self.accelerator.device, self.accelerator.num_processes
        sharded = config.sharding == "full" and processes > 1
        self.plain = copy.deepcopy(self.task.model) if sharded else None  # takes in the parts, to save and check
        self.task.to(device)
        self.ema = ModelEmaV3(self.task.model, decay=config.ema) if config.ema else None
        self.parallel: nn.Module = self.task
        if sharded:
            for module in [self.task, *([self.ema.module] if self.ema else [])]:
                parallel.shard(module, device, processes)
        elif processes > 1:
            self.parallel = parallel.copies(self.task, device)
        if config.compile:
            torch.compiler.assume_constant_result(noise.site_number)  # the compiler cannot look into zlib
            self.parallel.compile(dynamic=False)
        self.optimizer = build_optimizer(self.task.model, config)

    def fit(self) -> Path:
        """Train to the end, from wherever the run was left. Returns the run's folder. Raises Stopped if asked to."""
        hardware.share_cores(self.accelerator.device)
        hardware.keep_freed_memory(self.accelerator.device)
        if self.config.precision == "bf16" and not hardware.computes_bf16(self.accelerator.device):
            self.accelerator.print("this processor has no bf16 instructions: --training.precision fp32 is far faster")
        self.resume()
        self.log = Log(self.run / "log.csv", self.step) if self.accelerator.is_main_process else None
        self.clock = Clock(self.step)
        stream = self.stream()
        self.task.train()
        with _on_signal(self._request_stop):
            while self.step < self.total and not self._agreed_to_stop():
                self._step([next(stream) for _ in range(self.accumulate)])
                self._after_step()
            if self.saved != self.step:
                self._save()
        self.accelerator.end_training()
        if self.step < self.total:
            self.accelerator.print(f"{self.run}: stopped and saved at step {self.step} of {self.total}", flush=True)
            raise Stopped(75)
        return self.run

    def stream(self) -> Iterator[Any]:
        """This process's micro-batches from the present step to the end."""
        state = self.accelerator
        order = self.order(self.seed, self.epoch, self.step * self.config.global_batch)
        wanted = sampling.micro_batches(
            order,
            self.total - self.step,
            self.accumulate,
            self.micro,
            state.process_index,
            state.num_processes,
        )
        return loader.loader(self.data, wanted, self.config.workers, pin=state.device.type == "cuda")

    # One step --------------------------------------------------------------------------------------

    def _step(self, micro_batches: list[Any]) -> None:
        """Gradients of all micro-batches over the counts of the whole step, then one update if they are finite."""
        processes = self.accelerator.num_processes
        counts = self._global_counts(micro_batches)
        for number, batch in enumerate(micro_batches, 1):
            self._note_skipped(batch.skipped)
            last = number == len(micro_batches)
            with contextlib.nullcontext() if last else parallel.gradients_stay(self.parallel):
                terms = self._terms(batch)
                loss = sum(self.task.weights[k] * t.sum / counts[k] for k, t in terms.items())
                (loss * processes).backward()  # gradients are averaged over processes; undo it
            for name, term in terms.items():
                self._add(f"{name}.sum", term.sum.detach())
        for name, count in counts.items():
            self._add(f"{name}.count", count / processes)  # summed over processes when logged
        self.norms.append(parallel.gradient_norm(self.task.model, self.config.clip))
        self.lr = lr_at(
            self.step,
            peak=self.config.peak(),
            warmup=self.warmup,
            total=self.total,
            schedule=self.config.schedule,
        )
        update(self.optimizer, self.lr, self.norms[-1])
        if self.ema:
            self.ema.update(self.task.model, step=self.step)

    def _terms(self, batch: Any) -> dict[str, Any]:
        batch = batch.to(self.accelerator.device)
        with self.accelerator.autocast():
            return self._compiled(batch) if self.config.compile else self.parallel(batch)

    def _compiled(self, batch: Any) -> dict[str, Any]:
        """One graph for each length of reports; other lengths that vary are left open in it."""
        for name in batch.varying:
            torch._dynamo.maybe_mark_dynamic(getattr(batch, name), 0)
        try:
            return self.parallel(batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise TrainingError(
                f"the model cannot be compiled here ({first_line(error)}); it takes a C++ compiler, and Triton on a GPU. "
                "Leave out --training.compile"
            ) from error

    def _global_counts(self, micro_batches: list[Any]) -> dict[str, Tensor]:
        """What each term is divided by, summed over processes; the wish to stop travels along."""
        local = [self.task.counts(batch) for batch in micro_batches]
        names = list(self.task.weights)
        mine = torch.tensor([*(float(sum(c[k] for c in local)) for k in names), float(self.stop)])
        *counts, self.asked = self._summed(mine.to(self.accelerator.device, non_blocking=True))
        return {name: count.clamp(min=1) for name, count in zip(names, counts, strict=True)}

    def _after_step(self) -> None:
        self.step += 1
        last, config = self.step == self.total, self.config
        if self.step % config.log_every == 0 or last:
            self._write_log()
        better = bool(self.validate) and (self.step % config.validate_every == 0 or last) and self._run_validation()
        if better or self.step % config.save_every == 0:
            self._save(better)

    # Logging and checks ----------------------------------------------------------------------------

    def _write_log(self) -> None:
        self._read_norms()
        sums = self._whole_totals()
        losses = {k: sums[f"{k}.sum"] / max(sums[f"{k}.count"], 1.0) for k in self.task.weights}
        self.totals = {}
        epoch = self.step * self.config.global_batch / self.epoch
        row = {"step": self.step, "epoch": epoch, "lr": self.lr, **losses, "gradient": self.norm}
        if self.log:
            self.log.write(row)
            speed = self.clock.rate(self.step)
            self.accelerator.log(
                {**losses, "lr": self.lr, "images_per_second": speed * self.config.global_batch},
                self.step,
            )
            shown = "  ".join(f"{k} {v:.4f}" for k, v in losses.items())
            print(
                f"step {self.step}/{self.total}  epoch {epoch:.2f}  {shown}  lr {self.lr:.2e}  "
                f"{speed * self.config.global_batch:.1f} images/s  left {duration((self.total - self.step) / speed)}",
                flush=True,
            )

    def _whole_totals(self) -> dict[str, float]:
        """Sums and counts since the last log, over all processes."""
        if not self.totals:
            return {}
        values = self._summed(torch.stack([*self.totals.values()]))
        return dict(zip(self.totals, values.tolist(), strict=True))

    def _read_norms(self) -> None:
        """Wait for the device and see which of the last steps were not stepped; all processes see the same.

        Raises TrainingError for too many in a row: late, by the steps since the last log, but none of them changed
        a weight.
        """
        norms, self.norms = torch.stack(self.norms).tolist() if self.norms else [], []
        for step, norm in enumerate(norms, self.step - len(norms) + 1):
            self.norm, self.bad = norm, 0 if math.isfinite(norm) else self.bad + 1
            if self.bad:
                self.accelerator.print(f"step {step}: gradient norm {norm}, not stepped ({self.bad} in a row)")
            if self.bad >= self.config.bad_steps:
                raise TrainingError(
                    f"{self.run}: {self.bad} steps in a row without a finite gradient, up to step {step}; "
                    "lower --training.lr, or try --training.precision fp32; the last checkpoint is kept"
                )

    def _run_validation(self) -> bool:
        """Measure the model as it would be saved. Returns whether it is the best so far."""
        assert self.validate
        with torch.no_grad(), self.clock.paused():
            metrics = self.validate(self._whole_model().to(self.accelerator.device).eval(), self.step, self.accelerator)
        self.task.train()
        if self.log and metrics:
            self.log.write({"step": self.step, **metrics}, self.run / "validation.csv")
            self.accelerator.log(metrics, self.step)
            shown = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k != "score")
            print(f"step {self.step}/{self.total}  {shown}", flush=True)
        better = metrics.get("score", -math.inf) > self.best
        self.best = metrics["score"] if better else self.best
        return better

    def _note_skipped(self, skipped: list[samples.Skipped]) -> None:
        """Say each unreadable record once, and list it in `skipped.csv`."""
        for record in skipped:
            if record.name in self.skipped:
                continue
            self.skipped[record.name] = record.reason
            print(f"skipped {record.name}: {record.reason} ({len(self.skipped)} so far)", flush=True)
            with open(self.run / f"skipped-{self.accelerator.process_index}.csv", "a", newline="") as file:
                csv.writer(file).writerow([record.name, record.reason])

    # Saving and resuming ---------------------------------------------------------------------------

    def _save(self, best: bool = False) -> None:
        """A checkpoint at this step. All processes bring what they hold of the model; one of them writes."""
        self._read_norms()
        totals, main = self._whole_totals(), self.accelerator.is_main_process
        if main or self.plain is not None:  # of copies, one is enough; of parts, all are needed
            model, state = self._whole_model(), self._state(totals)
        if main:
            self.checkpoints.write(self.step, lambda folder: self._write(folder, model, state), best)
        self.saved = self.step
        self.accelerator.wait_for_everyone()

    def _write(self, folder: Path, model: nn.Module, state: dict[str, Any]) -> None:
        self.write_model(folder, model, self.step)
        torch.save(state, folder / STATE)

    def _whole_model(self) -> nn.Module:
        """The model as it is saved and checked: the average, if one is kept, and whole."""
        model = self.ema.module if self.ema else self.task.model
        if self.plain is None:
            return model
        self.plain.cpu().load_state_dict(parallel.whole_weights(model))
        return self.plain

    def _state(self, totals: dict[str, float]) -> dict[str, Any]:
        """What a run goes on from, besides its model; nothing in it depends on how many processes there are."""
        return {
            "step": self.step,
            "samples_seen": self.step * self.config.global_batch,
            "optimizer": parallel.whole_state(self.optimizer, keep=self.accelerator.is_main_process),
            # with EMA the model folder holds the average, so the trained weights are here
            "weights": parallel.whole_weights(self.task.model) if self.ema else {},
            "best": self.best,
            "bad": self.bad,
            "totals": {k: torch.tensor(v, dtype=torch.float64) for k, v in totals.items()},
            "skipped": self.skipped,
        }

    def resume(self) -> None:
        """Take the run up where its last whole checkpoint left it; a new run stays at step 0."""
        folder = self.checkpoints.newest()
        if folder is not None:
            self._load(folder)
            self.accelerator.print(f"{self.run}: going on from step {self.step} of {self.total}", flush=True)
        steps = torch.tensor([-self.step, self.step], dtype=torch.float32, device=self.accelerator.device)
        earliest, latest = self.accelerator.reduce(steps, "max").tolist()
        if -earliest != latest:
            raise TrainingError(
                f"{self.run}: processes find checkpoints of different steps ({-earliest:.0f} to {latest:.0f}); "
                "put --out on storage that all nodes share"
            )

    def _load(self, folder: Path) -> None:
        state = model_folder.read_pickle(folder / STATE)
        saved = model_folder.read_weights(folder / "model.safetensors")
        model = self.task.model
        model_folder.load_strict(model, parallel.own_weights(state["weights"] or saved, model), folder)
        if self.ema:
            self.ema.module.load_state_dict(parallel.own_weights(saved, self.ema.module))
        parallel.load_state(self.optimizer, state["optimizer"])
        self.step = self.saved = state["step"]
        self.best, self.bad, self.skipped = state["best"], state["bad"], state["skipped"]
        if self.accelerator.is_main_process:  # sums over all processes
            self.totals = {k: v.to(self.accelerator.device) for k, v in state["totals"].items()}

    # Small things ----------------------------------------------------------------------------------

    def _micro_batches(self) -> tuple[int, int]:
        """Samples per micro-batch and micro-batches per step, for this process."""
        config, world = self.config, self.accelerator.num_processes
        share = config.global_batch // world
        micro = min(config.micro_batch or share, share)
        if self.epoch < config.global_batch:
            raise TrainingError(
                f"{self.epoch} records are fewer than the global batch of {config.global_batch}; "
                f"lower it with --training.global-batch {self.epoch} or add records"
            )
        if micro * world * (share // micro) != config.global_batch:
            raise TrainingError(
                f"a global batch of {config.global_batch} does not divide into micro-batches of {micro} on {world} processes; "
                "change --training.global-batch or --training.micro-batch"
            )
        return micro, share // micro

    def _add(self, name: str, value: Tensor) -> None:
        """Into the totals. Single numbers add up exactly in double ones, so the order of processes does not matter."""
        value = value.double()
        self.totals[name] = self.totals[name] + value if name in self.totals else value

    def _summed(self, values: Tensor) -> Tensor:
        """Over processes."""
        return self.accelerator.reduce(values, "sum") if self.accelerator.num_processes > 1 else values

    def _request_stop(self) -> None:
        self.stop = True

    def _agreed_to_stop(self) -> bool:
        """Whether any process was asked to stop: they tell each other with the counts of every step."""
        if self.accelerator.num_processes == 1:
            return self.stop
        if self.accelerator.device.type != "cpu" and self.step % self.config.log_every:
            return False  # to look would be to wait for the device
        return bool(self.asked.item())


class _on_signal:
    """Turn SIGTERM and the first SIGINT within a block into a request; the second SIGINT acts as ever.

    SIGTERM comes twice where a scheduler signals every process of a job: once from it, and once from `torchrun`.
    """

    def __init__(self, request: Callable[[], None]) -> None:
        self.request = request

    def __enter__(self) -> None:
        self.before = {s: signal.signal(s, self._answer) for s in (signal.SIGTERM, signal.SIGINT)}

    def _answer(self, number: int, _: object) -> None:
        self.request()
        if number == signal.SIGINT:
            signal.signal(number, self.before[signal.SIGINT])

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def processes() -> PartialState:
    """The processes of this run. Accelerate takes several on CPUs for several only when told they are CPUs."""
    return PartialState(cpu=not torch.accelerator.is_available())


def _accelerator(config: TrainConfig, run: Path) -> Accelerator:
    if AcceleratorState._shared_state:  # an earlier run in this process may have had another precision
        AcceleratorState._reset_state()
    precision = "bf16" if config.precision == "bf16" else "no"
    cpu = not torch.accelerator.is_available()
    accelerator = Accelerator(
        mixed_precision=precision, cpu=cpu, log_with=list(config.trackers) or None, project_dir=run
    )
    accelerator.init_trackers("tensorboard")
    return accelerator
