"""Reading `boxes.csv`: the boxes of the records that are there, and what of the file belongs to none of them.

The file names images as tables of records do: absolute, or relative to its own folder. A box is found by the path of its
image, else by the image's name as the records write it, else by the file name alone where only one image of the file has it.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mrm.data.boxes import HEADER, Box, inside_images
from mrm.data.masks import stem
from mrm.data.records import Record, Records
from mrm.data.table_records import first_five
from mrm.system.errors import RecordError
from mrm.system.tables import read_rows, stated

NEEDED = HEADER[:6]


@dataclass(frozen=True)
class RecordBoxes:
    """The boxes of records, by their names; and how many boxes of which images are of none of the records."""

    boxes: Mapping[str, Sequence[Box]]
    other_images: int
    other_boxes: int


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """The boxes in a file, by the paths of their images as the file writes them.

    Raises RecordError for a file that is absent or no such table, for one without boxes, and for rows that are no boxes.
    """
    if not path.is_file():
        raise RecordError(f"{path}: no such file of boxes")
    header, lines = read_rows(path)
    if missing := [column for column in NEEDED if column not in header]:
        raise RecordError(
            f"{path}: no column {', '.join(missing)}; the columns of a file of boxes are {', '.join(HEADER)}, and those "
            f"found are {', '.join(header)}"
        )
    boxes, problems = dict[str, list[Box]](), list[str]()
    for number, cells in lines:
        where = f"line {number}"
        if len(cells) != len(header):
            problems.append(f"{where}: {len(cells)} fields, but the header has {len(header)}")
            continue
        row = {column: stated(cell) for column, cell in zip(header, cells, strict=True)}
        try:
            boxes.setdefault(row["image_path"], []).append(_box(row, f"{path.name}, {where}"))
        except ValueError:
            problems.append(f"{where}: a box needs an image_path, a class and four numbers")
    if problems:
        raise RecordError(f"{path}: {len(problems)} bad lines: {first_five(problems)}; correct or remove them")
    if not boxes:
        raise RecordError(f"{path}: has no boxes")
    return boxes


def _box(row: Mapping[str, str], where: str) -> Box:
    """The box of a row. Raises ValueError for one that is not whole."""
    x, y, width, height = sides = [float(row[side]) for side in ("x", "y", "width", "height")]
    if not (row["image_path"] and row["class"] and all(map(math.isfinite, sides))):
        raise ValueError
    return Box(row["class"], x, y, width, height, row.get("reader", ""), row.get("text", ""), where)


def boxes_of(path: Path, records: Records) -> RecordBoxes:
    """The boxes of a file on the images of records. Raises RecordError, also where no box is on any of them.

    A box that is not in its image, or has no size, is refused: it says that the boxes are of other images, or of images of
    another size, and an image whose box is left out would count as one without.
    """
    named = read_boxes(path)
    places, taken, boxes = _places(path, named), set[str](), dict[str, list[Box]]()
    for record in records:
        found = next((places[key] for key in _keys(record) if key in places), None)
        if found is not None:
            taken.add(found)
            boxes[record.name] = named[found]
    if not boxes:
        first, one = next(iter(named)), records[0].name
        raise RecordError(
            f"{path}: none of its {len(named):,} images is among the {len(records):,} records; its first is {first}, that of "
            f"the records {one}. Check that both are of the same images"
        )
    kept, refused = inside_images(boxes, records)
    if refused:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in Counter(r for _, r, _ in refused).items())
        raise RecordError(
            f"{path}: {len(refused):,} of {sum(map(len, boxes.values())):,} boxes do not fit their images ({reasons}); first: "
            f"{refused[0][2]}. Boxes are in pixels of the image as it is stored: if the images were resized, resize the boxes "
            "too, else correct or remove these lines"
        )
    others = [own for image, own in named.items() if image not in taken]
    return RecordBoxes(kept, len(others), sum(map(len, others)))


def _places(path: Path, names: Mapping[str, object]) -> dict[tuple[str, str], str]:
    """By which keys each image of the file can be found."""
    places: dict[tuple[str, str], str] = {}
    by_file = defaultdict(list)
    for name in names:
        places["path", os.path.abspath(path.parent / name)] = name
        places["name", name] = name
        by_file[_file(name)].append(name)
    return {**places, **{("file", file): one[0] for file, one in by_file.items() if len(one) == 1}}


def _keys(record: Record) -> Iterator[tuple[str, str]]:
    if isinstance(record.image, Path):
        yield "path", os.path.abspath(record.image)
    yield "name", record.name
    yield "file", _file(record.name)


def _file(name: str) -> str:
    return stem(PurePosixPath(name.replace("\\", "/")).name)
