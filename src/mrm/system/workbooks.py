"""Tables in workbooks of Excel (`.xlsx`, `.xls`) and LibreOffice (`.ods`), read as text. calamine reads the files."""

from __future__ import annotations

import datetime
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mrm.system import unpacking
from mrm.system.errors import RecordError
from mrm.system.spreadsheet_cells import unguarded

MOST_CELLS = 5_000_000  # of a sheet, empty ones among them; a larger file may have as many as it has bytes


def read_sheet_rows(path: Path, sheet: str = "") -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Header and (row number of the sheet, fields as text) of a sheet, by default the first that is not empty.

    Whole numbers are written without a decimal point, as ids need it; truth values as 1 and 0; dates as 2024-05-31.
    Warns of other sheets with content. Raises RecordError for a damaged or locked file and for an unknown sheet.
    """
    names, cells = _cells(path, sheet)
    filled = [(number, [_text(cell) for cell in row]) for number, row in enumerate(cells, 1)]
    rows = [(number, row) for number, row in filled if any(row)]
    if not rows:
        raise RecordError(f"{path}: the sheet {names[0]} is empty; name another with --sheet ({', '.join(names)})")
    width = max(number for _, row in rows for number, cell in enumerate(row, 1) if cell)
    (_, header), *rest = rows
    return header[:width], iter([(number, row[:width]) for number, row in rest])


def _cells(path: Path, sheet: str) -> tuple[list[str], list[list[Any]]]:
    """The names of the sheets, with the one that is read first, and its cells."""
    import python_calamine

    try:
        if zipfile.is_zipfile(path):  # all but .xls are archives
            unpacking.check_archive(path)
            _check_area(path)
        with python_calamine.load_workbook(str(path)) as book:
            names = list(book.sheet_names)
            if sheet and sheet not in names:
                raise RecordError(f"{path}: no sheet {sheet!r}; choose from {', '.join(names)}")
            tables = {name: book.get_sheet_by_name(name) for name in names}
            filled = [name for name in names if tables[name].height]
            chosen = sheet or next(iter(filled or names), "")
            if not chosen:
                raise RecordError(f"{path}: a workbook without sheets; save the table again")
            cells = tables[chosen].to_python(skip_empty_area=False)
    except RecordError:
        raise
    except unpacking.TooLargeError as error:
        raise RecordError(f"{path}: {error}") from None
    except (python_calamine.CalamineError, *unpacking.ARCHIVE_ERRORS, ValueError) as error:
        raise RecordError(
            f"{path}: cannot be read as a workbook ({error}); save it again without a password, or as CSV"
        ) from None
    if not sheet and len(filled) > 1:
        warnings.warn(
            f"{path}: the sheet {chosen} is read, and not {', '.join(n for n in filled if n != chosen)}", stacklevel=4
        )
    return [chosen, *(name for name in names if name != chosen)], cells


def _check_area(path: Path) -> None:
    """Raises RecordError for a sheet of far more cells than its file has bytes: two cells in far corners fill the memory."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if re.search(r"worksheets/.*\.bin$", name):
                raise RecordError(f"{path}: a binary workbook (.xlsb); save it as .xlsx")
            if re.search(r"worksheets/.*\.xml$|^content\.xml$", name):
                text = unpacking.read_member(archive, name, path.stat().st_size)
                height, width = _ods_area(text) if name == "content.xml" else _xlsx_area(text)
                if height * width > max(MOST_CELLS, path.stat().st_size):
                    raise RecordError(
                        f"{path}: {name} reaches over {height:,} rows and {width:,} columns, most of them empty; delete "
                        "the rows and columns after the table, or save it as CSV"
                    )


def _xlsx_area(text: bytes) -> tuple[int, int]:
    """Rows and columns up to the last cell of a sheet of Excel, by the names of its cells, such as AB12."""
    height = width = 1
    for column, row in re.findall(rb"""[\s:"']([A-Z]{1,3})(\d{1,9})["':]""", text):
        height = max(height, int(row))
        width = max(width, sum((letter - 64) * 26**at for at, letter in enumerate(reversed(column))))
    return height, width


def _ods_area(text: bytes) -> tuple[int, int]:
    """Rows and columns up to the last cell with a value in the sheets of LibreOffice, which repeats equal ones."""
    height = width = at = 0
    for row in re.split(rb"<table:table-row\b", text)[1:]:
        at += _repeats(rb"rows", row.partition(b">")[0])
        column = 0
        for cell in re.split(rb"<table:(?:covered-)?table-cell\b", row)[1:]:
            tag, _, content = cell.partition(b">")
            column += _repeats(rb"columns", tag)
            if b"value" in tag or b"<text" in content:
                height, width = max(height, at), max(width, column)
    return height, width


def _repeats(what: bytes, tag: bytes) -> int:
    match = re.search(rb"number-%s-repeated\s*=\s*[\"'](\d{1,9})" % what, tag)
    return int(match[1]) if match else 1


def _text(cell: Any) -> str:
    """A cell as text: ids as 12 and not 12.0, truth values as 1 and 0, days as dates."""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return unguarded(str(cell).strip())
