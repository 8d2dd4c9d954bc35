"""Figures of the pages: drawn with matplotlib's objects and returned as inline SVG or as PNG bytes.

A figure is drawn in the colours of `mrm.data.display`. In a page they become the CSS variables of `style.css`, so the
same drawing can be read on white and on black; in a PNG they stay as they are, on white.

Shapes: N records, K points of a curve.
"""

import html
import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from mrm.data.display import FAINT, INK, MUTED, SERIES
from mrm.statistics import calibration, ranking
from mrm.statistics.intervals import Estimate

STROKES: tuple[Any, ...] = (
    "-",
    (0, (4, 1.6)),
    (0, (1, 1.2)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (2, 2)),
    (0, (5, 1)),
)  # so that lines differ without colour too
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
ENDS = (0.1, 0.2, 0.5, 1.0)  # where the axes of a reliability diagram may end: rare findings have small probabilities
VARIABLE_NAMES = (
    *("--first", "--second", "--third", "--fourth"),
    *("--fifth", "--sixth", "--seventh", "--eighth"),
)
VARIABLES = {INK: "--ink", MUTED: "--muted", FAINT: "--line", **dict(zip(SERIES, VARIABLE_NAMES, strict=True))}
DPI = 150  # of a PNG
# matplotlib takes these from its global settings only; they are set around a drawing and then restored
TEXT: Any = {"font.family": "sans-serif", "font.size": 9.0, "svg.fonttype": "none", "path.simplify": True}


@dataclass(frozen=True)
class Panel:
    """One class as scored by one or more models: what a ROC or precision-recall panel shows."""

    name: str
    labels_N: np.ndarray  # 1, 0 or NaN
    scores: dict[str, np.ndarray]  # model: scores (N,)

    @property
    def why_empty(self) -> str:
        """'undefined (only negatives, n=44)', or '' where there is a curve."""
        stated_N = self.labels_N[~np.isnan(self.labels_N)]
        reason = ranking.undefined_reason(stated_N)
        return f"undefined ({reason}, n={len(stated_N):,})" if reason else ""

    @property
    def prevalence(self) -> float:
        """Share of positives among stated labels."""
        return float(np.nanmean(self.labels_N))


Draw = Callable[[Axes, Panel], None]


def roc(axes: Axes, panel: Panel) -> None:
    """Sensitivity against 1 - specificity, one line per model, with the chance line."""
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    for scores_N, color, stroke in zip(panel.scores.values(), SERIES, STROKES, strict=False):
        false_K, true_K, _ = ranking.roc_curve(panel.labels_N, scores_N)
        axes.plot(false_K, true_K, color=color, linewidth=1.6, linestyle=stroke)
    unit_square(axes, "1 − specificity", "sensitivity")


def precision_recall(axes: Axes, panel: Panel) -> None:
    """Precision against recall, in steps as average precision sums them, with a line at the prevalence."""
    axes.axhline(panel.prevalence, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    for scores_N, color, stroke in zip(panel.scores.values(), SERIES, STROKES, strict=False):
        recall_K, precision_K = recall_steps(panel.labels_N, scores_N)
        axes.plot(recall_K, precision_K, color=color, linewidth=1.6, linestyle=stroke, drawstyle="steps-pre")
    unit_square(axes, "recall (sensitivity)", "precision")


def reliability(axes: Axes, panel: Panel) -> None:
    """Share of positives against mean probability in ten bins of equally many records, with 95 % Wilson intervals."""
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    top = 0.0
    for scores_N, color, marker in zip(panel.scores.values(), SERIES, MARKERS, strict=False):
        r = calibration.reliability(panel.labels_N, scores_N, spacing="mass")
        axes.vlines(r.predicted, r.low, r.high, color=color, linewidth=1.2)
        axes.plot(r.predicted, r.observed, color=color, linewidth=0.8, marker=marker, markersize=4)
        top = max(top, *r.high, *r.predicted)
    unit_square(axes, "predicted probability", "share with the finding", axis_end(top))


def axis_end(greatest: float) -> float:
    """Where the axes of a reliability diagram end so that its greatest value is in sight."""
    return next((end for end in ENDS if end >= greatest), 1.0)


@dataclass(frozen=True)
class Curve:
    """A metric by share of labels, of one method with one model: one line of a label-efficiency panel."""

    method: str
    model: str
    points: tuple[tuple[float, Estimate], ...]


def efficiency(axes: Axes, curves: Sequence[Curve], counted: bool = False) -> None:
    """Mean AUROC with its interval against the share of labels (or their number), on a logarithmic axis; a line per model."""
    shares = sorted({share for curve in curves for share, _ in curve.points})
    step = 1.0 if len(shares) < 2 else min(math.log(b / a) for a, b in pairwise(shares))
    for number, curve in enumerate(curves):
        drawn = [(share, e) for share, e in curve.points if e.defined]
        aside = math.exp((number - (len(curves) - 1) / 2) * 0.06 * step)  # so that intervals do not hide each other
        across = [share * aside for share, _ in drawn]
        bounds = [(x, e.low, e.high) for x, (_, e) in zip(across, drawn, strict=True) if math.isfinite(e.low)]
        color = SERIES[number]
        if bounds:
            axes.vlines(*zip(*bounds, strict=True), color=color, linewidth=1.2)
        axes.plot(
            across, [e.value for _, e in drawn], color=color, linestyle=STROKES[number], linewidth=1.4,
            marker=MARKERS[number], markersize=4.5, label=curve.model,
        )  # fmt: skip
    axes.axhline(
        0.5, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2))
    )  # chance; out of sight where all curves are better
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:g}" if counted else f"{100 * share:g} %" for share in shares])
    axes.minorticks_off()
    axes.set(xlabel="labels used", ylabel="mean AUROC")
    plain(axes)


def limits_of(curves: Sequence[Curve]) -> tuple[float, float]:
    """The range of AUROC that holds all curves with their intervals, so that panels have one axis."""
    ends = [v for c in curves for _, e in c.points for v in (e.value, e.low, e.high) if math.isfinite(v)]
    if not ends:
        return 0.0, 1.0
    return max(0.0, math.floor(20 * min(ends) - 0.2) / 20), min(1.0, math.ceil(20 * max(ends) + 0.2) / 20)


def efficiency_svg(curves: Sequence[Curve], limits: tuple[float, float], described: str) -> str:
    """One method's panel, as SVG for a page."""
    with matplotlib.rc_context(TEXT):
        figure = Figure(figsize=(3.4, 2.9))
        axes = figure.add_axes((0.17, 0.165, 0.81, 0.81))
        efficiency(axes, curves)
        axes.set_ylim(limits)
        return svg(figure, described)


def labels_svg(curves: Sequence[Curve], described: str) -> str:
    """One panel by the number of labels, with a legend, as SVG for a page."""
    with matplotlib.rc_context(TEXT):
        figure = Figure(figsize=(4.6, 3.4))
        axes = figure.add_axes((0.125, 0.135, 0.855, 0.85))
        efficiency(axes, curves, counted=True)
        axes.set_ylim(limits_of(curves))
        axes.legend(frameon=False, fontsize=8)
        return svg(figure, described)


def efficiency_png(methods: Mapping[str, Sequence[Curve]], limits: tuple[float, float]) -> bytes:
    """All methods side by side in one PNG with a legend, on a white ground."""
    with matplotlib.rc_context(TEXT):
        figure = Figure(figsize=(3.4 * len(methods), 3.5), layout="constrained", facecolor="white")
        grid = figure.subplots(1, len(methods), squeeze=False, sharey=True).ravel()
        for axes, (method, curves) in zip(grid, methods.items(), strict=True):
            efficiency(axes, curves)
            axes.set_ylim(limits)
            axes.set_title(method, fontsize=9.5, color=INK, loc="left", parse_math=False)
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        return png(figure)


def recall_steps(labels_N: np.ndarray, scores_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each recall, and the precision where it is first reached: the area below is average precision."""
    recall_K, precision_K, _ = ranking.pr_curve(labels_N, scores_N)
    reached_K, first_K = np.unique(recall_K, return_index=True)
    steps = first_K[reached_K > 0]
    return np.append(0.0, recall_K[steps]), np.append(precision_K[steps[0]], precision_K[steps])


def unit_square(axes: Axes, across: str, up: str, end: float = 1.0) -> None:
    """Both axes from 0 to 1, or to an earlier end, with few ticks."""
    limits, ticks = (-0.02 * end, 1.02 * end), [0, end / 2, end]
    axes.set(xlim=limits, ylim=limits, xlabel=across, ylabel=up)
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    plain(axes)


def plain(axes: Axes) -> None:
    """A plain frame: two spines and a faint grid."""
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.tick_params(colors=MUTED, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)


def panels_svg(panels: Sequence[Panel], draw: Draw, described: str, side: float = 2.9) -> list[str]:
    """Each panel as SVG for a page, '' for an empty one. `side` is in inches: the smaller it is, the larger its text looks."""
    margin = 0.5 / side
    drawn = []
    with matplotlib.rc_context(TEXT):
        figure = Figure(figsize=(side, side))
        axes = figure.add_axes((margin, margin, 0.98 - margin, 0.98 - margin))
        for panel in panels:
            if panel.why_empty:
                drawn.append("")
                continue
            draw(axes, panel)
            drawn.append(svg(figure, f"{described}: {panel.name}"))
            without_curves(axes)
    return drawn


def panels_png(panels: Sequence[Panel], draw: Draw) -> bytes:
    """All panels in one PNG on a white ground, to put into a document."""
    columns = min(4, math.ceil(math.sqrt(max(len(panels), 1))))
    rows = max(1, math.ceil(len(panels) / columns))
    titles = [textwrap.fill(panel.name, 32) for panel in panels]
    wide, high = 3.1, 3.02 + 0.16 * max((title.count("\n") + 1 for title in titles), default=1)
    with matplotlib.rc_context(TEXT):
        figure = Figure(figsize=(wide, high), dpi=DPI, facecolor="white")
        axes = figure.add_axes((0.52 / wide, 0.45 / high, 2.5 / wide, 2.4 / high))
        drawn = [_pixels(figure, axes, panel, title, draw) for panel, title in zip(panels, titles, strict=True)]
    up, across, _ = drawn[0].shape if drawn else (1, 1, 3)
    sheet = np.full((rows * up, columns * across, 3), 255, np.uint8)
    for number, pixels in enumerate(drawn):
        row, column = divmod(number, columns)
        sheet[row * up : (row + 1) * up, column * across : (column + 1) * across] = pixels
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "png", dpi=(DPI, DPI))
    return file.getvalue()


def _pixels(figure: Figure, axes: Axes, panel: Panel, title: str, draw: Draw) -> np.ndarray:
    """A panel with its title, (height, width, 3); the axes are left for the next one."""
    axes.set_title(title, fontsize=9.5, color=INK, loc="left", y=1.0, parse_math=False)
    if panel.why_empty:
        axes.text(
            0.5, 0.5, panel.why_empty, ha="center", va="center", color=MUTED, fontsize=8, transform=axes.transAxes
        )
        axes.set_axis_off()
    else:
        draw(axes, panel)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes.set_axis_on()
    without_curves(axes)
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def without_curves(axes: Axes) -> None:
    """Take off what a panel shows, and leave the frame for the next one: its ticks take longer to make than the curves."""
    for artist in (*axes.lines, *axes.collections, *axes.texts):
        artist.remove()


def loss_svg(points: Sequence[tuple[int, float]], unit: str, described: str) -> str:
    """A loss by step."""
    steps, values = zip(*points, strict=True)
    with matplotlib.rc_context(TEXT):
        figure = Figure(figsize=(4.6, 3.1))
        axes = figure.add_axes((0.125, 0.145, 0.855, 0.84))
        axes.plot(steps, values, color=SERIES[0], linewidth=1.3, marker="o" if len(points) == 1 else "")
        axes.set_xlabel("steps")
        axes.set_ylabel(unit, fontsize=8)
        axes.locator_params(nbins=6)
        plain(axes)
        return svg(figure, described)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def svg(figure: Figure, described: str) -> str:
    """The figure as an SVG element for a page, with a description, without a size, its colours as CSS variables.

    Ids inside it follow from the description, so that figures of one page do not use each other's clip paths.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": described}):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    drawn = file.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', drawn)
    assert box, "matplotlib wrote an SVG without viewBox"
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    drawn = drawn.replace("xlink:href=", "href=")
    for color, variable in VARIABLES.items():
        drawn = drawn.replace(color, f"var({variable})")
    label = html.escape(described, quote=True)
    return f'<svg {box[0]} role="img" aria-label="{label}">' + drawn[drawn.index(">") + 1 :].strip()
