"""The test of a classifier or a segmenter: numbers with their intervals, and a page."""

# Shapes: N records, C classes, D features, H W pixels
from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mrm.data import masks
from mrm.data.masks import MaskedImages
from mrm.evaluation import segmenter_test
from mrm.evaluation.classifier_test import (
    CALIBRATED_ON,
    evidence,
    note_test,
    overlaps,
    predictions_of,
    scored,
    summary,
    test_records,
    write_results,
)
from mrm.inference import outlines
from mrm.inference.decisions import DecisionRules
from mrm.models import model_folder
from mrm.models.card import OutlineThreshold
from mrm.models.classifier import Classifier
from mrm.models.segmenter import Segmenter, probabilities
from mrm.pages.evaluation import write_evaluation_page
from mrm.pages.segmentation import Case, write_segmentation_page
from mrm.runs.run_folder import warn_of
from mrm.runs.segmenting import require_meaning
from mrm.statistics import ranking
from mrm.system.errors import RunError
from mrm.system.hardware import best_device
from mrm.system.output_folder import make_folder


def evaluate(
    model: Path,
    records: Path,
    out: Path,
    images: Path | None = None,
    draws: int = 2000,
    seed: int = 0,
    workers: int | None = None,
    split: str = "test",
    slide: bool = False,
    by: Sequence[str] = (),
) -> dict[str, Any]:
    """Test a classifier or a segmenter: `results.json`, one line an image in a CSV, one page. Returns the results."""
    if model_folder.kind_at(model) == "segmenter":
        if by:
            raise RunError(f"{model}: a segmenter; --by groups the records of a classifier's test")
        return evaluate_masks(model, records, out, split, slide, draws, seed)
    if slide or split != "test":
        raise RunError(f"{model}: no segmenter; --split and --slide are for the folders of a segmenter's test")
    return evaluate_findings(model, records, out, images, draws, seed, workers, by)


def evaluate_findings(
    model: Path,
    records: Path,
    out: Path,
    images: Path | None = None,
    draws: int = 2000,
    seed: int = 0,
    workers: int | None = None,
    by: Sequence[str] = (),
) -> dict[str, Any]:
    """`results.json`, `predictions.csv`, curves and a page of a classifier's test. Returns the results.

    Probabilities are at the model's temperatures. `by` are columns of the records to group by.
    """
    network, out = model_folder.load_as(model, Classifier), make_folder(Path(out))
    card, tested = network.card, test_records(network, records, images)
    found = scored(network.to(best_device()), tested, records, workers)
    predictions = predictions_of(DecisionRules.of(card, tested.classes), found)
    report = ranking.classification_report(
        predictions.labels_NC,
        predictions.probabilities_NC,
        predictions.classes,
        groups=predictions.patients,
        draws=draws,
        seed=seed,
    )
    shown = evidence(card, found, by, draws, seed)
    folder = model_folder.find_model(model)
    leaks = overlaps(folder / "seen", tested, "test", also=folder / CALIBRATED_ON)
    warn_of(leaks)
    results = summary(model, card, records, tested, predictions, report, found.unreadable, leaks, shown)
    write_results(out, results, predictions)
    write_evaluation_page(
        out, results, report, predictions.labels_NC, predictions.probabilities_NC, predictions.classes, shown
    )
    note_test(model, results)
    return results


def evaluate_masks(
    model: Path,
    folder: Path,
    out: Path,
    split: str = "test",
    slide: bool = False,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Test a segmenter: `results.json`, `images.csv`, and a page with overlays. Returns the results."""
    network, out = model_folder.load_as(model, Segmenter).to(best_device()), make_folder(Path(out))
    classes = network.config.classes
    masked = masks.load(folder, split, classes, on_error="stop")
    require_meaning(masked, network.card.origin.get("ignores_255", False))
    thresholds = outlines.thresholds_of(network.card, classes)
    tested = segmenter_test.run_test(network, masked, thresholds, slide)
    report = segmenter_test.report_of(tested, classes, draws, seed)
    leaks = overlaps(model_folder.find_model(model) / "seen", masked.records(), "test")
    warn_of(leaks)
    results = segmenter_test.summary(model, network.card, masked, tested, report, leaks)
    results |= {"split": split, "inference": "sliding windows" if slide else "whole image"}
    segmenter_test.write_results(out, results, tested, classes)
    write_segmentation_page(out, results, report, list(shown_cases(network, masked, tested, thresholds, slide)))
    segmenter_test.note_test(model, results)
    return results


def shown_cases(
    model: Segmenter,
    masked: MaskedImages,
    tested: segmenter_test.Tested,
    thresholds: Sequence[OutlineThreshold],
    slide: bool,
) -> Iterable[Case]:
    """Best, median and worst images of every class, outlined once more for the page."""
    for number, name in enumerate(masked.classes):
        for kind, row, dice in segmenter_test.cases(tested, number):
            index = tested.indices[row]
            image_HW, mask_HW = masked.read(index)
            found_HW = outlines.outline(probabilities(model, image_HW, slide), thresholds)
            yield Case(name, kind, tested.names[row], dice, image_HW, mask_HW == number + 1, found_HW == number + 1)
