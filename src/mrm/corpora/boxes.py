"""Boxes of findings beside the records: `boxes.csv` with image_path, class, x, y, width, height, reader and text.

Pixels of the stored image, x and y of the upper left corner. A box that is partly outside its image by at most a pixel, as
rounding does, is clipped; any other box outside, and one without a size, is left out with its reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mrm.corpora.contract import Box, Exclusion, Release, Row
from mrm.corpora.description import CorpusDescription, Form, value
from mrm.data import images
from mrm.data.records import Records
from mrm.system.errors import ImageError, RecordError

FILE = "boxes.csv"
HEADER = ("image_path", "class", "x", "y", "width", "height", "reader", "text")
NO_SIZE = "box without a size"
OUTSIDE = "box outside its image"
ROUNDING = 1.0  # pixels by which a box may leave its image
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


def inside_images(release: Release) -> Release:
    """The release with the boxes of its records, clipped to their images, and an exclusion for each that is none.

    Reads the header of each image that has boxes, for its size.
    """
    kept: dict[str, list[Box]] = {}
    excluded = []
    for record in release.records:
        if not (own := release.boxes.get(record.name)):
            continue
        try:
            height, width = images.size(record.image)
        except ImageError:  # with --check none, nobody has looked before
            kept[record.name] = list(own)
            continue
        for box in own:
            clipped = _clipped(box, width, height)
            if isinstance(clipped, Box):
                kept.setdefault(record.name, []).append(clipped)
            else:
                excluded.append(Exclusion(record.name, clipped, f"{box.where}: {_shown(box)} in {width} x {height}"))
    count = {"boxes": sum(map(len, kept.values()))} if release.boxes else {}
    return replace(release, boxes=kept, excluded=[*release.excluded, *excluded], counts={**release.counts, **count})


def _clipped(box: Box, width: int, height: int) -> Box | str:
    """The box inside its image, or the reason why it is none."""
    if box.width <= 0 or box.height <= 0:
        return NO_SIZE
    left, top = max(0.0, box.x), max(0.0, box.y)
    right, bottom = min(float(width), box.x + box.width), min(float(height), box.y + box.height)
    lost = max(left - box.x, top - box.y, box.x + box.width - right, box.y + box.height - bottom)
    if lost > ROUNDING or right <= left or bottom <= top:
        return OUTSIDE
    return replace(box, x=left, y=top, width=right - left, height=bottom - top) if lost > 0 else box


def _shown(box: Box) -> str:
    return f"{box.name} x {box.x:g}, y {box.y:g}, width {box.width:g}, height {box.height:g}"


def rows(boxes: Mapping[str, Sequence[Box]], records: Records, beside: Path) -> Iterator[list[str]]:
    """The rows of `boxes.csv`; images are named as in the tables of records."""
    for record, (path, *_) in zip(records, records.table(beside)[1], strict=True):
        for box in boxes.get(record.name, ()):
            sides = (f"{side:.2f}".rstrip("0").rstrip(".") for side in (box.x, box.y, box.width, box.height))
            yield [path, box.name, *sides, box.reader, box.text]
