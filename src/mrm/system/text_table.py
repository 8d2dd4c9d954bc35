"""Tables for the terminal: aligned columns, at most 100 characters wide, and estimates as text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

WIDTH = 100
GAP = "  "
NARROWEST = 8  # characters that are left of a text that is cut short


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1, width: int = WIDTH) -> str:
    """Rows under a head, in columns; the first `text_columns` are aligned left, the others right.

    Where a table is too wide, the longest of the left columns is cut short.
    """
    lines = [[*head], *([*row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    while excess > 0:
        longest = max(range(text_columns), key=lambda i: widths[i])
        cut = min(excess, widths[longest] - NARROWEST)
        if cut <= 0:
            break  # the numbers alone are too wide; better a wide table than wrong numbers
        widths[longest] -= cut
        excess -= cut
    return "\n".join(_line(line, widths, text_columns) for line in lines)


def wrapped(lines: Iterable[str]) -> str:
    """Lines of text of at most WIDTH characters; what is longer continues further in on the next line."""
    wrap = partial(textwrap.wrap, width=WIDTH, break_long_words=False, break_on_hyphens=False)
    parts = (wrap(line, subsequent_indent=f"{_indent(line)}    ") or [""] for line in lines)
    return "\n".join(line.rstrip() for part in parts for line in part)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _line(cells: Sequence[str], widths: Sequence[int], text_columns: int) -> str:
    texts = [f"{_shortened(cell, width):{width}}" for cell, width in zip(cells[:text_columns], widths, strict=False)]
    numbers = [f"{cell:>{width}}" for cell, width in zip(cells[text_columns:], widths[text_columns:], strict=True)]
    return GAP.join([*texts, *numbers]).rstrip()


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def estimate_cells(estimate: Mapping[str, Any]) -> list[str]:
    """An estimate as the cells of ESTIMATE_HEAD: value, 95 % interval, n, positives; what is undefined says so."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        cells = ["undefined", estimate.get("note") or ""]
    else:
        cells = [f"{value:.3f}", "no interval" if low is None else f"{low:.3f} to {high:.3f}"]
    positives = estimate.get("positives")
    return [*cells, f"{estimate['n']:,}", "" if positives is None else f"{positives:,}"]


ESTIMATE_HEAD = ("value", "95 % interval", "n", "positives")


def p_cell(p: float | None) -> str:
    """A p value as a cell; empty where there is none."""
    if p is None or not math.isfinite(p):
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"
