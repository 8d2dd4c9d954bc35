"""Curves of the same classes are drawn once for all tests that read a page and not its curves: most of a test's seconds."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from mrm.pages import figures
from mrm.pages.figures import Draw, Panel

KEPT: dict[Hashable, Any] = {}


def drawn_once(monkeypatch) -> None:
    """From now on a figure of the same classes and models as an earlier one is that figure again."""
    panel_svg, panels_png = figures.panel_svg, figures.panels_png

    def svg(panel: Panel, draw: Draw, described: str, side: float = 2.9) -> str:
        return kept((draw, described, side, seen(panel)), lambda: panel_svg(panel, draw, described, side))

    def png(panels: Sequence[Panel], draw: Draw) -> bytes:
        return kept((draw, *map(seen, panels)), lambda: panels_png(panels, draw))

    monkeypatch.setattr(figures, "panel_svg", svg)
    monkeypatch.setattr(figures, "panels_png", png)


def kept(key: Hashable, make: Callable[[], Any]) -> Any:
    """What was made for this key, or is made now."""
    if key not in KEPT:
        KEPT[key] = make()
    return KEPT[key]


def seen(panel: Panel) -> tuple[str, ...]:
    """What a panel shows beside its curves."""
    return panel.name, panel.why_empty, *panel.scores
