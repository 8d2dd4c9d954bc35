"""The page of `mrm compare`: two models on the same records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrm.pages.layout import template
from mrm.system.files import write_whole

if TYPE_CHECKING:
    from mrm.statistics.comparison import Comparison

TITLES = {
    "delong": "AUROC (DeLong)",
    "auroc": "AUROC (bootstrap)",
    "average_precision": "Average precision (bootstrap)",
    "dice_positive": "Dice, images with a lesion",
    "dice_published": "Dice, as published",
}


def write_comparison_page(out: Path, facts: dict[str, Any], compared: dict[str, dict[str, Comparison]]) -> Path:
    """Write `out/index.html` for two models compared on the same records. Returns the page.

    `compared` has, for each class and for "mean", comparisons by measure (a key of `TITLES`).
    """
    measures = {m: title for m, title in TITLES.items() if any(m in by_measure for by_measure in compared.values())}
    warnings = [f"The {which} model: {line}" for which, lines in facts.get("overlap", {}).items() for line in lines]
    page = template("comparison.html").render(facts=facts, compared=compared, measures=measures, warnings=warnings)
    return write_whole(Path(out) / "index.html", page.encode())
