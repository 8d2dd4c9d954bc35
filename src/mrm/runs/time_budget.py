"""How a fine-tuning fills the time that it is given: the story of `mrm finetune --budget 15m`.

A few steps are measured on this machine at each image size that the encoder and the images allow. The plan takes the largest
size at which every image is seen `PASSES` times or more in the time, and as many steps as fit; with few images it ends
earlier. The planned settings are part of the run's `config.yaml`, so that the same command resumes the same run, however busy
the machine is by then; `plan.json` has what was measured. The time is that of training and its validations: what comes before
and after (fingerprints of the records, the closing comparison) is not counted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list

from mrm import recipes
from mrm.data import images
from mrm.data.eval_view import EvalView
from mrm.data.records import Records
from mrm.data.samples import LabelData
from mrm.models import encoder, noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.recipes import FinetuneConfig
from mrm.runs.stage_times import StepBench, Stopwatch, spread
from mrm.system import hardware
from mrm.system.durations import duration, seconds_of
from mrm.system.errors import ImageError, RunError
from mrm.system.files import write_json
from mrm.training.config import TrainConfig
from mrm.training.tasks import ClassifyTask
from mrm.training.trainer import processes

PLANNED = (
    *("epochs", "steps", "warmup_steps", "global_batch", "validate_every", "validate_epochs", "save_every", "ema"),
    *("threads", "workers"),
)  # settings of the training that a plan decides, besides the image size
PASSES = 12  # over the training images, at least, before a larger size is worth its time
MOST_PASSES, MOST_IMAGES = 60, 40_000  # no run is longer than this many passes, or images where they are few
GROWTH = (1.0, 4 / 3, 5 / 3, 2.0, 7 / 3)  # image sizes that are tried, in the encoder's own
SMALLEST, STAGES_STRIDE = 64, 32  # pixels: the own size of random weights, and the stride of ConvNeXt and Swin
BATCH, SMALL_BATCH, FEW = 32, 16, 320  # images of a step, and of one where there are fewer records than FEW
VALIDATIONS, VALIDATING = 20, 0.1  # so many validations, but no more than this share of the time
MARGIN = 0.05  # of the time stays free for checkpoints, and for steps slower than those measured
LEAST_STEPS = 20  # of a run that learns anything
STEPS, SAMPLE = 3, 16  # steps, and images to read, that are measured at each size
PLAN = "plan.json"


@dataclass(frozen=True)
class Cost:
    """Seconds for one image of this size: to read and augment it on one thread, and in a training step."""

    size: int
    reading: float
    step: float
    threads: int  # of the step
    workers: int  # that read at the same time; with 0 the process of the step reads, too

    def seconds(self, forward: bool = False) -> float:
        """Seconds for an image in training, or in a validation, where a third of the step is computed."""
        step = self.step / 3 if forward else self.step
        return max(step, self.reading / self.workers) if self.workers else step + self.reading


@dataclass(frozen=True)
class Plan:
    """Image size and length of a training that fills a time, and the seconds that it is expected to take."""

    cost: Cost
    batch: int
    steps: int
    validate_every: int
    passes: float  # over the training records, of as many samples as an epoch has
    seconds: float

    def sentence(self) -> str:
        """The plan for people."""
        cost = self.cost
        return (
            f"plan: {self.steps:,} steps of {self.batch} images of {cost.size} x {cost.size} pixels, {self.passes:.1f} passes "
            f"over the training images, a validation every {self.validate_every:,} steps; about {duration(self.seconds)} "
            f"(hours:minutes:seconds) at {1 / cost.seconds():.1f} images/s as measured now"
        )

    def applied(self, config: FinetuneConfig) -> FinetuneConfig:
        """The settings of a fine-tuning with those of the plan in their place."""
        training = replace(
            config.training, epochs=None, steps=self.steps, warmup_steps=max(1, self.steps // 20),
            global_batch=self.batch, validate_every=self.validate_every, validate_epochs=None,
            save_every=self.validate_every, ema=average_of(config.training, self.steps), threads=self.cost.threads,
            workers=self.cost.workers,
        )  # fmt: skip
        return replace(config, image_size=self.cost.size, training=training)


def average_of(training: TrainConfig, steps: int) -> float | None:
    """The decay of the average of weights: over a fiftieth of the steps; None where the recipe has no average."""
    return None if training.ema is None else round(1 - 1 / max(10.0, min(1_000.0, steps / 50)), 4)


# Planned once, then read from the run ------------------------------------------------------------------


def within_budget(
    config: FinetuneConfig, start: Any, train: Records, epoch: int, val: int, file: Path
) -> tuple[FinetuneConfig, Plan | None]:
    """The settings that fill the budget, and the plan; None where there is no budget or `file` has what was planned before.

    `start` is the architecture that the run starts from, `epoch` the number of samples in a pass over the training records,
    and `val` the number of validation records. Raises RunError for a budget that is too short, and where no image can be read.
    """
    if config.budget is None:
        return config, None
    if file.is_file():
        earlier = recipes.read_yaml(FinetuneConfig, file)
        return (as_planned(config, earlier) if earlier.budget == config.budget else config), None
    seconds = seconds_of(config.budget, "--budget")
    plans = [plan_of(measured(config, start, train, epoch, val, seconds), epoch, val, seconds)]
    if processes().num_processes > 1:
        broadcast_object_list(plans)
    return plans[0].applied(config), plans[0]


def as_planned(config: FinetuneConfig, earlier: FinetuneConfig) -> FinetuneConfig:
    """The settings with what was planned for a run before."""
    training = replace(config.training, **{name: getattr(earlier.training, name) for name in PLANNED})
    return replace(config, image_size=earlier.image_size, training=training)


def keep_plan(plan: Plan, out: Path) -> None:
    """Print the plan, and keep it beside the run's settings."""
    if processes().is_main_process:
        print(plan.sentence(), flush=True)
        write_json(Path(out) / PLAN, asdict(plan))


# The plan, from what was measured -----------------------------------------------------------------------


def plan_of(costs: Sequence[Cost], train: int, val: int, seconds: float) -> Plan:
    """The training on epochs of `train` samples, validated on `val`, that fills the time best. `costs` has the smallest size first.

    Raises RunError for a time in which too few steps fit.
    """
    plans = [_at_size(cost, train, val, seconds) for cost in costs]
    if plans[0].steps < LEAST_STEPS:
        needed = LEAST_STEPS / max(plans[0].steps, 1) * seconds
        raise RunError(
            f"--budget is too short: {plans[0].steps} steps fit in it, and at least {LEAST_STEPS} are needed; give {needed:.0f}s "
            "or more, or a smaller encoder"
        )
    enough = [plan for plan in plans if plan.passes >= passes_wanted(train)]
    return enough[-1] if enough else plans[0]


def passes_wanted(train: int) -> float:
    """The passes over the training images that a larger size must leave time for."""
    return min(PASSES, most_images(train) / train)


def most_images(train: int) -> int:
    """The images of the longest run that is worth its time."""
    return max(MOST_PASSES * train, MOST_IMAGES)


def batch_of(train: int) -> int:
    """The images of a step."""
    return min(train, BATCH if train >= FEW else SMALL_BATCH)


def _at_size(cost: Cost, train: int, val: int, seconds: float) -> Plan:
    """The longest training at this size."""
    seconds *= 1 - MARGIN
    batch = batch_of(train)
    one, all_of_val = cost.seconds(), val * cost.seconds(forward=True)
    validations = max(2, min(VALIDATIONS, int(VALIDATING * seconds / all_of_val)))
    seen = min((seconds - validations * all_of_val) / one, most_images(train))
    steps = max(1, int(seen / batch))
    every = max(1, math.ceil(steps / validations))
    validating = math.ceil(steps / every) * all_of_val
    return Plan(cost, batch, steps, every, steps * batch / train, steps * batch * one + validating)


# What is measured ---------------------------------------------------------------------------------------


def measured(config: FinetuneConfig, start: Any, train: Records, epoch: int, val: int, seconds: float) -> list[Cost]:
    """The costs of the image sizes that can be used, the smallest first, as the run itself computes on this machine.

    Larger sizes than one that is too slow already are left out. `start` is the architecture that the run starts from.
    Raises RunError where no image can be read.
    """
    tried = readable_sample(train, config)
    config = replace(config, training=replace(config.training, global_batch=batch_of(epoch)))
    sizes = [config.image_size] if config.image_size else sizes_of(config, start, tried)
    machine = _machine(config, start, tried, sizes[0])
    costs: list[Cost] = []
    for size in sizes:
        costs.append(_cost(config, start, tried, size, *machine))
        if _at_size(costs[-1], epoch, val, seconds).passes < passes_wanted(epoch):
            break
    return costs


def _machine(config: FinetuneConfig, start: Any, tried: Records, size: int) -> tuple[int, int]:
    """Threads of a step, and workers: those of any run, or on a CPU all cores and none where that is faster."""
    device, stated = processes().device, config.training
    hardware.share_cores(device, stated.threads)
    hardware.keep_freed_memory(device)
    usual = torch.get_num_threads(), hardware.default_workers(device.type) if stated.workers is None else stated.workers
    alone = hardware.cores(), 0
    if device.type != "cpu" or "OMP_NUM_THREADS" in os.environ or (stated.threads, stated.workers) != (None, None):
        return usual
    return min((usual, alone), key=lambda machine: _cost(config, start, tried, size, *machine).seconds())


def _cost(config: FinetuneConfig, start: Any, tried: Records, size: int, threads: int, workers: int) -> Cost:
    """What an image of this size costs on each of the ranks, in steps of as many images as the run has.

    What is done for the first time is slower, and a run does it once: each image is read before it is timed, and the medians
    of a few steps come after one to warm up.
    """
    device, share = processes().device, processes().num_processes
    hardware.share_cores(device, threads)
    view = replace(EvalView.of(config), size=size)
    data = LabelData(tried, view, config.crop, seed=config.seed, augment=config.augment)
    watch = Stopwatch()
    for epoch in range(2):
        watch.lap()
        for index in range(SAMPLE):
            data.sample(epoch, index % len(tried))
    reading = watch.lap() / SAMPLE
    shape = ClassifierConfig(
        tried.classes, start.encoder, start.encoder_options, size, drop_path=config.drop_path, pooling=config.pooling
    )
    with noise.seeded(config.seed):
        task = ClassifyTask(Classifier(shape)).to(device)
    bench = StepBench(task.train(), config.training, data)
    own = max(1, config.training.global_batch // share)
    stages = bench.stages(own, hardware.settled(config.training.precision, device), STEPS)
    *shared, update = [stage.median for stage in stages]  # every rank updates the weights by the whole batch
    return Cost(size, reading / share, sum(shared) / share + update, threads, workers)


def readable_sample(train: Records, config: FinetuneConfig) -> Records:
    """Some records, spread evenly, whose images can be read. Raises RunError if there is none."""
    tried, readable, reason = spread(train, SAMPLE), [], ""
    for index, record in enumerate(tried):
        try:
            images.read(record.image)
            readable.append(index)
        except (ImageError, OSError) as error:
            reason = reason or str(error)
    if not readable:
        raise RunError(f"{config.train}: none of {len(tried)} images tried could be read; first error: {reason}")
    return tried.select(readable)


def sizes_of(config: FinetuneConfig, start: Any, tried: Records) -> list[int]:
    """Image sizes in whole patches, from that of the encoder upwards, none above the shorter side of half of the images.

    Random weights without a model have no size of their own and start from `SMALLEST`.
    """
    own = SMALLEST if config.init is None else start.image_size
    patch = patch_of(start)
    largest = max(own, float(np.median([min(images.size(record.image)) for record in tried])))
    sizes = {max(patch, patch * round(own * factor / patch)) for factor in GROWTH}
    return sorted(size for size in sizes if size <= largest)


def patch_of(start: Any) -> int:
    """The pixels in the side of a patch; of an encoder with stages those of a place in the last one."""
    with torch.device("meta"):
        built = encoder.create(start.encoder, start.encoder_options, start.image_size, num_classes=0)
    return int(built.patch_embed.feat_ratio()) if hasattr(built, "patch_embed") else STAGES_STRIDE
