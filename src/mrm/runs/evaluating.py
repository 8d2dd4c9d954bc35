"""The test of a classifier or a segmenter: numbers with their intervals, and a page."""

# Shapes: N records, C classes, D features, H W pixels
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mrm.audit.fingerprints import fingerprint
from mrm.audit.hash_keeping import HashKeeper
from mrm.data import masks
from mrm.data.masks import MaskedImages
from mrm.data.records import Records
from mrm.evaluation import segmenter_test
from mrm.evaluation.classifier_test import (
    CALIBRATED_ON,
    Scored,
    evidence,
    labelled_records,
    note_test,
    overlaps,
    predictions_of,
    scored,
    summary,
    write_results,
)
from mrm.evaluation.repeats import repeats
from mrm.evaluation.study_scores import of_studies
from mrm.inference import outlines
from mrm.inference.decisions import DecisionRules
from mrm.interop.hub_folder import readme_kept_true
from mrm.models import model_folder
from mrm.models.card import OutlineThreshold
from mrm.models.classifier import Classifier
from mrm.models.segmenter import Segmenter, probabilities
from mrm.pages.evaluation import write_evaluation_page
from mrm.pages.numbers import write_numbers_page
from mrm.pages.segmentation import Case, write_segmentation_page
from mrm.runs import localising
from mrm.runs.encoder_facts import seen_by_first_encoder
from mrm.runs.guessed_views import require_frontal, with_guessed_views
from mrm.runs.localising import Boxes, localisation_table
from mrm.runs.output_lock import alone_in
from mrm.runs.reading_options import Reading, autocast, placed, require_single_images, require_target
from mrm.runs.run_folder import warn_of
from mrm.runs.segmenting import require_meaning
from mrm.system.errors import RunError
from mrm.system.output_folder import make_folder
from mrm.system.text_table import ESTIMATE_HEAD, estimate_cells, text_table
from mrm.targets import target_of


def evaluate(
    model: Path,
    records: Path,
    out: Path,
    reading: Reading = Reading(),
    draws: int = 2000,
    seed: int = 0,
    split: str = "test",
    slide: bool = False,
    by: Sequence[str] = (),
    boxes: Boxes | None = None,
) -> dict[str, Any]:
    """Test a classifier or a segmenter: writes `results.json`, a CSV with a row for each image and a page.

    With `boxes` also where it looks (`mrm.runs.localising`). Returns the results. Raises RunError for options that do not fit
    the model or where no image can be read, RecordError for boxes that do not fit the records.
    """
    if model_folder.kind_at(model) == "segmenter":
        if by:
            raise RunError(f"{model}: is a segmenter, but --by groups the records of a classifier's test; leave it out")
        require_single_images(reading, model)
        results = evaluate_masks(model, records, out, reading, split, slide, draws, seed, boxes)
        print_tables(masks_table(results), results)
        return results
    if slide or split != "test":
        raise RunError(f"{model}: is not a segmenter; --split and --slide are for segmenters, leave them out")
    results = evaluate_findings(model, records, out, reading, draws, seed, by, boxes)
    print_tables(findings_table(results), results)
    return results


def print_tables(first: str, results: dict[str, Any]) -> None:
    """Print the table of a test and, where there are boxes, that of its maps."""
    print(first)
    if "localisation" in results:
        print(f"\n{localisation_table(results['localisation'])}")


def findings_table(results: dict[str, Any]) -> str:
    """AUROC and average precision of every finding, and their means, as text to print; else every measure of the whole."""
    rows, more = [], []
    if "auroc" not in results["classes"]["mean"]:
        return masks_table(results)
    for measure, estimate in results["classes"]["mean"].items():
        if measure not in ("auroc", "average_precision"):
            more.append([measure.replace("_", " "), *estimate_cells(estimate)[:3]])
    for name, metrics in results["classes"].items():
        auroc, precision = (estimate_cells(metrics[metric]) for metric in ("auroc", "average_precision"))
        rows.append([name, *auroc[:2], *precision[:2], *auroc[2:]])
    head = ("finding", "AUROC", "95 % interval", "avg. precision", "95 % interval", "n", "positives")
    table = text_table(head, rows)
    return f"{table}\n\n{text_table(('of the whole', *ESTIMATE_HEAD[:3]), more)}" if more else table


def masks_table(results: dict[str, Any]) -> str:
    """Every measure of every class, as text to print."""
    rows = [
        [name, measure.replace("_", " "), *estimate_cells(estimate)]
        for name, measures in results["classes"].items()
        for measure, estimate in measures.items()
    ]
    return text_table(("class", "measure", *ESTIMATE_HEAD), rows, text_columns=2)


@alone_in("out")
def evaluate_findings(
    model: Path,
    records: Path,
    out: Path,
    reading: Reading = Reading(),
    draws: int = 2000,
    seed: int = 0,
    by: Sequence[str] = (),
    boxes: Boxes | None = None,
) -> dict[str, Any]:
    """Test a classifier: `results.json`, `predictions.csv`, curves and a page. Returns the results.

    Probabilities are calibrated by the model's temperatures. `by` names columns of the records for subgroups. With `boxes`
    heat maps are measured, too: `localisation.csv` and `marks.csv`.
    """
    require_frontal(reading)
    network, out = placed(model_folder.load_as(model, Classifier), reading), make_folder(Path(out))
    target = target_of(network.card.architecture)
    require_target(target, reading, by, model)
    card, tested = network.card, labelled_records(network, records, reading.images)
    localisation = localising.of_classifier(boxes, network, model, tested, reading, seed) if boxes else None
    folder = model_folder.find_model(model)
    prints = fingerprint(tested, hashes=HashKeeper())
    leaks = overlaps(folder / "seen", tested, "test", folder / CALIBRATED_ON, prints) + seen_by_first_encoder(card)
    twice = repeats(tested, prints, "the test set")
    warn_of([*leaks, *twice])
    scores = score(network, tested, records, reading)
    predictions = predictions_of(DecisionRules.of(card, tested.classes), scores)
    compared = predictions.labels_NC, predictions.probabilities_NC
    report = target.report(*compared, predictions.patients, draws, seed)
    subgroups_and_calibration = evidence(card, scores, by, draws, seed)
    results = summary(
        model, card, records, tested, predictions, report, scores.unreadable, leaks, subgroups_and_calibration
    )
    results |= {"repeats": twice, "precision": reading.precision, "crop_borders": reading.crop_borders}
    results |= {"by_study": reading.by_study, "views": reading.views, "flip": reading.flip}
    results |= {"target": target.name, "confusion": confusion_of(target.confusion(*compared))}
    located = None
    if localisation:
        located = localisation.run(localising.images_of(tested, predictions), tested, draws, seed)
        located.write(out)
        results["localisation"] = located.facts
    write_results(out, results, predictions)
    shown = out, results, report, *compared, predictions.classes, subgroups_and_calibration
    if target.probabilistic:
        write_evaluation_page(*shown, located.page if located else None)
    else:
        write_numbers_page(*shown)
    with readme_kept_true(folder):
        note_test(model, results)
    return results


def confusion_of(table: tuple[tuple[str, ...], np.ndarray] | None) -> dict[str, Any] | None:
    """How often each true class or level (rows) was called each (columns), as plain values."""
    return None if table is None else {"names": list(table[0]), "counts": table[1].tolist()}


def score(model: Classifier, records: Records, path: Path, reading: Reading) -> Scored:
    """Logits and features of the records, or of their studies, as `reading` says. Raises RunError if nothing is left."""
    options = reading.workers, reading.batch, reading.precision, reading.crop_borders, reading.flip
    target, scores = target_of(model.card.architecture), scored(model, records, path, *options)
    scores = replace(scores, records=with_guessed_views(scores.records, reading))
    return of_studies(scores, reading.by_study, reading.views, target)


@alone_in("out")
def evaluate_masks(
    model: Path,
    folder: Path,
    out: Path,
    reading: Reading = Reading(),
    split: str = "test",
    slide: bool = False,
    draws: int = 2000,
    seed: int = 0,
    boxes: Boxes | None = None,
) -> dict[str, Any]:
    """Test a segmenter: `results.json`, `images.csv`, and a page with overlays. Returns the results.

    With `boxes` outlines are measured against them, too: `localisation.csv` and `marks.csv`.
    """
    if reading.crop_borders:
        raise RunError("a mask covers the whole image, so --crop-borders is for classifiers only; leave it out")
    network, out = placed(model_folder.load_as(model, Segmenter), reading), make_folder(Path(out))
    classes = network.config.classes
    masked = masks.load(folder, split, classes, on_error="stop")
    require_meaning(masked, network.card.origin.get("ignores_255", False))
    localisation = localising.of_segmenter(boxes, network, masked, reading, slide, seed) if boxes else None
    prints = fingerprint(masked.records(), hashes=HashKeeper())
    leaks = overlaps(model_folder.find_model(model) / "seen", masked.records(), "test", prints=prints)
    leaks += seen_by_first_encoder(network.card)
    twice = repeats(masked.records(), prints, "the test set")
    warn_of([*leaks, *twice])
    thresholds = outlines.thresholds_of(network.card, classes)
    with autocast(network, reading):
        tested = segmenter_test.run_test(network, masked, thresholds, slide)
        shown = list(shown_cases(network, masked, tested, thresholds, slide))
    patients = masked.records().select(tested.indices).patients
    report = segmenter_test.report_of(tested, classes, patients, draws, seed)
    results = segmenter_test.summary(model, network.card, masked, tested, report, leaks)
    results |= {"split": split, "inference": "sliding windows" if slide else "whole image"}
    results |= {"repeats": twice, "precision": reading.precision}
    located = None
    if localisation:
        read = localising.masked_images(masked, tested.indices)
        located = localisation.run(read, masked.records(), draws, seed)
        located.write(out)
        results["localisation"] = located.facts
    segmenter_test.write_results(out, results, tested, classes, patients)
    write_segmentation_page(out, results, report, shown, located.page if located else None)
    with readme_kept_true(model_folder.find_model(model)):
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
