"""The page of `mrm probe`: mean AUROC by share of labels, as curves and in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mrm.pages import figures
from mrm.pages.figures import Curve
from mrm.pages.layout import template
from mrm.system.files import write_whole


def write_probe_page(out: Path, results: dict[str, Any], curves: Sequence[Curve]) -> Path:
    """Write `out/index.html` and `out/label_efficiency.png`. Returns the page.

    `results` is that of `mrm.runs.probing`; each curve is one method with one model.
    """
    curves_of: dict[str, list[Curve]] = {}
    for curve in curves:
        curves_of.setdefault(curve.method, []).append(curve)
    limits = figures.limits_of(curves)
    write_whole(Path(out) / "label_efficiency.png", figures.efficiency_png(curves_of, limits))
    panels = [
        (
            method,
            []
            if {line.model for line in lines} <= set(results["models"])
            else list(zip((line.model for line in lines), figures.VARIABLE_NAMES, strict=False)),
            Markup(figures.efficiency_svg(lines, limits, f"Mean AUROC by share of labels: {method}")),
        )
        for method, lines in curves_of.items()
    ]
    page = template("probe.html").render(
        results=results,
        panels=panels,
        estimates={(c.method, c.model, share): estimate for c in curves for share, estimate in c.points},
        names=list(zip(results["models"], figures.VARIABLE_NAMES, strict=False)),
    )
    return write_whole(Path(out) / "index.html", page.encode())
