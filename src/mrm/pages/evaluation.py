"""The page of `mrm evaluate` for a classifier: results finding by finding, curves, calibration, groups."""

# Shapes: N records, C classes
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mrm.pages import figures
from mrm.pages.figures import Panel
from mrm.pages.layout import FEW_POSITIVES, FEW_RECORDS, MAX_UNREADABLE_LISTED, Report, draw_panels, template
from mrm.pages.localisation import Localised
from mrm.statistics import ranking
from mrm.system.files import write_whole

if TYPE_CHECKING:
    from mrm.evaluation.classifier_test import Evidence


WHOLE = {"accuracy": "Accuracy", "kappa": "Kappa", "quadratic_kappa": "Quadratic kappa", "mae": "Mean distance"}


def write_evaluation_page(
    out: Path,
    results: dict[str, Any],
    report: Report,
    labels_NC: np.ndarray,
    probabilities_NC: np.ndarray,
    classes: Sequence[str],
    evidence: Evidence | None = None,
    localised: Localised | None = None,
) -> Path:
    """Write `out/index.html`, `out/roc.png` and `out/pr.png` for a tested classifier. Returns the page.

    `report` is that of `ranking.classification_report` for the labels and probabilities (N, C). Of `results`, the keys
    `model`, `records`, `n`, `patients`, `unreadable`, `overlap` (a text, or several) and `origin` are shown if they
    are there. `evidence` adds calibration, operating points, groups and outliers, and `out/reliability.png`; `localised`
    what the model's maps show.
    """
    panels = [Panel(name, labels_NC[:, c], {"model": probabilities_NC[:, c]}) for c, name in enumerate(classes)]
    calibrated = evidence is not None and bool(evidence.calibrated)
    _write_curves(Path(out), panels, calibrated)
    page = template("evaluation.html").render(
        evidence=evidence,
        localised=localised,
        reliability=draw_panels(panels, figures.reliability, "Reliability") if calibrated else [],
        results=results,
        report=report,
        mean=report["mean"],
        rows=[(name, report[name]) for name in classes],
        n=results.get("n", len(labels_NC)),
        positives=int((labels_NC == 1).any(axis=1).sum()),
        warnings=list(warnings_of(results, report, classes, len(labels_NC))),
        roc=draw_panels(panels, figures.roc, "ROC curve"),
        precision_recall=draw_panels(panels, figures.precision_recall, "Precision-recall curve"),
        listed=MAX_UNREADABLE_LISTED,
        whole=[(title, mean[name]) for name, title in WHOLE.items() if name in (mean := report["mean"])],
        few=ranking.FEW,
    )
    return write_whole(Path(out) / "index.html", page.encode())


def _write_curves(out: Path, panels: Sequence[Panel], calibrated: bool) -> None:
    """The curves as files beside the page, to put into a document."""
    write_whole(out / "roc.png", figures.panels_png(panels, figures.roc))
    write_whole(out / "pr.png", figures.panels_png(panels, figures.precision_recall))
    if calibrated:
        write_whole(out / "reliability.png", figures.panels_png(panels, figures.reliability))


def warnings_of(results: dict[str, Any], report: Report, classes: Sequence[str], n: int) -> Iterator[str]:
    """What a reader must know before the numbers, as sentences."""
    yield from warnings_of_records(results, n)
    auroc = {name: report[name]["auroc"] for name in classes}
    positives = {name: e.positives or 0 for name, e in auroc.items() if e.defined}
    if rare := [f"{name} ({count})" for name, count in positives.items() if count < FEW_POSITIVES]:
        yield f"Fewer than {FEW_POSITIVES} positive records of {', '.join(rare)}: the intervals are wide and rough."
    if auroc and not any(e.defined for e in auroc.values()):
        yield "No class has both positive and negative records, so nothing could be measured."


def warnings_of_records(results: dict[str, Any], n: int) -> Iterator[str]:
    """Those of the warnings that are about the records, whatever was predicted of them."""
    overlaps = results.get("overlap") or []
    for overlap in [overlaps] if isinstance(overlaps, str) else overlaps:
        other_set = "calibration" if overlap.endswith("with calibration") else "training"
        yield f"Overlap with {other_set}: {overlap}"
    yield from results.get("repeats") or []
    yield from results.get("uncertain_thresholds") or []
    if n < FEW_RECORDS:
        yield f"Only {n:,} records were tested. The intervals are wide; read them before the numbers."
