"""HTML pages that open from disk without a network: `evaluation` of a classifier, and the `demo`.

What a page says is in its template beside this file; what it shows is worked out here. Everything (style,
figures, images) is inlined. Names of classes, files and models are not trusted: templates escape them.

Shapes: N records, C classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup

import mrm
from mrm.pages import figures, overlays
from mrm.pages.figures import Curve, Panel
from mrm.statistics import intervals, ranking
from mrm.statistics.dice import MEASURES
from mrm.statistics.intervals import Estimate
from mrm.system.tables import write_whole

if TYPE_CHECKING:
    from mrm.evaluation.classifier_test import Evidence
    from mrm.inference.predict import Reconstruction
    from mrm.statistics.comparison import Comparison

Details = tuple[str, Sequence[str]]  # a title and the lines under it
Report = dict[str, dict[str, Estimate]]  # as `metrics.classification_report` gives it

FEW_RECORDS, FEW_POSITIVES = 100, 10  # below: the page warns that intervals are wide
MANY = 6  # classes; above, panels are drawn smaller
LISTED = 50  # unreadable images named one by one; all are in results.json
LOSSES = {  # what a loss is called, and its unit
    "image": ("Restoring masked patches", "mean squared error per masked patch"),
    "report": ("Restoring masked words", "cross-entropy per masked word, nats"),
}


MEASURES_COMPARED = {
    "delong": "AUROC (DeLong)",
    "auroc": "AUROC (bootstrap)",
    "average_precision": "Average precision (bootstrap)",
    "dice_positive": "Dice, images with a lesion",
    "dice_published": "Dice, as published",
}


# What the demo tells ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """A word of a report; a masked one comes with the likeliest word and its probability, twice."""

    text: str
    masked: bool = False
    with_image: tuple[str, float] | None = None
    without_image: tuple[str, float] | None = None


@dataclass(frozen=True)
class FilledReport:
    """An image (H, W) uint8, and its report with masked words filled in."""

    image: np.ndarray
    words: list[Word]


@dataclass(frozen=True)
class Contender:
    """A fine-tuned classifier and how it did on the test records."""

    name: str
    labels_NC: np.ndarray
    probabilities_NC: np.ndarray
    report: Report


@dataclass(frozen=True)
class Story:
    """What the demo did, in the order of its page. Anything may be empty; the page then says so."""

    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # "image", "report": by step
    reconstructions: list[Reconstruction] = field(default_factory=list)
    reports: list[FilledReport] = field(default_factory=list)
    contenders: list[Contender] = field(default_factory=list)  # pre-trained first, then random
    classes: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    samples: list[tuple[np.ndarray, str]] = field(default_factory=list)  # images (H, W) and their reports
    difference: Estimate | None = None  # of mean AUROC, first contender minus second, on the same draws


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


TITLES = {  # what the measures of a segmentation are called
    "dice_positive": "Dice, positive images",
    "dice_published": "Dice, as published",
    "dice_pooled": "Dice, pooled",
    "dice_mean": "Mean Dice, with background",
    "iou_mean": "Mean IoU, with background",
    "sensitivity": "Sensitivity, by image",
    "false_positives": "False positives, by image",
    "surface_distance": "Surface distance",
    "hausdorff_95": "Hausdorff distance, 95 %",
}


# The pages ----------------------------------------------------------------------------------------------


def evaluation(
    out: Path,
    results: dict[str, Any],
    report: Report,
    labels_NC: np.ndarray,
    probabilities_NC: np.ndarray,
    classes: Sequence[str],
    evidence: Evidence | None = None,
) -> Path:
    """Write `out/index.html`, `out/roc.png` and `out/pr.png` for a tested classifier; return the page.

    `evidence` is that of `mrm.evaluation.classifier_test`: calibration, operating points, groups, abstention. With it also
    `out/reliability.png`.

    `report` is that of `metrics.classification_report` for labels and probabilities (N, C). Of `results`,
    `model`, `records`, `n`, `patients`, `unreadable`, `overlap` (text, or several) and `origin` are shown if
    there.
    """
    panels = [Panel(name, labels_NC[:, c], {"model": probabilities_NC[:, c]}) for c, name in enumerate(classes)]
    write_whole(Path(out) / "roc.png", figures.panels_png(panels, figures.roc))
    write_whole(Path(out) / "pr.png", figures.panels_png(panels, figures.precision_recall))
    if evidence and evidence.calibrated:
        write_whole(Path(out) / "reliability.png", figures.panels_png(panels, figures.reliability))
    page = template("evaluation.html").render(
        evidence=evidence,
        reliability=drawn(panels, figures.reliability, "Reliability") if evidence and evidence.calibrated else [],
        results=results,
        report=report,
        mean=report["mean"],
        rows=[(name, report[name]) for name in classes],
        n=results.get("n", len(labels_NC)),
        positives=int((labels_NC == 1).any(axis=1).sum()),
        warnings=list(warnings_of(results, report, classes, len(labels_NC))),
        roc=drawn(panels, figures.roc, "ROC curve"),
        precision_recall=drawn(panels, figures.precision_recall, "Precision-recall curve"),
        listed=LISTED,
        few=ranking.FEW,
    )
    return write_whole(Path(out) / "index.html", page.encode())


def comparison(out: Path, facts: dict[str, Any], compared: dict[str, dict[str, Comparison]]) -> Path:
    """Write `out/index.html` for two models compared on the same records; return it.

    `compared` has for each class, and "mean", comparisons by measure (a key of `MEASURES_COMPARED`).
    """
    measures = {m: title for m, title in MEASURES_COMPARED.items() if any(m in per for per in compared.values())}
    notes = [f"The {which} model: {line}" for which, lines in facts.get("overlap", {}).items() for line in lines]
    page = template("comparison.html").render(facts=facts, compared=compared, measures=measures, warnings=notes)
    return write_whole(Path(out) / "index.html", page.encode())


def ledger(
    file: Path, facts: dict[str, Any], head: Sequence[str], rows: Sequence[Sequence[str]], details: Sequence[Details]
) -> Path:
    """Write the reproduction ledger of `mrm benchmark` as a page; return it.

    Of `facts`, `suite`, `about`, `rehearsal` and the overlaps of its `rows` are shown. Each of `rows` has a text for each of `head`; `details` are
    titles with lines to know under the table: commands, fingerprints, overlaps, failures.
    """
    notes = [f"{row['entry']}, {short(row['model'])}: {line}" for row in facts["rows"] for line in row["overlap"]]
    if facts["rehearsal"]:
        notes.insert(0, f"A rehearsal: {facts['rehearsal']}. Nothing here can be compared with a published number.")
    page = template("ledger.html").render(facts=facts, head=head, rows=rows, details=details, warnings=notes)
    return write_whole(file, page.encode())


def label_efficiency(out: Path, results: dict[str, Any], curves: Sequence[Curve]) -> Path:
    """Write `out/index.html` and `out/label_efficiency.png`: mean AUROC by share of labels; return the page.

    `results` is that of `mrm.runs.probing`, each of `curves` a method and a model.
    """
    methods: dict[str, Sequence[Curve]] = {
        m: [c for c in curves if c.method == m] for m in {c.method: 0 for c in curves}
    }
    limits = figures.limits_of(curves)
    write_whole(Path(out) / "label_efficiency.png", figures.efficiency_png(methods, limits))
    panels = [
        (method, Markup(figures.efficiency_svg(lines, limits, f"Mean AUROC by share of labels: {method}")))
        for method, lines in methods.items()
    ]
    estimates = {(c.method, c.model, share): e for c in curves for share, e in c.points}
    page = template("probe.html").render(
        results=results,
        panels=panels,
        estimates=estimates,
        names=list(zip(results["models"], figures.NAMES, strict=False)),
    )
    return write_whole(Path(out) / "index.html", page.encode())


def segmentation(out: Path, results: dict[str, Any], report: Report, cases: Sequence[Case]) -> Path:
    """Write `out/index.html` for a tested segmenter; return it.

    `report` has the measures of every class, `results` is that of `mrm.evaluation.segmenter_test.summary`, `cases` are shown as
    overlays, in their order.
    """
    drawn = [(case, overlays.overlay(case.image_HW, case.true_HW, case.predicted_HW)) for case in cases]
    groups: dict[tuple[str, str], list[tuple[Case, str]]] = {}
    for case, image in drawn:
        groups.setdefault((case.label, case.kind), []).append((case, image))
    notes = [str(o) for o in results.get("overlap") or []]
    if results["positives"] < FEW_POSITIVES:
        notes.append(f"Only {results['positives']} images have something to outline: intervals are wide and rough.")
    page = template("segmentation.html").render(
        results=results,
        report=report,
        thresholds=results.get("thresholds") or {},
        titles=TITLES,
        meanings={**MEASURES, **results["measures"]},
        cases=list(groups.items()),
        warnings=notes,
        listed=LISTED,
    )
    return write_whole(Path(out) / "index.html", page.encode())


def demo(out: Path, story: Story) -> Path:
    """Write `out/index.html`, the page of `mrm demo`; return it."""
    page = template("demo.html").render(
        story=story,
        losses=[loss_figure(name, points) for name, points in story.losses.items()],
        reports=[(figures.image(r.image), list(spaced(r.words))) for r in story.reports],
        totals=totals(story.reports),
        samples=[(figures.image(image_HW), text) for image_HW, text in story.samples],
        restored=[
            [figures.image(p) for p in (r.masked, r.restored, r.original)] + [r.error] for r in story.reconstructions
        ],
        intervals={c: [one.report[c]["auroc"] for one in story.contenders] for c in ("mean", *story.classes)},
        curves=drawn(contender_panels(story), figures.roc, "ROC curves"),
    )
    return write_whole(Path(out) / "index.html", page.encode())


@cache
def template(name: str) -> jinja2.Template:
    """A template of this folder, with escaping on and the filters that pages use."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mrm", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        f.__name__: f for f in (span, remarks, across, axis_start, verdict, short, share, signed, p_value)
    }
    environment.tests["right"] = right
    style = (Path(__file__).parent / "style.css").read_text()
    shared = {"style": Markup(style), "many": MANY, "today": today, "version": mrm.__version__}
    return environment.get_template(name, globals=shared)


# Numbers in words ---------------------------------------------------------------------------------------


def span(estimate: Estimate, digits: int = 3) -> str:
    """'0.812–0.901', or '' where there is no interval."""
    if not np.isfinite(estimate.low):
        return ""
    return f"{estimate.low:.{digits}f}–{estimate.high:.{digits}f}"


def signed(value: float | None) -> str:
    """'+0.031', '−0.004', or '–' where there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:+.3f}".replace("-", "−")


def p_value(p: float | None) -> str:
    """'0.013', '< 0.001', or '–' where there is none."""
    if p is None or not np.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def remarks(estimate: Estimate) -> str:
    """What the reader must know of an estimate, without how its interval was drawn."""
    return "; ".join(
        part for part in estimate.note.split("; ") if part and not part.startswith(("bootstrap", "DeLong"))
    )


def across(value: float, low: float = 0.5, high: float = 1.0) -> float:
    """Where a value lies on an axis from `low` to `high`, 0 to 100; beyond the ends it stays at the end."""
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)


def axis_start(estimates: Iterable[Estimate]) -> float:
    """Where the axis of AUROC begins: at 0.5, a coin, or further down where a value is less, so that none is out of sight."""
    least = min((e.value for e in estimates if e.defined), default=1.0)
    return next(start for start in (0.5, 0.4, 0.2, 0.0) if start <= least)


def verdict(auroc: Estimate) -> str:
    """Whether the interval tells the model from a coin, in words."""
    if not span(auroc):
        return "There is no interval, so this test cannot say whether that is more than chance."
    if auroc.low > 0.5:
        return "The interval lies above 0.5: better than chance."
    if auroc.high < 0.5:
        return "The interval lies below 0.5: worse than chance, as if labels or classes were swapped."
    return "The interval holds 0.5: this test does not show that the model is better than chance."


def today() -> str:
    """'4 March 2026'"""
    day = date.today()
    return f"{day.day} {day:%B %Y}"


def short(path: str) -> str:
    """The last two parts of a path: enough to know it by, without the folders of a machine.

    The tables of `mrm evaluate` are called by their folder.
    """
    known = Path(path).parent if Path(path).name in ("predictions.csv", "images.csv") else Path(path)
    return "/".join(known.parts[-2:]) or path


def share(estimate: Estimate) -> str:
    """'31 of 44 (70 %, 95 % interval 55–82 %)'"""
    if not estimate.defined:
        return str(estimate)
    hits = round(estimate.value * estimate.n)
    percent, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{hits:,} of {estimate.n:,} ({percent:.0f} %, 95 % interval {low:.0f}–{high:.0f} %)"


def warnings_of(results: dict[str, Any], report: Report, classes: Sequence[str], n: int) -> Iterator[str]:
    """What a reader must know before the numbers, as sentences."""
    overlap = results.get("overlap") or []
    for found in [overlap] if isinstance(overlap, str) else overlap:
        yield f"Overlap with {'calibration' if found.endswith('with calibration') else 'training'}: {found}"
    if n < FEW_RECORDS:
        yield f"Only {n:,} records were tested. The intervals are wide; read them before the numbers."
    tested = {name: report[name]["auroc"] for name in classes}
    positives = {name: e.positives or 0 for name, e in tested.items() if e.defined}
    if few := [f"{name} ({count})" for name, count in positives.items() if count < FEW_POSITIVES]:
        yield f"Fewer than {FEW_POSITIVES} positive records of {', '.join(few)}: intervals are wide and rough."
    if tested and not any(e.defined for e in tested.values()):
        yield "No class has both positive and negative records, so nothing could be measured."


# Figures and texts of the demo --------------------------------------------------------------------------


def drawn(panels: Sequence[Panel], draw: figures.Draw, what: str) -> list[tuple[str, str, Markup]]:
    """(class, why there is no curve or '', figure) of every panel."""
    side = 2.2 if len(panels) > MANY else 2.9
    return [
        (p.name, p.why_empty, Markup("" if p.why_empty else figures.panel_svg(p, draw, what, side))) for p in panels
    ]


def contender_panels(story: Story) -> list[Panel]:
    """One panel per class, with all contenders in it."""
    if not story.contenders:
        return []
    labels_NC = story.contenders[0].labels_NC
    return [
        Panel(name, labels_NC[:, c], {one.name: one.probabilities_NC[:, c] for one in story.contenders})
        for c, name in enumerate(story.classes)
    ]


def loss_figure(name: str, points: list[tuple[int, float]]) -> tuple[str, list[tuple[int, float]], Markup]:
    """(title, points, figure) of a loss; no figure where there are no points."""
    title, unit = LOSSES.get(name, (name, name))
    figure = figures.loss_svg(points, unit, f"{title}: {unit}, by step") if points else ""
    return title, points, Markup(figure)


def spaced(words: Sequence[Word]) -> Iterator[tuple[str, Word]]:
    """Words with the space before each, as print has it: none before a full stop or around a hyphen."""
    before = "("
    for word in words:
        tight = word.text[:1] in ".,;:)?!%-/" or before[-1:] in "(-/"
        yield ("" if tight else " "), word
        before = word.text or " "


def right(guess: tuple[str, float] | None, word: Word) -> bool:
    """Whether a guess is the true word, in any case of letters."""
    return guess is not None and guess[0].casefold() == word.text.casefold()


def totals(reports: Sequence[FilledReport]) -> dict[str, Estimate]:
    """The share of masked words guessed right, with and without the image; a report counts as a group.

    Full stops and the like are left out: they are every fifth word, and say nothing.
    """
    words = [(i, word) for i, report in enumerate(reports) for word in report.words]
    masked = [(i, word) for i, word in words if word.masked and any(letter.isalnum() for letter in word.text)]
    shares = {}
    for name, key in (("with the image", "with_image"), ("without the image", "without_image")):
        tried = [(i, right(getattr(word, key), word)) for i, word in masked if getattr(word, key)]
        hits = [hit for _, hit in tried]
        shares[name] = intervals.proportion(hits, sum(hits), groups=[i for i, _ in tried] if tried else None)
    return shares
