"""From records to batches: what a sample contains, and how samples are collated.

A sample's crop, flip, patches and words follow from (seed, epoch, index) alone. The order of samples
(`mrm.data.sampling`) is a pure function of the number of samples seen, so a run's position in its data is one integer.
"""

# Shapes: B samples, H W pixels of the crop, K kept patches, M hidden patches to predict, T tokens, W words to predict,
# N positions to compute, C classes
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from mrm.data import images
from mrm.data.augmentation import augment
from mrm.data.config import NONE, AugmentConfig, CropConfig, OnError, ReportConfig, Resize
from mrm.data.eval_view import EvalView
from mrm.data.masks import MaskedImages, fit, fit_mask
from mrm.data.records import Record, Records
from mrm.data.report_tokens import ReportTokens, tokens_of
from mrm.data.reports import CLS, MASK, NO_WORD, PAD, Tokenizer, mask_words

Batch = TypeVar("Batch", bound="_Batch")


class Skipped(NamedTuple):
    """A record that could not be read, and the reason."""

    index: int  # type: ignore[assignment]
    name: str
    reason: str
    again: bool = False  # out of reach, not damaged: it may be read later


@dataclass
class _Batch:
    """Tensors that move together; `skipped` lists the unreadable records that others replace."""

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
    """A batch of pre-training. `words_W` are the positions to predict, in the flattened (B, T)."""

    varying = ("rows_N", "words_W", "targets_W")
    image_BHW: Tensor  # uint8, at the target size
    kept_BK: Tensor
    hidden_BM: Tensor
    tokens_BT: Tensor  # masked
    attention_BT: Tensor  # bool
    rows_N: Tensor  # positions to compute, as in `words_W`: all that hold a token or are predicted, and a few others
    words_W: Tensor
    targets_W: Tensor
    keys_B: Tensor  # seeds of dropout
    step_pairs: Any = None  # vectors of all pairs of the step, where contrast needs them (`mrm.training.contrast`)


@dataclass
class LabelBatch(_Batch):
    """A batch of classification; NaN labels are not stated."""

    image_BHW: Tensor  # uint8
    labels_BC: Tensor  # float32
    keys_B: Tensor
    index_B: Tensor  # of the record


@dataclass
class MaskBatch(_Batch):
    """A batch of segmentation. Masks have 0 background, 1 to C the classes, 255 ignored (padding too)."""

    image_BHW: Tensor  # uint8
    mask_BHW: Tensor  # uint8
    keys_B: Tensor
    index_B: Tensor  # of the image


@dataclass
class ImageBatch(_Batch):
    """Images as a model is tested on them. `skipped` are the unreadable ones, which no other images replace."""

    image_BHW: Tensor  # uint8
    index_B: Tensor  # of the record
    warned: list[Skipped]  # warnings raised while reading them
    identities: dict[int, dict[str, str]]  # what the headers of DICOM files say of patient and study, by index


class Data(Protocol):
    """A data set for the loader: it turns a record into a sample, and samples into a batch."""

    on_error: OnError

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def sample(self, epoch: int, index: int) -> Any: ...
    def collate(self, samples: Sequence[Any], skipped: list[Skipped]) -> Any: ...


# Samples ----------------------------------------------------------------------------------------------


class PretrainData:
    """Records as pre-training samples. Reports are tokenized once, here or before."""

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
        predicted: int | None = None,  # number of hidden patches to predict; None: all
        resize: Resize = "area",
        tokens: ReportTokens | None = None,  # of the reports, if they are known
    ) -> None:
        self.records, self.patches, self.keep, self.length = records, patches, keep, length
        self.predicted = patches - keep if predicted is None else predicted
        self.view, self.crop, self.report, self.seed, self.on_error = (
            EvalView(size, resize=resize),
            crop,
            report,
            seed,
            on_error,
        )
        self.units = tokenizer.units(report.unit)
        self.tokens = tokens or tokens_of(records, tokenizer, length, report.sections)

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """The name of a record, for messages."""
        return self.records[index].name

    def ids(self, index: int) -> np.ndarray:
        """The token ids of a record's report, `[CLS]` first, unmasked."""
        return self.tokens.ids(index)

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        """One cropped image and one masked report, drawn from (seed, epoch, index)."""
        rng = np.random.default_rng([self.seed, epoch, index])
        image = self.view.train_image(self.records[index].image, rng, self.crop)
        return {"image": image, **self.masks(index, rng)}

    def masks(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Everything in a sample except its image: which patches and words are hidden, and its key."""
        order = rng.permutation(self.patches)
        ids = self.ids(index)
        masked = mask_words(ids, rng.random(len(ids)), self.units, self.report.mask, self.length)
        return {
            "kept": np.sort(order[: self.keep]),
            "hidden": np.sort(order[self.keep : self.keep + self.predicted]),
            "ids": ids,
            "masked": masked,
            "key": rng.integers(2**31),
        }

    def collate(self, samples: Sequence[dict[str, Any]], skipped: list[Skipped]) -> PretrainBatch:
        """Pad reports to the longest of them, or to the full length if every position is predicted."""
        true_BT, tokens_BT, predicted_BT = self._token_arrays(samples)
        attention_BT = (true_BT != PAD) | (true_BT == CLS)
        rows_N = _rows_to_compute(attention_BT | predicted_BT)
        words_W, targets_W = _padded_words(true_BT, predicted_BT)
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

    def _token_arrays(self, samples: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Three arrays (B, T): the true tokens, the tokens with masks, and which positions to predict."""
        predict_all = self.report.loss == "all"
        longest = self.length if predict_all else max(len(s["ids"]) for s in samples)
        length = min(self.length, _round_up(longest, 16))
        true_BT = np.full((len(samples), length), PAD, dtype=np.int64)
        tokens_BT = true_BT.copy()
        predicted_BT = np.zeros((len(samples), length), dtype=bool)
        for row, s in enumerate(samples):
            true_BT[row, : len(s["ids"])] = s["ids"]
            tokens_BT[row, : len(s["ids"])] = np.where(s["masked"], MASK, s["ids"])
            # A record without a report is [CLS] alone: it trains the image loss only.
            predicted_BT[row, : len(s["ids"])] = s["masked"]
            predicted_BT[row] |= predict_all and len(s["ids"]) > 1
        return true_BT, tokens_BT, predicted_BT


def _rows_to_compute(needed_BT: np.ndarray) -> np.ndarray:
    """Indices (N,) in the flattened (B, T) of all positions that are needed, and others up to a multiple of 64."""
    unneeded_L = ~needed_BT.ravel()
    count = _round_up(unneeded_L.size - int(unneeded_L.sum()), 64)
    return np.sort(np.argsort(unneeded_L, kind="stable")[:count])


def _padded_words(true_BT: np.ndarray, predicted_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions to predict (W,) in the flattened (B, T) and their targets (W,), padded to a multiple of 64.

    Few different lengths occur that way: a new one fragments memory and, with `torch.compile`, compiles again.
    """
    words_W = np.flatnonzero(predicted_BT)
    padding = _round_up(len(words_W), 64) - len(words_W)
    targets_W = np.concatenate([true_BT.ravel()[words_W], np.full(padding, NO_WORD)])
    return np.concatenate([words_W, np.zeros(padding, dtype=np.int64)]), targets_W


class LabelData:
    """Records as labelled images: augmented for training, whole for testing."""

    def __init__(
        self,
        records: Records,
        view: EvalView,
        crop: CropConfig | None = None,
        seed: int = 0,
        on_error: OnError = "stop",
        augment: AugmentConfig = NONE,
    ) -> None:
        self.records, self.view, self.crop = records, view, crop
        self.seed, self.on_error, self.augment = seed, on_error, augment

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """The name of a record, for messages."""
        return self.records[index].name

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        """One image with its labels: a random, augmented crop if there is a crop setting, else the test view."""
        rng = np.random.default_rng([self.seed, epoch, index])
        record = self.records[index]
        if self.crop:
            image = augment(self.view.train_image(record.image, rng, self.crop), rng, self.augment)
        else:
            image = self.view.image(record.image)
        return {
            "image": image,
            "labels": np.array(record.labels, np.float32),
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
    """Images with masks, their aspect ratio kept and the padding ignored; cropped and flipped for training."""

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
        """The name of an image, for messages."""
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


def image_batch(samples: Sequence[dict[str, Any]], size: int) -> ImageBatch:
    """Those samples of an `EvalView` of this size that could be read, stacked, and what was said of the others."""
    readable = [s for s in samples if s["image"] is not None]
    empty = np.zeros((0, size, size), np.uint8)
    return ImageBatch(
        skipped=[Skipped(s["index"], s["name"], s["reason"], s["again"]) for s in samples if s["image"] is None],
        image_BHW=torch.from_numpy(np.stack([s["image"] for s in readable]) if readable else empty),
        index_B=torch.tensor([s["index"] for s in readable], dtype=torch.int64),
        warned=[Skipped(s["index"], s["name"], s["warned"], s["again"]) for s in samples if s["warned"]],
        identities={s["index"]: s["identity"] for s in samples if s["identity"]},
    )


class ImageData:
    """Records as a model is tested on them; an unreadable one gives a reason in place of an error."""

    on_error: OnError = "skip"

    def __init__(self, records: Sequence[Record], view: EvalView) -> None:
        self.records, self.view = records, view

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """The name of a record, for messages."""
        return self.records[index].name

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        """One image, or the reason why it cannot be read, and the warnings raised while reading it."""
        return self.view.sample(index, self.name(index), lambda: self.records[index].image)

    def collate(self, samples: Sequence[dict[str, Any]], skipped: list[Skipped]) -> ImageBatch:
        """Stack the images that could be read."""
        return image_batch(samples, self.view.size)


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step


def _stack(samples: Sequence[dict[str, Any]], key: str) -> Tensor:
    return torch.from_numpy(np.stack([s[key] for s in samples]))
