"""The page of `mrm crossval`: AUROC by finding with its interval, the floors beside it, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrm.pages.layout import template
from mrm.statistics.intervals import Estimate
from mrm.system.files import write_whole


def write_crossval_page(out: Path, results: Mapping[str, Any]) -> Path:
    """Write `out/index.html` from the content of `crossval.json`. Returns the page."""
    rows = []
    for name, one in results["classes"].items():
        others = [
            (floor, estimate(values["auroc"]), estimate(values["network_less_this"]))
            for floor, values in one["floors"].items()
        ]
        rows.append((name, estimate(one["auroc"]), others))
    if len(rows) == 2:  # the mean of one class is the class
        rows = rows[1:]
    page = template("crossval.html").render(results=results, rows=rows, headline=rows[0][1])
    return write_whole(Path(out) / "index.html", page.encode())


def estimate(content: Mapping[str, Any]) -> Estimate:
    """An estimate from the plain values of JSON."""
    ends = {end: math.nan for end in ("value", "low", "high") if content[end] is None}
    return Estimate(**{**content, **ends})
