"""Tables in workbooks of Excel (`.xlsx`, `.xls`) and LibreOffice (`.ods`), read as text. calamine reads the files.

What calamine leaves empty without a word is taken from the XML: errors of formulas, numbers with leading zeros, merged cells
(`mrm.system.sheet_xml`). In `.xls` only merged cells are known.
"""

from __future__ import annotations

import datetime
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrm.system import unpacking
from mrm.system.errors import RecordError
from mrm.system.sheet_xml import Range, SheetFacts, cell_name, ods_facts, xlsx_facts, xlsx_padded, xlsx_parts
from mrm.system.spreadsheet_cells import unguarded
from mrm.system.table_form import Rows, header_span

MOST_CELLS = 5_000_000  # of a sheet, empty ones among them; a larger file may have as many as it has bytes
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")  # the stream of an .xlsx with a password


@dataclass(frozen=True)
class Sheet:
    """A sheet: its name, its rows that are not empty as (row number, fields), and what a user should know of it."""

    name: str
    rows: Rows
    doubts: tuple[str, ...]


def read_sheet(path: Path, sheet: str = "", header_lines: str = "") -> Sheet:
    """The rows of a sheet as text, by default of the first that is not empty; the header is among them.

    Whole numbers are written without a decimal point, as ids need it, and with the leading zeros that their format shows;
    truth values as 1 and 0; dates as 2024-05-31; the error of a formula as its text, such as #REF!. Raises RecordError for a
    damaged or locked file, an unknown sheet, formulas that were never computed, and merged cells that hide values.
    """
    facts = _facts(path)
    names, cells, doubts = _cells(path, sheet)
    chosen = facts.get(names[0], SheetFacts()) if facts else SheetFacts(merged=_merged_in_xls(path, names[0]))
    _check_computed(path, chosen)
    _restore(cells, chosen)
    filled = [(number, [_text(cell) for cell in row]) for number, row in enumerate(cells, 1)]
    rows = [(number, row) for number, row in filled if any(row)]
    if not rows:
        raise RecordError(f"{path}: the sheet {names[0]} is empty; name another with --sheet ({', '.join(names)})")
    width = max(number for _, row in rows for number, cell in enumerate(row, 1) if cell)
    header = header_span(header_lines) if header_lines else (rows[0][0], rows[0][0])
    _resolve_merged(path, chosen.merged, rows, header)
    if chosen.errors:
        (row, column), text = next(iter(chosen.errors.items()))
        doubts = [
            *doubts,
            f"{len(chosen.errors):,} cells hold the error of a formula (first {text} in {cell_name(row, column)})",
        ]
    return Sheet(names[0], iter([(number, row[:width]) for number, row in rows]), tuple(doubts))


def _cells(path: Path, sheet: str) -> tuple[list[str], list[list[Any]], list[str]]:
    """The names of the sheets, with the one that is read first, its cells, and what is doubtful."""
    import python_calamine

    try:
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
    except python_calamine.PasswordError:
        raise _locked(path) from None
    except (python_calamine.CalamineError, *unpacking.ARCHIVE_ERRORS, ValueError) as error:
        if _is_encrypted(path):
            raise _locked(path) from None
        raise RecordError(
            f"{path}: cannot be read as a workbook ({error}); save it again without a password, or as CSV"
        ) from None
    others = [name for name in filled if name != chosen]
    doubts = [f"the sheet {chosen} is read, and not {', '.join(others)}"] if others and not sheet else []
    return [chosen, *(name for name in names if name != chosen)], cells, doubts


def _locked(path: Path) -> RecordError:
    return RecordError(
        f"{path}: protected by a password; open it with the password, remove the password (File > Info > Protect in Excel), "
        "and save it under another name"
    )


def _is_encrypted(path: Path) -> bool:
    """Whether a workbook that cannot be read is one with a password, by the stream or the note that such files have."""
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                manifest = unpacking.read_member(archive, "META-INF/manifest.xml", path.stat().st_size)
                return b"encryption-data" in manifest
        except (*unpacking.ARCHIVE_ERRORS, unpacking.TooLargeError):
            return False
    with open(path, "rb") as file:
        return ENCRYPTED in file.read(1 << 24)


# Facts from the XML ----------------------------------------------------------------------------------------


def _facts(path: Path) -> Mapping[str, SheetFacts]:
    """The facts of each sheet by its name; none for .xls, which is no archive.

    Raises RecordError for a sheet of far more cells than its file has bytes: two cells in far corners fill the memory.
    """
    if not zipfile.is_zipfile(path):
        return {}
    try:
        unpacking.check_archive(path)
        with zipfile.ZipFile(path) as archive:
            facts = _facts_of_archive(path, archive)
    except unpacking.TooLargeError as error:
        raise RecordError(f"{path}: {error}") from None
    except unpacking.ARCHIVE_ERRORS:  # calamine says more of what is wrong
        return {}
    for name, sheet in facts.items():
        if sheet.height * sheet.width > max(MOST_CELLS, path.stat().st_size):
            raise RecordError(
                f"{path}: the sheet {name} reaches over {sheet.height:,} rows and {sheet.width:,} columns, most of them "
                "empty; delete the rows and columns after the table, or save it as CSV"
            )
    return facts


def _facts_of_archive(path: Path, archive: zipfile.ZipFile) -> dict[str, SheetFacts]:
    parts = archive.namelist()

    def part(name: str) -> bytes:
        return unpacking.read_member(archive, name, path.stat().st_size) if name in parts else b""

    if any(re.search(r"worksheets/.*\.bin$", name) for name in parts):
        raise RecordError(f"{path}: a binary workbook (.xlsb); save it as .xlsx")
    if "content.xml" in parts:
        return ods_facts(part("content.xml"))
    padded = xlsx_padded(part("xl/styles.xml"))
    names = {
        part: name for name, part in xlsx_parts(part("xl/workbook.xml"), part("xl/_rels/workbook.xml.rels")).items()
    }
    sheets = [name for name in parts if re.search(r"worksheets/.*\.xml$", name)]
    return {names.get(name, name): xlsx_facts(part(name), padded) for name in sheets}


def _merged_in_xls(path: Path, sheet: str) -> tuple[Range, ...]:
    import python_calamine

    with python_calamine.load_workbook(str(path)) as book:
        merged = book.get_sheet_by_name(sheet).merged_cell_ranges or []
    return tuple(Range(*start, *end) for start, end in merged)


def _check_computed(path: Path, facts: SheetFacts) -> None:
    if facts.uncomputed:
        raise RecordError(
            f"{path}: the formula in {cell_name(*facts.uncomputed[0])} has no value, as it was never computed "
            f"({len(facts.uncomputed):,} such cells); open the workbook in Excel or LibreOffice and save it"
        )


def _restore(cells: list[list[Any]], facts: SheetFacts) -> None:
    """Put into the cells what calamine leaves out: the text of errors, and leading zeros."""
    for (row, column), text in facts.errors.items():
        if row < len(cells) and column < len(cells[row]):
            cells[row][column] = text
    for (row, column), digits in facts.digits.items():
        if row < len(cells) and column < len(cells[row]) and isinstance(cells[row][column], float):
            cells[row][column] = _text(cells[row][column]).zfill(digits)


def _resolve_merged(
    path: Path, merged: Sequence[Range], rows: Sequence[tuple[int, list[str]]], header: tuple[int, int]
) -> None:
    """Repeat a name over the columns that it is merged over, if the header is stated to have several lines.

    Raises RecordError for merged cells in a header of one line, and for those over several rows of the table, of which only the
    first would have the value.
    """
    first, last = header[0] - 1, header[1] - 1
    by_number = dict(rows)
    for cells in merged:
        if cells.last_row < first or cells.first_row + 1 not in by_number:
            continue
        text = by_number[cells.first_row + 1][cells.first_column]
        if cells.first_row <= last:
            if cells.last_column > cells.first_column and last == first:
                raise RecordError(
                    f"{path}: the header cells {cells} are merged ({text!r}), so columns have no name of their own; unmerge "
                    f"them and name each column, or say which rows are the header, such as --header-lines {header[0]}-{header[0] + 1}, or "
                    f"--header-lines {header[0] + 1} to leave out this row"
                )
            by_number[cells.first_row + 1][cells.first_column : cells.last_column + 1] = [text] * (
                cells.last_column - cells.first_column + 1
            )
        elif cells.last_row > cells.first_row and text:
            raise RecordError(
                f"{path}: the cells {cells} are merged, so that only the first row has {text!r}; unmerge them and fill in every "
                "row"
            )


def _text(cell: Any) -> str:
    """A cell as text: ids as 12 and not 12.0, truth values as 1 and 0, days as dates."""
    if isinstance(cell, bool):
        return str(int(cell))
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return unguarded(str(cell).strip())
