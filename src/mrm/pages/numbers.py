"""The page of `mrm evaluate` for a regression: errors and correlations, and predicted against true numbers."""

# Shapes: N records, C columns
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from mrm.data.display import MUTED, SERIES
from mrm.pages import figures
from mrm.pages.evaluation import warnings_of_records
from mrm.pages.layout import MAX_UNREADABLE_LISTED, Report, template
from mrm.system.files import write_whole

if TYPE_CHECKING:
    from mrm.evaluation.classifier_test import Evidence

TITLES = {
    "mae": "Mean absolute error",
    "rmse": "Root of the mean squared error",
    "r2": "R²",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}


def write_numbers_page(
    out: Path,
    results: dict[str, Any],
    report: Report,
    true_NC: np.ndarray,
    predicted_NC: np.ndarray,
    names: Sequence[str],
    evidence: Evidence,
) -> Path:
    """Write `out/index.html` for a tested regression. Returns the page.

    `report` is that of `mrm.statistics.numbers_and_levels.number_report`; `results` as in `write_evaluation_page`.
    """
    page = template("numbers.html").render(
        results=results,
        evidence=evidence,
        rows=[(name, [(title, report[name][key]) for key, title in TITLES.items()]) for name in names],
        plots=[(name, scatter_svg(name, true_NC[:, c], predicted_NC[:, c])) for c, name in enumerate(names)],
        warnings=list(warnings_of_records(results, len(true_NC))),
        listed=MAX_UNREADABLE_LISTED,
    )
    return write_whole(Path(out) / "index.html", page.encode())


def scatter_svg(name: str, true_N: np.ndarray, predicted_N: np.ndarray) -> Markup:
    """Predicted against true numbers, with the line on which both are equal, as SVG for the page."""
    stated_N = ~np.isnan(true_N)
    with matplotlib.rc_context(figures.TEXT):
        figure = Figure(figsize=(4.2, 3.6))
        axes = figure.add_axes((0.16, 0.14, 0.81, 0.83))
        if stated_N.any():
            both = np.concatenate([true_N[stated_N], predicted_N[stated_N]])
            ends = [float(both.min()), float(both.max())]
            axes.plot(ends, ends, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.plot(true_N[stated_N], predicted_N[stated_N], "o", color=SERIES[0], markersize=2.5, alpha=0.5)
        axes.set(xlabel="true", ylabel="predicted")
        figures.plain(axes)
        return Markup(figures.svg(figure, f"Predicted against true numbers of {name}"))
