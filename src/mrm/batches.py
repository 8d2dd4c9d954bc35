"""From records to batches: what a sample is, in which order samples come, how they are put together.

A sample's crop, flip, patches and words follow from (seed, epoch, index) alone. The order is a pure
function of the number of samples seen, so a run's position in its data is one integer.
"""

# Shapes: B samples, H W pixels of the crop, K kept and M hidden patches, T tokens, W words asked for, C classes
from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mrm import images
from mrm.losses import NO_WORD
from mrm.masks import MaskedPictures, MaskError, fit, fit_mask
from mrm.records import OnError, Record, Records
from mrm.reports import CLS, MASK, PAD, Tokenizer, mask_words, select_sections

Batch = TypeVar("Batch", bound="_Batch")


@dataclass(frozen=True)
class CropConfig:
    """Random resized crop and flip of training pictures. The defaults are the published ones."""

    area: tuple[float, float] = (0.2, 1.0)  # share of the picture
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5  # probability


@dataclass(frozen=True)
class ReportConfig:
    """Which text a record's report gives, and how much of it is masked."""

    sections: tuple[str, ...] = ()  # findings, impression, ...; none = the whole report
    mask: float = 0.5  # probability, per word
    loss: Literal["masked", "all"] = "masked"  # the paper's; "all" is what the published code trained on


class Sample(NamedTuple):
    """Where a sample stands: the epoch it belongs to and its record."""

    epoch: int
    index: int  # type: ignore[assignment]  # a tuple has a method of this name, which no one needs here


class Skipped(NamedTuple):
    """A record that could not be read, and why."""

    index: int  # type: ignore[assignment]
    name: str
    reason: str


@dataclass
class _Batch:
    """Tensors that move together; `skipped` lists the records that another one had to stand in for."""

    skipped: list[Skipped]

    def to(self: Batch, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self._each(lambda t: t.to(device, non_blocking=True))

    def pin_memory(self: Batch) -> Batch:
        """The same batch in page-locked memory, which copies to a GPU in the background."""
        return self._each(Tensor.pin_memory)

    def _each(self: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {k: change(v) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **changed)


@dataclass
class PretrainBatch(_Batch):
    """What pre-training sees. `words_W` are the positions asked for, in the flattened (B, T)."""

    picture_BHW: Tensor  # uint8, at the target size
    kept_BK: Tensor
    hidden_BM: Tensor
    tokens_BT: Tensor  # masked
    attention_BT: Tensor  # bool
    words_W: Tensor
    targets_W: Tensor
    keys_B: Tensor  # seeds of dropout


@dataclass
class LabelBatch(_Batch):
    """What classification sees; NaN labels are not stated."""

    picture_BHW: Tensor  # uint8
    labels_BC: Tensor  # float32
    keys_B: Tensor
    index_B: Tensor  # of the record


@dataclass
class MaskBatch(_Batch):
    """What segmentation sees. Masks have 0 background, 1 to C the classes, 255 ignored (padding too)."""

    picture_BHW: Tensor  # uint8
    mask_BHW: Tensor  # uint8
    keys_B: Tensor
    index_B: Tensor  # of the picture


class Data(Protocol):
    """What the loop draws from: a number of records, each of them a sample, samples a batch."""

    on_error: OnError

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def sample(self, epoch: int, index: int) -> Any: ...
    def collate(self, samples: Sequence[Any], skipped: list[Skipped]) -> Any: ...


# Samples ----------------------------------------------------------------------------------------------


class PretrainData:
    """Records as pre-training samples. Reports are tokenized once, here."""

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: Tokenizer,
        size: int,
        patches: int,
        keep: int,
        length: int,
        crop: CropConfig = CropConfig(),
        report: ReportConfig = ReportConfig(),
        seed: int = 0,
        on_error: OnError = "stop",
    ) -> None:
        self.records, self.size, self.patches, self.keep, self.length = records, size, patches, keep, length
        self.crop, self.report, self.seed, self.on_error = crop, report, seed, on_error
        self.continues = tokenizer.continues
        ids = tokenizer.encode([select_sections(r.report, report.sections) for r in records], length)
        self.tokens = np.concatenate(ids).astype(np.uint16 if tokenizer.size < 2**16 else np.int32)
        self.ends = np.cumsum([len(i) for i in ids])  # where each report ends in `tokens`: one array forks freely

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """How messages call a record."""
        return self.records[index].name

    def ids(self, index: int) -> np.ndarray:
        """The token ids of a record's report, `[CLS]` first, unmasked."""
        return self.tokens[self.ends[index - 1] if index else 0 : self.ends[index]].astype(np.int64)

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        """One cropped picture and one masked report, drawn from (seed, epoch, index)."""
        rng = np.random.default_rng([self.seed, epoch, index])
        picture = _train_picture(self.records[index], rng, self.size, self.crop)
        order = rng.permutation(self.patches)
        ids = self.ids(index)
        masked = mask_words(ids, rng.random(len(ids)), self.continues, self.report.mask, self.length)
        return {
            "picture": picture,
            "kept": np.sort(order[: self.keep]),
            "hidden": np.sort(order[self.keep :]),
            "ids": ids,
            "masked": masked,
            "key": rng.integers(2**31),
        }

    def collate(self, samples: Sequence[dict[str, Any]], skipped: list[Skipped]) -> PretrainBatch:
        """Pad reports to the longest of them, or to the full length where every position is asked for."""
        everything = self.report.loss == "all"
        longest = self.length if everything else max(len(s["ids"]) for s in samples)
        length = min(self.length, _rounded(longest, 16))
        true_BT = np.full((len(samples), length), PAD, dtype=np.int64)
        asked_BT = np.zeros((len(samples), length), dtype=bool)
        tokens_BT = true_BT.copy()
        for row, s in enumerate(samples):
            true_BT[row, : len(s["ids"])] = s["ids"]
            tokens_BT[row, : len(s["ids"])] = np.where(s["masked"], MASK, s["ids"])
            # A record without a report is [CLS] alone: it trains the image loss only.
            asked_BT[row, : len(s["ids"])] = s["masked"]
            asked_BT[row] |= everything and len(s["ids"]) > 1
        words_W = np.flatnonzero(asked_BT)
        padding = _rounded(len(words_W), 64) - len(words_W)  # few sizes: new ones fragment memory, or compile anew
        targets_W = np.concatenate([true_BT.ravel()[words_W], np.full(padding, NO_WORD)])
        words_W = np.concatenate([words_W, np.zeros(padding, dtype=np.int64)])
        return PretrainBatch(
            skipped=skipped,
            picture_BHW=_stack(samples, "picture"),
            kept_BK=_stack(samples, "kept"),
            hidden_BM=_stack(samples, "hidden"),
            tokens_BT=torch.from_numpy(tokens_BT),
            attention_BT=torch.from_numpy((true_BT != PAD) | (true_BT == CLS)),
            words_W=torch.from_numpy(words_W),
            targets_W=torch.from_numpy(targets_W),
            keys_B=torch.tensor([int(s["key"]) for s in samples]),
        )


class LabelData:
    """Records as labelled pictures: augmented for training, whole for testing."""

    def __init__(
        self,
        records: Records,
        size: int,
        crop: CropConfig | None = None,
        view: Literal["whole", "centre"] = "whole",
        seed: int = 0,
        on_error: OnError = "stop",
    ) -> None:
        self.records, self.size, self.crop, self.view = records, size, crop, view
        self.seed, self.on_error = seed, on_error
        self.labels_NC = records.labels_NC.astype(np.float32)

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """How messages call a record."""
        return self.records[index].name

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        """One picture with its labels; a random crop if there is a crop, else the test view."""
        rng = np.random.default_rng([self.seed, epoch, index])
        record = self.records[index]
        picture = (
            _train_picture(record, rng, self.size, self.crop)
            if self.crop
            else test_picture(record, self.size, self.view)
        )
        return {
            "picture": picture,
            "labels": self.labels_NC[index],
            "key": rng.integers(2**31),
            "index": index,
        }

    def collate(self, samples: Sequence[dict[str, Any]], skipped: list[Skipped]) -> LabelBatch:
        """Stack pictures and labels."""
        return LabelBatch(
            skipped=skipped,
            picture_BHW=_stack(samples, "picture"),
            labels_BC=_stack(samples, "labels"),
            keys_B=torch.tensor([int(s["key"]) for s in samples]),
            index_B=torch.tensor([s["index"] for s in samples]),
        )


class MaskData:
    """Pictures with masks: their shape kept, the rest of the input black and ignored; cropped and flipped for training."""

    def __init__(
        self,
        masked: MaskedPictures,
        size: tuple[int, int],
        crop: CropConfig | None = None,
        seed: int = 0,
        on_error: OnError = "stop",
    ) -> None:
        self.masked, self.size, self.crop, self.seed, self.on_error = masked, size, crop, seed, on_error

    def __len__(self) -> int:
        return len(self.masked)

    def name(self, index: int) -> str:
        """How messages call a picture."""
        return self.masked[index].name

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        """One picture and its mask, with the same crop and flip, drawn from (seed, epoch, index)."""
        rng = np.random.default_rng([self.seed, epoch, index])
        picture, mask = self.masked.picture(index), self.masked.mask(index)
        if picture.shape != mask.shape:
            raise MaskError(f"{self.masked[index].mask}: {mask.shape} pixels, its picture {picture.shape}")
        if self.crop and self.crop.area[0] < 1:
            height, width = picture.shape
            box = images.random_resized_box(height, width, rng, self.crop.area, self.crop.aspect)
            picture, mask = images.crop(picture, box), images.crop(mask, box)
        picture, mask = fit(picture, self.size)[0], fit_mask(mask, self.size)
        if self.crop and rng.random() < self.crop.flip:
            picture, mask = images.flip(picture), images.flip(mask)
        return {"picture": picture, "mask": mask, "key": rng.integers(2**31), "index": index}

    def collate(self, samples: Sequence[dict[str, Any]], skipped: list[Skipped]) -> MaskBatch:
        """Stack pictures and masks."""
        return MaskBatch(
            skipped=skipped,
            picture_BHW=_stack(samples, "picture"),
            mask_BHW=_stack(samples, "mask"),
            keys_B=torch.tensor([int(s["key"]) for s in samples]),
            index_B=torch.tensor([s["index"] for s in samples]),
        )


def test_picture(record: Record, size: int, view: str = "whole") -> np.ndarray:
    """The picture as a classifier is tested on it, (size, size) uint8.

    "whole" fits the whole film into the square, within the aspect ratios seen in training; "centre" is
    the published test crop, which cuts the sides of films that are not square.
    """
    picture = images.read(record.image, min_side=size)
    if view == "centre":
        picture = images.crop(picture, images.center_box(*picture.shape))
    return images.resize(picture, size, size)


test_picture.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it by its name


def _train_picture(record: Record, rng: np.random.Generator, size: int, crop: CropConfig) -> np.ndarray:
    picture = images.read_crop(record.image, rng, size, crop.area, crop.aspect)
    return images.flip(picture) if rng.random() < crop.flip else picture


def _rounded(count: int, step: int) -> int:
    return -(-count // step) * step


def _stack(samples: Sequence[dict[str, Any]], key: str) -> Tensor:
    return torch.from_numpy(np.stack([s[key] for s in samples]))


# Order ------------------------------------------------------------------------------------------------


def shuffled(seed: int, n: int, seen: int) -> Iterator[Sample]:
    """Samples from number `seen` on, for ever: every record once an epoch, each epoch in an order of its own."""
    epoch, at = divmod(seen, n)
    while True:
        for index in np.random.default_rng([seed, epoch]).permutation(n)[at:]:
            yield Sample(epoch, int(index))
        epoch, at = epoch + 1, 0


class Balanced:
    """An order in which each epoch has all positive records and `negatives` times as many negative ones, drawn anew."""

    def __init__(self, positive_N: np.ndarray, negatives: float) -> None:
        self.positive, self.negative = np.flatnonzero(positive_N), np.flatnonzero(~positive_N)
        self.drawn = min(len(self.negative), round(negatives * len(self.positive)))

    def __len__(self) -> int:
        """Samples an epoch."""
        return len(self.positive) + self.drawn

    def __call__(self, seed: int, n: int, seen: int) -> Iterator[Sample]:
        """Samples from number `seen` on, for ever; `n` must be the length of an epoch."""
        epoch, at = divmod(seen, len(self))
        while True:
            rng = np.random.default_rng([seed, epoch])
            chosen = np.concatenate([self.positive, rng.permutation(self.negative)[: self.drawn]])
            for index in rng.permutation(chosen)[at:]:
                yield Sample(epoch, int(index))
            epoch, at = epoch + 1, 0


def micro_batches(
    order: Iterator[Sample], steps: int, accumulate: int, micro_batch: int, rank: int, world: int
) -> Iterator[list[Sample]]:
    """This rank's micro-batches of `steps` global batches, taken from the one order all ranks share."""
    for _ in range(steps):
        whole = [next(order) for _ in range(accumulate * micro_batch * world)]
        mine = whole[rank::world]
        for start in range(0, len(mine), micro_batch):
            yield mine[start : start + micro_batch]


# Loading ----------------------------------------------------------------------------------------------


class _Failed(NamedTuple):
    """An error on its way out of a worker, as one line instead of a traceback."""

    reason: str


class _Batched(Dataset):
    """A map from a list of samples to a batch, as a DataLoader worker runs it."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __getitem__(self, wanted: list[Sample]) -> Any:
        samples, skipped = [], []
        try:
            for epoch, index in wanted:
                sample, failed = self._readable(epoch, index)
                samples.append(sample)
                skipped += failed
        except images.ImageError as error:
            return _Failed(str(error))
        return self.data.collate(samples, skipped)

    def _readable(self, epoch: int, index: int) -> tuple[Any, list[Skipped]]:
        """The sample, or the next one that can be read if errors are to be skipped."""
        failed: list[Skipped] = []
        for offset in range(len(self.data)):
            at = (index + offset) % len(self.data)
            try:
                return self.data.sample(epoch, at), failed
            except (images.ImageError, OSError) as error:
                if self.data.on_error == "stop":
                    raise images.ImageError(
                        f"record {self.data.name(at)}: {error}; or leave such records out with --on-error skip"
                    ) from error
                failed.append(Skipped(at, self.data.name(at), str(error)))
        first = failed[0]
        raise images.ImageError(
            f"not one of {len(self.data)} pictures could be read; the first, {first.name}: {first.reason}"
        )


def loader(data: Data, batches: Iterator[list[Sample]], workers: int | None = None, pin: bool = False) -> Iterator[Any]:
    """Batches of `data`, made by `workers` processes (None: by what this machine has; 0: in this one).

    Raises ImageError for a picture that cannot be read, unless the data skips such records.
    """
    count = default_workers("cuda" if pin else "cpu") if workers is None else workers
    loaded = DataLoader(
        _Batched(data),
        sampler=batches,  # a list of samples at a time, so no second batching
        batch_size=None,
        num_workers=count,
        pin_memory=pin,
        prefetch_factor=4 if count else None,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(0),  # a DataLoader would draw from the global one otherwise
    )
    return _unless_failed(iter(loaded))


def _unless_failed(loaded: Iterator[Any]) -> Iterator[Any]:
    for batch in loaded:
        if isinstance(batch, _Failed):
            raise images.ImageError(batch.reason)
        yield batch


def in_order(count: int, batch: int) -> Iterator[list[Sample]]:
    """Every record once, in order, for evaluation."""
    for start in range(0, count, batch):
        yield [Sample(0, i) for i in range(start, min(start + batch, count))]


def default_workers(device: str) -> int:
    """Processes that read: for a GPU a core each but one, 16 at the most; on a CPU one core in eight, at least one."""
    cores = len(os.sched_getaffinity(0))
    return min(16, cores - 1) if device == "cuda" else min(cores - 1, max(1, cores // 8))


def share_cores(device: torch.device) -> None:
    """On a CPU, leave the readers' cores to the readers: threads that wait for each other's cores stall the step.

    The number of threads depends on the machine alone, not on the workers asked for, so that these change no
    bit of a run. `OMP_NUM_THREADS` overrides.
    """
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - default_workers("cpu")))


def _start_worker(_: int) -> None:
    """One thread, and deaf to signals: Ctrl-C and a scheduler's SIGTERM reach all processes, and the loop answers."""
    cv2.setNumThreads(0)  # in this process only; 1 would wait for the parent's threads in a forked worker
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
