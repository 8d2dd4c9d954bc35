"""Curves are drawn once for all tests that read a page and not its curves: most of a test's seconds."""

import html
import re
import zlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

from mrm.pages import figures
from mrm.pages.figures import Draw, Panel

KEPT: dict[Hashable, Any] = {}
NAME = "a class"


def drawn_once(monkeypatch) -> None:
    """From now on the curves of as many models, and the sheet of as many classes, are those that were drawn first.

    In a page each keeps its description, and ids of its own.
    """
    panels_svg, panels_png = figures.panels_svg, figures.panels_png

    def one_svg(panel: Panel, draw: Draw, described: str, side: float) -> str:
        if panel.why_empty:
            return ""
        key = draw, described, side, len(panel.scores)
        return kept(key, lambda: panels_svg([replace(panel, name=NAME)], draw, described, side)[0])

    def svgs(panels: Sequence[Panel], draw: Draw, described: str, side: float = 2.9) -> list[str]:
        return [renamed(one_svg(panel, draw, described, side), described, panel.name) for panel in panels]

    def png(panels: Sequence[Panel], draw: Draw) -> bytes:
        return kept((draw, len(panels)), lambda: panels_png(panels, draw))

    monkeypatch.setattr(figures, "panels_svg", svgs)
    monkeypatch.setattr(figures, "panels_png", png)


def kept(key: Hashable, make: Callable[[], Any]) -> Any:
    """What was made for this key, or is made now."""
    if key not in KEPT:
        KEPT[key] = make()
    return KEPT[key]


def renamed(drawn: str, described: str, name: str) -> str:
    """A figure as that of another class."""
    words, new = (html.escape(f"{described}: {n}", quote=True) for n in (NAME, name))
    own = f"n{zlib.crc32(name.encode()):08x}"
    return re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{own}", drawn.replace(words, new))
