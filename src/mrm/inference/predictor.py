"""A trained model on images: one class that commands, the service and a program of one's own call.

    files ----> worker processes (`mrm predict`) ---+
    uploads --> decoding processes (`mrm serve`) ---+--> values_of --> decisions --> rows, answers, arrays
    anything -> threads (`mrm.Predictor(...)`) -----+

Each has its own readers and limits; the view of the image, the computation and the decisions are the same functions.
"""

# Shapes: N images, B images of a batch, C classes, K values of an image, D features, L patches, H W pixels
from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrm.data import images, in_memory
from mrm.data.blank_images import warn_of_blank
from mrm.data.config import OnError
from mrm.data.eval_view import EvalView
from mrm.data.in_memory import Given, ValueRange
from mrm.data.reading_ahead import work_ahead
from mrm.data.records import Record
from mrm.data.samples import image_batch
from mrm.inference import heat_maps, outlines, predict
from mrm.inference.decisions import DecisionRules, Decisions
from mrm.inference.predict import Encoding, Kind
from mrm.inference.prediction_table import Predictions, finding_columns, known_row
from mrm.models import model_folder, segmenter
from mrm.models.classifier import Classifier
from mrm.models.model_folder import NAMES, AnyModel
from mrm.models.segmenter import Segmenter
from mrm.statistics.few_labels import uncertain_thresholds
from mrm.system import hardware
from mrm.system.errors import STOPS, ConfigError, ExplainError, ImageError, MRMError, PredictError, unexpected
from mrm.system.hardware import Precision
from mrm.system.partial_results import Row

USES = {  # what each kind of model is for here
    "classifier": "call the predictor, or its embed or explain",
    "ensemble": "call the predictor",
    "segmenter": "call its masks",
    "mrm": "call its embed",
    "encoder": "call its embed",
}


class Predictor:
    """A model that is ready for images: arrays, PIL images, pydicom datasets, bytes of files, paths or records.

    `model` is what `mrm.load` takes, or a loaded model. Images are prepared by `workers` threads (None: as many as suit
    the device; 0: in this thread) and computed `batch` at a time, so that an iterator of any length needs the memory of a
    few. `value_range` says which values of arrays and PIL images are black and white (see `mrm.data.in_memory`).
    With `on_error="skip"` an image that cannot be read is a row with its reason, with "stop" an error.
    Raises CheckpointError for a model that cannot be loaded, ConfigError for other settings, also for a precision that the
    device or the model does not have.
    """

    def __init__(
        self,
        model: Path | str | AnyModel,
        device: str | torch.device = "auto",
        batch: int = 64,
        workers: int | None = None,
        precision: Precision = "fp32",
        crop_borders: bool = False,
        value_range: ValueRange | None = None,
        on_error: OnError = "skip",
    ) -> None:
        if batch < 1:
            raise ConfigError(f"batch is {batch}; at least one image is expected")
        if workers is not None and workers < 0:
            raise ConfigError(f"workers is {workers}; 0 or more are expected")
        if on_error not in ("skip", "stop"):
            raise ConfigError(f"unknown on_error {on_error!r}; choose from skip, stop")
        in_memory.check_range(value_range)
        is_path = isinstance(model, Path | str)
        loaded: Any = model_folder.load(model) if isinstance(model, Path | str) else model
        if is_path or device != "auto":  # a loaded model stays where it is
            loaded.to(hardware.device_named(device))
        predict.require_precision(loaded, precision)
        self.model = loaded.eval()
        self.batch, self.precision, self.value_range, self.on_error = batch, precision, value_range, on_error
        self.crop_borders = crop_borders
        self.workers = hardware.default_workers(self.device.type) if workers is None else workers

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device

    @property
    def kind(self) -> str:
        """ "classifier", "segmenter", "mrm" or "encoder"."""
        return model_folder.kind_of(self.model)

    @property
    def classes(self) -> tuple[str, ...]:
        """The findings of a classifier, or the classes that a segmenter outlines; none of other models."""
        return tuple(getattr(self.model.config, "classes", ()))

    @property
    def rules(self) -> DecisionRules:
        """How the logits of the classifier become decisions."""
        return DecisionRules.of(self.model.card, self.classes)

    @property
    def compute(self) -> Callable[[Tensor], Tensor]:
        """What is computed of normalised images: logits, and features if the classifier knows outliers."""
        return self.rules.needed_from(self.model)

    def values(self, image_BHW: np.ndarray) -> np.ndarray:
        """What the classifier computes of images (B, H, W) uint8 at its size: (B, K), for `rules.decide`."""
        return predict.values_of(self.model, torch.from_numpy(image_BHW), self.compute, self.precision)

    # Many images --------------------------------------------------------------------------------------

    def __call__(self, what: Any, names: Iterable[str] | None = None) -> Predictions:
        """The findings of one image or of several, a row for each in their order.

        `names` are those of the images in the table, by default those of their files, or `image 3` for the fourth.
        Raises PredictError for another model than a classifier, and where no image is given; ImageError where none can
        be read.
        """
        self._require(Classifier, "findings")
        rules, seen = self.rules, _Seen()
        finding_columns(rules)  # refuses names of classes before the work
        for sentence in uncertain_thresholds(self.model.card.calibration):
            warnings.warn(sentence, stacklevel=2)
        parts = [
            _at_places(rules.decide(part.values), part.place_B, part.size)
            for part in self._parts(what, names, self.compute, seen)
        ]
        seen.finish()
        columns = zip(*((p.probability_BC, p.decision_BC, p.outlier_B, p.abstain_B) for p in parts), strict=True)
        joined = [None if column[0] is None else np.concatenate(column) for column in columns]
        return Predictions(rules, seen.known, Decisions(*joined), seen.warnings, seen.errors)  # type: ignore[arg-type]

    def embed(self, what: Any, kind: Kind = "pooled") -> np.ndarray:
        """The features of one image or of several, float32, NaN for images that cannot be read.

        "pooled" is (N, D), "patches" (N, L, D); see `mrm.inference.predict.features`. Raises PredictError for a
        segmenter, for another kind, and where no image is given; ImageError where none can be read.
        """
        self._require(Encoding, "features")
        compute, shape, seen = (
            predict.feature_function(self.model, kind),
            predict.feature_shape(self.model, kind),
            _Seen(),
        )
        parts = []
        for part in self._parts(what, None, compute, seen):
            parts.append(np.full((part.size, *shape), np.nan, np.float32))
            parts[-1][part.place_B] = part.values
        seen.finish()
        return np.concatenate(parts)

    def _parts(
        self, what: Any, names: Iterable[str] | None, compute: Callable[[Tensor], Tensor], seen: _Seen
    ) -> Iterator[_Part]:
        """What `compute` returns, a batch at a time; `seen` notes the images."""
        view = EvalView.of(self.model.config, self.crop_borders)

        def sample(image: Given) -> dict[str, Any]:
            try:
                viewed = view.sample(image.index, image.name, lambda: image.source(self.value_range))
            except (MRMError, *STOPS):
                raise
            except BaseException as error:
                raise unexpected(image.name, error) from error
            record = image.image if isinstance(image.image, Record) else None
            return {**viewed, "known": known_row(image.name, record, viewed["identity"])}

        samples = work_ahead(in_memory.given(what, names), sample, self.workers)
        while chunk := list(islice(samples, self.batch)):
            seen.note(chunk, self.on_error)
            computed = predict.compute_batch(self.model, image_batch(chunk, view.size), compute, self.precision)
            yield _Part(computed.index_B - chunk[0]["index"], len(chunk), computed.values)

    # One image ----------------------------------------------------------------------------------------

    def read(self, image: Any) -> np.ndarray:
        """The image as the model reads it, (H, W) uint8: whole, or without its borders with `crop_borders`.

        Warns of an image of one grey value. Raises ImageError where it cannot be read, PredictError for several images.
        """
        if not in_memory.is_one(image):
            raise PredictError(f"expected one image, found {type(image).__name__}; give several one after the other")
        (one,) = in_memory.given(image)
        image_HW = images.read(one.source(self.value_range), crop_borders=self.crop_borders)
        warn_of_blank(image_HW, one.name)
        return image_HW

    def explain(self, image: Any, finding: str, method: str = "gradcam") -> np.ndarray:
        """What in the image raises the number of a finding: a heat map (H, W) float32 in [0, 1], at the size of `read`.

        Raises ExplainError for an unknown finding or method, ImageError where the image cannot be read.
        """
        self._require(Classifier, "heat maps")
        return self.heat_map(self.read(image), finding, method)

    def heat_map(self, image_HW: np.ndarray, finding: str, method: str = "gradcam") -> np.ndarray:
        """The same of an image that has been read; see `mrm.inference.heat_maps.heat_map`."""
        if finding not in self.classes:
            raise ExplainError(f"unknown finding {finding!r}; choose from {', '.join(self.classes)}")
        return heat_maps.heat_map(self.model, image_HW, self.classes.index(finding), method)

    def probabilities(self, image_HW: np.ndarray) -> np.ndarray:
        """The probabilities (C,) of an image that has been read, at the temperatures of the model's card."""
        view_BHW = EvalView.of(self.model.config).image(image_HW)[None]
        return self.rules.decide(self.values(view_BHW)).probability_BC[0]

    def masks(self, image: Any, slide: bool = False) -> dict[str, np.ndarray]:
        """Where each class of a segmenter lies: (H, W) bool by class, at the size of `read`; classes do not overlap.

        With `slide`, windows over the image are averaged: finer, and slower. Raises ImageError where it cannot be read.
        """
        self._require(Segmenter, "masks")
        if self.crop_borders:
            raise PredictError("a mask covers the whole image, so crop_borders is for classifiers only; leave it out")
        mask_HW = self.outline(self.read(image), slide).mask_HW
        return {name: mask_HW == number for number, name in enumerate(self.classes, 1)}

    def outline(self, image_HW: np.ndarray, slide: bool = False) -> Outline:
        """Probabilities and class numbers of an image that has been read, at the thresholds of the model's card."""
        with hardware.autocast(self.device, self.precision):
            probability_CHW = segmenter.probabilities(self.model, image_HW, slide)
        thresholds = outlines.thresholds_of(self.model.card, self.classes)
        return Outline(probability_CHW, outlines.outline(probability_CHW, thresholds))

    def _require(self, expected: Any, what: str) -> None:
        """Raises PredictError where the model is of another kind."""
        if not isinstance(self.model, expected):
            raise PredictError(f"{NAMES[self.kind]} gives no {what}; {USES[self.kind]}")


class Outline(NamedTuple):
    """A segmenter's probabilities (C, H, W), and the class numbers (H, W) uint8 that they give, 0 for none."""

    probability_CHW: np.ndarray
    mask_HW: np.ndarray


class _Part(NamedTuple):
    """The values (B, ...) of the images of a batch that could be read, their places in it, and its size."""

    place_B: np.ndarray
    size: int
    values: np.ndarray


class _Seen:
    """What is known of the images so far: their names, and what was said of them."""

    def __init__(self) -> None:
        self.known: list[Row] = []
        self.warnings: dict[int, str] = {}
        self.errors: dict[int, str] = {}

    def note(self, chunk: list[dict[str, Any]], on_error: OnError) -> None:
        """Note a batch. Raises ImageError for one that cannot be read, if that is asked for."""
        for sample in chunk:
            self.known.append(sample["known"])
            if sample["warned"]:
                self.warnings[sample["index"]] = sample["warned"]
            if sample["image"] is None:
                self.errors[sample["index"]] = sample["reason"]
                if on_error == "stop":
                    raise ImageError(f"{sample['reason']}; or leave such images out with on_error='skip'")

    def finish(self) -> None:
        """Warn of images that could not be read, or that were read with a warning, once for all of them.

        Raises PredictError where there was no image, ImageError where none could be read.
        """
        count = len(self.known)
        if not count:
            raise PredictError("no images were given; an iterator that was used before is empty")
        if len(self.errors) == count:
            raise ImageError(
                f"none of the {count} images could be read; first error: {next(iter(self.errors.values()))}"
            )
        for notes, what in ((self.errors, "could not be read"), (self.warnings, "were read with a warning")):
            if notes:
                warnings.warn(
                    f"{len(notes)} of {count} images {what}; first: {next(iter(notes.values()))}", stacklevel=3
                )


def _at_places(decisions: Decisions, place_B: np.ndarray, size: int) -> Decisions:
    """The decisions of some images of a batch as those of all, NaN for the others."""

    def spread(values: np.ndarray | None) -> np.ndarray | None:
        if values is None:
            return None
        every = np.full((size, *values.shape[1:]), False if values.dtype == bool else np.nan, values.dtype)
        every[place_B] = values
        return every

    probability_BC, decision_BC = spread(decisions.probability_BC), spread(decisions.decision_BC)
    assert probability_BC is not None and decision_BC is not None
    return Decisions(probability_BC, decision_BC, spread(decisions.outlier_B), spread(decisions.abstain_B))
