"""The models of a service, and how they compute its answers. Nothing here knows of HTTP but the reasons of refusals."""

# Shapes: B images, C classes, K values of an image, H W pixels
from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mrm.data import display, images
from mrm.data.eval_view import EvalView
from mrm.inference import heat_maps, outlines, reconstruction, report_filling
from mrm.inference.dicom_objects import Origin
from mrm.inference.predictor import Predictor
from mrm.inference.studies import Pool, pooled
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM
from mrm.serve.admission import Refused
from mrm.serve.answers import (
    Explanation,
    FilledBlank,
    FilledReport,
    Finding,
    Prediction,
    Reconstruction,
    Word,
    png,
)
from mrm.serve.uploads import DecodedImage
from mrm.system.errors import ExplainError, ReportError, RunError
from mrm.targets import target_of

ABSTAINS = "unlike the images that this model knows, so the model abstains; do not rely on the probabilities"


@dataclass(frozen=True)
class Models:
    """The models of a service. Their methods are called by one thread at a time (`mrm.serve.worker`)."""

    name: str
    predictor: Predictor  # of a classifier, a segmenter or a pre-trained MRM
    origin: Origin  # what names it in DICOM objects
    pretrained: MRM | None = None
    pretrained_name: str | None = None

    @property
    def model(self) -> Any:
        """The classifier, segmenter or MRM."""
        return self.predictor.model

    @property
    def classes(self) -> tuple[str, ...]:
        """The findings of the classifier or segmenter."""
        return self.predictor.classes

    @property
    def capabilities(self) -> list[str]:
        """What these models can do, by the names of the routes."""
        capabilities = []
        if self.kind in ("classifier", "ensemble", "segmenter"):
            capabilities.append("predict")
        if self.kind == "classifier":
            capabilities.append("explain")
        if self.pretrained is not None and self.pretrained.tokenizer is not None:
            capabilities.append("fill-in")
        if self.pretrained is not None:
            capabilities.append("reconstruct")
        return capabilities

    @property
    def kind(self) -> str:
        """ "classifier", "ensemble", "segmenter" or "mrm"."""
        return self.predictor.kind

    @property
    def methods(self) -> list[str]:
        """The methods of heat maps that a classifier has; none for other models."""
        return heat_maps.methods_of(self.model) if self.kind == "classifier" else []

    @property
    def eval_view(self) -> EvalView | None:
        """How images are prepared for a classifier; None for models that take whole images."""
        return EvalView.of(self.model.config) if isinstance(self.model, Classifier) else None

    @property
    def thresholds(self) -> dict[str, float]:
        """The threshold of each finding that has one."""
        card = self.model.card
        outline_thresholds = {name: threshold.probability for name, threshold in card.outline_thresholds.items()}
        thresholds = {**card.thresholds, **outline_thresholds}
        return {name: float(thresholds[name]) for name in self.classes if name in thresholds}

    def classify(self, images_BHW: np.ndarray) -> np.ndarray:
        """What `mrm predict` computes of images at the model's size: logits, and features if it knows outliers."""
        return self.predictor.values(images_BHW)

    def prediction(self, values_K: np.ndarray, upload: DecodedImage) -> Prediction:
        """The findings of an image, as `mrm predict` writes them, from what `classify` returned for it."""
        rules = self.predictor.rules
        decisions = rules.decide(values_K[None])
        abstain = None if decisions.abstain_B is None else bool(decisions.abstain_B[0])
        findings = [
            Finding(
                name,
                float(probability),
                rules.thresholds.get(name),
                _bool_or_none(decision),
                set=None if abstain or name not in rules.sets else rules.set_of(name, float(probability)),
            )
            for name, probability, decision in zip(
                rules.classes, decisions.probability_BC[0], decisions.decision_BC[0], strict=True
            )
        ]
        outlier = None if decisions.outlier_B is None else float(decisions.outlier_B[0])
        warnings = [*upload.warnings, ABSTAINS] if abstain else upload.warnings
        size = upload.height, upload.width
        return Prediction(
            *(self.name, findings, warnings, *size), outlier=outlier, abstain=abstain, views=[upload.view]
        )

    def study_prediction(self, values_NK: np.ndarray, sent: Sequence[DecodedImage], pool: Pool) -> Prediction:
        """The findings of a study from what `classify` returned for its N images that are used, of those that were sent.

        They are pooled as `mrm predict --by-study` does. The height and width are those of the first image; a warning names
        its image by number.
        """
        whole = self.prediction(pooled(values_NK, len(self.classes), pool), replace(sent[0], warnings=[]))
        said = [
            f"image {number}: {text}"
            for number, upload in enumerate(sent, 1)
            for text in ([upload.left_out] if upload.left_out else upload.warnings)
        ]
        for what, ids in (("patients", {u.patient for u in sent}), ("studies", {u.study for u in sent})):
            if len(ids - {""}) > 1:
                said.insert(0, f"the images state {len(ids - {''})} different {what}; check that they belong together")
        left_out = [number for number, upload in enumerate(sent, 1) if upload.left_out]
        views = [upload.view for upload in sent]
        return replace(whole, warnings=[*said, *whole.warnings], images=len(values_NK), views=views, left_out=left_out)

    def outline(self, upload: DecodedImage, side: int) -> Prediction:
        """The findings, mask (class numbers) and overlay of a segmenter, at most `side` pixels large."""
        probability_CHW, mask_HW = self.predictor.outline(upload.image_HW)
        thresholds = outlines.thresholds_of(self.model.card, self.classes)
        areas = [float((mask_HW == number).mean()) for number in range(1, len(self.classes) + 1)]
        findings = [
            Finding(name, float(probability_HW.max()), threshold.probability, area > 0, area)
            for name, probability_HW, threshold, area in zip(
                self.classes, probability_CHW, thresholds, areas, strict=True
            )
        ]
        small_HW = display.shrink(upload.image_HW, side)
        small_mask_HW = display.resize_mask(mask_HW, *small_HW.shape)
        mask, overlay = png(small_mask_HW), png(display.draw_classes(small_HW, small_mask_HW))
        return Prediction(self.name, findings, upload.warnings, upload.height, upload.width, mask, overlay)

    def explain(self, upload: DecodedImage, finding: str, method: str, side: int, array: bool) -> Explanation:
        """A heat map of the image for a finding, at most `side` pixels large, as images or as an array."""
        try:
            heat_HW = self.predictor.heat_map(upload.image_HW, finding, method)
        except ExplainError as error:
            raise Refused(422, str(error)) from None
        image_HW = display.shrink(upload.image_HW, side)
        height, width = image_HW.shape
        heat_HW = images.resize(heat_HW.astype(np.float32), height, width).clip(0, 1)
        if array:
            values = base64.b64encode(heat_HW.astype("<f4").tobytes()).decode()
            return Explanation(self.name, finding, method, height, width, None, None, values, upload.warnings)
        heat_map = png(np.rint(heat_HW * 255).astype(np.uint8))
        overlay = png(heat_maps.overlay(image_HW, heat_HW))
        return Explanation(self.name, finding, method, height, width, heat_map, overlay, None, upload.warnings)

    def fill_in(self, upload: DecodedImage, report: str, top: int) -> FilledReport:
        """The likeliest words for each blank. Raises Refused (422) for a report without blanks, or with too many."""
        assert self.pretrained is not None
        try:
            blanks = report_filling.fill_in(self.pretrained, upload.image_HW, report, top)
        except ReportError as error:
            raise Refused(422, str(error)) from None
        filled = [FilledBlank(b.start, b.end, _words(b.with_image), _words(b.without_image)) for b in blanks]
        return FilledReport(self.pretrained_name or self.name, filled, upload.warnings)

    def reconstruct(self, upload: DecodedImage, seed: int) -> Reconstruction:
        """The image with most patches masked, and restored by the pre-trained model."""
        assert self.pretrained is not None
        result = reconstruction.reconstruct(self.pretrained, upload.image_HW, seed)
        return Reconstruction(
            self.pretrained_name or self.name,
            masked=png(result.masked),
            restored=png(result.restored),
            original=png(result.original),
            residual=png(cv2.absdiff(result.original, result.restored)),
            error=result.error,
            warnings=upload.warnings,
        )


def _bool_or_none(decision: float) -> bool | None:
    """A decision, which is NaN if there is none."""
    return None if np.isnan(decision) else bool(decision)


def _words(pairs: Sequence[tuple[str, float]]) -> list[Word]:
    return [Word(word, float(probability)) for word, probability in pairs]


def load(model: Path, pretrained: Path | None, device: torch.device) -> Models:
    """The models of a service, tried once on a black image. Raises CheckpointError, RunError."""
    main: Any = model_folder.load(model).to(device)
    if isinstance(main, Classifier):
        target_of(main.card.architecture).require_probabilities(f"{model}: the service")
    mrm = model_folder.load_as(pretrained, MRM).to(device) if pretrained else None
    if isinstance(main, MRM) and mrm is not None:
        raise RunError(f"{model}: is itself a pre-trained model; leave out --mrm, or give a classifier as MODEL")
    pretrained_name = pretrained.resolve().name if pretrained else None
    origin = Origin.of(model, main.card)
    models = Models(
        model.resolve().name, Predictor(main), origin, main if isinstance(main, MRM) else mrm, pretrained_name
    )
    _check_weights(models, model)
    return models


def _check_weights(models: Models, path: Path) -> None:
    """One forward pass, so that weights that are not finite are found before the first request."""
    if models.eval_view is None:
        return
    size = models.eval_view.size
    if not np.isfinite(models.classify(np.zeros((1, size, size), np.uint8))).all():
        raise RunError(
            f"{path}: returns no finite number for a black image; its weights are damaged, or training diverged"
        )
