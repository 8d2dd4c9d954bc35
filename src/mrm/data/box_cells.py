"""Boxes as cells of tables state them: a column for each side, a list in one cell, or shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Literal

from mrm.data.boxes import Box
from mrm.system.errors import RecordError

Form = Literal["xywh", "xyxy", "shapes"]
CORNERS = ("x", "y", "width", "height", "x2", "y2")


def boxes_in(cells: Mapping[str, str], form: Form, where: str) -> Iterator[Box]:
    """The boxes in the cells of a row, by our names; none if they are empty. Raises RecordError for one that is not numbers.

    With the cell `box` the row has a list: `[x, y, width, height]`, `[x, y, x2, y2]`, or shapes as `0 x y x2 y2;2 x y x y x y`
    (0 a rectangle, 1 an ellipse, 2 a polygon), whose bounding boxes are taken. `class`, `reader` and `text` describe them.
    """
    if "box" in cells:
        every = [_corners(part, form, where) for part in _parts(cells["box"], form)]
    else:
        stated = {side: cells[side] for side in CORNERS if cells.get(side)}
        every = [_from_sides(stated, cells, where)] if stated else []
    for x, y, width, height in every:
        yield Box(cells["class"], x, y, width, height, cells.get("reader", ""), cells.get("text", ""), where)


def _parts(text: str, form: Form) -> list[str]:
    return [part for part in (text.split(";") if form == "shapes" else [text]) if part.strip(" []")]


def _numbers(text: str, where: str) -> list[float]:
    try:
        numbers = [float(part) for part in re.split(r"[\s,]+", text.strip(" []()")) if part]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise RecordError(f"{where}: {text[:60]!r} is not a box in numbers")
    return numbers


def _corners(text: str, form: Form, where: str) -> tuple[float, float, float, float]:
    """x, y, width, height of a box that is one cell."""
    numbers = _numbers(text, where)
    if form == "shapes":
        numbers = numbers[1:]
        if len(numbers) >= 4 and len(numbers) % 2 == 0:
            xs, ys = numbers[::2], numbers[1::2]
            return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    elif len(numbers) == 4:
        x, y, a, b = numbers
        return (x, y, a, b) if form == "xywh" else (x, y, a - x, b - y)
    raise RecordError(f"{where}: {text[:60]!r} has {len(numbers)} numbers, which is not a box")


def _from_sides(stated: Mapping[str, str], columns: Mapping[str, str], where: str) -> tuple[float, float, float, float]:
    """x, y, width, height of a box with a column for each side."""
    if missing := [side for side in CORNERS if side in columns and side not in stated]:
        raise RecordError(f"{where}: the box has no {', '.join(missing)}; it needs four numbers")
    (x,), (y,) = _numbers(stated["x"], where), _numbers(stated["y"], where)
    width = _numbers(stated["width"], where)[0] if "width" in stated else _numbers(stated["x2"], where)[0] - x
    height = _numbers(stated["height"], where)[0] if "height" in stated else _numbers(stated["y2"], where)[0] - y
    return x, y, width, height
