"""Boxes of findings beside records: `boxes.csv` with image_path, class, x, y, width, height, reader and text.

Pixels of the stored image, x and y of the upper left corner. A box that is partly outside its image by at most a pixel, as
rounding does, is clipped; any other box outside, and one without a size, is refused with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mrm.data import images
from mrm.data.record_tables import image_namer
from mrm.data.records import Records
from mrm.system.errors import ImageError

FILE = "boxes.csv"
HEADER = ("image_path", "class", "x", "y", "width", "height", "reader", "text")
NO_SIZE = "box without a size"
OUTSIDE = "box outside its image"
ROUNDING = 1.0  # pixels by which a box may leave its image


@dataclass(frozen=True)
class Box:
    """A box on an image, in pixels of the stored image; x and y of its upper left corner. `where` is the place of its row."""

    name: str  # of the class
    x: float
    y: float
    width: float
    height: float
    reader: str = ""
    text: str = ""  # a phrase that describes what is in it
    where: str = ""


def inside_images(
    boxes: Mapping[str, Sequence[Box]], records: Records
) -> tuple[dict[str, list[Box]], list[tuple[str, str, str]]]:
    """The boxes of the records, by name and clipped to their images; and image, reason and detail of each that is none.

    Reads the header of each image that has boxes, for its size.
    """
    kept: dict[str, list[Box]] = {}
    refused = []
    for record in records:
        if not (own := boxes.get(record.name)):
            continue
        try:
            height, width = images.size(record.image)
        except ImageError:  # where nobody has looked before
            kept[record.name] = list(own)
            continue
        for box in own:
            clipped = _clipped(box, width, height)
            if isinstance(clipped, Box):
                kept.setdefault(record.name, []).append(clipped)
            else:
                refused.append((record.name, clipped, f"{box.where}: {_shown(box)} in {width} x {height}"))
    return kept, refused


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
    name_of = image_namer(beside)
    for record in records:
        for box in boxes.get(record.name, ()):
            sides = (f"{side:.2f}".rstrip("0").rstrip(".") for side in (box.x, box.y, box.width, box.height))
            yield [name_of(record), box.name, *sides, box.reader, box.text]
