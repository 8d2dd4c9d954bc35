"""One finding, many names: a table of what corpora call the same finding, which a user can read and change.

Only names that mean the same finding stand in one row of `vocabulary.csv`, in a column for each vocabulary and one for all
others; several in a cell are separated by a semicolon. CheXpert's "Lung Lesion" is a nodule or a mass, and its "Pleural Other"
is more than thickening: these have rows of their own, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path

from mrm.system.errors import RecordError
from mrm.system.tables import read_rows

FINDING = "finding"


@cache
def table() -> tuple[Mapping[str, str], ...]:
    """The rows of the package's own table."""
    with resources.as_file(resources.files("mrm.data") / "vocabulary.csv") as file:
        return tuple(read_table(file))


def read_table(file: Path) -> list[Mapping[str, str]]:
    """The rows of a table of findings. Raises RecordError for a table without the column, and for a name in two rows."""
    header, lines = read_rows(file)
    if FINDING not in header:
        raise RecordError(f"{file}: no column {FINDING}; the columns found are {', '.join(header)}")
    rows: list[Mapping[str, str]] = [
        dict(zip(header, (cell.strip() for cell in cells), strict=False)) for _, cells in lines
    ]
    of_name: dict[str, str] = {}
    for row in rows:
        for name in names_in(row):
            if of_name.setdefault(plain(name), row[FINDING]) != row[FINDING]:
                raise RecordError(
                    f"{file}: {name!r} stands in the rows {of_name[plain(name)]!r} and {row[FINDING]!r}; leave it in one of them"
                )
    return rows


def names_in(row: Mapping[str, str]) -> list[str]:
    """All names in a row, that of the finding too."""
    return [name.strip() for cell in row.values() for name in cell.split(";") if name.strip()]


def finding_of(rows: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Plain name -> finding, of all names in a table."""
    return {plain(name): row[FINDING] for row in rows for name in names_in(row)}


def plain(name: str) -> str:
    """A name without capitals, spaces and signs, as names are compared."""
    return "".join(c for c in name.casefold() if c.isalnum())
