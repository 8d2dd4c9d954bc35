"""Loader and training step, compared in one run with what the published code does.

    python benchmarks/speed.py --out speed.json --images DIR [--part step] [--quick]

    loader     images a second on one core: PIL and torchvision on originals and on 512-pixel files, ours on both and
               on packed shards, by the published filter and by area; and what our loader leaves to the device (grey to
               three channels, normalise, shrink)
    step       forward, backward and optimiser of ViT-B/16 224 -> 448, batches of 8, 70 tokens on average; peak memory
    loop       what the training loop itself costs, apart from the step and from waiting for batches
    processes  two processes with one thread each against one, equal work for each
    sweep      on a GPU: batch sizes, share of the bf16 peak, memory, hours for 200 epochs of 377,110

What is compared is measured in turns, A B C A B C, so that noise hits all alike; ratios are of one turn each. `--quick`
runs every part with small models and images to see that it works: its numbers mean nothing, and the file says so.
"""

# Shapes: B studies, T tokens, W masked words
from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import baseline
import cv2
import numpy as np
import PIL
import timm
import torch
import torchvision

import mrm
from mrm import recipes
from mrm.data import images, packing
from mrm.data.config import PackConfig, Resize
from mrm.data.records import Record, Records
from mrm.data.reports import NO_WORD, Tokenizer
from mrm.data.samples import PretrainBatch, PretrainData
from mrm.models import noise
from mrm.models.config import ModelConfig
from mrm.models.flops import flops_of_step
from mrm.models.mrm import MRM, normalise
from mrm.runs.stage_times import Stopwatch
from mrm.system.errors import ImageError
from mrm.system.files import write_json
from mrm.system.hardware import computes_bf16, cores, device_name, keep_freed_memory, share_of_peak
from mrm.training import parallel
from mrm.training.config import TrainConfig
from mrm.training.optimization import build_optimizer
from mrm.training.tasks import PretrainTask
from mrm.training.trainer import Trainer

PARTS = ("loader", "step", "loop", "processes", "sweep")
ORIGINAL = (3056, 2544)  # height, width of a MIMIC-CXR radiograph
PACKED = 512  # shorter side, in pixels
EPOCHS, STUDIES = 200, 377_110  # of the published pre-training
TOKENS = (40, 100)  # lengths of reports, [CLS] included: 70 on average
VARIANTS = {  # name: image decoder, precision; the baseline besides
    "fp32 full": ("full", "fp32"),
    "fp32 cross": ("cross", "fp32"),
    "bf16 full": ("full", "bf16"),
    "bf16 cross": ("cross", "bf16"),
}


def main() -> None:
    """Measure the selected parts, write JSON, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("speed.json"), help="the JSON file to write")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--images", type=Path, help="a folder of radiographs; the largest are used")
    parser.add_argument("--quick", action="store_true", help="small models and images, to see that everything works")
    parser.add_argument("--step-of", nargs=2, help=argparse.SUPPRESS)  # this command starts itself
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step_of:
        take_steps(options.step_of[0], int(options.step_of[1]), options.quick)
        return
    if options.train:
        train_in_processes(options.train, options.quick)
        return
    parts = options.part or PARTS
    if "loader" in parts and not options.images:
        parser.error("the loader part needs --images DIR, a folder of real radiographs")
    results: dict[str, Any] = {"machine": machine(), "quick": options.quick}
    measure: dict[str, Callable[[], dict[str, Any]]] = {
        "loader": lambda: loader(options.images, options.quick),
        "step": lambda: step(options.quick),
        "loop": lambda: loop(options.quick),
        "processes": lambda: processes(options.quick),
        "sweep": lambda: sweep(options.quick),
    }
    for part in parts:
        print(f"--- {part}", flush=True)
        results[part] = measure[part]()
        print(table(results[part]), flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, results)
    print(f"wrote {options.out}" + ("; --quick: its numbers mean nothing" if options.quick else ""))


# The loader -------------------------------------------------------------------------------------------


def loader(folder: Path, quick: bool) -> dict[str, Any]:
    """Seconds an image on one core; `ratios` against the baseline on the same originals and the same small files."""
    count, repeats = (2, 2) if quick else (6, 5)
    height, width = (764, 636) if quick else ORIGINAL
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as place:
        largest = largest_images(folder, count)
        originals = [write(Path(place) / f"{i}.jpg", images.resize(p, height, width)) for i, p in enumerate(largest)]
        small = [
            write(Path(place) / f"{i}-small.jpg", shorter_side(images.read(p), PACKED)) for i, p in enumerate(originals)
        ]
        records = Records([Record(path, report=text) for path, text in zip(originals, reports(count), strict=True)])
        packing.pack(packing.of_records(records), Path(place) / "shards", PackConfig(size=PACKED), workers=1)
        packed = Records.load(Path(place) / "shards")
        ours = {
            "ours, originals": samples_of(records),
            "ours, 512-pixel files": samples_of(
                [replace(r, image=p, name="") for r, p in zip(records, small, strict=True)]
            ),
            "ours, packed shards": samples_of(packed),
            "ours, packed shards, by area": samples_of(packed, "area"),
            "ours, originals, by area": samples_of(records, "area"),
        }
        transform = baseline.image_transform()
        each: dict[str, Callable[[int], Any]] = {
            "baseline, originals": lambda i: baseline.load(originals[i], transform),
            "baseline, 512-pixel files": lambda i: baseline.load(small[i], transform),
            **{name: (lambda i, data=data: data.sample(0, i)) for name, data in ours.items()},
        }
        passes = {name: 1 if name == "baseline, originals" else (2 if quick else 10) for name in each}
        seconds = in_turns({k: lambda f=f, n=passes[k]: per_call(f, count, n) for k, f in each.items()}, repeats)
        batch = ours["ours, packed shards"]
        seconds |= in_turns({"device, per image": lambda: on_device(batch, count)}, repeats)
    torch.set_num_threads(cores())
    return {
        "originals": f"{height} x {width} grey JPEG, quality 95, enlarged from the {count} largest images given",
        "unit": "seconds an image",
        "seconds": {k: spread(v) for k, v in seconds.items()},
        "ratios": {
            "packed shards against baseline on originals": ratio(seconds, "baseline, originals", "ours, packed shards"),
            "512-pixel files against baseline on them": ratio(seconds, "baseline, 512-pixel files", "ours, 512-pixel files"),
            "packed shards against baseline on 512-pixel files": ratio(seconds, "baseline, 512-pixel files", "ours, packed shards"),
            "originals against baseline on them": ratio(seconds, "baseline, originals", "ours, originals"),
            "packed shards by area against baseline on originals": ratio(seconds, "baseline, originals", "ours, packed shards, by area"),
            "packed shards by area against baseline on 512-pixel files": ratio(seconds, "baseline, 512-pixel files", "ours, packed shards, by area"),
        },
    }  # fmt: skip


def largest_images(folder: Path, count: int) -> list[np.ndarray]:
    """The images with the most pixels below a folder."""
    sizes = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            height, width = images.size(path)
        except ImageError:
            continue
        sizes[path] = height * width
    if len(sizes) < count:
        raise SystemExit(f"{folder}: {len(sizes)} images, but {count} are needed")
    return [images.read(p) for p in sorted(sizes, key=sizes.__getitem__, reverse=True)[:count]]


def write(path: Path, image: np.ndarray) -> Path:
    """As a grey JPEG of quality 95."""
    path.write_bytes(images.encode_jpeg(image))
    return path


def shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    """The image with its shorter side at `side` pixels."""
    scale = side / min(image.shape)
    height, width = (round(n * scale) for n in image.shape)
    return images.resize(image, height, width)


def samples_of(records: Sequence[Record], resize: Resize = "bicubic") -> PretrainData:
    """Records as the published recipe's samples."""
    return PretrainData(records, tokenizer(), size=448, patches=196, keep=49, length=100, resize=resize)


def per_call(function: Callable[[int], Any], count: int, passes: int) -> float:
    """Seconds a call, over `passes` times all of `count` images."""
    began = time.perf_counter()
    for n in range(count * passes):
        function(n % count)
    return (time.perf_counter() - began) / (count * passes)


def on_device(data: PretrainData, count: int) -> float:
    """Seconds an image of what our loader leaves to the device, on this device."""
    device = best_device()
    image_BHW = torch.from_numpy(np.stack([data.sample(0, i % count)["image"] for i in range(8)])).to(device)
    clock = Stopwatch(device)
    crop_BCHW = normalise(image_BHW, 0.4978, 0.2449)
    torch.nn.functional.interpolate(crop_BCHW, size=(224, 224), mode="bicubic")
    return clock.lap() / len(image_BHW)


# The step ---------------------------------------------------------------------------------------------


def step(quick: bool) -> dict[str, Any]:
    """Seconds of a step of each variant, in turns with the baseline's, and each one's peak memory."""
    size, repeats = (4, 2) if quick else (8, 7)
    names = [n for n, (_, precision) in VARIANTS.items() if precision == fitting(precision)]
    without = [n for n in VARIANTS if n not in names]
    seconds: dict[str, list[float]] = {"baseline": []}
    ratios, memory = {}, {}
    for name in names:
        with Stepper("baseline", quick, size) as plain, Stepper(name, quick, size) as ours:
            pair = in_turns({"baseline": plain.step, name: ours.step}, repeats)
            memory |= {"baseline": plain.memory, name: ours.memory}
        ratios[f"{name} against baseline"] = ratio(pair, "baseline", name)
        seconds = {**seconds, name: pair[name], "baseline": seconds["baseline"] + pair["baseline"]}
    left_out = f"; left out: {', '.join(without)} (this processor has no bf16 instructions)" if without else ""
    return {
        "what": f"batch of {size}, {threads()}; forward, backward and optimiser{left_out}",
        "unit": "seconds a step",
        "seconds": {k: spread(v) for k, v in seconds.items()},
        "ratios": ratios,
        "memory": memory,
        "memory_unit": "GiB at the peak of a process of its own (on a GPU: allocated there)",
    }


class Stepper:
    """A variant in a process of its own, which takes a step on request.

    In one process the variants would share what the allocator keeps, and each would affect the others.
    """

    def __init__(self, name: str, quick: bool, size: int) -> None:
        self.command = [sys.executable, __file__, "--step-of", name, str(size), *(["--quick"] if quick else [])]
        self.memory = math.nan  # GiB, at the peak so far

    def __enter__(self) -> Stepper:
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.step(), self.step()  # to warm up
        return self

    def step(self) -> float:
        """Seconds of one step."""
        assert self.process.stdin
        assert self.process.stdout
        print("step", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{' '.join(self.command)}: ended with {self.process.wait()}")
        seconds, self.memory = json.loads(answer)
        return seconds

    def __exit__(self, *_: object) -> None:
        self.process.communicate()  # no more lines: it ends


def take_steps(name: str, size: int, quick: bool) -> None:
    """What the process of a `Stepper` does: for each line a step, answered by its seconds and the peak memory."""
    run = variant(name, quick, size)
    for _ in sys.stdin:
        seconds = run()
        print(json.dumps([seconds, peak_memory()]), flush=True)


def fitting(precision: str) -> str:
    """The precision, or fp32 where the device has no instructions for it."""
    return precision if computes_bf16(best_device()) else "fp32"


def variant(name: str, quick: bool, size: int) -> Callable[[], float]:
    """A step of the baseline or of one of VARIANTS; it returns its seconds."""
    device = best_device()
    if name == "baseline":
        return baseline_step(quick, size, device)
    decoder, precision = VARIANTS[name]
    keep_freed_memory(device)  # as the training loop does
    model = new_model(quick, decoder).to(device).train()
    batch = batch_for(model, size).to(device)
    return our_step(PretrainTask(model).train(), build_optimizer(model, TrainConfig()), batch, precision)


def our_step(
    task: PretrainTask, optimizer: torch.optim.Optimizer, batch: PretrainBatch, precision: str
) -> Callable[[], float]:
    """One update, as the loop makes it."""
    counts, device = task.counts(batch), batch.image_BHW.device

    def run() -> float:
        clock = Stopwatch(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            terms = task(batch)
        loss: Any = sum(task.weights[k] * t.sum / counts[k] for k, t in terms.items())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return clock.lap()

    return run


def baseline_step(quick: bool, size: int, device: torch.device) -> Callable[[], float]:
    """One update of the plain network on the same images and reports. Images come to it normalised, as floats."""
    model = new_model(quick, "full")
    config, batch = model.config, batch_for(model, size)
    plain = baseline.like(model).to(device).train()
    optimizer = baseline.build_optimizer(plain)
    crop = normalise(batch.image_BHW, config.mean, config.std).contiguous().to(device)
    words = [t.to(device) for t in whole_reports(batch, config.report_length)]
    kept = batch.kept_BK.to(device)

    def run() -> float:
        clock = Stopwatch(device)
        image_loss, report_loss = plain(crop, kept, *words)
        (image_loss + report_loss).backward()
        optimizer.step()
        optimizer.zero_grad()
        return clock.lap()

    return run


def whole_reports(batch: PretrainBatch, length: int) -> tuple[torch.Tensor, ...]:
    """Tokens, attention, targets and masked positions, all padded to the full length: (B, T) each."""
    rows, short = batch.tokens_BT.shape

    def padded(x_BT: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x_BT, (0, length - short))

    real = batch.targets_W != NO_WORD
    targets, masked = batch.tokens_BT.clone(), torch.zeros(rows, short, dtype=torch.bool)
    targets.view(-1)[batch.words_W[real]] = batch.targets_W[real]
    masked.view(-1)[batch.words_W[real]] = True
    return padded(batch.tokens_BT), padded(batch.attention_BT), padded(targets), padded(masked)


def new_model(quick: bool, decoder: str) -> MRM:
    """The published architecture, or a small one."""
    shape = recipes.TINY_MODEL if quick else ModelConfig()
    with noise.seeded(0):
        return MRM(replace(shape, image_decoder=decoder))  # type: ignore[arg-type]


def batch_for(model: MRM, size: int) -> PretrainBatch:
    """The loader's own batch of noise images and invented reports of 70 tokens on average."""
    config = model.config
    rng = np.random.default_rng(0)
    noisy = [images.encode_png(rng.integers(0, 256, (64, 64), dtype=np.uint8)) for _ in range(size)]
    records = [Record(image, report=text) for image, text in zip(noisy, reports(size), strict=True)]
    data = PretrainData(
        records, tokenizer(), config.target_size, model.patches, config.keep, config.report_length,
        predicted=model.predicted,
    )  # fmt: skip
    return data.collate([data.sample(0, i) for i in range(size)], [])


def peak_memory() -> float:
    """The most this process has held (CPU) or allocated (GPU), in GiB."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**30, 3)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())  # ru_maxrss would be the parent's
    return round(int(peak[1]) / 2**20, 3) if peak else math.nan


# The loop ---------------------------------------------------------------------------------------------


class WatchedTrainer(Trainer):
    """The training loop with its waiting for batches and its steps timed; it saves nothing."""

    def watch(self) -> None:
        """Begin to time. Forward passes are timed by hooks, the rest by wrapping what the loop calls."""
        self.spent = {"loader": 0.0, "step": 0.0, "gradient norm": 0.0}
        self.history: list[dict[str, float]] = []  # after each step: the time, and what was spent until then
        self.parallel.register_forward_pre_hook(lambda *_: setattr(self, "forward_began", time.perf_counter()))
        self.parallel.register_forward_hook(lambda *_: self._spend("step", self.forward_began))
        self.optimizer.step = self._timed("step", self.optimizer.step)  # type: ignore[method-assign]
        self.optimizer.zero_grad = self._timed("step", self.optimizer.zero_grad)  # type: ignore[method-assign]

    def _step(self, micro_batches: list[Any]) -> None:
        with (
            patch.object(torch.Tensor, "backward", self._timed("step", torch.Tensor.backward)),
            patch.object(parallel, "gradient_norm", self._timed("gradient norm", parallel.gradient_norm)),
        ):
            super()._step(micro_batches)

    def stream(self) -> Iterator[Any]:
        """Batches, with the time they are waited for."""
        batches = super().stream()
        while True:
            began = time.perf_counter()
            batch = next(batches)
            self.spent["loader"] += time.perf_counter() - began
            yield batch

    def _timed(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **options)
            self._spend(what, began)
            return result

        return timed

    def _spend(self, what: str, began: float) -> None:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        self.spent[what] += time.perf_counter() - began

    def _after_step(self) -> None:
        super()._after_step()
        self.history.append({"time": time.perf_counter(), **self.spent})

    def _save(self, *_: Any, **__: Any) -> None:
        self.saved = self.step


def loop(quick: bool) -> dict[str, Any]:
    """The loop's own time without the first step: everything but waiting for batches, forward, backward and optimiser.

    The gradient norm, which the loop needs to refuse a bad step, is reported separately.
    """
    repeats, steps = (2, 5) if quick else (3, 9)
    precision = fitting("bf16")
    shares: dict[str, list[float]] = {"loop": [], "norm": [], "waiting": [], "whole": []}
    with tempfile.TemporaryDirectory() as place:
        for turn in range(repeats):
            trainer = trainer_for(
                Path(place) / str(turn), new_model(quick, "full"), steps, 4 if quick else 8, precision
            )
            trainer.watch()
            with quiet():
                trainer.fit()
            first, last = trainer.history[0], trainer.history[-1]
            spent = {k: last[k] - first[k] for k in first}
            loop_seconds = spent["time"] - spent["loader"] - spent["step"] - spent["gradient norm"]
            shares["loop"].append(loop_seconds / spent["step"])
            shares["norm"].append(spent["gradient norm"] / spent["step"])
            shares["waiting"].append(spent["loader"] / spent["time"])
            shares["whole"].append(spent["time"] / (steps - 1))
    return {
        "what": f"{steps - 1} steps of {precision}, {threads()}, a worker reads; logs every 4 steps, checkpoints left out",
        "unit": "seconds a step",
        "seconds": {"whole": spread(shares["whole"])},
        "shares": {
            "the loop's own, of the step": spread(shares["loop"]),
            "the gradient's norm, of the step": spread(shares["norm"]),
            "waiting for batches, of the whole": spread(shares["waiting"]),
        },
    }


def trainer_for(
    run: Path, model: MRM, steps: int, batch: int, precision: str, world: int = 1, workers: int = 1
) -> WatchedTrainer:
    """A trainer on 64 noise images with reports."""
    config = model.config
    rng = np.random.default_rng(0)
    smooth = [images.resize(rng.integers(0, 256, (32, 32), dtype=np.uint8), PACKED, PACKED) for _ in range(64)]
    records = [Record(images.encode_jpeg(p), report=t) for p, t in zip(smooth, reports(64), strict=True)]
    data = PretrainData(
        records, tokenizer(), config.target_size, model.patches, config.keep, config.report_length,
        predicted=model.predicted,
    )  # fmt: skip
    training = TrainConfig(
        epochs=None, steps=steps, warmup_steps=1, global_batch=batch * world, precision=precision,  # type: ignore[arg-type]
        log_every=4, save_every=10**9, validate_every=10**9, workers=workers, trackers=(),
    )  # fmt: skip
    run.mkdir(parents=True, exist_ok=True)
    return WatchedTrainer(PretrainTask(model), data, training, run, write_model=lambda *_: None, seed=0)


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing printed to standard output."""
    before = sys.stdout
    with open(os.devnull, "w") as sink:
        sys.stdout = sink
        try:
            yield
        finally:
            sys.stdout = before


# Several processes ------------------------------------------------------------------------------------


def processes(quick: bool) -> dict[str, Any]:
    """Images a second of two processes against one, each with one thread and equal work.

    Each reads its own images: with a separate reader, two processes would need more than two cores.
    """
    rates = in_turns({f"{n}": lambda n=n: rate_of_processes(n, quick) for n in (1, 2)}, 2 if quick else 3)
    scaled = [two / one for one, two in zip(rates["1"], rates["2"], strict=True)]
    return {
        "what": f"ViT-Tiny at 128, 16 images a process and step, gloo, one thread each, which reads too, {cores()} cores",
        "unit": "images a second",
        "seconds": {f"{k} processes": spread(v) for k, v in rates.items()},
        "ratios": {"two processes against one": {**spread(scaled), "each": scaled}},
    }


def rate_of_processes(count: int, quick: bool) -> float:
    """Images a second of a training run of so many processes, the first steps left out."""
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), __file__,
            "--train", place, *(["--quick"] if quick else []),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return float((Path(place) / "rate").read_text())


def train_in_processes(place: Path, quick: bool) -> None:
    """What each of the processes does; the first one writes the rate."""
    torch.set_num_threads(1)
    world, batch = int(os.environ["WORLD_SIZE"]), 4 if quick else 16
    shape = recipes.TINY_MODEL if quick else recipes.SMALL_MODEL
    with noise.seeded(0):
        model = MRM(shape)
    trainer = trainer_for(place / "run", model, 4 if quick else 14, batch, "fp32", world, workers=0)
    trainer.watch()
    with quiet():
        trainer.fit()
    if int(os.environ["RANK"]) == 0:
        seconds = trainer.history[-1]["time"] - trainer.history[1]["time"]
        (place / "rate").write_text(str((len(trainer.history) - 2) * batch * world / seconds))


# A GPU ------------------------------------------------------------------------------------------------


def sweep(quick: bool) -> dict[str, Any]:
    """Images a second, share of the peak, memory and projected hours, by batch size. Skipped on a CPU unless quick."""
    device = best_device()
    if device.type == "cpu" and not quick:
        return {"skipped": "no GPU"}
    sizes, repeats = ((2, 4), 2) if quick else ((64, 128, 256, 512), 10)
    rows = []
    for name in ("baseline", "bf16 full", "bf16 cross"):
        for size in sizes:
            try:
                rows.append(sweep_row(name, size, repeats, quick))
            except torch.OutOfMemoryError:
                rows.append({"variant": name, "batch": size, "failed": "out of memory"})
            torch.cuda.empty_cache() if device.type == "cuda" else None
    return {"what": f"random batches on the device, {EPOCHS} epochs of {STUDIES:,}", "rows": rows}


def sweep_row(name: str, size: int, repeats: int, quick: bool) -> dict[str, Any]:
    """One variant at one batch size."""
    device = best_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run = variant(name, quick, size)
    run(), run()
    seconds = [run() for _ in range(repeats)]
    rate = size / median(seconds)
    model = new_model(quick, "cross" if "cross" in name else "full")
    flops = flops_of_step(model, batch_for(model, size))
    return {
        "variant": name,
        "batch": size,
        "images_per_second": round(rate, 2),
        "seconds": spread(seconds),
        "gflop_per_image": round(flops / 1e9, 2),  # of our step; the baseline does the same task with more
        "share_of_bf16_peak": share_of_peak(flops * rate, device_name(device)),
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device.type == "cuda" else None,
        "hours": round(EPOCHS * STUDIES / rate / 3600, 2),
    }


# Measuring --------------------------------------------------------------------------------------------


def in_turns(measures: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measures each once, then each again, so that what disturbs the machine disturbs all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(repeats):
        for name, measure in measures.items():
            seconds[name].append(measure())
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": median(values), "min": min(values), "max": max(values), "n": len(values)}


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> dict[str, Any]:
    """The speed-up, turn by turn."""
    each = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
    return {**spread(each), "each": each}


def reports(count: int) -> list[str]:
    """Invented reports of 40 to 100 tokens, 70 on average, spread evenly."""
    rng = np.random.default_rng(1)
    lengths = np.linspace(*TOKENS, count).round().astype(int) - 1
    words = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("aa", "ee", "ii", "oo")]
    return [" ".join(rng.choice(words, length)) for length in rng.permutation(lengths)]


def tokenizer() -> Tokenizer:
    """Of the invented words, each one piece."""
    return Tokenizer.train(reports(64), 2000)


def machine() -> dict[str, Any]:
    """What the machine reports about itself, and the versions."""
    processor = device_name(torch.device("cpu"))
    return {
        "processor": processor.split(",")[0].removeprefix("CPU "),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": os.getloadavg()[0],  # of the last minute before: other work disturbs
        "python": platform.python_version(),
        "versions": {m.__name__: m.__version__ for m in (mrm, torch, torchvision, timm, cv2, PIL, np)},
    }


def threads() -> str:
    """How many threads compute."""
    return f"{torch.get_num_threads()} threads" if best_device().type == "cpu" else device_name(best_device())


def best_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def table(part: dict[str, Any]) -> str:
    """A part's numbers as lines."""
    lines = [part.get("what") or part.get("originals") or part.get("skipped", "")]
    for group in ("seconds", "ratios", "shares"):
        for name, s in part.get(group, {}).items():
            unit = part["unit"] if group == "seconds" else ""
            lines.append(f"{name:52} {s['median']:9.4f}  ({s['min']:.4f} to {s['max']:.4f}, n {s['n']}) {unit}")
    lines += [f"memory {name:45} {gib:9.3f} GiB" for name, gib in part.get("memory", {}).items()]
    lines += [json.dumps(row) for row in part.get("rows", [])]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
