"""For a training loop of one's own: the transforms of a model, and records as a plain PyTorch data set.

    transforms = mrm.transforms("runs/mimic")
    train = mrm.Dataset("train.csv", transforms.train)
    for image_BCHW, labels_BC in DataLoader(train, batch_size=96, shuffle=True, num_workers=8):
        ...

Both see an image exactly as `mrm finetune` does.
"""

# Shapes: B samples, C classes, H W pixels
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from mrm.data import images, in_memory
from mrm.data.augmentation import augment
from mrm.data.config import FINETUNE_CROP, NONE, AugmentConfig, CropConfig, Resize
from mrm.data.eval_view import EvalView
from mrm.data.records import Records, resolve_uncertain
from mrm.models import model_folder
from mrm.models.limits import Levels
from mrm.models.model_folder import Model
from mrm.models.mrm import normalise
from mrm.system.errors import ConfigError, ImageError

NO_EPOCH = -1


class Transforms(NamedTuple):
    """How a model is shown images in training, and in testing: functions of an image."""

    train: TrainTransform
    test: TestTransform


def transforms(
    model: Path | str | Model,
    crop: CropConfig = FINETUNE_CROP,
    augment: AugmentConfig = NONE,
    resize: Resize | None = None,
    seed: int = 0,
) -> Transforms:
    """The training and test transforms of a model: what `mrm.load` takes, `mrm.load_encoder` takes, or a loaded model.

    Each takes an image of any kind that `mrm.Predictor` takes, and returns (3, H, W) float32 at the model's size,
    normalised with its mean and deviation. `crop`, `augment` and `resize` are the settings of `mrm finetune`; `resize` is
    by default that of the model. Raises CheckpointError for a model that cannot be read, ConfigError for a segmenter.
    """
    config = model_folder.architecture(model) if isinstance(model, Path | str) else model.config
    if not isinstance(config.image_size, int):
        raise ConfigError(
            "a segmenter crops an image and its mask together, so it has no transforms of an image; train it with `mrm segment`"
        )
    view = EvalView.of(config)
    view = replace(view, resize=resize or view.resize)
    return Transforms(
        TrainTransform(view, config.mean, config.std, crop, augment, seed),
        TestTransform(view, config.mean, config.std),
    )


class TrainTransform:
    """A random resized crop, flipped or not, augmented and normalised.

    The same `rng` gives the same crop; `mrm finetune` uses `np.random.default_rng([seed, epoch, index])`. Without one the
    transform draws from a generator of its own, which differs from worker to worker of a `DataLoader` and, as far as the
    loader's own seed does, from epoch to epoch.
    """

    def __init__(
        self,
        view: EvalView,
        mean: Levels,
        std: Levels,
        crop: CropConfig = FINETUNE_CROP,
        augment: AugmentConfig = NONE,
        seed: int = 0,
    ) -> None:
        self.view, self.mean, self.std, self.seed = view, mean, std, seed
        self.crop, self.augment = crop, augment
        self._rng: np.random.Generator | None = None
        self._worker: int | None = None

    def __call__(self, image: Any, rng: np.random.Generator | None = None) -> Tensor:
        """The image as (3, size, size) float32. Raises ImageError where it cannot be read."""
        _use_one_thread(os.getpid())
        rng = self._own_generator() if rng is None else rng
        cropped_HW = self.view.train_image(in_memory.source_of(image, "image"), rng, self.crop)
        return _tensor(augment(cropped_HW, rng, self.augment), self.mean, self.std)

    def _own_generator(self) -> np.random.Generator:
        """The generator of this process. A worker has a seed of its own, so no two of them draw the same."""
        info = data.get_worker_info()
        worker = info.seed if info else None
        if self._rng is None or worker != self._worker:
            self._rng = np.random.default_rng([self.seed] if worker is None else [self.seed, worker])
            self._worker = worker
        return self._rng


class TestTransform:
    """The image as the model is tested on it, normalised."""

    __test__ = False  # the name is no test's

    def __init__(self, view: EvalView, mean: Levels, std: Levels) -> None:
        self.view, self.mean, self.std = view, mean, std

    def __call__(self, image: Any) -> Tensor:
        """The image as (3, size, size) float32. Raises ImageError where it cannot be read."""
        _use_one_thread(os.getpid())
        return _tensor(self.view.image(in_memory.source_of(image, "image")), self.mean, self.std)


class Dataset(data.Dataset):
    """Records as a map-style data set: item i is (what the transform returns, labels (C,) float32).

    `records` is a table, a label list, a shard folder or `Records`; `classes` names the label columns, by default all
    numeric ones, and `images` is the folder of relative paths. A label that is not stated is NaN, and so is an uncertain one
    unless `uncertain` says otherwise. A transform of `mrm.transforms` gets the image as it is stored; any other, such
    as torchvision's, gets a grey PIL image. Raises RecordError for records that cannot be used.
    """

    def __init__(
        self,
        records: Path | str | Records,
        transform: Callable[[Any], Any],
        classes: Sequence[str] | None = None,
        images: Path | None = None,
        uncertain: Literal["ones", "zeros", "ignore"] = "ignore",
        seed: int = 0,
    ) -> None:
        if not isinstance(records, Records):
            records = Records.load(records, classes, images)
        self.records = resolve_uncertain(records, uncertain)
        self.transform, self.seed = transform, seed
        self._labels_NC = torch.from_numpy(self.records.labels_NC.astype(np.float32))
        self._epoch = torch.tensor(NO_EPOCH).share_memory_()  # persistent workers see it change

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels."""
        return self.records.classes

    def set_epoch(self, epoch: int) -> None:
        """From now on draw the crop of item i from (seed, epoch, i), as `mrm finetune` does; call it before each epoch."""
        if epoch < 0:
            raise ConfigError(f"epoch is {epoch}; 0 or more is expected")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        record = self.records[index]
        try:
            return self._transformed(record.image, index), self._labels_NC[index]
        except ImageError as error:
            raise type(error)(f"record {record.name}: {error}") from error

    def _transformed(self, source: Any, index: int) -> Any:
        if isinstance(self.transform, TrainTransform) and int(self._epoch) != NO_EPOCH:
            rng = np.random.default_rng([self.seed, int(self._epoch), index % len(self)])
            return self.transform(source, rng)
        if isinstance(self.transform, TrainTransform | TestTransform):
            return self.transform(source)
        from PIL import Image  # only where a transform expects it

        _use_one_thread(os.getpid())
        return self.transform(Image.fromarray(images.read(source)))


@cache
def _use_one_thread(process: int) -> None:
    """In a worker of a `DataLoader`, once: with OpenCV's own threads each worker would use all cores."""
    if data.get_worker_info() is not None:
        cv2.setNumThreads(0)


def _tensor(image_HW: np.ndarray, mean: Levels, std: Levels) -> Tensor:
    return normalise(torch.from_numpy(image_HW)[None], mean, std)[0].contiguous()
