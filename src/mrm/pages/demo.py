"""The page of `mrm demo`: what a small model learned from phantoms, from its losses to its classifiers."""

# Shapes: N records, C classes, H W pixels
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from mrm.data.display import jpeg_data_uri
from mrm.pages import figures
from mrm.pages.figures import Curve, Panel
from mrm.pages.layout import Report, draw_panels, template
from mrm.statistics.intervals import Estimate
from mrm.system.files import write_whole

if TYPE_CHECKING:
    from mrm.inference.reconstruction import Reconstruction

LOSSES = {  # what a loss is called, and its unit
    "image": ("Restoring masked patches", "mean squared error per masked patch"),
    "report": ("Restoring masked words", "cross-entropy per masked word, nats"),
    "contrast": ("Telling its report from others", "cross-entropy per pair, nats"),
}


@dataclass(frozen=True)
class Word:
    """A word of a report. A masked one comes with the likeliest word and its probability, with either image."""

    text: str
    masked: bool = False
    with_image: tuple[str, float] | None = None
    with_other: tuple[str, float] | None = None  # with the image of another patient in its place


@dataclass(frozen=True)
class FilledReport:
    """An image (H, W) uint8, and its report with masked words filled in."""

    image: np.ndarray
    words: list[Word]


@dataclass(frozen=True)
class WordCounts:
    """The share of masked words that are right, and the difference that the image makes."""

    with_image: Estimate
    with_other: Estimate
    difference: Estimate
    reports: int


@dataclass(frozen=True)
class Search:
    """A text, the first images found for it and whether they are right, and how many of the first `first` are."""

    text: str
    shown: list[tuple[np.ndarray, bool]]
    right: int
    first: int
    share: float  # of all images that would be right: what chance finds


@dataclass(frozen=True)
class Searched:
    """All searches, and the share of their first images that are right."""

    searches: list[Search]
    precision: Estimate

    @property
    def chance(self) -> float:
        """The share that images in any order would have."""
        return float(np.mean([one.share for one in self.searches]))


@dataclass(frozen=True)
class Few:
    """Mean AUROC by what is probed and the number of labels, and the gain of pre-training over a random encoder."""

    curves: dict[str, dict[int, Estimate]]  # the pre-trained encoder first, then the random one, then floors
    difference: Estimate  # of the first two with `labels` labels
    labels: int

    @property
    def savings(self) -> list[str]:
        """A sentence for each rival: how many labels of its own the pre-trained encoder saves, and where it stays below."""
        own, *rivals = self.curves.items()
        return [self._saved(own[1], name, rival) for name, rival in rivals]

    @staticmethod
    def _saved(own: Mapping[int, Estimate], name: str, rival: Mapping[int, Estimate]) -> str:
        fewest = min(own)
        reached = [count for count, e in rival.items() if e.value <= own[fewest].value]
        better = [f"{count}" for count, e in rival.items() if e.value > own[count].value]
        below = (
            f"with {' and '.join([', '.join(better[:-1]), better[-1]] if better[1:] else better)} labels it stays below"
        )
        if not reached:
            return f"The pre-trained encoder is not level with the {name} with {fewest} labels; {below}."
        most = max(reached)
        level = f"is level with the {name} with {most}" if most > fewest else f"is at least as good as the {name}"
        return f"With {fewest} labels the pre-trained encoder {level}{f'; {below}' if better else ''}."


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
    words: WordCounts | None = None
    searched: Searched | None = None
    few: Few | None = None


def write_demo_page(out: Path, story: Story) -> Path:
    """Write `out/index.html`. Returns the page."""
    page = template("demo.html").render(
        story=story,
        losses=[draw_loss(name, points) for name, points in story.losses.items()],
        reports=[(jpeg_data_uri(report.image), list(spaced(report.words))) for report in story.reports],
        curve=draw_curves(story.few) if story.few else "",
        found=shown_searches(story.searched),
        samples=[(jpeg_data_uri(image_HW), text) for image_HW, text in story.samples],
        restored=[
            [*(jpeg_data_uri(image_HW) for image_HW in (r.masked, r.restored, r.original)), r.error]
            for r in story.reconstructions
        ],
        intervals={c: [one.report[c]["auroc"] for one in story.contenders] for c in ("mean", *story.classes)},
        curves=draw_panels(contender_panels(story), figures.roc, "ROC curves"),
    )
    return write_whole(Path(out) / "index.html", page.encode())


def shown_searches(searched: Searched | None) -> list[tuple[Search, list[tuple[str, bool]]]]:
    """Each search with its first images as data URIs."""
    searches = searched.searches if searched else []
    return [(one, [(jpeg_data_uri(image_HW), right) for image_HW, right in one.shown]) for one in searches]


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


def draw_curves(few: Few) -> Markup:
    """Mean AUROC by the number of labels, a line for each of what is probed."""
    curves = [Curve("probe", name, tuple(points.items())) for name, points in few.curves.items()]
    return Markup(figures.labels_svg(curves, "Mean AUROC by the number of labels"))


def headlines(story: Story) -> list[str]:
    """What the run found, a line for each measurement, each with its interval."""
    lines = []
    if words := story.words:
        lines.append(
            f"masked words right: {with_span(words.with_image)}; with another patient's image {with_span(words.with_other)}; "
            f"difference {with_span(words.difference)}"
        )
    if found := story.searched:
        lines.append(
            f"search with texts, first images right: {with_span(found.precision)}; by chance {found.chance:.3f}"
        )
    if few := story.few:
        pairs = [f"{name} {with_span(points[few.labels])}" for name, points in few.curves.items()]
        lines.append(f"mean AUROC of a probe with {few.labels} labels: {', '.join(pairs)}")
        lines.append(f"gain of pre-training by probe: {with_span(few.difference)}")
        lines += few.savings
    if story.difference:
        pairs = [f"{one.name} {with_span(one.report['mean']['auroc'])}" for one in story.contenders]
        lines.append(f"fine-tuned: {', '.join(pairs)}; gain {with_span(story.difference)}")
    return lines


def with_span(estimate: Estimate) -> str:
    """`0.612 (0.590 to 0.633)`"""
    if not estimate.defined:
        return str(estimate)
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
