"""The time that each stage of reading a sample and of a training step takes, each measured by itself.

The stages of reading are timed on one thread, as a worker process runs them, those of the step with the threads that a
run would use.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch

from mrm.data import augmentation, headers, images
from mrm.data.config import CropConfig
from mrm.data.records import Records
from mrm.data.samples import LabelData, PretrainData
from mrm.system import hardware
from mrm.system.errors import ImageError
from mrm.training.config import TrainConfig
from mrm.training.optimization import build_optimizer
from mrm.training.tasks import Task

READING, STEP = ("read", "decode", "augment", "words and masks"), ("transfer", "forward", "backward", "optimiser")


@dataclass(frozen=True)
class Stage:
    """Seconds for one image: median, least and most of `n` measurements."""

    name: str
    median: float
    low: float
    high: float
    n: int


def stage_of(name: str, seconds: Sequence[float]) -> Stage:
    """The stage with these measurements."""
    return Stage(name, median(seconds), min(seconds), max(seconds), len(seconds))


def rate_of(stages: Sequence[Stage]) -> float:
    """Images a second that pass through stages one after the other."""
    return 1 / sum(s.median for s in stages)


# Reading ----------------------------------------------------------------------------------------------


def spread(records: Records, count: int) -> Records:
    """So many records, spread evenly from the first to the last."""
    return records.select(np.unique(np.linspace(0, len(records) - 1, count).round().astype(int)))


def loader_stages(data: PretrainData | LabelData) -> tuple[list[Stage], dict[str, str]]:
    """Read, decode and crop each image once, on one thread. Returns the stages, and why images could not be read."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    times, unreadable = [], {}
    try:
        for index in range(len(data)):
            try:
                times.append(sample_times(data, index))
            except (ImageError, OSError) as error:
                unreadable[data.name(index)] = str(error)
    finally:
        cv2.setNumThreads(threads)
    return [stage_of(name, values) for name, values in zip(READING, zip(*times, strict=True), strict=False)], unreadable


def sample_times(data: PretrainData | LabelData, index: int) -> tuple[float, float, float, float]:
    """Seconds to read, decode, and crop, resize and augment an image, and to mask its words: the parts of `data.sample`."""
    rng = np.random.default_rng([data.seed, 0, index])
    clock = Stopwatch()
    content = headers.load(data.records[index].image)
    read = clock.lap()
    view, crop = data.view, data.crop or CropConfig()
    whole = view.whole(content) if view.whole_first else None
    height, width = images.size(content) if whole is None else whole.shape
    box = images.random_resized_box(height, width, rng, crop.area, crop.aspect)
    least = math.ceil(view.size * min(height, width) / min(box.height, box.width))  # as read_crop may reduce a JPEG
    image = images.read(content, min_side=least if view.resize == "area" else None) if whole is None else whole
    decode = clock.lap()
    scale = image.shape[0] / height, image.shape[1] / width
    top, left = int(box.top * scale[0]), int(box.left * scale[1])
    part = image[top : top + math.ceil(box.height * scale[0]), left : left + math.ceil(box.width * scale[1])]
    resized = images.flip(images.resize(part, view.size, view.size, view.resize))
    if isinstance(data, LabelData):
        augmentation.augment(resized, rng, data.augment)
    augmented = clock.lap()
    if isinstance(data, PretrainData):
        data.masks(index, rng)
    return read, decode, augmented, clock.lap()


# The step ---------------------------------------------------------------------------------------------


class StepBench:
    """Forward, backward and optimiser of a task, timed one by one on the model's device."""

    def __init__(self, task: Task, training: TrainConfig, data: PretrainData | LabelData) -> None:
        self.task, self.training, self.data = task, training, data
        if training.ema:
            task.follow(copy.deepcopy(task.model).eval())
        self.device = next(task.parameters()).device
        self.optimizer = build_optimizer(task.model, training)
        if training.compile:
            self.task.compile(dynamic=False)
        self.share = training.global_batch  # images that one update of the weights serves

    def stages(self, size: int, precision: hardware.Precision, steps: int) -> list[Stage]:
        """Seconds an image of `steps` steps with `size` images, after one to warm up."""
        batch = self.batch(size)
        laps = [self._step(batch, precision) for _ in range(steps + 1)][1:]
        divided = [size, size, size, max(size, self.share)]
        return [stage_of(name, [lap[i] / divided[i] for lap in laps]) for i, name in enumerate(STEP)]

    def batch(self, size: int) -> Any:
        """So many samples, over again where there are fewer records."""
        samples = [self.data.sample(0, i % len(self.data)) for i in range(size)]
        return self.data.collate(samples, [])

    def _step(self, batch: Any, precision: hardware.Precision) -> tuple[float, ...]:
        counts = self.task.counts(batch)
        clock = Stopwatch(self.device)
        moved = (batch.pin_memory() if self.device.type == "cuda" else batch).to(self.device)
        laps = [clock.lap()]
        with hardware.autocast(self.device, precision):
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
