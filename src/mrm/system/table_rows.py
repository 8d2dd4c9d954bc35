"""The rows of a publisher's table, each with its line: cells by the names of their columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrm.system.errors import RecordError
from mrm.system.table_form import Rows
from mrm.system.tables import read_rows, stated

LONGEST_WORD = 100  # characters of cells that are remembered while a table is read: words and paths, but not reports


@dataclass(slots=True)
class Row:
    """One line of a publisher's table; `row["Column"]` is text without blanks around it, empty if it is missing."""

    path: Path
    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    @property
    def where(self) -> str:
        """The place of the row, for messages."""
        return f"{self.path.name}, line {self.line}"


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a table that must have `columns` (`mrm.system.tables`). Raises RecordError.

    Column names are compared without the spaces around them: SIIM's file has ` EncodedPixels`. A cell with a word for
    a missing value is empty.
    """
    if not path.is_file():
        raise RecordError(f"{path}: no such file, though it is part of the corpus; check the source folder")
    header, lines = read_rows(path)
    if missing := [c for c in columns if c not in header]:
        raise RecordError(
            f"{path}: no column {', '.join(missing)}; the columns found are {', '.join(header)}. "
            "Check that this is the publisher's file"
        )
    return rows_of(path, header, lines)


def rows_of(path: Path, header: Sequence[str], lines: Rows, as_written: Collection[str] = ()) -> list[Row]:
    """The rows of an open table. Cells of the columns `as_written` keep words for a missing value, such as `-`.

    Raises RecordError for columns of the same name, and for a row with more or fewer cells than the header.
    """
    if repeated := [c for c, n in Counter(header).items() if c and n > 1]:
        raise RecordError(f"{path}: several columns are called {', '.join(repeated)}; rename all but one")
    stated_by = _Stated().__getitem__
    written = [(i, c) for i, c in enumerate(header) if c in as_written]
    rows = []
    for number, cells in lines:
        if len(cells) != len(header):
            raise RecordError(f"{path}: line {number} has {len(cells)} fields, but the header has {len(header)}")
        texts = dict(zip(header, map(stated_by, cells), strict=True))
        for i, column in written:
            texts[column] = cells[i].strip()
        rows.append(Row(path, number, texts))
    return rows


class _Stated(dict[str, str]):
    """What the cells of a table state (`mrm.system.tables.stated`), each word once: a table repeats few words often."""

    def __missing__(self, cell: str) -> str:
        text = stated(cell)
        if len(cell) <= LONGEST_WORD:
            self[cell] = text
        return text


def find_table(source: Path, *names: str) -> Path:
    """The first of `names` that is in the source, plain, `.gz` or `.zip`. Raises RecordError."""
    for name in names:
        for candidate in (source / name, source / f"{name}.gz", source / f"{name}.zip"):
            if candidate.is_file():
                return candidate
    raise RecordError(f"{source}: has no {' or '.join(names)}; check that this is the folder of the download")
