"""A classifier with the interface of TorchXRayVision's models, for code that was written for them.

Cohen et al., "TorchXRayVision: A library of chest X-ray datasets and models", arXiv:2111.00595. The library itself is not
needed here.
"""

# Shapes: B images, H W pixels, S side of the model's input, C findings, D features
from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mrm.data.eval_view import EvalView
from mrm.inference.decisions import DecisionRules
from mrm.inference.predict import feature_function
from mrm.interop.finding_names import translate
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.models.mrm import three_channels
from mrm.system.errors import PredictError, RunError

FULL = 1024  # the largest absolute value of an image in TorchXRayVision; black is -1024, white 1024
SLACK = 1  # by which values may pass it
LEAST = 255  # an image whose values stay closer to 0 than this has probably another range


class XRVModel(nn.Module):
    """A classifier that takes and gives what a model of TorchXRayVision does.

    `targets` (also `pathologies`) are the findings under TorchXRayVision's names, so that its data sets can be aligned to
    them; a finding that it has no name for keeps its own. `op_threshs` (C,) are the thresholds of the card, NaN where a finding
    has none, and None where the model has no thresholds.
    """

    op_threshs: Tensor | None
    temperature_C: Tensor

    def __init__(self, model: Path | str | Classifier, apply_sigmoid: bool = False) -> None:
        """`model` is a model folder, a run or a classifier. Raises CheckpointError, and RunError for another kind of model,
        and for one whose images are cropped or matched before it sees them."""
        super().__init__()
        self.weights = "" if isinstance(model, Classifier) else str(model)
        self.classifier = model if isinstance(model, Classifier) else model_folder.load_as(model, Classifier)
        self.apply_sigmoid = apply_sigmoid
        config = self.classifier.config
        self.input_resolution = config.image_size
        self.targets = targets_of(config.classes)
        self.pathologies = self.targets  # as older code calls it
        rules = DecisionRules.of(self.classifier.card, config.classes)
        rules.target.require_independent("a model of TorchXRayVision")
        if changes := EvalView.of(config).changes:
            raise RunError(
                f"{self.weights or 'the classifier'}: takes each image with {changes}, which a model of TorchXRayVision does not "
                "do to its tensors; use mrm.Predictor"
            )
        self.register_buffer("temperature_C", torch.from_numpy(rules.temperature_C).float())
        self.register_buffer("op_threshs", torch.from_numpy(rules.threshold_C).float() if rules.thresholds else None)
        self._warned: set[str] = set()
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Findings (B, C) of images (B, 1, H, W) with values from -1024 to 1024.

        With `op_threshs` these are probabilities after the model's temperatures, moved so that a threshold becomes 0.5; a
        finding without a threshold keeps its probability. Without, they are logits, or with `apply_sigmoid` probabilities.
        Set `op_threshs = None` to have them without thresholds. Images of another size are resized, with a warning. Raises
        PredictError for another shape and for values that are not finite.
        """
        logits_BC = self.classifier(self._prepared(x))
        if self.op_threshs is not None:
            return at_half((logits_BC / self.temperature_C).sigmoid(), self.op_threshs)
        return (logits_BC / self.temperature_C).sigmoid() if self.apply_sigmoid else logits_BC

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (B, D) of the same images, as `mrm embed` has them. Raises as `forward` does."""
        return feature_function(self.classifier, "pooled")(self._prepared(x))

    def _prepared(self, x: Tensor) -> Tensor:
        """The images as the classifier takes them, normalised, (B, 3, S, S)."""
        image_BCHW = x[None] if x.ndim == 3 else x
        if image_BCHW.ndim != 4 or image_BCHW.shape[1] != 1 or 0 in image_BCHW.shape:
            raise PredictError(f"images must be (B, 1, H, W), grey, not {tuple(x.shape)}")
        image_BCHW = image_BCHW.float()
        self._check_range(image_BCHW)
        config = self.classifier.config
        if config.view == "centre":
            image_BCHW = _central_square(image_BCHW)
        height, width = image_BCHW.shape[-2:]
        side = config.image_size
        if (height, width) != (side, side):
            self._warn(
                "size",
                f"images of {height} x {width} are resized to {side} x {side}, the size of this model, by another filter than "
                "that of `mrm predict`, which can change the results; give them in this size to avoid it",
            )
            image_BCHW = F.interpolate(image_BCHW, size=(side, side), mode="bilinear", antialias=True)
        return three_channels((image_BCHW[:, 0] / FULL + 1) / 2, config.mean, config.std)

    def _check_range(self, image_BCHW: Tensor) -> None:
        """Warn of values that are probably not from -1024 to 1024. Raises PredictError for those that are not finite."""
        low, high = (float(value) for value in torch.aminmax(image_BCHW.detach()))
        if not abs(low) + abs(high) < float("inf"):
            raise PredictError("images have values that are NaN or infinite")
        beyond = low < -FULL - SLACK or high > FULL + SLACK
        if beyond or low > -LEAST or high < LEAST:
            self._warn(
                "range",
                f"images should have values from -{FULL} (black) to {FULL} (white), but these have {low:.4g} to {high:.4g}; "
                "scale them with torchxrayvision.datasets.normalize(image, largest possible value)",
            )

    def _warn(self, fault: str, text: str) -> None:
        """Warn once of each fault, also where TorchXRayVision has switched off all warnings, as it does when imported."""
        if fault in self._warned:
            return
        self._warned.add(fault)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(text, stacklevel=5)


def targets_of(classes: tuple[str, ...]) -> list[str]:
    """Findings under TorchXRayVision's names; those that it does not have, or that two would share, keep their own."""
    named = translate(classes, "torchxrayvision")
    return [theirs if theirs and named.count(theirs) == 1 else own for own, theirs in zip(classes, named, strict=True)]


def at_half(probability_BC: Tensor, threshold_C: Tensor) -> Tensor:
    """Probabilities moved so that each threshold becomes 0.5, by one line below it and one above; the ends stay.

    Where a threshold is NaN the probability stays. Cohen et al., arXiv:1901.11210.
    """
    safe_C = threshold_C.nan_to_num(nan=0.5)
    below_BC = probability_BC / (2 * safe_C).clamp(min=1e-12)
    above_BC = 1 - (1 - probability_BC) / (2 * (1 - safe_C)).clamp(min=1e-12)
    return torch.where(probability_BC < safe_C, below_BC, above_BC)


def _central_square(image_BCHW: Tensor) -> Tensor:
    height, width = image_BCHW.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image_BCHW[..., top : top + side, left : left + side]
