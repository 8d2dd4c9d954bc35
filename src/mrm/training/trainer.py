"""The training loop: a task and its data in, checkpoints and a log out.

It sees a task as "batch in, terms out". A run can be stopped anywhere and resumed: the position in the data is
the step, schedules are functions of the step, and all noise follows from sample keys. Several ranks (`torchrun`)
share one order of samples and divide each loss by its count over all ranks. On a GPU the loop only queues work:
it waits for the device only where it logs, validates and saves.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from mrm.data import loader, samples, sampling
from mrm.models import lora, model_folder, noise
from mrm.system import hardware
from mrm.system.durations import duration
from mrm.system.errors import TrainingError, first_line
from mrm.system.permissions import restricted
from mrm.system.spreadsheet_cells import guarded
from mrm.training import parallel
from mrm.training.checkpoints import STATE, Checkpoints
from mrm.training.config import TrainConfig, length_note, lr_at
from mrm.training.optimization import build_optimizer, update
from mrm.training.patience import Patience
from mrm.training.run_log import Clock, Log
from mrm.training.signals import on_signal
from mrm.training.tasks import Task
from mrm.training.totals import Totals

# Model, step, ranks -> metrics; of "score" a higher value is better
Validate = Callable[[nn.Module, int, Accelerator], dict[str, float]]
EARLY = 10.0  # seconds after which a run that has not logged yet says how long it will take


class Stopped(SystemExit):
    """The run was asked to stop (SIGTERM, Ctrl-C) and has saved; started again, it resumes.

    Nothing that follows may take the run for finished, so it ends the program unless caught, with status 75:
    EX_TEMPFAIL of sysexits.h, try again.
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
        seed: int,
        validate: Validate | None = None,
        order: sampling.Order = sampling.shuffled,
        patience: Patience | None = None,  # ends the run early
    ) -> None:
        self.task, self.data, self.config, self.run = task, data, config, Path(run)
        self.write_model, self.seed, self.validate, self.order = write_model, seed, validate, order
        self.patience = patience or Patience()
        self.accelerator = _accelerator(config, self.run)
        self.epoch = sampling.epoch_length(order, data)  # samples in one
        self.total, self.warmup = config.plan(self.epoch)
        self.validate_every = config.steps_between_validations(self.epoch)
        self.micro, self.accumulate = self._micro_batches()
        self.checkpoints = Checkpoints(self.run, config.keep)
        self.step, self.saved, self.bad, self.best, self.best_step = 0, 0, 0, -math.inf, 0
        self.norms: list[Tensor] = []  # of the gradients of the last steps, on the device until they are read
        self.norm: float | None = None  # the last finite one since the last log
        self.totals = Totals()
        self.skipped: dict[str, str] = {}
        self.stop, self.stopping = False, torch.zeros(())  # whether this rank was asked to, and how many ranks were
        self._place()

    def _place(self) -> None:
        """Put model and average on the device and share them among the ranks, then build this rank's optimiser."""
        config, device, world_size = self.config, self.accelerator.device, self.accelerator.num_processes
        sharded = config.sharding == "full" and world_size > 1
        self.plain = copy.deepcopy(self.task.model) if sharded else None  # gathers the parts, to save and validate
        self.task.to(device)
        self.ema = ModelEmaV3(self.task.model, decay=config.ema) if config.ema else None
        if self.ema:
            self.task.follow(self.ema.module)
        self.parallel: nn.Module = self.task
        if sharded:
            for module in [self.task, *([self.ema.module] if self.ema else [])]:
                parallel.shard(module, device, world_size)
        elif world_size > 1:
            self.parallel = parallel.copies(self.task, device)
        if config.compile:
            torch.compiler.assume_constant_result(noise.site_number)  # the compiler cannot look into zlib
            self.parallel.compile(dynamic=False)
        self.optimizer = build_optimizer(self.task.model, config)
        self.precision = hardware.settled(config.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    @restricted()
    def fit(self) -> Path:
        """Train to the end, from wherever the run was left. Returns the run's folder. Raises Stopped if asked to.

        The end is the last step, or earlier where `patience` is exhausted.
        """
        self._prepare_hardware()
        self.resume()
        self.log = Log(self.run / "log.csv", self.step) if self.accelerator.is_main_process else None
        self.clock, self.silent = Clock(self.step), True
        stream = self.stream()
        self.task.train()
        with on_signal(self._request_stop):
            while not (ended := self._has_ended()) and not self._agreed_to_stop():
                self._step([next(stream) for _ in range(self.accumulate)])
                self._after_step()
            if self.saved != self.step:
                self._save()
        self.accelerator.end_training()
        if not ended:
            self.accelerator.print(f"{self.run}: stopped and saved at step {self.step}/{self.total}", flush=True)
            raise Stopped(75)
        return self.run

    def _has_ended(self) -> bool:
        """Whether all steps are done, or as many validations of their second half as there is patience for brought no gain.

        It follows from what a checkpoint holds, so a run that has ended stays so when it is started again.
        """
        early = self.step < self.total and self.patience.is_exhausted(self.step, self.validate_every, self.total)
        if early:
            self.accelerator.print(
                f"{self.run}: ended at step {self.step}/{self.total}, since the last {self.patience.validations} validations "
                f"brought no gain over that at step {self.patience.step}"
            )
        return early or self.step >= self.total

    def _prepare_hardware(self) -> None:
        device = self.accelerator.device
        hardware.share_cores(device, self.config.threads)
        hardware.keep_freed_memory(device)

    def stream(self) -> Iterator[Any]:
        """This rank's micro-batches from the present step to the end."""
        state = self.accelerator
        order = self.order(self.seed, self.epoch, self.step * self.config.global_batch)
        batches = sampling.micro_batches(
            order, self.total - self.step, self.accumulate, self.micro, state.process_index, state.num_processes
        )
        return loader.loader(self.data, batches, self.config.workers, pin=state.device.type == "cuda")

    # One step --------------------------------------------------------------------------------------

    def _step(self, micro_batches: list[Any]) -> None:
        """Gradients of all micro-batches over the counts of the whole step, then one update if they are finite."""
        counts = self._global_counts(micro_batches)
        micro_batches = self.task.begin_step(micro_batches, self._terms, self.accelerator)
        for number, batch in enumerate(micro_batches, 1):
            self._note_skipped(batch.skipped)
            self._backward(batch, counts, last=number == len(micro_batches))
        for name, count in counts.items():
            self.totals.add(f"{name}.count", count / self.accelerator.num_processes)  # summed over ranks when logged
        self._update()

    def _backward(self, batch: Any, counts: dict[str, Tensor], last: bool) -> None:
        """Add the gradients of one micro-batch; ranks exchange them with the last one of a step."""
        with contextlib.nullcontext() if last else parallel.gradients_stay(self.parallel):
            terms = self._terms(batch)
            loss: Any = sum(self.task.weights[k] * t.sum / counts[k] for k, t in terms.items())
            self.scaler.scale(loss * self.accelerator.num_processes).backward()  # over ranks, gradients are averaged
        for name, term in terms.items():
            self.totals.add(f"{name}.sum", term.sum.detach())

    def _update(self) -> None:
        """Step the weights at the learning rate of this step, and their average after them."""
        config = self.config
        self.scaler.unscale_(self.optimizer)
        self.norms.append(parallel.gradient_norm(self.task.model, config.clip))
        self.totals.end_step(self.norms[-1], self.accelerator.num_processes)
        self.lr = lr_at(self.step, peak=config.peak(), warmup=self.warmup, total=self.total, schedule=config.schedule)
        update(self.optimizer, self.lr, self.norms[-1], self.scaler)
        if self.ema:
            self.ema.update(self.task.model, step=self.step)

    def _terms(self, batch: Any, **asked: bool) -> dict[str, Any]:
        batch = batch.to(self.accelerator.device)
        with hardware.autocast(self.accelerator.device, self.precision):
            return self._compiled(batch, **asked) if self.config.compile else self.parallel(batch, **asked)

    def _compiled(self, batch: Any, **asked: bool) -> dict[str, Any]:
        """One compiled graph for each length of reports; other lengths that vary stay dynamic in it."""
        for name in batch.varying:
            torch._dynamo.maybe_mark_dynamic(getattr(batch, name), 0)
        try:
            return self.parallel(batch, **asked)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise TrainingError(
                f"the model cannot be compiled on this machine ({first_line(error)}); compiling needs a C++ compiler, "
                "and Triton on a GPU. Leave out --training.compile"
            ) from error

    def _global_counts(self, micro_batches: list[Any]) -> dict[str, Tensor]:
        """What each term is divided by, summed over ranks; requests to stop travel along."""
        local = [self.task.counts(batch) for batch in micro_batches]
        names = list(self.task.weights)
        on_rank = torch.tensor([*(float(sum(c[k] for c in local)) for k in names), float(self.stop)])
        *counts, self.stopping = self._summed(on_rank.to(self.accelerator.device, non_blocking=True))
        return {name: count.clamp(min=1) for name, count in zip(names, counts, strict=True)}

    def _after_step(self) -> None:
        self.step += 1
        last, config = self.step == self.total, self.config
        if self.step % config.log_every == 0 or last:
            self._write_log()
        elif self.log and self.silent and self.clock.seconds() >= EARLY:
            self._estimate_early()
        validates = self.validate is not None and (self.step % self.validate_every == 0 or last)
        better = self._run_validation() if validates else False
        if better or self.step % config.save_every == 0:
            self._save(better)

    # Logging and validation ------------------------------------------------------------------------

    def _write_log(self) -> None:
        self._read_norms()
        sums = self._whole_totals()
        if self.norm is None:  # every update was skipped, so there is no mean
            losses = {}
        else:
            losses = {k: sums[f"{k}.sum"] / max(sums[f"{k}.count"], 1.0) for k in self.task.weights}
        epoch, skipped = self.step * self.config.global_batch / self.epoch, round(sums[Totals.SKIPPED])
        means = {k: losses.get(k) for k in self.task.weights}
        row = {"step": self.step, "epoch": epoch, "lr": self.lr, **means, "gradient": self.norm, "skipped": skipped}
        self.totals, self.norm = Totals(), None
        if self.log:
            self.log.write(row)
            self._report(epoch, losses)

    def _estimate_early(self) -> None:
        """Say how long the run will take, before its first log: a few steps on a slow machine tell enough."""
        self.silent = False
        left = duration((self.total - self.step) / self.clock.rate(self.step))
        print(f"step {self.step}/{self.total}  about {left} left, a first estimate", flush=True)

    def _report(self, epoch: float, losses: dict[str, float]) -> None:
        """Tell the trackers and the terminal how the run is doing."""
        self.silent, steps_per_second = False, self.clock.rate(self.step)
        images_per_second = steps_per_second * self.config.global_batch
        self.accelerator.log({**losses, "lr": self.lr, "images_per_second": images_per_second}, self.step)
        values = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        print(
            f"step {self.step}/{self.total}  epoch {epoch:.2f}  {values}  lr {self.lr:.2e}  "
            f"{images_per_second:.1f} images/s  {duration((self.total - self.step) / steps_per_second)} left",
            flush=True,
        )

    def _whole_totals(self) -> dict[str, float]:
        """Sums and counts since the last log, over all ranks."""
        if not self.totals.sums:
            return {}
        values = self._summed(torch.stack([*self.totals.sums.values()]))
        return dict(zip(self.totals.sums, values.tolist(), strict=True))

    def _read_norms(self) -> None:
        """Wait for the device and report which of the last updates were skipped; all ranks see the same.

        Raises TrainingError for too many in a row. It comes as late as the next log, but none of the skipped updates
        has changed a weight.
        """
        norms, self.norms = torch.stack(self.norms).tolist() if self.norms else [], []
        for step, norm in enumerate(norms, self.step - len(norms) + 1):
            finite = math.isfinite(norm)
            self.norm, self.bad = (norm, 0) if finite else (self.norm, self.bad + 1)
            if self.bad:
                self.accelerator.print(f"step {step}: gradient norm {norm}, update skipped ({self.bad} in a row)")
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
            values = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != "score")
            print(f"step {self.step}/{self.total}  {values}", flush=True)
        better = metrics.get("score", -math.inf) > self.best
        self.patience.note(self.step, metrics.get("score", -math.inf))
        self.best, self.best_step = (metrics["score"], self.step) if better else (self.best, self.best_step)
        return better

    def _note_skipped(self, skipped: list[samples.Skipped]) -> None:
        """Report each unreadable record once, and list it in `skipped-RANK.csv`."""
        for record in skipped:
            if record.name in self.skipped:
                continue
            self.skipped[record.name] = record.reason
            print(f"skipped {record.name}: {record.reason} ({len(self.skipped)} so far)", flush=True)
            with open(self.run / f"skipped-{self.accelerator.process_index}.csv", "a", newline="") as file:
                csv.writer(file).writerow([guarded(record.name), guarded(record.reason)])

    # Saving and resuming ---------------------------------------------------------------------------

    def _save(self, best: bool = False) -> None:
        """Write a checkpoint at this step. All ranks bring what they hold of the model; one of them writes."""
        self._read_norms()
        totals, main = self._whole_totals(), self.accelerator.is_main_process
        if main or self.plain is not None:  # of copies, one is enough; of parts, all are needed
            model = self._whole_model()
            state = self._state(model, totals)
        if main:
            self.checkpoints.write(self.step, lambda folder: self._write(folder, model, state), best)
        self.saved = self.step
        self.accelerator.wait_for_everyone()

    def _write(self, folder: Path, model: nn.Module, state: dict[str, Any]) -> None:
        self.write_model(folder, model, self.step)
        torch.save(state, folder / STATE)

    def _whole_model(self) -> nn.Module:
        """The model as it is saved and validated: the average, if one is kept, whole, and its LoRA merged."""
        model = self.ema.module if self.ema else self.task.model
        if self.plain is not None:
            self.plain.cpu().load_state_dict(parallel.whole_weights(model))
            model = self.plain
        return lora.merged(model)

    def _state(self, saved: nn.Module, totals: dict[str, float]) -> dict[str, Any]:
        """What a run resumes from, besides the model that is saved; nothing in it depends on the world size."""
        return {
            "step": self.step,
            "samples_seen": self.step * self.config.global_batch,
            "optimizer": parallel.whole_state(self.optimizer, keep=self.accelerator.is_main_process),
            # with EMA the model folder holds the average, with LoRA merged weights, so what is trained is here
            "weights": parallel.weights_beside(saved, self.task.model),
            "average": parallel.weights_beside(saved, self.ema.module) if self.ema else {},
            "scaler": self.scaler.state_dict(),  # empty unless it is used
            "plan": [self.total, self.warmup],
            "best": self.best,
            "best_step": self.best_step,
            "patience": self.patience.state(),
            "norm": self.norm,
            "bad": self.bad,
            "totals": {k: torch.tensor(v, dtype=torch.float64) for k, v in totals.items()},
            "skipped": self.skipped,
            "task": self.task.memory(),
        }

    def resume(self) -> None:
        """Resume from the last whole checkpoint; a new run stays at step 0. Raises TrainingError if ranks disagree."""
        folder = self.checkpoints.newest()
        if folder is not None:
            self._load(folder)
            self.accelerator.print(f"{self.run}: resuming from step {self.step}/{self.total}", flush=True)
        steps = torch.tensor([-self.step, self.step], dtype=torch.float32, device=self.accelerator.device)
        earliest, latest = self.accelerator.reduce(steps, "max").tolist()
        if -earliest != latest:
            raise TrainingError(
                f"{self.run}: the ranks find checkpoints of different steps, from {-earliest:.0f} to {latest:.0f}; "
                "put --out on storage that all nodes share"
            )

    def _load(self, folder: Path) -> None:
        state = model_folder.read_pickle(folder / STATE)
        saved = model_folder.read_weights(folder / "model.safetensors")
        model = self.task.model
        model_folder.load_strict(model, parallel.own_weights({**saved, **state["weights"]}, model), folder)
        if self.ema:
            average = {**saved, **state["average"]}
            self.ema.module.load_state_dict(parallel.own_weights(average, self.ema.module))
        parallel.load_state(self.optimizer, state["optimizer"])
        self.task.remember(state["task"])
        self.step = self.saved = state["step"]
        self.best, self.bad, self.skipped = state["best"], state["bad"], state["skipped"]
        self.best_step, self.norm = state["best_step"], state["norm"]
        self.patience.load(state["patience"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if note := length_note(self.config, self.step, state["plan"], (self.total, self.warmup)):
            self.accelerator.print(f"{self.run}: {note}")
        if self.accelerator.is_main_process:  # sums over all ranks
            self.totals.sums = {k: v.to(self.accelerator.device) for k, v in state["totals"].items()}
            self.checkpoints.tidy(self.best_step)

    # Batches, sums and signals ---------------------------------------------------------------------

    def _micro_batches(self) -> tuple[int, int]:
        """Samples per micro-batch and micro-batches per step, on this rank. Raises TrainingError."""
        config, world_size = self.config, self.accelerator.num_processes
        share = config.global_batch // world_size
        micro = min(config.micro_batch or share, share)
        if self.epoch < config.global_batch:
            raise TrainingError(
                f"{self.epoch} records are fewer than the global batch of {config.global_batch}; "
                f"lower it with --training.global-batch {self.epoch}, or add records"
            )
        if micro * world_size * (share // micro) != config.global_batch:
            raise TrainingError(
                f"a global batch of {config.global_batch} does not divide into micro-batches of {micro} on "
                f"{world_size} ranks; "
                "change --training.global-batch or --training.micro-batch"
            )
        return micro, share // micro

    def _summed(self, values: Tensor) -> Tensor:
        """The sum over all ranks."""
        return self.accelerator.reduce(values, "sum") if self.accelerator.num_processes > 1 else values

    def _request_stop(self) -> None:
        self.stop = True

    def _agreed_to_stop(self) -> bool:
        """Whether any rank was asked to stop: they tell each other with the counts of every step."""
        if self.accelerator.num_processes == 1:
            return self.stop
        if self.accelerator.device.type != "cpu" and self.step % self.config.log_every:
            return False  # reading the sum would wait for the device
        return bool(self.stopping.item())


def processes() -> PartialState:
    """Rank and world size of this run. Accelerate sees several ranks on CPUs only when told that they are CPUs."""
    return PartialState(cpu=not torch.accelerator.is_available())


def _accelerator(config: TrainConfig, run: Path) -> Accelerator:
    if AcceleratorState._shared_state:  # an earlier run in this process may have had another precision
        AcceleratorState._reset_state()
    cpu = not torch.accelerator.is_available()
    # Precision is that of `hardware.autocast`: Accelerate has no fp16 on a CPU, and refuses bf16 without advice.
    accelerator = Accelerator(mixed_precision="no", cpu=cpu, log_with=list(config.trackers) or None, project_dir=run)
    with restricted():
        accelerator.init_trackers("tensorboard")
    return accelerator
