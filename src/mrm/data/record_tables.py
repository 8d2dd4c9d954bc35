"""Records as a table of text: its columns, and the row of each record."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mrm.data.record import RESERVED, Record


def header_of(records: Sequence[Record], classes: Sequence[str]) -> list[str]:
    """The columns of the table of these records: what every record has, their classes, and what is said of some."""
    extras = dict.fromkeys(k for r in records for k in r.extra)
    return [*RESERVED, *classes, *extras]


def row_maker(header: Sequence[str], classes: int, beside: Path | None) -> Callable[[Record], list[str]]:
    """A function of a record with so many classes: its cells below the header, every one text.

    Images are paths from the folder `beside` on, absolute ones if they are not below it, or without a folder their names. Paths
    are compared as text, since a table may have millions of them and pathlib takes ten times as long.
    """
    extras = header[len(RESERVED) + classes :]
    above = os.path.join(beside.absolute(), "") if beside else ""
    here = os.path.join(Path.cwd(), "")

    def path_of(file: Path) -> str:
        path = str(file)
        return (path if os.path.isabs(path) else here + path).removeprefix(above)

    def row_of(record: Record) -> list[str]:
        return [
            path_of(record.image) if above and isinstance(record.image, Path) else record.name,
            *(record.report, record.patient, record.study, record.view),
            *["" if math.isnan(v) else f"{v:.15g}" for v in record.labels],
            *[record.extra.get(k, "") for k in extras],
        ]

    return row_of
