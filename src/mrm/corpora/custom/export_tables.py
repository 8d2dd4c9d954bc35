"""The tables of an export: which files, what their columns are taken for, and their rows under our names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from mrm.corpora.contract import file_stem
from mrm.corpora.custom.archive import Archive
from mrm.corpora.custom.columns import Taken, take
from mrm.corpora.custom.description import Description, Table, asked
from mrm.corpora.custom.joining import Entry
from mrm.corpora.custom.merging import Rows
from mrm.corpora.options import KEYS, Options
from mrm.data import boxes, dates
from mrm.system.errors import RecordError
from mrm.system.spreadsheet_cells import lost_digits
from mrm.system.table_form import check_header
from mrm.system.table_rows import Row, rows_of
from mrm.system.tables import open_table, stated

TABLES = (".csv", ".csv.gz", ".tsv", ".xlsx", ".xls", ".ods", ".parquet")
HEADER_SAMPLE = 21  # lines by which a header of two lines is recognised


@dataclass(frozen=True)
class ExportTable:
    """A table that was read, with what its columns were taken for."""

    file: Path
    description: Table
    taken: Sequence[Taken]
    rows: Rows
    how: str  # it was read, in words
    doubts: Sequence[str]  # what a user should know of it


def find_tables(source: Path, options: Options) -> tuple[list[Path], Description]:
    """The tables in the options, else those of the description, else the only one in the source; and the description."""
    named = list(options.table)
    if not named and not options.config and (only := _only_table(source)):
        named = [only]
    description = asked(source, named, options)
    files = [source / table.file for table in description.tables]
    for file in files:
        if not file.is_file():
            raise RecordError(f"--table {file}: no such file")
    if not files and options.columns:
        raise RecordError(f"{source}: --columns needs a table, but there is none; name it with --table FILE")
    return files, description


def _only_table(source: Path) -> Path | None:
    named = [p for p in sorted(source.iterdir()) if p.name.lower().endswith(TABLES)]
    tables = [p for p in named if not p.name.startswith((".", "~$"))]  # the latter: Excel's lock
    others = [
        p for p in tables if p.name != boxes.FILE
    ]  # that of the records, beside which `mrm phantoms` writes boxes
    tables = others or tables
    if len(tables) > 1:
        names = ", ".join(p.name for p in tables)
        raise RecordError(f"{source}: several tables ({names}); choose those to use with --table FILE ...")
    return tables[0] if tables else None


@dataclass(frozen=True)
class ReadTable:
    """A table as it is in its file, with what the description and the options say about its columns."""

    file: Path
    description: Table
    header: Sequence[str]
    lines: Sequence[Row]
    asked: Mapping[str, str]  # our name: its column
    classes: Sequence[str]  # its columns of labels
    how: str  # it was read, in words
    doubts: Sequence[str]  # what a user should know of it


def read_tables(files: Sequence[Path], description: Description, options: Options) -> list[ReadTable]:
    """Read the tables. Raises RecordError for one without rows, and for columns that are asked for but in none."""
    tables = []
    for file, table in zip(files, description.tables, strict=True):
        opened = open_table(file, table.form)
        header = opened.header
        lines = rows_of(file, header, opened.rows, description.labels.columns)
        if not lines:
            raise RecordError(f"{file}: has no rows")
        if not table.header_lines:
            check_header(
                file,
                header,
                [(row.line, [stated(cell) for cell in row.cells.values()]) for row in lines[:HEADER_SAMPLE]],
            )
        theirs = {ours: column for ours, column in options.columns.items() if column in header}
        classes = [c for c in description.labels.columns if c in header]
        doubts = [f"{file.name}: {doubt}" for doubt in opened.doubts if doubt != opened.how]
        tables.append(ReadTable(file, table, header, lines, {**table.columns, **theirs}, classes, opened.how, doubts))
    wanted = [*options.columns.values(), *description.labels.columns]
    wanted += [column for table in description.tables for column in table.columns.values()]
    if files:
        _check_columns(tables, wanted)
    return tables


def take_columns(
    tables: Sequence[ReadTable], archive: Archive, date_order: dates.DateOrder | None = None
) -> list[ExportTable]:
    """Take each column for something, and read its dates.

    Raises RecordError where no column says which image a row belongs to, and for dates that leave two days open.
    """
    known = known_values(archive)
    taken = [_with_days(_taken(table, known, archive.source), table.lines, date_order) for table in tables]
    if not any(table.rows.columns & set(KEYS) for table in taken):
        names = "; ".join(f"{table.file.name} has {', '.join(table.header)}" for table in tables)
        raise RecordError(
            f"{', '.join(str(table.file) for table in tables)}: no column says which image a row belongs to; name one with "
            f"--columns KEY=COLUMN, where KEY is {', '.join(KEYS[:-1])} or {KEYS[-1]}. The columns: {names}"
        )
    return taken


def _check_columns(tables: Sequence[ReadTable], wanted: Sequence[str]) -> None:
    """Raises RecordError for columns that no table has."""
    every = dict.fromkeys(column for table in tables for column in table.header)
    if missing := [column for column in dict.fromkeys(wanted) if column not in every]:
        raise RecordError(
            f"{', '.join(str(table.file) for table in tables)}: no column {', '.join(missing)}; the columns found are "
            f"{', '.join(every)}"
        )


def known_values(archive: Archive) -> Mapping[str, Set[str]]:
    """What the values of key columns may be, by our names: names of files, and values of headers."""
    names = {name for image in archive.images for name in (image, Path(image).name, file_stem(image))}
    headers = {key: set(archive.by(key)) for key in ("image_uid", "series_uid", "study_uid", "accession", "patient_id")}
    return {**headers, "image_path": names}


def _taken(table: ReadTable, known: Mapping[str, Set[str]], source: Path) -> ExportTable:
    values = {column: [row[column] for row in table.lines] for column in table.header}
    taken = take(table.header, values, table.asked, table.classes, known)
    columns = {t.name: t.column for t in taken if t.name not in ("", "label")}
    labels = tuple(t.column for t in taken if t.name == "label")
    folder, root = table.file.absolute().parent, source.absolute()
    beside = folder.relative_to(root).as_posix() if folder.is_relative_to(root) else ""
    entries = [
        Entry(row.where, {ours: row[c] for ours, c in columns.items()}, {c: row[c] for c in labels}, beside)
        for row in table.lines
    ]
    rows = Rows(table.file.name, frozenset(columns), entries)
    doubts = [*table.doubts, *_lost_digits(table, columns)]
    return ExportTable(
        table.file, replace(table.description, columns=columns, labels=labels), taken, rows, table.how, doubts
    )


def _lost_digits(table: ReadTable, columns: Mapping[str, str]) -> Iterator[str]:
    """The columns of ids in which a spreadsheet has shortened numbers."""
    for column in (columns[name] for name in KEYS if name in columns):
        cells = [row[column] for row in table.lines]
        if lost := lost_digits(cells):
            first = lost[0]
            yield (
                f"{table.file.name}: {len(lost):,} values of {column} have lost digits in a spreadsheet, such as {cells[first]} "
                f"(line {table.lines[first].line}); export the table again, with this column as text, or do not open it in Excel"
            )


def _with_days(table: ExportTable, lines: Sequence[Row], order: dates.DateOrder | None) -> ExportTable:
    """The table with its dates as 2024-01-31. Dates of the future are left out; those not understood stay as they are."""
    column = table.description.columns.get("date")
    if column is None:
        return table
    cells, numbers = [row[column] for row in lines], [row.line for row in lines]
    where = f"{table.file.name}, column {column}"
    read = dates.read_dates(cells, where, numbers, order)
    texts = read.iso()
    for i in read.not_understood:
        texts[i] = cells[i]
    entries = [
        replace(entry, cells={**entry.cells, "date": text})
        for entry, text in zip(table.rows.entries, texts, strict=True)
    ]
    taken = [
        replace(one, reason=f"{one.reason}; {read.form}") if one.name == "date" and read.form else one
        for one in table.taken
    ]
    doubts = [*table.doubts, *dates.problems(read, cells, where, numbers)]
    return replace(table, taken=taken, rows=replace(table.rows, entries=entries), doubts=doubts)
