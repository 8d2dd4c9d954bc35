"""The page of `mrm demo`: what a small model learned from phantoms, from its losses to its classifiers."""

# Shapes: N records, C classes, H W pixels
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from mrm.data.display import jpeg_data_uri
from mrm.pages import figures
from mrm.pages.figures import Panel
from mrm.pages.layout import Report, draw_panels, is_right, template
from mrm.statistics import intervals
from mrm.statistics.intervals import Estimate
from mrm.system.files import write_whole

if TYPE_CHECKING:
    from mrm.inference.reconstruction import Reconstruction

LOSSES = {  # what a loss is called, and its unit
    "image": ("Restoring masked patches", "mean squared error per masked patch"),
    "report": ("Restoring masked words", "cross-entropy per masked word, nats"),
}


@dataclass(frozen=True)
class Word:
    """A word of a report. A masked one comes with the likeliest word and its probability, with and without the image."""

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
    """A fine-tuned classifier, and its results on the test records."""

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


def write_demo_page(out: Path, story: Story) -> Path:
    """Write `out/index.html`. Returns the page."""
    page = template("demo.html").render(
        story=story,
        losses=[draw_loss(name, points) for name, points in story.losses.items()],
        reports=[(jpeg_data_uri(report.image), list(spaced(report.words))) for report in story.reports],
        totals=totals(story.reports),
        samples=[(jpeg_data_uri(image_HW), text) for image_HW, text in story.samples],
        restored=[
            [*(jpeg_data_uri(image_HW) for image_HW in (r.masked, r.restored, r.original)), r.error]
            for r in story.reconstructions
        ],
        intervals={c: [one.report[c]["auroc"] for one in story.contenders] for c in ("mean", *story.classes)},
        curves=draw_panels(contender_panels(story), figures.roc, "ROC curves"),
    )
    return write_whole(Path(out) / "index.html", page.encode())


def contender_panels(story: Story) -> list[Panel]:
    """One panel per class, with all contenders in it."""
    if not story.contenders:
        return []
    labels_NC = story.contenders[0].labels_NC
    return [
        Panel(name, labels_NC[:, c], {one.name: one.probabilities_NC[:, c] for one in story.contenders})
        for c, name in enumerate(story.classes)
    ]


def draw_loss(name: str, points: list[tuple[int, float]]) -> tuple[str, list[tuple[int, float]], Markup]:
    """(title, points, figure) of a loss; the figure is empty where there are no points."""
    title, unit = LOSSES.get(name, (name, name))
    figure = figures.loss_svg(points, unit, f"{title}: {unit}, by step") if points else ""
    return title, points, Markup(figure)


def spaced(words: Sequence[Word]) -> Iterator[tuple[str, Word]]:
    """Words with the space before each, as in print: none before a full stop or around a hyphen."""
    before = "("
    for word in words:
        tight = word.text[:1] in ".,;:)?!%-/" or before[-1:] in "(-/"
        yield ("" if tight else " "), word
        before = word.text or " "


def totals(reports: Sequence[FilledReport]) -> dict[str, Estimate]:
    """The share of masked words restored correctly, with and without the image; a report counts as a group.

    Punctuation is left out: it is every fifth word, and says nothing.
    """
    words = [(number, word) for number, report in enumerate(reports) for word in report.words]
    masked = [(number, word) for number, word in words if word.masked and any(c.isalnum() for c in word.text)]
    shares = {}
    for name, key in (("with the image", "with_image"), ("without the image", "without_image")):
        guesses = [(number, is_right(getattr(word, key), word.text)) for number, word in masked if getattr(word, key)]
        hits = [hit for _, hit in guesses]
        groups = [number for number, _ in guesses] if guesses else None
        shares[name] = intervals.proportion(hits, sum(hits), groups=groups)
    return shares
