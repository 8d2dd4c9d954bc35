"""What the service answers, and how the models give it. Nothing here knows of HTTP but the answers' fields."""

# Shapes: B images, C classes, H W pixels
from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mrm.data import images, samples
from mrm.data.images import ImageFile
from mrm.data.records import Record
from mrm.inference import heat_maps, outlines, predict, report_filling
from mrm.inference.decisions import DecisionRules
from mrm.models import model_folder, segmenter
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM, normalise
from mrm.serve.limits import Limits, Refused
from mrm.system.errors import ExplainError, ImageError, ReportError, RunError

NOTICE = "Research software, not for clinical use. Nothing in this answer may guide the care of a patient."
SIDE = 1024  # pixels of the longer side of an image sent back, unless asked otherwise
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
)  # red, green, blue


# Answers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A finding of an image. `decision` is whether it reaches its threshold; null where the model carries none.

    Of a segmenter, `probability` is the greatest of any pixel, and `area` the share of the image outlined.
    """

    finding: str
    probability: float
    threshold: float | None
    decision: bool | None
    area: float | None = None


@dataclass(frozen=True)
class Prediction:
    """All findings of an image of `height` x `width` pixels; of a segmenter also the mask and an overlay, PNG.

    `outlier` is how unlike the images that the model knows this one is; where it is too unlike them, the model
    abstains from decisions. Both are null where the model does not know.
    """

    model: str
    findings: list[Finding]
    warnings: list[str]
    height: int
    width: int
    mask: str | None = None
    overlay: str | None = None
    outlier: float | None = None
    abstain: bool | None = None
    notice: str = NOTICE


@dataclass(frozen=True)
class Explanation:
    """Where a finding comes from: `heat` (grey PNG) or `array` (float32, little-endian, rows), base64; and an overlay."""

    model: str
    finding: str
    method: str
    height: int
    width: int
    heat: str | None
    overlay: str | None
    array: str | None
    warnings: list[str]
    notice: str = NOTICE


@dataclass(frozen=True)
class Word:
    """A word and its probability."""

    word: str
    probability: float


@dataclass(frozen=True)
class FilledBlank:
    """A blank of the text, from character `start` to `end`, and the best words for it, with the image and without."""

    start: int
    end: int
    with_image: list[Word]
    without_image: list[Word]


@dataclass(frozen=True)
class FilledReport:
    """The blanks of a report, in its order."""

    model: str
    blanks: list[FilledBlank]
    warnings: list[str]
    notice: str = NOTICE


@dataclass(frozen=True)
class Restored:
    """Four images, PNG: patches hidden, restored, as it was, and the difference; `error` is of the hidden patches."""

    model: str
    masked: str
    restored: str
    original: str
    residual: str
    error: float
    warnings: list[str]
    notice: str = NOTICE


@dataclass(frozen=True)
class Preview:
    """An image as the model's reader sees it, grey PNG of at most `side` pixels, and its own size."""

    image: str
    height: int
    width: int
    warnings: list[str]


@dataclass(frozen=True)
class About:
    """What the service is and can do."""

    model: str
    kind: str
    pretrained: str | None
    can: list[str]
    findings: list[str]
    thresholds: dict[str, float]
    methods: list[str]
    limits: dict[str, float]
    version: str
    notice: str = NOTICE


@dataclass(frozen=True)
class Read:
    """An image (H, W) uint8, its file's own size, and what its reader warns of."""

    image_HW: np.ndarray
    height: int
    width: int
    warnings: list[str]


# Images -----------------------------------------------------------------------------------------------


def open_image(data: bytes, limits: Limits) -> ImageFile:
    """The upload with its header parsed, not decoded. Raises Refused (422) if it is not an image, or is too large."""
    image = readable(lambda: images.open_image(data))
    height, width = images.size(image)
    if height * width > limits.pixels:
        raise Refused(
            422,
            f"the image has {height:,} x {width:,} pixels, and this service takes up to {limits.megapixels:g} "
            "megapixels; shrink it first",
        )
    return image


def read(image: ImageFile, as_tested: tuple[int, str] | None = None) -> Read:
    """Decode an image, whole, or as a classifier is tested on it (size, view). Raises Refused (422)."""
    if as_tested:
        image_HW = readable(lambda: samples.eval_image(Record(image), *as_tested))
    else:
        image_HW = readable(lambda: images.read(image))
    return Read(image_HW, *images.size(image), readable(lambda: images.doubts(image)))


def readable(reading):
    """What `reading` gives; whatever a file makes a decoder do becomes Refused (422), with the reason."""
    try:
        return reading()
    except ImageError as error:
        raise Refused(422, str(error).removeprefix("the bytes given: ")) from None
    except MemoryError:
        raise Refused(422, "the file needs more memory than there is to decode it; shrink it first") from None
    except Exception as error:  # decoders of several libraries; a file must not be able to cause a 500
        raise Refused(422, f"the file is damaged and cannot be decoded ({type(error).__name__})") from None


def shrunk(image_HW: np.ndarray, side: int) -> np.ndarray:
    """The image with a longer side of at most `side` pixels."""
    scale = min(1.0, side / max(image_HW.shape))
    height, width = (max(1, round(s * scale)) for s in image_HW.shape)
    return images.resize(image_HW, height, width)


def png(image: np.ndarray) -> str:
    """(H, W) or (H, W, 3) uint8 as PNG, in base64."""
    if image.ndim == 2:
        data = images.encode_png(image)
    else:
        data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    return base64.b64encode(data).decode()


# Models -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Models:
    """The models of a service. Their methods are called by one thread at a time (`mrm.serve.queue`)."""

    name: str
    model: Any  # Classifier, Segmenter or MRM
    pretrained: MRM | None = None
    pretrained_name: str | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The findings of the classifier or segmenter."""
        return () if isinstance(self.model, MRM) else tuple(self.model.config.classes)

    @property
    def can(self) -> list[str]:
        """What can be asked of these models."""
        kind = {"classifier": ["predict", "explain"], "segmenter": ["predict"], "mrm": []}[self.kind]
        words = self.pretrained is not None and self.pretrained.tokenizer is not None
        return [*kind, *(["fill-in"] if words else []), *(["reconstruct"] if self.pretrained else [])]

    @property
    def kind(self) -> str:
        """ "classifier", "segmenter" or "mrm"."""
        return model_folder.kind_of(self.model)

    @property
    def as_tested(self) -> tuple[int, str] | None:
        """Size and view of a classifier's images; None where whole images are wanted."""
        model = self.model
        return (model.config.image_size, model.config.view) if isinstance(model, Classifier) else None

    @property
    def thresholds(self) -> dict[str, float]:
        """Of each finding that has one."""
        card = self.model.card
        outlined = {name: threshold.probability for name, threshold in card.outline_thresholds.items()}
        known = {**card.thresholds, **outlined}
        return {name: float(known[name]) for name in self.classes if name in known}

    @property
    def rules(self) -> DecisionRules:
        """How the logits of the classifier become decisions."""
        return DecisionRules.of(self.model.card, self.classes)

    @torch.inference_mode()
    def classify(self, images_BHW: np.ndarray) -> np.ndarray:
        """What `mrm predict` computes of images at the model's size: logits, and features if it knows outliers."""
        config, device = self.model.config, next(self.model.parameters()).device
        compute = self.rules.needed_from(self.model)
        images_BCHW = normalise(torch.from_numpy(images_BHW).to(device), config.mean, config.std)
        return compute(images_BCHW).float().cpu().numpy()

    def prediction(self, values_K: np.ndarray, read: Read) -> Prediction:
        """What `mrm predict` writes of an image, of the values that `classify` gives of it."""
        rules = self.rules
        decisions = rules.decide(values_K[None])
        findings = [
            Finding(
                name, float(probability), rules.thresholds.get(name), None if np.isnan(decision) else bool(decision)
            )
            for name, probability, decision in zip(
                rules.classes, decisions.probability_BC[0], decisions.decision_BC[0], strict=True
            )
        ]
        outlier = None if decisions.outlier_B is None else float(decisions.outlier_B[0])
        abstain = None if decisions.abstain_B is None else bool(decisions.abstain_B[0])
        warnings = list(read.warnings)
        if abstain:
            warnings.append("unlike the images that this model knows, so it decides nothing; do not trust the numbers")
        return Prediction(
            self.name, findings, warnings, read.height, read.width,
            outlier=outlier, abstain=abstain,
        )  # fmt: skip

    def outline(self, read: Read, side: int) -> Prediction:
        """A segmenter's findings, mask (class numbers) and overlay."""
        assert isinstance(self.model, segmenter.Segmenter)
        thresholds = outlines.thresholds_of(self.model.card, self.classes)
        probability_CHW = segmenter.probabilities(self.model, read.image_HW)
        mask_HW = outlines.outline(probability_CHW, thresholds)
        areas = [float((mask_HW == number).mean()) for number in range(1, len(self.classes) + 1)]
        findings = [
            Finding(name, float(p.max()), t.probability, area > 0, area)
            for name, p, t, area in zip(self.classes, probability_CHW, thresholds, areas, strict=True)
        ]
        small_HW = shrunk(read.image_HW, side)
        small_mask_HW = cv2.resize(mask_HW, small_HW.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        overlay = png(tinted(small_HW, small_mask_HW))
        return Prediction(self.name, findings, read.warnings, read.height, read.width, png(small_mask_HW), overlay)

    def explain(self, read: Read, finding: str, method: str, side: int, array: bool) -> Explanation:
        """A heat map of the image for a finding, at most `side` pixels large."""
        assert isinstance(self.model, Classifier)
        try:
            heat_HW = heat_maps.heat_map(self.model, read.image_HW, self.classes.index(finding), method)
        except ExplainError as error:
            raise Refused(422, str(error)) from None
        image_HW = shrunk(read.image_HW, side)
        heat_HW = images.resize(heat_HW.astype(np.float32), *image_HW.shape).clip(0, 1)
        height, width = image_HW.shape
        values = base64.b64encode(heat_HW.astype("<f4").tobytes()).decode() if array else None
        heat = None if array else png(np.rint(heat_HW * 255).astype(np.uint8))
        overlay = None if array else png(heat_maps.overlay(image_HW, heat_HW))
        return Explanation(self.name, finding, method, height, width, heat, overlay, values, read.warnings)

    def fill_in(self, read: Read, report: str, top: int) -> FilledReport:
        """The best words for each blank. Raises Refused (422) for a report without blanks, or with too many."""
        assert self.pretrained is not None
        try:
            blanks = report_filling.fill_in(self.pretrained, read.image_HW, report, top)
        except ReportError as error:
            raise Refused(422, str(error)) from None
        filled = [FilledBlank(b.start, b.end, words(b.with_image), words(b.without_image)) for b in blanks]
        return FilledReport(self.pretrained_name or self.name, filled, read.warnings)

    def reconstruct(self, read: Read, seed: int) -> Restored:
        """Most patches hidden, and restored."""
        assert self.pretrained is not None
        made = predict.reconstruct(self.pretrained, read.image_HW, seed)
        residual_HW = cv2.absdiff(made.original, made.restored)
        masked, restored, original, residual = (
            png(p) for p in (made.masked, made.restored, made.original, residual_HW)
        )
        name = self.pretrained_name or self.name
        return Restored(name, masked, restored, original, residual, made.error, read.warnings)


def words(pairs: Sequence[tuple[str, float]]) -> list[Word]:
    """Words with their probabilities, as an answer has them."""
    return [Word(word, float(p)) for word, p in pairs]


def tinted(image_HW: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """An image with each class of a mask tinted and outlined, (H, W, 3) uint8."""
    shown = cv2.cvtColor(image_HW, cv2.COLOR_GRAY2RGB)
    for number in range(1, int(mask_HW.max()) + 1):
        here = (mask_HW == number).astype(np.uint8)
        colour = COLOURS[(number - 1) % len(COLOURS)]
        shown = np.where(here[..., None] > 0, (0.65 * shown + 0.35 * np.array(colour)).astype(np.uint8), shown)
        lines, _ = cv2.findContours(here, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        shown = np.ascontiguousarray(shown)
        cv2.drawContours(shown, lines, -1, colour, thickness=1)
    return shown


def load(model: Path, pretrained: Path | None, device: torch.device) -> Models:
    """The models of a service, tried once on a black image. Raises CheckpointError, RunError."""
    main: Any = model_folder.load(model).to(device)
    mrm = model_folder.load_as(pretrained, MRM).to(device) if pretrained else None
    if isinstance(main, MRM) and mrm is not None:
        raise RunError(f"{model}: is itself a pre-trained model; leave out --mrm, or give a classifier first")
    named = pretrained.resolve().name if pretrained else None
    models = Models(model.resolve().name, main, main if isinstance(main, MRM) else mrm, named)
    _try_out(models, model)
    return models


def _try_out(models: Models, path: Path) -> None:
    """One forward pass, so that weights that are not finite are found before the first request."""
    if models.as_tested is None:
        return
    size, _ = models.as_tested
    if not np.isfinite(models.classify(np.zeros((1, size, size), np.uint8))).all():
        raise RunError(f"{path}: gives no finite number for a black image; its weights are damaged or training failed")
