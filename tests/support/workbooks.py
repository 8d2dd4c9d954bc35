"""Workbooks as Excel (`.xlsx`) and LibreOffice (`.ods`) write them, made of their XML alone."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

Sheets = Mapping[str, Sequence[Sequence[object]]]  # name: rows of text, numbers, truth values and None
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
ODF = "urn:oasis:names:tc:opendocument:xmlns"
STYLES = '<styleSheet xmlns="{0}"><numFmts count="1"><numFmt numFmtId="164" formatCode="00000000"/></numFmts><fonts count="1"><font/></fonts><fills count="1"><fill/></fills><borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs><cellXfs count="3"><xf numFmtId="0"/><xf numFmtId="14" applyNumberFormat="1"/><xf numFmtId="164" applyNumberFormat="1"/></cellXfs></styleSheet>'


class Day(int):
    """A date as Excel holds it: days since 1899-12-30, shown by the format of the cell."""


class EightDigits(int):
    """A number that is shown with leading zeros, by the format 00000000 of the cell."""


class Failed(str):
    """The error of a formula, such as #REF!."""


class Formula(str):
    """A formula that no spreadsheet has computed, as programs write it."""


class Computed(int):
    """A formula with the value that the spreadsheet has saved."""


def write_xlsx(path: Path, sheets: Sheets, merged: Sequence[str] = ()) -> Path:
    """ECMA-376, with texts in the cells themselves. `merged` are ranges of every sheet, such as A1:B1."""
    merges = "".join(f'<mergeCell ref="{cells}"/>' for cells in merged)
    merges = merges and f"<mergeCells>{merges}</mergeCells>"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/><Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r" Type="{OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/styles.xml": STYLES.format(MAIN),
    }
    names, links = "", f'<Relationship Id="s" Type="{OFFICE}/styles" Target="styles.xml"/>'
    for number, (name, rows) in enumerate(sheets.items(), 1):
        parts[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet xmlns="{MAIN}"><sheetData>{"".join(map(_xlsx_row, range(1, len(rows) + 1), rows))}</sheetData>{merges}</worksheet>'
        )
        names += f'<sheet name="{name}" sheetId="{number}" r:id="r{number}"/>'
        links += f'<Relationship Id="r{number}" Type="{OFFICE}/worksheet" Target="worksheets/sheet{number}.xml"/>'
    parts["xl/workbook.xml"] = f'<workbook xmlns="{MAIN}" xmlns:r="{OFFICE}"><sheets>{names}</sheets></workbook>'
    parts["xl/_rels/workbook.xml.rels"] = f'<Relationships xmlns="{PACKAGE}/relationships">{links}</Relationships>'
    return _zipped(path, parts)


def _xlsx_row(number: int, row: Sequence[object]) -> str:
    cells = ""
    for column, value in enumerate(row):
        at = f'r="{chr(65 + column)}{number}"'
        if isinstance(value, bool):
            cells += f'<c {at} t="b"><v>{int(value)}</v></c>'
        elif isinstance(value, Failed):
            cells += f'<c {at} t="e"><f>A99/0</f><v>{value}</v></c>'
        elif isinstance(value, Formula):
            cells += f"<c {at}><f>{value}</f><v></v></c>"
        elif isinstance(value, Computed):
            cells += f"<c {at}><f>1+1</f><v>{int(value)}</v></c>"
        elif isinstance(value, EightDigits):
            cells += f'<c {at} s="2"><v>{int(value)}</v></c>'
        elif isinstance(value, Day):
            cells += f'<c {at} s="1"><v>{int(value)}</v></c>'
        elif isinstance(value, int | float):
            cells += f"<c {at}><v>{value}</v></c>"
        elif value is not None:
            cells += f'<c {at} t="inlineStr"><is><t xml:space="preserve">{escape(str(value))}</t></is></c>'
    return f'<row r="{number}">{cells}</row>'


def write_ods(path: Path, sheets: Sheets) -> Path:
    """OpenDocument 1.2. A text that begins with `merged:` is merged over two columns."""
    tables = "".join(
        f'<table:table table:name="{name}">{"".join(map(_ods_row, rows))}</table:table>'
        for name, rows in sheets.items()
    )
    content = f'<office:document-content xmlns:office="{ODF}:office:1.0" xmlns:table="{ODF}:table:1.0" xmlns:text="{ODF}:text:1.0" xmlns:calcext="urn:org:documentfoundation:names:experimental:calc:xmlns:calcext:1.0"><office:body><office:spreadsheet>{tables}</office:spreadsheet></office:body></office:document-content>'
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    manifest = f'<manifest:manifest xmlns:manifest="{ODF}:manifest:1.0"><manifest:file-entry manifest:full-path="/" manifest:media-type="{kind}"/></manifest:manifest>'
    return _zipped(path, {"mimetype": kind, "content.xml": content, "META-INF/manifest.xml": manifest})


def _ods_row(row: Sequence[object]) -> str:
    return f"<table:table-row>{''.join(map(_ods_cell, row))}</table:table-row>"


def _ods_cell(value: object) -> str:
    if value is None:
        return "<table:table-cell/>"
    if isinstance(value, Failed):
        return f'<table:table-cell table:formula="of:=[.#REF!]" office:value-type="string" office:string-value="" calcext:value-type="error"><text:p>{value}</text:p></table:table-cell>'
    if isinstance(value, Formula):
        return f'<table:table-cell table:formula="of:={value}"/>'
    if isinstance(value, str) and value.startswith("merged:"):
        return f'<table:table-cell table:number-columns-spanned="2" office:value-type="string"><text:p>{value}</text:p></table:table-cell><table:covered-table-cell/>'
    if isinstance(value, bool):
        return f'<table:table-cell office:value-type="boolean" office:boolean-value="{str(value).lower()}"/>'
    if isinstance(value, int | float):
        return f'<table:table-cell office:value-type="float" office:value="{value}"/>'
    return f'<table:table-cell office:value-type="string"><text:p>{escape(str(value))}</text:p></table:table-cell>'


def _zipped(path: Path, parts: Mapping[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text if name == "mimetype" else f'<?xml version="1.0" encoding="UTF-8"?>\n{text}')
    return path
