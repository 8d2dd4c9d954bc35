"""What bounds a training run on this machine: each stage of a sample and of a step measured by itself.

The loader's stages are timed on one thread, as one worker runs them; the step's with the threads a run would use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mrm.data.eval_view import EvalView
from mrm.data.records import Record, Records
from mrm.data.reports import Tokenizer
from mrm.data.samples import LabelData, PretrainData
from mrm.data.sections import select_sections
from mrm.models.flops import flops_of_step
from mrm.models.mrm import MRM
from mrm.recipes import FINETUNE, PRETRAIN, PretrainConfig, Recipe, find, read_yaml
from mrm.runs.finetuning import classifier
from mrm.runs.pretraining import initial_tokenizer, new_model, pretrain_data, pretrain_task
from mrm.runs.stage_times import READING, Stage, StepBench, loader_stages, rate_of, spread
from mrm.runs.step_memory import StepMemory, memory_advice, memory_of
from mrm.system import hardware
from mrm.system.durations import duration
from mrm.system.errors import RunError
from mrm.system.hardware import best_device
from mrm.targets.target import Multilabel
from mrm.training.config import TrainConfig
from mrm.training.tasks import ClassifyTask, Task
from mrm.training.tuning import choose_trained

SAMPLE, STEPS = 32, 3  # images and steps that are measured by default
TEXTS = 2000  # reports that a stand-in vocabulary is learned from


@dataclass(frozen=True)
class Diagnosis:
    """What `mrm doctor` has measured, and what follows from it."""

    stages: tuple[Stage, ...]
    device: str
    batch: int  # images of a micro-batch in the measured steps
    precision: str
    workers: int  # that the recipe would use on this machine
    loader: float  # images a second with those workers
    step: float  # images a second if batches are always ready
    other_precision: float  # images a second of the step in fp32 or the best precision, the other of the two
    half_batch: float | None  # images a second of the step with half the images
    flops: float  # for one image, forward and backward
    peak_share: float | None  # of the device's bf16 rate; None: for a device that `hardware` has no peak of
    bound: str  # "loader" or "step"
    memory: StepMemory
    best: str = "bf16"  # the precision that should be fastest on the device
    images: int = 0  # that the recipe trains on, over all epochs
    seconds: float = 0.0  # that the recipe would take
    cost: float | None = None
    unreadable: dict[str, str] = field(default_factory=dict)  # why, by name
    advice: tuple[str, ...] = ()

    def table(self) -> str:
        """The measurements and the advice, as text to print."""
        lines = [f"{'stage':16} {'ms an image':>13} {'least':>9} {'most':>9}    n"]
        for stage in self.stages:
            times = f"{1e3 * stage.median:13.3f} {1e3 * stage.low:9.3f} {1e3 * stage.high:9.3f}"
            lines.append(f"{stage.name:16} {times} {stage.n:4}")
        share = f", {self.peak_share:.1%} of its bf16 peak" if self.peak_share is not None else ""
        cost = f" and cost {self.cost:,.2f}" if self.cost is not None else ""
        lines += [
            f"loader: {self.loader:.2f} images/s with {max(self.workers, 1)} of {hardware.cores()} cores",
            f"step:   {self.step:.2f} images/s on {self.device}, {self.precision}, batches of {self.batch}"
            f" ({self.flops * self.step / 1e9:.0f} GFLOP/s{share})",
            self.memory.line(),
            f"the {self.bound} bounds the run; the recipe's {self.images:,} images would take "
            f"{duration(self.seconds)} (hours:minutes:seconds){cost}",
        ]
        if self.unreadable:
            name, reason = next(iter(self.unreadable.items()))
            lines.append(f"{len(self.unreadable)} of the images tried cannot be read; first error: {name}: {reason}")
        return "\n".join([*lines, *(f"- {line}" for line in self.advice)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"memory": self.memory.to_dict()}


def examine(
    records: Path,
    recipe: str = "mimic",
    init: Path | None = None,
    folder: Path | None = None,
    batch: int | None = None,
    sample: int = SAMPLE,
    steps: int = STEPS,
    price: float | None = None,
    finetune: str = "",
    image_size: int | None = None,
) -> Diagnosis:
    """Measure a pre-training recipe, or the configuration in a YAML file, with these records on this machine.

    Reads `sample` images, whose relative paths start from `folder`; `price` is that of one hour of this machine. With
    `finetune` a recipe of that name is measured instead, from `init`, at `image_size`. Raises RunError if none of these
    images can be read, ConfigError for an unknown recipe, and for a size that the encoder's patches do not divide.
    """
    if min(sample, steps, batch or 1) < 1:
        raise RunError(f"sample, steps and batch must be at least 1, not {sample}, {steps}, {batch}")
    if image_size is not None and not finetune:
        raise RunError("--image-size is that of --finetune RECIPE; a pre-training has its own, in its configuration")
    loaded = Records.load(records, None if finetune else (), folder, on_error="skip")
    device = best_device()
    hardware.share_cores(device)
    hardware.keep_freed_memory(device)
    if finetune:
        subject = of_finetuning(find(FINETUNE, finetune), Path(records), init, image_size, loaded.classes)
    else:
        subject = of_pretraining(configuration(recipe, Path(records), init), loaded)
    tried = spread(loaded, sample)
    reading, unreadable = loader_stages(subject.data(tried))
    readable = readable_of(tried, unreadable, records)
    bench = StepBench(subject.task.to(device).train(), subject.training, subject.data(readable))
    diagnosis = diagnose(bench, reading, batch or micro_batch(subject.training, device), steps)
    diagnosis = in_time(diagnosis, subject.training.plan(len(loaded))[0] * subject.training.global_batch, price)
    lines = [*advice(diagnosis, readable), *memory_advice(diagnosis.memory, subject.training)]
    return replace(diagnosis, unreadable=unreadable, advice=tuple(lines))


@dataclass(frozen=True)
class Subject:
    """What is measured: a task, how it is trained, and how records become its data."""

    task: Task
    training: TrainConfig
    data: Callable[[Records], PretrainData | LabelData]


def of_pretraining(config: PretrainConfig, loaded: Records) -> Subject:
    """A pre-training of these records."""
    config = replace(config, on_error="stop")  # so that no other image is timed in place of an unreadable one
    tokenizer, config = with_tokenizer(config, loaded)
    model = new_model(config)
    return Subject(
        pretrain_task(config, model), config.training, lambda part: pretrain_data(config, part, model, tokenizer)
    )


def of_finetuning(
    recipe: Recipe, records: Path, init: Path | None, image_size: int | None, classes: tuple[str, ...]
) -> Subject:
    """A fine-tuning of these classes by this recipe. Raises ConfigError as `mrm finetune` does."""
    config = recipe.make(records, records, init, Path("doctor"), image_size=image_size)  # nothing is written
    model = classifier(config, Multilabel(classes), {})
    choose_trained(model, config.tune, config.lora, config.seed)

    def data(part: Records) -> LabelData:
        return LabelData(part, EvalView.of(model.config), config.crop, augment=config.augment)

    return Subject(ClassifyTask(model), config.training, data)


def readable_of(tried: Records, unreadable: dict[str, str], path: Path) -> Records:
    """The records whose image could be read. Raises RunError if there is none."""
    readable = tried.select(np.flatnonzero([record.name not in unreadable for record in tried]))
    if not len(readable):
        name, reason = next(iter(unreadable.items()))
        raise RunError(f"{path}: none of the {len(tried)} images tried could be read; first error: {name}: {reason}")
    return readable


def diagnose(bench: StepBench, reading: Sequence[Stage], size: int, steps: int) -> Diagnosis:
    """Time `steps` steps with `size` images, also in the other precision and with half of the images."""
    training, device = bench.training, bench.device
    precision, best = hardware.settled(training.precision, device), hardware.best_precision(device)
    stages = bench.stages(size, precision, steps)
    half = rate_of(bench.stages(size // 2, precision, steps)) if size > 1 else None
    other = best if precision == "fp32" else "fp32"
    other_rate = rate_of(stages) if other == precision else rate_of(bench.stages(size, other, steps))
    workers = hardware.default_workers(device.type) if training.workers is None else training.workers
    loader, step = max(workers, 1) * rate_of(reading), rate_of(stages)
    name, flops = hardware.device_name(device), flops_of(bench, size)
    return Diagnosis(
        stages=(*reading, *stages),
        device=name,
        batch=size,
        precision=precision,
        workers=workers,
        loader=loader,
        step=step,
        other_precision=other_rate,
        best=best,
        half_batch=half,
        flops=flops,
        memory=memory_of(bench, precision),
        peak_share=hardware.share_of_peak(flops * step, name),
        bound="loader" if loader < step else "step",
    )


def flops_of(bench: StepBench, size: int) -> float:
    """Floating-point operations of a training step for an image: three times those of its forward pass."""
    if isinstance(bench.task.model, MRM):
        return flops_of_step(bench.task.model, bench.batch(size))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        bench.task(bench.batch(1).to(bench.device))
    return 3.0 * counter.get_total_flops()


def in_time(diagnosis: Diagnosis, images: int, price: float | None) -> Diagnosis:
    """The diagnosis with the time and the cost of a run over so many images."""
    if diagnosis.workers == 0:  # one process reads and computes in turns
        rate = 1 / (1 / diagnosis.step + 1 / diagnosis.loader)
    else:
        rate = min(diagnosis.step, diagnosis.loader)
    seconds = images / rate
    return replace(diagnosis, images=images, seconds=seconds, cost=None if price is None else price * seconds / 3600)


# What to change ---------------------------------------------------------------------------------------


def advice(diagnosis: Diagnosis, records: Sequence[Record]) -> list[str]:
    """What would make the run faster, each line from a measurement of the diagnosis."""
    lines = loader_advice(diagnosis, records) if diagnosis.bound == "loader" else []
    lines += step_advice(diagnosis)
    if diagnosis.unreadable:
        lines.append("some images cannot be read: find them with `mrm audit`, or train with --on-error skip")
    return lines or ["nothing: loader and step are in balance"]


def loader_advice(diagnosis: Diagnosis, records: Sequence[Record]) -> list[str]:
    """How to read images faster."""
    lines = []
    times = {s.name: s.median for s in diagnosis.stages}
    reading = sum(times[name] for name in READING)
    decoding = times["read"] + times["decode"]
    packed = not isinstance(records[0].image, Path | bytes)
    if decoding >= reading / 2 and not packed:
        lines.append(
            f"reading and decoding take {decoding / reading:.0%} of the loader's time: pack "
            "shards (`mrm pack RECORDS --out DIR`) and train on those"
        )
    needed, cores = math.ceil(diagnosis.step * reading), hardware.cores()
    if needed >= cores:
        lines.append(f"{needed} cores would feed this step; this machine has {cores}")
    elif needed > diagnosis.workers:
        lines.append(f"more workers: --training.workers {needed} feed this step")
    return lines


def step_advice(diagnosis: Diagnosis) -> list[str]:
    """How to train faster once images are read."""
    lines = []
    speed_up = diagnosis.other_precision / diagnosis.step
    if speed_up > 1.1 and diagnosis.precision == "fp32":
        best = diagnosis.best
        lines.append(f"{best}: --training.precision {best} makes the step {speed_up:.1f} times as fast")
    elif speed_up > 1.1:
        lines.append(f"fp32: this machine computes it {speed_up:.1f} times as fast as {diagnosis.precision}")
    if diagnosis.half_batch and diagnosis.step > 1.1 * diagnosis.half_batch:
        lines.append(
            f"a larger micro-batch, if memory allows (--training.micro-batch): {diagnosis.batch // 2} images give "
            f"{diagnosis.half_batch:.2f} images/s and {diagnosis.batch} give {diagnosis.step:.2f}, so more may gain more"
        )
    if diagnosis.bound == "step" and diagnosis.device.startswith("CPU"):
        lines.append("the processor's arithmetic is the limit: a GPU, a smaller recipe (`mrm recipes`) or fewer epochs")
    return lines


# What is measured -------------------------------------------------------------------------------------


def micro_batch(training: TrainConfig, device: torch.device) -> int:
    """The recipe's micro-batch, but at most 8 on a CPU, where larger batches take as long for each image."""
    share = training.micro_batch or training.global_batch
    return share if device.type == "cuda" else min(share, 8)


def configuration(recipe: str, records: Path, init: Path | None) -> PretrainConfig:
    """A recipe by name, or the `config.yaml` of a run, for these records. Raises ConfigError for neither."""
    out = Path("doctor")  # nothing is written
    if recipe.endswith((".yaml", ".yml")):
        config = read_yaml(PretrainConfig, Path(recipe))
        return replace(config, records=records, out=out, init=init)
    return find(PRETRAIN, recipe).make(records, out, init=init)


def with_tokenizer(config: PretrainConfig, records: Records) -> tuple[Tokenizer, PretrainConfig]:
    """The tokenizer of `--init`, else one learned from some reports; and the settings with the vocabulary to measure."""
    tokenizer = initial_tokenizer(config)
    if tokenizer:
        vocabulary = tokenizer.size
    else:
        texts = islice((select_sections(r.report, config.report.sections) for r in records if r.report), TEXTS)
        tokenizer = Tokenizer.train(list(texts), config.model.vocabulary)
        vocabulary = max(tokenizer.size, config.model.vocabulary)  # letters may make it larger, few reports smaller
    return tokenizer, replace(config, model=replace(config.model, vocabulary=vocabulary))
