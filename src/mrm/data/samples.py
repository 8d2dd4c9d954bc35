"""From records to batches: what a sample is, in which order samples come, how they are put together.

A sample's crop, flip, patches and words follow from (seed, epoch, index) alone. The order is a pure
function of the number of samples seen, so a run's position in its data is one integer.
"""

# Shapes: B samples, H W pixels of the crop, K kept patches, M hidden ones asked for, T tokens, W words asked for, C classes
from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from mrm.data import images
from mrm.data.augmentation import augment
from mrm.data.config import NONE, AugmentConfig, CropConfig, OnError, ReportConfig
from mrm.data.masks import MaskedImages, fit, fit_mask
from mrm.data.records import Record, Records
from mrm.data.reports import CLS, MASK, NO_WORD, PAD, Tokenizer, mask_words
from mrm.data.sections import select_sections
from mrm.system.errors import ImageError

Batch = TypeVar("Batch", bound="_Batch")
EXACT = 3  # times the size wanted: a JPEG decoded no smaller is within 3 grey levels of itself decoded whole


class Skipped(NamedTuple):
    """A record that could not be read, and why."""

    index: int  # type: ignore[assignment]
    name: str
    reason: str


@dataclass
class _Batch:
    """Tensors that move together; `skipped` lists the records that another one had to stand in for."""

    skipped: list[Skipped]
    varying: ClassVar[tuple[str, ...]] = ()  # tensors whose length differs from batch to batch, for `torch.compile`

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

    varying = ("rows_N", "words_W", "targets_W")
    image_BHW: Tensor  # uint8, at the target size
    kept_BK: Tensor
    hidden_BM: Tensor
    tokens_BT: Tensor  # masked
    attention_BT: Tensor  # bool
    rows_N: Tensor  # positions to compute, as `words_W`: all that hold a token or are asked for, and few others
    words_W: Tensor
    targets_W: Tensor
    keys_B: Tensor  # seeds of dropout


@dataclass
class LabelBatch(_Batch):
    """What classification sees; NaN labels are not stated."""

    image_BHW: Tensor  # uint8
    labels_BC: Tensor  # float32
    keys_B: Tensor
    index_B: Tensor  # of the record


@dataclass
class MaskBatch(_Batch):
    """What segmentation sees. Masks have 0 background, 1 to C the classes, 255 ignored (padding too)."""

    image_BHW: Tensor  # uint8
    mask_BHW: Tensor  # uint8
    keys_B: Tensor
    index_B: Tensor  # of the image


@dataclass
class ImageBatch(_Batch):
    """Images as a model is tested on them. `skipped` are those that could not be read; no other stands in."""

    image_BHW: Tensor  # uint8
    index_B: Tensor  # of the record
    warned: list[Skipped]  # what reading them warned of


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
        predicted: int | None = None,  # hidden patches asked for; None: all
    ) -> None:
        self.records, self.size, self.patches, self.keep, self.length = records, size, patches, keep, length
        self.predicted = patches - keep if predicted is None else predicted
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
        """One cropped image and one masked report, drawn from (seed, epoch, index)."""
        rng = np.random.default_rng([self.seed, epoch, index])
        image = _train_image(self.records[index], rng, self.size, self.crop)
        return {"image": image, **self.masks(index, rng)}

    def masks(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """All of a sample but its image: which patches and words are hidden, and its key."""
        order = rng.permutation(self.patches)
        ids = self.ids(index)
        masked = mask_words(ids, rng.random(len(ids)), self.continues, self.report.mask, self.length)
        return {
            "kept": np.sort(order[: self.keep]),
            "hidden": np.sort(order[self.keep : self.keep + self.predicted]),
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
        attention_BT = (true_BT != PAD) | (true_BT == CLS)
        needless_L = ~(attention_BT | asked_BT).ravel()
        rows = _rounded(needless_L.size - int(needless_L.sum()), 64)
        rows_N = np.sort(np.argsort(needless_L, kind="stable")[:rows])
        words_W = np.flatnonzero(asked_BT)
        padding = _rounded(len(words_W), 64) - len(words_W)  # few sizes: new ones fragment memory, or compile anew
        targets_W = np.concatenate([true_BT.ravel()[words_W], np.full(padding, NO_WORD)])
        words_W = np.concatenate([words_W, np.zeros(padding, dtype=np.int64)])
        return PretrainBatch(
            skipped=skipped,
            image_BHW=_stack(samples, "image"),
            kept_BK=_stack(samples, "kept"),
            hidden_BM=_stack(samples, "hidden"),
            tokens_BT=torch.from_numpy(tokens_BT),
            attention_BT=torch.from_numpy(attention_BT),
            rows_N=torch.from_numpy(rows_N),
            words_W=torch.from_numpy(words_W),
            targets_W=torch.from_numpy(targets_W),
            keys_B=torch.tensor([int(s["key"]) for s in samples]),
        )


class LabelData:
    """Records as labelled images: augmented for training, whole for testing."""

    def __init__(
        self,
        records: Records,
        size: int,
        crop: CropConfig | None = None,
        view: Literal["whole", "centre"] = "whole",
        seed: int = 0,
        on_error: OnError = "stop",
        augment: AugmentConfig = NONE,
    ) -> None:
        self.records, self.size, self.crop, self.view = records, size, crop, view
        self.seed, self.on_error, self.augment = seed, on_error, augment
        self.labels_NC = records.labels_NC.astype(np.float32)

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """How messages call a record."""
        return self.records[index].name

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        """One image with its labels; a random crop if there is a crop, else the test view."""
        rng = np.random.default_rng([self.seed, epoch, index])
        record = self.records[index]
        image = (
            augment(_train_image(record, rng, self.size, self.crop), rng, self.augment)
            if self.crop
            else eval_image(record, self.size, self.view)
        )
        return {
            "image": image,
            "labels": self.labels_NC[index],
            "key": rng.integers(2**31),
            "index": index,
        }

    def collate(self, samples: Sequence[dict[str, Any]], skipped: list[Skipped]) -> LabelBatch:
        """Stack images and labels."""
        return LabelBatch(
            skipped=skipped,
            image_BHW=_stack(samples, "image"),
            labels_BC=_stack(samples, "labels"),
            keys_B=torch.tensor([int(s["key"]) for s in samples]),
            index_B=torch.tensor([s["index"] for s in samples]),
        )


class MaskData:
    """Images with masks: their shape kept, the rest of the input black and ignored; cropped and flipped for training."""

    def __init__(
        self,
        masked: MaskedImages,
        size: tuple[int, int],
        crop: CropConfig | None = None,
        seed: int = 0,
        on_error: OnError = "stop",
    ) -> None:
        self.masked, self.size, self.crop, self.seed, self.on_error = masked, size, crop, seed, on_error

    def __len__(self) -> int:
        return len(self.masked)

    def name(self, index: int) -> str:
        """How messages call an image."""
        return self.masked[index].name

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        """One image and its mask, with the same crop and flip, drawn from (seed, epoch, index)."""
        rng = np.random.default_rng([self.seed, epoch, index])
        image, mask = self.masked.read(index)
        if self.crop and self.crop.area[0] < 1:
            height, width = image.shape
            box = images.random_resized_box(height, width, rng, self.crop.area, self.crop.aspect)
            image, mask = images.crop(image, box), images.crop(mask, box)
        image, mask = fit(image, self.size)[0], fit_mask(mask, self.size)
        if self.crop and rng.random() < self.crop.flip:
            image, mask = images.flip(image), images.flip(mask)
        return {"image": image, "mask": mask, "key": rng.integers(2**31), "index": index}

    def collate(self, samples: Sequence[dict[str, Any]], skipped: list[Skipped]) -> MaskBatch:
        """Stack images and masks."""
        return MaskBatch(
            skipped=skipped,
            image_BHW=_stack(samples, "image"),
            mask_BHW=_stack(samples, "mask"),
            keys_B=torch.tensor([int(s["key"]) for s in samples]),
            index_B=torch.tensor([s["index"] for s in samples]),
        )


class ImageData:
    """Records as a model is tested on them; one that cannot be read is a reason, never an error."""

    on_error: OnError = "skip"

    def __init__(self, records: Sequence[Record], size: int, view: str, crop_borders: bool = False) -> None:
        self.records, self.size, self.view, self.crop_borders = records, size, view, crop_borders

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """How messages call a record."""
        return self.records[index].name

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        """One image, or the reason why there is none; and the warnings of reading it."""
        image, reason = None, ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                image = eval_image(self.records[index], self.size, self.view, self.crop_borders)
            except (ImageError, OSError, MemoryError) as error:
                reason = str(error) or "not enough memory to read it"
        warned = "; ".join(dict.fromkeys(str(w.message) for w in caught))
        return {"image": image, "index": index, "reason": reason, "warned": warned}

    def collate(self, samples: Sequence[dict[str, Any]], skipped: list[Skipped]) -> ImageBatch:
        """Stack the images that could be read."""
        read = [s for s in samples if s["image"] is not None]
        empty = np.zeros((0, self.size, self.size), np.uint8)
        note = lambda s, key: Skipped(s["index"], self.name(s["index"]), s[key])  # noqa: E731
        return ImageBatch(
            skipped=[note(s, "reason") for s in samples if s["image"] is None],
            image_BHW=torch.from_numpy(np.stack([s["image"] for s in read]) if read else empty),
            index_B=torch.tensor([s["index"] for s in read], dtype=torch.int64),
            warned=[note(s, "warned") for s in samples if s["warned"]],
        )


def eval_image(record: Record, size: int, view: str = "whole", crop_borders: bool = False) -> np.ndarray:
    """The image as a classifier is tested on it, (size, size) uint8.

    "whole" fits the whole radiograph into the square, within the aspect ratios seen in training; "centre" is
    the published test crop, which cuts the sides of radiographs that are not square. `crop_borders` first removes
    burned-in borders.
    """
    image = images.read(record.image, min_side=EXACT * size, crop_borders=crop_borders)
    if view == "centre":
        image = images.crop(image, images.center_box(*image.shape))
    return images.resize(image, size, size)


def _train_image(record: Record, rng: np.random.Generator, size: int, crop: CropConfig) -> np.ndarray:
    image = images.read_crop(record.image, rng, size, crop.area, crop.aspect)
    return images.flip(image) if rng.random() < crop.flip else image


def _rounded(count: int, step: int) -> int:
    return -(-count // step) * step


def _stack(samples: Sequence[dict[str, Any]], key: str) -> Tensor:
    return torch.from_numpy(np.stack([s[key] for s in samples]))
