"""The page of `mrm evaluate` for a segmenter: its measures, and cases with both outlines drawn over the image."""

# Shapes: H W pixels
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mrm.data import display
from mrm.pages.layout import FEW_POSITIVES, MAX_UNREADABLE_LISTED, Report, template
from mrm.pages.localisation import Localised
from mrm.statistics.dice import MEASURES
from mrm.system.files import write_whole

TRUE, PREDICTED = display.CLASS_COLOURS[:2]  # an orange line and a blue tint, told apart without colour too
CASE_SIDE = 512  # pixels of the longer side of a case
TITLES = {
    "dice_positive": "Dice, positive images",
    "dice_published": "Dice, as published",
    "dice_pooled": "Dice, pooled",
    "dice_mean": "Mean Dice, with background",
    "iou_mean": "Mean IoU, with background",
    "sensitivity": "Sensitivity, per image",
    "false_positives": "False positives, per image",
    "surface_distance": "Surface distance",
    "hausdorff_95": "Hausdorff distance, 95 %",
}


@dataclass(frozen=True)
class Case:
    """An image (H, W) uint8 to show with its true and its predicted mask, both (H, W) bool, of the class `label`."""

    label: str
    kind: str  # best, median, worst, ...
    name: str
    dice: float
    image_HW: np.ndarray
    true_HW: np.ndarray
    predicted_HW: np.ndarray


def write_segmentation_page(
    out: Path, results: dict[str, Any], report: Report, cases: Sequence[Case], localised: Localised | None = None
) -> Path:
    """Write `out/index.html` for a tested segmenter. Returns the page.

    `report` has the measures of every class, `results` is that of `mrm.evaluation.segmenter_test.summary`; the cases
    are shown in their order. `localised` adds outlines against boxes.
    """
    page = template("segmentation.html").render(
        results=results,
        report=report,
        localised=localised,
        thresholds=results.get("thresholds") or {},
        titles=TITLES,
        meanings={**MEASURES, **results["measures"]},
        cases=[(case, draw_case(case)) for case in cases],
        warnings=_warnings(results),
        listed=MAX_UNREADABLE_LISTED,
    )
    return write_whole(Path(out) / "index.html", page.encode())


def _warnings(results: dict[str, Any]) -> list[str]:
    sentences = [str(line) for line in (*(results.get("overlap") or []), *(results.get("repeats") or []))]
    if results["positives"] < FEW_POSITIVES:
        sentences.append(f"Only {results['positives']} images contain a lesion: the intervals are wide and rough.")
    return sentences


def draw_case(case: Case) -> str:
    """The image of a case with the true outline and the predicted region over it, as a data URI."""
    small_HW = display.shrink(case.image_HW, CASE_SIDE)
    height, width = small_HW.shape
    true_HW, predicted_HW = (
        display.resize_mask(mask_HW.astype(np.uint8), height, width) > 0
        for mask_HW in (case.true_HW, case.predicted_HW)
    )
    canvas = display.tint(cv2.cvtColor(small_HW, cv2.COLOR_GRAY2RGB), predicted_HW, PREDICTED, 0.4)
    return display.jpeg_data_uri(display.draw_outline(canvas, true_HW, TRUE, thickness=2), quality=88)
