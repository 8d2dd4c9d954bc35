"""The options shared by the commands that read images: where images are, how they are read, and on which device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from mrm.inference.predict import NO_INT8_SEGMENTER, require_precision
from mrm.inference.studies import Pool, Views
from mrm.system import hardware
from mrm.system.errors import ConfigError, RunError
from mrm.system.hardware import Precision
from mrm.system.int8_products import Int8Products
from mrm.system.shares import WHOLE, Share
from mrm.targets.target import Target
from mrm.training.trainer import processes

AnyNetwork = TypeVar("AnyNetwork", bound=torch.nn.Module)


@dataclass(frozen=True)
class Reading:
    """How the images of lists, tables and folders are found, read and computed."""

    images: Path | None = None  # the folder that relative paths in lists and tables start from
    batch: int = 64
    workers: int | None = None  # processes that read images; None: chosen for this machine
    precision: Precision = "fp32"
    device: str = "auto"
    crop_borders: bool = False  # remove burned-in black and white borders first
    by_study: Pool | None = None  # one answer for the images of a study: the mean or the largest of their logits
    views: Views = "all"  # "frontal" leaves lateral images out, as far as their view is stated
    flip: bool = False  # average each image with its mirror image, in which left and right change places
    view_classifier: Path | None = None  # a file of `mrm views`, which guesses the view where none is stated
    share: Share = WHOLE  # of predict, embed and what else makes a table: the share that this process does


def require_single_images(reading: Reading, model: Path) -> None:
    """Raises RunError for options that a segmenter does not have: it outlines an image at a time, the right way round."""
    if reading.by_study or reading.views != "all" or reading.flip:
        raise RunError(f"{model}: is a segmenter; --by-study, --views and --flip are for classifiers, leave them out")
    if reading.precision == "int8":
        raise RunError(f"{model}: {NO_INT8_SEGMENTER}")


def require_target(target: Target, reading: Reading, by: Sequence[str], model: Path) -> None:
    """Raises RunError for options that need findings, where a model predicts exclusive classes or numbers."""
    if reading.by_study == "max":
        target.require_independent(f"{model}: --by-study max, the largest logit of the images,")
    if by:
        target.require_probabilities(f"{model}: --by, which compares AUROC between groups,")


def placed(model: AnyNetwork, reading: Reading) -> AnyNetwork:
    """The model on the device to compute on (see `device_named`).

    Raises RunError for options that are out of range, and ConfigError for a precision that the device or the model does not have.
    """
    if reading.batch < 1:
        raise RunError(f"--batch must be at least 1, not {reading.batch}")
    if reading.workers is not None and reading.workers < 0:
        raise RunError(f"--workers must be 0 or more, not {reading.workers}")
    model.to(device_named(reading.device))
    require_precision(model, reading.precision)
    return model


def device_named(name: str) -> torch.device:
    """The device of that name; for "auto" the best one, and with several ranks one for each.

    Raises RunError for a device that this machine does not have.
    """
    if name == "auto" and processes().num_processes > 1:
        return processes().device
    try:
        return hardware.device_named(name)
    except ConfigError as error:
        raise RunError(f"--{error}") from error


def autocast(model: torch.nn.Module, reading: Reading) -> torch.autocast | Int8Products:
    """A context that computes in the precision of `reading` on the model's device."""
    return hardware.autocast(next(model.parameters()).device, reading.precision)


@contextmanager
def named_failures(reading: Reading) -> Iterator[None]:
    """Turn errors of a machine that is too small into a RunError that says what to do. Rows written so far are kept."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"out of memory on the device with {reading.batch} images in a batch; choose a smaller --batch"
        ) from error
