"""Records as a table of text: its columns, and the row of each record."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from mrm.data.record import RESERVED, Record


def header_of(records: Sequence[Record], classes: Sequence[str]) -> list[str]:
    """The columns of the table of these records: what every record has, their classes, and what is said of some."""
    extras = dict.fromkeys(k for r in records for k in r.extra)
    return [*RESERVED, *classes, *extras]


def image_namer(beside: Path | None) -> Callable[[Record], str]:
    """A function of a record: how a table names its image.

    That is a path from the folder `beside` on, an absolute one if it is not below it, or without a folder the record's name.
    Paths are compared as text, since a table may have millions of them and pathlib takes ten times as long.
    """
    above = os.path.join(beside.absolute(), "") if beside else ""
    here = os.path.join(Path.cwd(), "")

    def name_of(record: Record) -> str:
        if not (above and isinstance(record.image, Path)):
            return record.name
        path = str(record.image)
        return (path if os.path.isabs(path) else here + path).removeprefix(above)

    return name_of


def row_maker(header: Sequence[str], classes: int, beside: Path | None) -> Callable[[Record], list[str]]:
    """A function of a record with so many classes: its cells below the header, every one text; its image by `image_namer`."""
    extras, name_of = header[len(RESERVED) + classes :], image_namer(beside)

    def row_of(record: Record) -> list[str]:
        return [
            *(name_of(record), record.report, record.patient, record.study, record.view),
            *["" if math.isnan(value) else _label(value) for value in record.labels],
            *[record.extra.get(k, "") for k in extras],
        ]

    return row_of


@lru_cache(1024)
def _label(value: float) -> str:
    """A label as text, 0 for -0 too. Few values occur, and many times."""
    return f"{value + 0.0:.15g}"
