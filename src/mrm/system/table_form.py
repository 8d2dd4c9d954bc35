"""How a table is to be read: its encoding, what separates its columns, its sheet, and which lines are its header.

What is empty in a `TableForm` is found out, and a table that was opened has a form in which nothing is empty that it depends on.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrm.system.errors import RecordError
from mrm.system.text_files import INVISIBLE, check_encoding, name_of

Rows = Iterator[tuple[int, list[str]]]  # line number and fields
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_SIGNS = {name: sign for sign, name in DELIMITERS.items()}
_PLURALS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "upright bars"}
MOST_HEADER_LINES = 1000  # before and in a header


@dataclass(frozen=True)
class TableForm:
    """How a table is to be read; an empty text is found out.

    `encoding` is a name that Python knows, such as windows-1252. `delimiter` is comma, semicolon, tab, bar or a sign.
    `sheet` is that of a workbook, by default the first that is not empty. `header_lines` is the line with the names of the
    columns, such as 2, which skips those before it, or several, such as 1-2, whose names are joined. Raises RecordError.
    """

    encoding: str = ""
    delimiter: str = ""
    sheet: str = ""
    header_lines: str = ""

    def __post_init__(self) -> None:
        if self.encoding:
            check_encoding(self.encoding)
        if self.delimiter:
            sign_of(self.delimiter)
        if self.header_lines:
            header_span(self.header_lines)


def sign_of(delimiter: str) -> str:
    """The sign that a name such as semicolon stands for; a sign is itself. Raises RecordError for anything else."""
    if delimiter.lower() in _SIGNS:
        return _SIGNS[delimiter.lower()]
    if len(delimiter) != 1 or delimiter.isalnum() or delimiter in "\"'\r\n":
        raise RecordError(f"unknown delimiter {delimiter!r}; choose from {', '.join(_SIGNS)}, or give one sign")
    return delimiter


def described(encoding: str, sign: str) -> str:
    """`read as Windows-1252, separated by semicolons`."""
    return f"read as {name_of(encoding)}, separated by {_PLURALS.get(sign, repr(sign))}"


def header_span(text: str) -> tuple[int, int]:
    """The first and the last line of a header: (2, 2) for 2, (1, 2) for 1-2. Raises RecordError."""
    match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= MOST_HEADER_LINES:
        raise RecordError(
            f"header lines {text!r}: give the line with the names of the columns, such as 2, or several, such as 1-2"
        )
    return first, last


def split_header(path: Path, rows: Rows, header_lines: str = "") -> tuple[list[str], Rows]:
    """The names of the columns, and the rows after them. By default the first line that is not blank is the header.

    The names of several header lines are joined by a blank. Raises RecordError if there is no such line.
    """
    if not header_lines:
        header = next(rows, (0, []))[1]
        return [_name(cell) for cell in header], rows
    first, last = header_span(header_lines)
    inside: list[list[str]] = []
    for number, fields in rows:
        if number > last:
            rows = itertools.chain([(number, fields)], rows)
            break
        if number >= first:
            inside.append(fields)
    if not inside:
        raise RecordError(f"{path}: --header-lines {header_lines}: there is no text; the table ends before")
    columns = itertools.zip_longest(*inside, fillvalue="")
    return [" ".join(filter(None, map(_name, cells))) for cells in columns], rows


def check_header(path: Path, header: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]) -> None:
    """Raises RecordError if the header seems to have two lines, or a line with a title before it, and says how to state it.

    Two lines: the line after the first has text where all others have numbers or dates (`mg/l` under `CRP`), or the first
    leaves columns without a name that the second, all text, names. Cells that state nothing must be empty.
    """
    if len(rows) < 3:
        return
    (number, second), below = rows[0], [fields for _, fields in rows[1:21]]
    width = len(header)
    if len(second) != width or any(map(re.compile(r"\d").search, second)):  # a row of data has an id, a date or a value
        return
    below = [fields for fields in below if len(fields) == width]
    filled = [i for i in range(width) if sum(bool(fields[i]) for fields in below) >= 2]
    numeric = [i for i in filled if all(_is_number(fields[i]) for fields in below if fields[i])]
    above = f"line {number - 1} and line {number}" if number > 1 else f"the header and line {number}"
    advice = (
        f"say which lines are the header: --header-lines {number} if the names of the columns are in line {number}, "
        f"--header-lines {max(1, number - 1)}-{number} if both lines are the header"
    )
    if strange := [i for i in numeric if second[i]]:
        example = (
            f"{second[strange[0]]!r} in column {header[strange[0]] or strange[0] + 1}, where other lines have numbers"
        )
        raise RecordError(f"{path}: {above} seem to be a header of two lines ({example}); {advice}")
    unnamed = [i for i in filled if not header[i]]
    values = {value for fields in below for value in fields}
    if unnamed and all(second[i] for i in filled) and not values.intersection(filter(None, second)):
        raise RecordError(
            f"{path}: {above} seem to be a header of two lines (column {unnamed[0] + 1} has no name in the first, and "
            f"{second[unnamed[0]]!r} in the second); {advice}"
        )


def _name(cell: str) -> str:
    return cell.strip().strip(INVISIBLE)


def _is_number(text: str) -> bool:
    """Whether the text is a number, or a date in figures."""
    return bool(re.fullmatch(r"\s*[+-]?\d+(?:[.,/:\- T]\d+)*\s*%?\s*", text))
