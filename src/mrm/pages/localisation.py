"""The part of an evaluation page about where a model looks: maps against boxes, beside two maps that know nothing."""

# Shapes: K points of a curve
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mrm.data.display import SERIES
from mrm.pages import figures
from mrm.statistics.detection import FALSE_MARKS
from mrm.statistics.intervals import Estimate

TITLES = {
    "pointing": "Peak in a box",
    "energy": "Heat in boxes",
    "iou_0.1": "IoU of 0.1 or more",
    "iou_0.3": "IoU of 0.3 or more",
    "iou_0.5": "IoU of 0.5 or more",
    "found_mean": "Boxes found, mean",
}
LINES = {"model": "model", "centre": "centre of the image", "random": "chance"}
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]  # by source: false marks an image and sensitivity (K,)


@dataclass(frozen=True)
class Localised:
    """What the page shows: `localisation` of `results.json`, the report behind it, and the curves of every class."""

    facts: dict[str, Any]
    report: Mapping[str, Mapping[str, Mapping[str, Estimate]]]  # class: measure: source, or "over_" and a source
    curves: Mapping[str, Curves]

    @property
    def rows(self) -> list[tuple[str, str, Mapping[str, Estimate]]]:
        """Class, title of the measure, and estimates by source."""
        return [
            (name, title, measures[measure])
            for name, measures in self.report.items()
            for measure, title in TITLES.items()
            if measure in measures
        ]

    @property
    def found(self) -> list[tuple[str, list[Estimate]]]:
        """The model's sensitivities of every class at each number of false marks an image."""
        return [
            (name, [measures[f"found_{rate:g}"]["model"] for rate in FALSE_MARKS])
            for name, measures in self.report.items()
            if name in self.curves
        ]

    @property
    def figures(self) -> list[tuple[str, Markup]]:
        """The free-response ROC of every class."""
        return [(name, free_response_svg(name, curves)) for name, curves in self.curves.items()]


def free_response_svg(name: str, curves: Curves) -> Markup:
    """The free-response ROC of a class, one line for each source, as SVG for the page."""
    with matplotlib.rc_context(figures.TEXT):
        figure = Figure(figsize=(2.9, 2.9))
        free_response(figure.add_axes((0.19, 0.17, 0.78, 0.79)), curves)
        return Markup(figures.svg(figure, f"Free-response ROC: {name}"))


def free_response(axes: Axes, curves: Curves) -> None:
    """Sensitivity against false marks an image, on a logarithmic axis from 1/8 to 8."""
    first, last = FALSE_MARKS[0], FALSE_MARKS[-1]
    for (source, (false_K, found_K)), color, stroke in zip(curves.items(), SERIES, figures.STROKES, strict=False):
        until_K = np.append(false_K, max(last, false_K[-1]))  # more marks than all cannot be made
        axes.plot(
            until_K, np.append(found_K, found_K[-1]), color=color, linewidth=1.6, linestyle=stroke,
            drawstyle="steps-post", label=LINES[source],
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(FALSE_MARKS, ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.minorticks_off()
    axes.set(xlim=(first, last), ylim=(-0.02, 1.02), xlabel="false marks an image", ylabel="boxes found")
    axes.legend(frameon=False, fontsize=7.5, loc="upper left")
    figures.plain(axes)
