"""What bounds a pre-training run on this machine: each stage of a sample and of a step measured by itself.

The loader's stages are timed on one thread, as one worker runs them; the step's with the threads a run would use.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from mrm.data import headers, images
from mrm.data.records import Records
from mrm.data.reports import Tokenizer
from mrm.data.samples import PretrainBatch, PretrainData
from mrm.data.sections import select_sections
from mrm.models import model_folder, noise
from mrm.models.mrm import MRM
from mrm.recipes import PRETRAIN, PretrainConfig, find, from_yaml
from mrm.runs.pretraining import pretrain_data
from mrm.system import hardware
from mrm.system.errors import ConfigError, ImageError, RunError
from mrm.system.hardware import best_device
from mrm.system.progress import duration
from mrm.training.optimization import build_optimizer
from mrm.training.tasks import PretrainTask

SAMPLE, STEPS = 32, 3  # measured unless told otherwise
TEXTS = 2000  # reports that a stand-in vocabulary is learned from
READING, STEP = ("read", "decode", "augment", "words and masks"), ("transfer", "forward", "backward", "optimiser")


@dataclass(frozen=True)
class Stage:
    """Seconds for one image: median, least and most of `n` measurements."""

    name: str
    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Diagnosis:
    """What `mrm doctor` found."""

    stages: tuple[Stage, ...]
    device: str
    batch: int  # images of a micro-batch in the steps measured
    precision: str
    workers: int  # that the recipe would have here
    loader: float  # images a second, by those workers
    step: float  # images a second, with batches at hand
    other_precision: float  # images a second of the step in bf16 or fp32, the other of the two
    half_batch: float | None  # images a second of the step with half the images
    flops: float  # of an image, forward and backward
    peak_share: float | None  # of the device's bf16 rate; None: not a device of `machine.PEAKS`
    bound: str  # "loader" or "step"
    images: int  # that the recipe trains on, over all epochs
    seconds: float  # the recipe would take
    cost: float | None
    unreadable: dict[str, str]
    advice: tuple[str, ...]

    def table(self) -> str:
        """The measurements and what follows from them, as lines."""
        lines = [f"{'stage':16} {'ms an image':>13} {'least':>9} {'most':>9}    n"]
        for stage in self.stages:
            times = f"{1e3 * stage.median:13.3f} {1e3 * stage.low:9.3f} {1e3 * stage.high:9.3f}"
            lines.append(f"{stage.name:16} {times} {stage.n:4}")
        share = f", {self.peak_share:.1%} of its bf16 peak" if self.peak_share is not None else ""
        lines += [
            f"loader: {self.loader:.2f} images/s with {max(self.workers, 1)} of {hardware.cores()} cores",
            f"step:   {self.step:.2f} images/s on {self.device}, {self.precision}, batches of {self.batch}"
            f" ({self.flops * self.step / 1e9:.0f} GFLOP/s{share})",
            f"the {self.bound} bounds the run; the recipe's {self.images:,} images would take "
            f"{duration(self.seconds)} (hours:minutes:seconds)"
            + (f" and cost {self.cost:,.2f}" if self.cost is not None else ""),
        ]
        if self.unreadable:
            name, reason = next(iter(self.unreadable.items()))
            lines.append(f"{len(self.unreadable)} of the images tried cannot be read, first {name}: {reason}")
        return "\n".join([*lines, *(f"- {line}" for line in self.advice)])

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def examine(
    records: Path,
    recipe: str = "mimic",
    init: Path | None = None,
    folder: Path | None = None,
    batch: int | None = None,
    sample: int = SAMPLE,
    steps: int = STEPS,
    price: float | None = None,
) -> Diagnosis:
    """Measure a pre-training recipe, or the configuration in a YAML file, on these records here.

    `sample` images are read; `folder` is where relative image paths are, `price` that of an hour of this machine. Raises RunError if not one
    of the images tried can be read, ConfigError for an unknown recipe.
    """
    if min(sample, steps, batch or 1) < 1:
        raise RunError(f"sample, steps and batch must be at least 1, not {sample}, {steps}, {batch}")
    config = replace(_config(recipe, Path(records), init), on_error="stop")  # another image in its place is not timed
    loaded = Records.load(records, images=folder, on_error="skip")
    device = best_device()
    tokenizer, config = _with_tokenizer(config, loaded)
    with noise.seeded(config.seed):
        model = MRM(config.model)
    model.checkpointing = config.training.checkpointing
    if config.init:
        print(f"{config.init}: {model_folder.start_from(model, config.init)}")
    tried = _spread(loaded, sample)
    loader_stages, unreadable = _loader_stages(pretrain_data(config, tried, model, tokenizer))
    readable = [r for r in tried if r.name not in unreadable]
    if not readable:
        name, reason = next(iter(unreadable.items()))
        raise RunError(f"{records}: not one of {len(tried)} images tried could be read; the first, {name}: {reason}")
    hardware.share_cores(device)
    hardware.keep_freed_memory(device)
    data = pretrain_data(config, readable, model, tokenizer)
    size = batch or _micro_batch(config, device)
    bench = StepBench(model.to(device).train(), config, data)
    stages = [*loader_stages, *bench.stages(size, config.training.precision, steps)]
    other = "fp32" if config.training.precision == "bf16" else "bf16"
    reading = sum(s.median for s in stages if s.name in READING)
    step = 1 / sum(s.median for s in stages if s.name in STEP)
    half = _rate(bench.stages(size // 2, config.training.precision, steps)) if size > 1 else None
    workers = hardware.default_workers(device.type) if config.training.workers is None else config.training.workers
    loader = max(workers, 1) / reading
    together = 1 / (1 / step + reading) if workers == 0 else min(step, loader)  # without workers they take turns
    total = config.training.plan(len(loaded))[0] * config.training.global_batch
    name, flops = hardware.device_name(device), flops_of_step(model, bench.batch(size))
    found = Diagnosis(
        stages=tuple(stages),
        device=name,
        batch=size,
        precision=config.training.precision,
        workers=workers,
        loader=loader,
        step=step,
        other_precision=_rate(bench.stages(size, other, steps)),
        half_batch=half,
        flops=flops,
        peak_share=hardware.share_of_peak(flops * step, name),
        bound="loader" if loader < step else "step",
        images=total,
        seconds=total / together,
        cost=None if price is None else price * total / together / 3600,
        unreadable=unreadable,
        advice=(),
    )
    return replace(found, advice=tuple(_advice(found, readable)))


# What to change ---------------------------------------------------------------------------------------


def _advice(found: Diagnosis, records: Sequence[Any]) -> list[str]:
    """What would make the run faster, each from a measurement above."""
    lines = []
    times = {s.name: s.median for s in found.stages}
    reading = sum(times[name] for name in READING)
    needed = math.ceil(found.step * reading)
    if found.bound == "loader":
        packed = not isinstance(records[0].image, Path | bytes)
        if times["read"] + times["decode"] >= reading / 2 and not packed:
            lines.append(
                f"reading and decoding take {(times['read'] + times['decode']) / reading:.0%} of the loader's time: pack "
                "shards (`mrm pack RECORDS --out DIR`) and train on those"
            )
        if needed > found.workers and needed < hardware.cores():
            lines.append(f"more workers: --training.workers {needed} feed this step")
        elif needed >= hardware.cores():
            lines.append(f"{needed} cores would feed this step; this machine has {hardware.cores()}")
    faster = found.other_precision > 1.1 * found.step
    if faster and found.precision == "fp32":
        lines.append(
            f"bf16: --training.precision bf16 makes the step {found.other_precision / found.step:.1f} times as fast"
        )
    elif faster:
        lines.append(f"fp32: this machine computes it {found.other_precision / found.step:.1f} times as fast as bf16")
    if found.half_batch and found.step > 1.1 * found.half_batch:
        lines.append(
            f"a larger micro-batch, if memory allows (--training.micro-batch): the step still gains, "
            f"{found.half_batch:.2f} images/s with {found.batch // 2} and {found.step:.2f} with {found.batch}"
        )
    if found.bound == "step" and found.device.startswith("CPU"):
        lines.append("the processor's arithmetic is the limit: a GPU, a smaller recipe (`mrm recipes`), fewer epochs")
    if found.unreadable:
        lines.append("some images cannot be read: find them with `mrm audit`, or train with --on-error skip")
    return lines or ["nothing: loader and step are in balance"]


# The loader -------------------------------------------------------------------------------------------


def _spread(records: Records, count: int) -> list[Any]:
    """So many records, evenly from first to last."""
    chosen = np.unique(np.linspace(0, len(records) - 1, count).round().astype(int))
    return [records[int(i)] for i in chosen]


def _loader_stages(data: PretrainData) -> tuple[list[Stage], dict[str, str]]:
    """Each image read, decoded and cropped once, on one thread, as a worker does it; and those that cannot be read."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    times, unreadable = [], {}
    try:
        for index in range(len(data)):
            try:
                times.append(_sample_times(data, index))
            except (ImageError, OSError) as error:
                unreadable[data.name(index)] = str(error)
    finally:
        cv2.setNumThreads(threads)
    return [_stage(name, values) for name, values in zip(READING, zip(*times, strict=True), strict=False)], unreadable


def _sample_times(data: PretrainData, index: int) -> tuple[float, float, float, float]:
    """Seconds to read, decode, crop and resize an image, and to mask its words: the parts of `data.sample`."""
    rng = np.random.default_rng([data.seed, 0, index])
    clock = Stopwatch()
    content = headers.load(data.records[index].image)
    read = clock.lap()
    height, width = images.size(content)
    box = images.random_resized_box(height, width, rng, data.crop.area, data.crop.aspect)
    least = math.ceil(data.size * min(height, width) / min(box.height, box.width))  # as read_crop may reduce a JPEG
    image = images.read(content, min_side=least)
    decode = clock.lap()
    scale = image.shape[0] / height, image.shape[1] / width
    top, left = int(box.top * scale[0]), int(box.left * scale[1])
    part = image[top : top + math.ceil(box.height * scale[0]), left : left + math.ceil(box.width * scale[1])]
    images.flip(images.resize(part, data.size, data.size))
    augment = clock.lap()
    data.masks(index, rng)
    return read, decode, augment, clock.lap()


# The step ---------------------------------------------------------------------------------------------


class StepBench:
    """Forward, backward and optimiser of a task, timed one by one on the model's device."""

    def __init__(self, model: MRM, config: PretrainConfig, data: PretrainData) -> None:
        self.task = PretrainTask(model, config.image_weight, config.report_weight).train()
        self.config, self.data = config, data
        self.device = next(model.parameters()).device
        self.optimizer = build_optimizer(model, config.training)
        if config.training.compile:
            self.task.compile(dynamic=False)
        self.share = config.training.global_batch  # images that one update of the weights serves

    def stages(self, size: int, precision: str, steps: int) -> list[Stage]:
        """Seconds an image of `steps` steps with `size` images, after one to warm up."""
        batch = self.batch(size)
        laps = [self._step(batch, precision) for _ in range(steps + 1)][1:]
        divided = [size, size, size, max(size, self.share)]
        return [_stage(name, [lap[i] / divided[i] for lap in laps]) for i, name in enumerate(STEP)]

    def batch(self, size: int) -> PretrainBatch:
        """So many samples, over again where there are fewer records."""
        samples = [self.data.sample(0, i % len(self.data)) for i in range(size)]
        return self.data.collate(samples, [])

    def _step(self, batch: PretrainBatch, precision: str) -> tuple[float, ...]:
        counts = self.task.counts(batch)
        clock = Stopwatch(self.device)
        moved = (batch.pin_memory() if self.device.type == "cuda" else batch).to(self.device)
        laps = [clock.lap()]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
            terms = self.task(moved)
        loss: Any = sum(self.task.weights[k] * t.sum / max(counts[k], 1) for k, t in terms.items())
        laps.append(clock.lap())
        loss.backward()
        laps.append(clock.lap())
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return (*laps, clock.lap())


class Stopwatch:
    """Seconds between laps; a GPU is waited for before each is taken."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.cuda = device is not None and device.type == "cuda"
        self.began = self._now()

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = self._now()
        passed, self.began = now - self.began, now
        return passed

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


# Arithmetic -------------------------------------------------------------------------------------------


def flops_per_sample(model: MRM, tokens: float, words: float, batch: int = 1, length: int | None = None) -> float:
    """Floating-point operations of one sample's forward pass, a multiplication and an addition counted as two.

    `tokens` of the report, padded to `length` (None: not at all) for attention; `words` asked for; `batch` samples
    share what does not depend on the image. Only products of matrices count. Forward and backward are three times
    as many, though the backward pass spares the gradient of the image and computes attention again.
    """
    config, encoder = model.config, model.encoder
    seen, patches, asked = config.keep + model.prefix, model.patches, model.predicted
    width, inner, report = encoder.embed_dim, config.decoder_width, config.report_width
    embedding = 2 * patches * encoder.patch_embed.proj.weight.numel()
    encoding = sum(2 * seen * _weights(block) + 4 * seen * seen * width for block in encoder.blocks)
    decoder: Any = model.image_decoder
    restoring = 2 * seen * _weights(decoder.embed) + 2 * asked * _weights(decoder.pixels)
    if config.image_decoder == "cross":
        for block in decoder.blocks:
            keys = _weights(block.key_value)
            restoring += 2 * seen * keys + 2 * asked * (_weights(block) - keys) + 4 * asked * seen * inner
    else:
        rows = patches + model.prefix
        for number, block in enumerate(decoder.blocks):
            projected = seen + patches / batch if number == 0 else rows
            wanted = asked if number == len(decoder.blocks) - 1 else rows
            keys = _weights(block.attn.qkv)
            restoring += 2 * projected * keys + 2 * wanted * (_weights(block) - keys) + 4 * wanted * rows * inner
    reading = config.report_depth * 4 * (length or tokens) ** 2 * report
    reading += 2 * tokens * _weights(model.report_decoder.blocks) + 2 * _weights(model.report_decoder.from_image)
    naming = 2 * words * (_weights(model.report_decoder.transform) + config.vocabulary * report)
    return embedding + encoding + restoring + reading + naming


def _weights(module: Any) -> int:
    """Weights of a module's linear layers."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def _stage(name: str, seconds: Sequence[float]) -> Stage:
    return Stage(name, median(seconds), min(seconds), max(seconds), len(seconds))


def _rate(stages: Sequence[Stage]) -> float:
    """Images a second of the step."""
    return 1 / sum(s.median for s in stages)


def flops_of_step(model: MRM, batch: PretrainBatch) -> float:
    """Floating-point operations of a training step with this batch, a sample: forward and backward."""
    size, length = batch.tokens_BT.shape
    return 3 * flops_per_sample(model, len(batch.rows_N) / size, len(batch.words_W) / size, size, length)


def _micro_batch(config: PretrainConfig, device: torch.device) -> int:
    """The recipe's, but no more than 8 on a CPU, where an image costs the same in any larger batch."""
    share = config.training.micro_batch or config.training.global_batch
    return share if device.type == "cuda" else min(share, 8)


def _config(recipe: str, records: Path, init: Path | None) -> PretrainConfig:
    """A recipe by name, or what a run wrote to its `config.yaml`, for these records."""
    out = Path("doctor")  # nothing is written
    if recipe.endswith((".yaml", ".yml")):
        if not Path(recipe).is_file():
            raise ConfigError(f"{recipe}: no such file; a recipe's name or the config.yaml of a run is expected")
        config = from_yaml(PretrainConfig, Path(recipe).read_text(), recipe)
        return replace(config, records=records, out=out, init=init)
    return find(PRETRAIN, recipe).make(records, out, init=init)


def _with_tokenizer(config: PretrainConfig, records: Records) -> tuple[Tokenizer, PretrainConfig]:
    """The tokenizer of `--init` and its vocabulary; else one learned from some reports, and the recipe's vocabulary."""
    if config.init and Path(config.init).is_dir():
        file = model_folder.find_model(Path(config.init)) / "tokenizer.json"
        if file.is_file():
            tokenizer = Tokenizer.load(file)
            return tokenizer, replace(config, model=replace(config.model, vocabulary=tokenizer.size))
    texts = islice((select_sections(r.report, config.report.sections) for r in records if r.report), TEXTS)
    tokenizer = Tokenizer.train(list(texts), config.model.vocabulary)  # every letter is a piece, wanted or not
    words = max(tokenizer.size, config.model.vocabulary)
    return tokenizer, replace(config, model=replace(config.model, vocabulary=words))
