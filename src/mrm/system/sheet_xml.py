"""What the XML of a workbook tells of a sheet and its reader does not: cells with errors, formulas that were never computed,
merged cells, numbers that are shown with leading zeros, and how far the sheet reaches.

Parts of a few hundred megabytes are met, so the XML is searched by patterns, of which none goes over a cell's end.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_P = rb"(?:\w+:)?"  # the prefix that some programs give every element
_XLSX_POSITION = re.compile(rb"""[\s:"']([A-Z]{1,3})(\d{1,9})["':]""")
_XLSX_REFERENCE = re.compile(rb"""\br=["']([A-Z]{1,3})(\d{1,9})["']""")
_XLSX_FORMULA = rb"(?:<%sf\b[^>]*/>|<%sf\b[^>]*>[^<]*</%sf>)" % (_P, _P, _P)
_XLSX_ERROR = re.compile(rb"""<%sc\b([^>]*\bt=["']e["'][^>]*)>%s?<%sv>([^<]{1,20})<""" % (_P, _XLSX_FORMULA, _P))
_XLSX_UNCOMPUTED = re.compile(
    rb"<%sc\b([^>]*)>%s(?:<%sv\s*/>|<%sv></%sv>)?</%sc>" % (_P, _XLSX_FORMULA, _P, _P, _P, _P)
)
_XLSX_MERGE = re.compile(rb"""<%smergeCell\b[^>]*\bref=["']([A-Z]{1,3})(\d{1,9}):([A-Z]{1,3})(\d{1,9})["']""" % _P)
_XLSX_STYLED = re.compile(rb"""<%sc\b([^>]*\bs=["'](\d{1,6})["'][^>]*)><%sv>\d{1,15}<""" % (_P, _P))
_ODS_TABLE = re.compile(rb"<table:table\b(?!-)")
_ODS_ROW = re.compile(rb"<table:table-row\b")
_ODS_CELL = re.compile(rb"<table:(?:covered-)?table-cell\b")
_ODS_ERROR = re.compile(rb"(#[A-Z0-9/!?]{1,10}|Err:\d{3})<")


@dataclass(frozen=True)
class Range:
    """Merged cells, from the first to the last row and column, which count from 0."""

    first_row: int
    first_column: int
    last_row: int
    last_column: int

    def __str__(self) -> str:
        return f"{cell_name(self.first_row, self.first_column)}:{cell_name(self.last_row, self.last_column)}"


@dataclass(frozen=True)
class SheetFacts:
    """Of one sheet: its extent, and (row, column), which count from 0, of cells that need care."""

    height: int = 1
    width: int = 1
    errors: Mapping[tuple[int, int], str] = field(default_factory=dict)  # such as #REF!
    uncomputed: tuple[tuple[int, int], ...] = ()  # formulas without a value
    merged: tuple[Range, ...] = ()
    digits: Mapping[tuple[int, int], int] = field(default_factory=dict)  # that a whole number is shown with


def cell_name(row: int, column: int) -> str:
    """`B2` for row 1 and column 1, which count from 0."""
    name, rest = "", column + 1
    while rest:
        rest, letter = divmod(rest - 1, 26)
        name = chr(65 + letter) + name
    return f"{name}{row + 1}"


def xlsx_facts(sheet: bytes, padded: Mapping[int, int]) -> SheetFacts:
    """The facts of a sheet of Excel. `padded` are the digits of each style that shows leading zeros (`xlsx_padded`)."""
    positions = _XLSX_POSITION.findall(sheet)
    height = max(map(int, {number for _, number in positions}), default=1)
    width = max(map(_column, {letters for letters, _ in positions}), default=0) + 1
    errors: dict[tuple[int, int], str] = {}
    if _holds(sheet, b't="e"', b"t='e'"):
        errors = {at: text.decode() for tag, text in _XLSX_ERROR.findall(sheet) if (at := _position(tag))}
    formulas = _XLSX_UNCOMPUTED.findall(sheet) if _holds(sheet, b"<f>", b"<f ", b"<f/", b":f>", b":f ", b":f/") else []
    uncomputed = [tag for tag in formulas if not re.search(rb"""\bt=["']str["']""", tag)]  # that is an empty text
    digits = {}
    if any(_holds(sheet, b's="%d"' % style, b"s='%d'" % style) for style in padded):
        styled = ((_position(tag), padded.get(int(style), 0)) for tag, style in _XLSX_STYLED.findall(sheet))
        digits = {at: count for at, count in styled if at and count}
    merged = _XLSX_MERGE.findall(sheet) if b"mergeCell" in sheet else []
    return SheetFacts(
        height,
        width,
        errors,
        tuple(at for tag in uncomputed if (at := _position(tag))),
        tuple(
            Range(int(top) - 1, _column(left), int(bottom) - 1, _column(right)) for left, top, right, bottom in merged
        ),
        digits,
    )


def _holds(sheet: bytes, *parts: bytes) -> bool:
    return any(part in sheet for part in parts)


def xlsx_padded(styles: bytes) -> dict[int, int]:
    """Style -> digits, of the styles whose number format is zeros alone, such as 00000000, which shows 123 as 00000123."""
    formats = {
        int(number): len(code)
        for tag in re.findall(rb"<%snumFmt\b([^>]*)>" % _P, styles)
        for number in re.findall(rb"""\bnumFmtId=["'](\d+)["']""", tag)
        for code in re.findall(rb"""\bformatCode=["'](0{2,20})["']""", tag)
    }
    if not formats:
        return {}
    cells = re.search(rb"<%scellXfs\b.*?</%scellXfs>" % (_P, _P), styles, re.DOTALL)
    styled = re.findall(rb"""<%sxf\b[^>]*?\bnumFmtId=["'](\d+)["']""" % _P, cells[0] if cells else b"")
    return {style: formats[int(number)] for style, number in enumerate(styled) if int(number) in formats}


def xlsx_parts(workbook: bytes, relations: bytes) -> dict[str, str]:
    """The name of each sheet -> its part in the archive of a workbook of Excel."""
    targets = {}
    for tag in re.findall(rb"<%sRelationship\b([^>]*)>" % _P, relations):
        attributes = _attributes(tag)
        target = attributes.get("Target", "")
        targets[attributes.get("Id", "")] = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
    parts = {}
    for tag in re.findall(rb"<%ssheet\b([^>]*)>" % _P, workbook):
        attributes = _attributes(tag)
        link = next((value for name, value in attributes.items() if name.endswith(":id")), "")
        parts[attributes.get("name", "")] = targets.get(link, "")
    return parts


def ods_facts(content: bytes) -> dict[str, SheetFacts]:
    """The facts of each sheet of LibreOffice, by its name."""
    facts = {}
    for start in _ODS_TABLE.finditer(content):
        end = content.find(b"</table:table>", start.end())
        table = content[start.end() : end if end >= 0 else None]
        facts[_attributes(table.partition(b">")[0]).get("table:name", "")] = _ods_sheet(table)
    return facts


def _ods_sheet(table: bytes) -> SheetFacts:
    height = width = 1
    errors, uncomputed, merged = {}, [], []
    for row, column, repeated, tag, content in _ods_cells(table):
        value = b"value" in tag
        if value or b"<text" in content:
            height, width = max(height, row + 1), max(width, column + repeated)
        if b'value-type="error"' in tag and (text := _ODS_ERROR.search(content)):
            errors[row, column] = text[1].decode()
        elif b"formula=" in tag and not value:
            uncomputed.append((row, column))
        if b"-spanned" in tag:
            rows, columns = (_number(rb"number-%s-spanned" % what, tag) for what in (b"rows", b"columns"))
            if rows * columns > 1:
                merged.append(Range(row, column, row + rows - 1, column + columns - 1))
    return SheetFacts(height, width, errors, tuple(uncomputed), tuple(merged))


def _ods_cells(table: bytes) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    """Row, column, how often it is repeated, tag and content of each cell. Of repeated rows it is the last row."""
    at = -1
    for row in _ODS_ROW.split(table)[1:]:
        at += _number(rb"number-rows-repeated", row.partition(b">")[0])
        column = 0
        for cell in _ODS_CELL.split(row)[1:]:
            tag, _, content = cell.partition(b">")
            repeated = _number(rb"number-columns-repeated", tag)
            yield at, column, repeated, tag, content
            column += repeated


def _number(name: bytes, tag: bytes) -> int:
    """The number that an attribute of a tag states, 1 without it."""
    match = re.search(rb"%s\s*=\s*[\"'](\d{1,9})" % name, tag)
    return int(match[1]) if match else 1


def _position(tag: bytes) -> tuple[int, int] | None:
    match = _XLSX_REFERENCE.search(tag)
    return (int(match[2]) - 1, _column(match[1])) if match else None


def _column(letters: bytes) -> int:
    return sum((letter - 64) * 26**at for at, letter in enumerate(reversed(letters))) - 1


def _attributes(tag: bytes) -> dict[str, str]:
    pairs = re.findall(rb"""([\w:]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""", tag)
    return {name.decode(): html.unescape((double or single).decode(errors="replace")) for name, double, single in pairs}
