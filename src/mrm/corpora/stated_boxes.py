"""The boxes that rows of a described corpus state: a column for each side, a list in one cell, or shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from mrm.corpora.contract import Box, Row
from mrm.corpora.description import CorpusDescription, Form, value
from mrm.system.errors import RecordError

CORNERS = ("x", "y", "width", "height", "x2", "y2")


def boxes_of(row: Row, columns: Mapping[str, str], corpus: CorpusDescription) -> Iterator[Box]:
    """The boxes that a row states; none if its box is empty. Raises RecordError for a box that is not numbers.

    With the column `box` the row has a list: `[x, y, width, height]`, `[x, y, x2, y2]`, or shapes as `0 x y x2 y2;2 x y x y x y`
    (0 a rectangle, 1 an ellipse, 2 a polygon), whose bounding boxes are taken.
    """
    facts = {name: value(rule, row.cells) for name, rule in columns.items()}
    name, reader, text = facts.get("class", ""), facts.get("reader", ""), facts.get("text", "")
    name = corpus.labels.names.get(name, name)
    if "box" in columns:
        every = [_corners(part, corpus.box, row) for part in _parts(facts["box"], corpus.box)]
    else:
        stated = {side: facts[side] for side in CORNERS if facts.get(side)}
        every = [_from_sides(stated, columns, row)] if stated else []
    for x, y, width, height in every:
        yield Box(name, x, y, width, height, reader, text, row.where)


def _parts(text: str, form: Form) -> list[str]:
    return [part for part in (text.split(";") if form == "shapes" else [text]) if part.strip(" []")]


def _numbers(text: str, row: Row) -> list[float]:
    try:
        numbers = [float(part) for part in re.split(r"[\s,]+", text.strip(" []()")) if part]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise RecordError(f"{row.where}: {text[:60]!r} is not a box in numbers")
    return numbers


def _corners(text: str, form: Form, row: Row) -> tuple[float, float, float, float]:
    """x, y, width, height of a box that is one cell."""
    numbers = _numbers(text, row)
    if form == "shapes":
        numbers = numbers[1:]
        if len(numbers) >= 4 and len(numbers) % 2 == 0:
            xs, ys = numbers[::2], numbers[1::2]
            return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    elif len(numbers) == 4:
        x, y, a, b = numbers
        return (x, y, a, b) if form == "xywh" else (x, y, a - x, b - y)
    raise RecordError(f"{row.where}: {text[:60]!r} has {len(numbers)} numbers, which is not a box")


def _from_sides(stated: Mapping[str, str], columns: Mapping[str, str], row: Row) -> tuple[float, float, float, float]:
    """x, y, width, height of a box with a column for each side."""
    if missing := [side for side in CORNERS if side in columns and side not in stated]:
        raise RecordError(f"{row.where}: the box has no {', '.join(missing)}; it needs four numbers")
    (x,), (y,) = _numbers(stated["x"], row), _numbers(stated["y"], row)
    width = _numbers(stated["width"], row)[0] if "width" in stated else _numbers(stated["x2"], row)[0] - x
    height = _numbers(stated["height"], row)[0] if "height" in stated else _numbers(stated["y2"], row)[0] - y
    return x, y, width, height
