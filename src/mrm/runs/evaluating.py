"""The test of a classifier; `mrm.runs.evaluate` sends it here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrm.evaluation.classifier_test import (
    CALIBRATED_ON,
    evidence,
    load_classifier,
    note_test,
    overlaps,
    predictions_of,
    scored,
    summary,
    test_records,
    write_results,
)
from mrm.inference.decisions import DecisionRules
from mrm.models import model_folder
from mrm.pages.evaluation import write_evaluation_page
from mrm.runs.run_folder import results_folder, warn_of
from mrm.statistics import ranking
from mrm.system.hardware import best_device


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
    network, out = load_classifier(model), results_folder(Path(out))
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
