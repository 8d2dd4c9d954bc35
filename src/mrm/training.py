"""The training loop: a task and its data in, checkpoints and a log out.

It sees a task as "batch in, terms out". A run can be stopped anywhere and continued: the position in the
data is the step, schedules are functions of the step, and all noise follows from sample keys. Several
processes (`torchrun`) share the one order of samples and divide each loss by its count over all of them.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from mrm import batches, checkpoint
from mrm.journal import Clock, Log, duration
from mrm.optimization import TrainConfig, TrainingError, build_optimizer, rate_at
from mrm.tasks import Task

Check = Callable[[nn.Module, int, Accelerator], dict[str, float]]  # model, step -> metrics; "score": higher is better


class Trainer:
    """One run in one folder: `log.csv`, `checkpoints/step-*`, and links `last` and `best` to two of them."""

    def __init__(
        self,
        task: Task,
        data: batches.Data,
        config: TrainConfig,
        run: Path,
        write_model: Callable[[Path, nn.Module, int], None],
        seed: int = 0,
        check: Check | None = None,
        order: Callable[[int, int, int], Iterator[batches.Sample]] = batches.shuffled,
        epoch: int | None = None,  # samples in one, where the order does not take every record once
    ) -> None:
        self.task, self.data, self.config, self.run = task, data, config, Path(run)
        self.write_model, self.seed, self.check, self.order = write_model, seed, check, order
        self.accelerator = _accelerator(config, self.run)
        self.epoch = len(data) if epoch is None else epoch
        self.total, self.warmup = config.plan(self.epoch)
        self.micro, self.accumulate = self._micro_batches()
        self.optimizer = build_optimizer(task.model, config)
        self.ema = ModelEmaV3(task.model, decay=config.ema) if config.ema else None
        self.step, self.saved, self.bad, self.best = 0, 0, 0, -math.inf
        self.totals: dict[str, Tensor] = {}  # sums and counts since the last log, on the device
        self.skipped: dict[str, str] = {}
        self.stop = False

    def fit(self) -> Path:
        """Train to the end, from wherever the run was left. Returns the run's folder."""
        batches.share_cores(self.accelerator.device)
        self.resume()
        device = self.accelerator.device
        self.task.to(device)
        _move(self.optimizer, device)
        if self.ema:
            self.ema.to(device)
        task = self.accelerator.prepare_model(self.task)
        self.log = Log(self.run / "log.csv", self.step) if self.accelerator.is_main_process else None
        self.clock = Clock(self.step)
        stream = self.stream()
        with _on_signal(self._request_stop):
            while self.step < self.total and not self._agreed_to_stop():
                self._step(task, [next(stream) for _ in range(self.accumulate)])
                self._after_step()
        if self.saved != self.step:
            self._save()
        self.accelerator.end_training()
        return self.run

    def stream(self) -> Iterator[Any]:
        """This process's micro-batches from the present step to the end."""
        state = self.accelerator
        order = self.order(self.seed, self.epoch, self.step * self.config.global_batch)
        wanted = batches.micro_batches(
            order,
            self.total - self.step,
            self.accumulate,
            self.micro,
            state.process_index,
            state.num_processes,
        )
        return batches.loader(self.data, wanted, self.config.workers, pin=state.device.type == "cuda")

    # One step --------------------------------------------------------------------------------------

    def _step(self, task: nn.Module, micro_batches: list[Any]) -> None:
        """Gradients of all micro-batches over the counts of the whole step, then one update if they are finite."""
        state, config = self.accelerator, self.config
        counts = self._global_counts(micro_batches)
        task.train()
        for number, batch in enumerate(micro_batches, 1):
            self._note_skipped(batch.skipped)
            with state.no_sync(task) if number < len(micro_batches) else contextlib.nullcontext():
                terms = task(batch.to(state.device))
                loss = sum(self.task.weights[k] * t.sum / counts[k] for k, t in terms.items())
                state.backward(loss * state.num_processes)  # DDP averages over processes; undo it
            for name, term in terms.items():
                self._add(f"{name}.sum", term.sum.detach())
        for name, count in counts.items():
            self._add(f"{name}.count", count / state.num_processes)  # summed over processes when logged
        norm = state.clip_grad_norm_(self.task.model.parameters(), config.clip or math.inf)
        self._update(norm)

    def _update(self, norm: Tensor) -> None:
        """Step, unless the gradient is not finite; all processes hold the same gradient and so agree."""
        rate = rate_at(
            self.step,
            peak=self.config.peak(),
            warmup=self.warmup,
            total=self.total,
            schedule=self.config.schedule,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        self.rate, self.norm = rate, norm.detach()
        if torch.isfinite(norm):
            self.optimizer.step()
            self.bad = 0
            if self.ema:
                self.ema.update(self.task.model, step=self.step)
        else:
            self.bad += 1
            self.accelerator.print(
                f"step {self.step + 1}: gradient norm {norm.item()}, not stepped ({self.bad} in a row)"
            )
        self.optimizer.zero_grad(set_to_none=True)
        if self.bad >= self.config.bad_steps:
            raise TrainingError(
                f"{self.run}: {self.bad} steps in a row without a finite gradient, up to step {self.step + 1}; "
                "lower --training.rate, or try --training.precision fp32; the last checkpoint is kept"
            )

    def _global_counts(self, micro_batches: list[Any]) -> dict[str, Tensor]:
        names = list(self.task.weights)
        local = [sum(self.task.counts(b)[k] for b in micro_batches) for k in names]
        counts = torch.tensor(local, dtype=torch.float32, device=self.accelerator.device)
        counts = self.accelerator.reduce(counts, "sum").clamp(min=1)
        return dict(zip(names, counts, strict=True))

    def _after_step(self) -> None:
        self.step += 1
        last, config = self.step == self.total, self.config
        if self.step % config.log_every == 0 or last:
            self._write_log()
        better = bool(self.check) and (self.step % config.check_every == 0 or last) and self._run_check()
        if better or self.step % config.save_every == 0:
            self._save(better)

    # Logging and checks ----------------------------------------------------------------------------

    def _write_log(self) -> None:
        totals = {k: self.accelerator.reduce(v, "sum").item() for k, v in self.totals.items()}
        losses = {k: totals[f"{k}.sum"] / max(totals[f"{k}.count"], 1.0) for k in self.task.weights}
        self.totals = {}
        epoch = self.step * self.config.global_batch / self.epoch
        row = {"step": self.step, "epoch": epoch, "rate": self.rate, **losses, "gradient": self.norm.item()}
        if self.log:
            self.log.write(row)
            speed = self.clock.rate(self.step)
            self.accelerator.log(
                {**losses, "rate": self.rate, "pictures_per_second": speed * self.config.global_batch},
                self.step,
            )
            shown = "  ".join(f"{k} {v:.4f}" for k, v in losses.items())
            print(
                f"step {self.step}/{self.total}  epoch {epoch:.2f}  {shown}  rate {self.rate:.2e}  "
                f"{speed * self.config.global_batch:.1f} pictures/s  left {duration((self.total - self.step) / speed)}",
                flush=True,
            )

    def _run_check(self) -> bool:
        """Measure the model as it would be saved. Returns whether it is the best so far."""
        assert self.check
        model = self.ema.module if self.ema else self.task.model
        model.eval()
        with torch.no_grad(), self.clock.paused():
            metrics = self.check(model, self.step, self.accelerator)
        if self.log and metrics:
            self.log.write({"step": self.step, **metrics}, self.run / "checks.csv")
            self.accelerator.log(metrics, self.step)
            shown = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items() if k != "score")
            print(f"step {self.step}/{self.total}  {shown}", flush=True)
        better = metrics.get("score", -math.inf) > self.best
        self.best = metrics["score"] if better else self.best
        return better

    def _note_skipped(self, skipped: list[batches.Skipped]) -> None:
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
        """A checkpoint at this step: written under another name, renamed, then linked. Old ones go last."""
        if self.accelerator.is_main_process:
            folder = self.run / "checkpoints" / f"step-{self.step:08d}"
            temporary = folder.with_name(f".{folder.name}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            try:
                self.write_model(temporary, self.ema.module if self.ema else self.task.model, self.step)
                torch.save(self._state(), temporary / "training.pt")
            except (OSError, RuntimeError) as error:  # torch.save answers a full disk with RuntimeError
                shutil.rmtree(temporary, ignore_errors=True)
                raise TrainingError(f"{folder}: cannot write a checkpoint ({error}); the last one is kept") from error
            if folder.exists():  # left whole by a run that was killed before it could link it
                shutil.rmtree(temporary)
            else:
                os.replace(temporary, folder)
            _link(self.run / "last", folder)
            if best:
                _link(self.run / "best", folder)
            self._prune()
        self.saved = self.step
        self.accelerator.wait_for_everyone()

    def _state(self) -> dict[str, Any]:
        weights = {k: v.detach().cpu() for k, v in self.task.model.state_dict().items()} if self.ema else {}
        return {
            "step": self.step,
            "samples_seen": self.step * self.config.global_batch,
            "optimizer": self.optimizer.state_dict(),
            "weights": weights,  # with EMA the model folder holds the average, so the trained ones are here
            "best": self.best,
            "bad": self.bad,
            "totals": {k: v.cpu() for k, v in self.totals.items()},
            "skipped": self.skipped,
        }

    def _prune(self) -> None:
        """Keep the newest checkpoints and the best."""
        safe = {(self.run / name).resolve() for name in ("last", "best")}
        for folder in sorted((self.run / "checkpoints").glob("step-*"))[: -self.config.keep]:
            if folder.resolve() not in safe:
                shutil.rmtree(folder)

    def resume(self) -> None:
        """Take the run up where its last whole checkpoint left it; a new run stays at step 0."""
        found = sorted((self.run / "checkpoints").glob("step-*"))
        if not found:
            return
        path = found[-1] / "training.pt"
        state = checkpoint.read_pickle(path)
        average = checkpoint.read_weights(found[-1] / "model.safetensors")
        checkpoint.load_strict(self.task.model, state["weights"] or average, found[-1])
        if self.ema:
            self.ema.module.load_state_dict(average)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = self.saved = state["step"]
        self.best, self.bad = state["best"], state["bad"]
        self.totals = {k: v.to(self.accelerator.device) for k, v in state["totals"].items()}
        self.skipped = state["skipped"]
        self.accelerator.print(f"{self.run}: going on from step {self.step} of {self.total}", flush=True)

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
        self.totals[name] = self.totals[name] + value if name in self.totals else value

    def _request_stop(self) -> None:
        self.stop = True

    def _agreed_to_stop(self) -> bool:
        """Whether any process was asked to stop. Several processes ask each other only when they log."""
        if self.accelerator.num_processes == 1:
            return self.stop
        if self.step % self.config.log_every:
            return False
        flag = torch.tensor(float(self.stop), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())


class _on_signal:
    """Turn the first SIGTERM or SIGINT within a block into a request; the second acts as ever."""

    def __init__(self, request: Callable[[], None]) -> None:
        self.request = request

    def __enter__(self) -> None:
        self.before = {s: signal.signal(s, self._first) for s in (signal.SIGTERM, signal.SIGINT)}

    def _first(self, *_: object) -> None:
        self.request()
        self.__exit__()

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
    accelerator = Accelerator(mixed_precision=precision, cpu=cpu, log_with=list(config.trackers), project_dir=run)
    accelerator.init_trackers("tensorboard")
    return accelerator


def _move(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Put a loaded optimiser's state where its parameters now are."""
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor) and name != "step":
                state[name] = value.to(device)


def _link(link: Path, folder: Path) -> None:
    """Point a relative symbolic link at `folder`, replacing an old one in one move."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.relative_to(link.parent))
    os.replace(temporary, link)
