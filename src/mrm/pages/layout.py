"""What all pages share: the template with its style, and numbers in words.

A page is one HTML file that opens from disk without a network: style, figures and images are inlined. What a page says
is in its template beside this file; what it shows is worked out in its module. Names of classes, files and models are
not trusted: templates escape them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import date
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

import mrm
from mrm.pages import figures
from mrm.pages.figures import Panel
from mrm.statistics.intervals import Estimate

Report = dict[str, dict[str, Estimate]]  # by class and metric, as `ranking.classification_report` returns it

FEW_RECORDS, FEW_POSITIVES = 100, 10  # below these numbers a page warns that its intervals are wide
MANY_PANELS = 6  # above this number panels are drawn smaller
MAX_UNREADABLE_LISTED = 50  # unreadable images named one by one; all are in results.json
TABLES = ("predictions.csv", "images.csv")  # written by `mrm evaluate`; known by the folder that holds them


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
    filters = (span, remarks, on_axis, axis_start, verdict, short, share, signed, p_value)
    environment.filters |= {function.__name__: function for function in filters}
    environment.tests["right"] = is_right
    environment.tests["finite"] = math.isfinite
    style = (Path(__file__).parent / "style.css").read_text()
    shared = {"style": Markup(style), "many": MANY_PANELS, "today": today, "version": mrm.__version__}
    return environment.get_template(name, globals=shared)


def draw_panels(panels: Sequence[Panel], draw: figures.Draw, what: str) -> list[tuple[str, str, Markup]]:
    """(class, why there is no curve or '', figure) of every panel."""
    side = 2.2 if len(panels) > MANY_PANELS else 2.9
    drawn = figures.panels_svg(panels, draw, what, side)
    return [(panel.name, panel.why_empty, Markup(one)) for panel, one in zip(panels, drawn, strict=True)]


# Numbers in words ---------------------------------------------------------------------------------------


def span(estimate: Estimate, digits: int = 3) -> str:
    """'0.812–0.901', or '' where there is no interval."""
    if not math.isfinite(estimate.low):
        return ""
    return f"{estimate.low:.{digits}f}–{estimate.high:.{digits}f}"


def signed(value: float | None) -> str:
    """'+0.031', '−0.004', or '–' where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.3f}".replace("-", "−")


def p_value(p: float | None) -> str:
    """'0.013', '< 0.001', or '–' where there is none."""
    if p is None or not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def remarks(estimate: Estimate) -> str:
    """What the reader must know of an estimate, without how its interval was drawn."""
    parts = estimate.note.split("; ")
    return "; ".join(part for part in parts if part and not part.startswith(("bootstrap", "DeLong", "cross-validated")))


def on_axis(value: float, low: float = 0.5, high: float = 1.0) -> float:
    """Where a value lies on an axis from `low` to `high`, 0 to 100; values beyond an end are drawn at that end."""
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)


def axis_start(estimates: Iterable[Estimate]) -> float:
    """Where the axis of AUROC begins: at 0.5, which is chance, or further down so that the lowest value is in sight."""
    lowest = min((e.value for e in estimates if e.defined), default=1.0)
    return next(start for start in (0.5, 0.4, 0.2, 0.0) if start <= lowest)


def verdict(auroc: Estimate) -> str:
    """Whether the interval shows the model to differ from chance, in words."""
    if not span(auroc):
        return "There is no interval, so this test cannot say whether the model is better than chance."
    if auroc.low > 0.5:
        return "The interval lies above 0.5: better than chance."
    if auroc.high < 0.5:
        return "The interval lies below 0.5: worse than chance, as if labels or classes were swapped."
    return "The interval includes 0.5: this test does not show that the model is better than chance."


def today() -> str:
    """'4 March 2026'"""
    day = date.today()
    return f"{day.day} {day:%B %Y}"


def short(path: str) -> str:
    """The last two parts of a path, which identify it without the folders of this machine.

    The tables of `mrm evaluate` go by the name of their folder.
    """
    named = Path(path).parent if Path(path).name in TABLES else Path(path)
    return "/".join(named.parts[-2:]) or path


def share(estimate: Estimate) -> str:
    """'31 of 44 (70 %, 95 % interval 55–82 %)'"""
    if not estimate.defined:
        return str(estimate)
    hits = round(estimate.value * estimate.n)
    percent, low, high = (100 * x for x in (estimate.value, estimate.low, estimate.high))
    return f"{hits:,} of {estimate.n:,} ({percent:.0f} %, 95 % interval {low:.0f}–{high:.0f} %)"


def is_right(guess: tuple[str, float] | None, truth: str) -> bool:
    """Whether a guess is the true word, in upper or lower case."""
    return guess is not None and guess[0].casefold() == truth.casefold()
