"""What an export is: its tables, what each column is taken for, and how rows, images, labels and reports belong together.

A description is read from a YAML file (`--config`), completed from what the tables and the headers hold, and written as
`description.yaml`, so that the next export of the same form is one command. What it leaves empty is found out anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mrm.corpora.custom import values
from mrm.corpora.options import KEYS, Options, check_join_by
from mrm.data.dates import DateOrder
from mrm.data.record import RESERVED
from mrm.system.errors import RecordError
from mrm.system.table_form import TableForm
from mrm.system.yaml_files import read_yaml, to_yaml

FILE = "description.yaml"
TEXT_TABLES = (".csv", ".csv.gz", ".tsv", ".txt")
COLUMNS = (*dict.fromkeys((*RESERVED, *KEYS)), "date", "sex", "age", "split")  # what a column can be taken for


@dataclass(frozen=True)
class Table:
    """A table of the export: a file, how it is read, and our names for its columns."""

    file: str  # relative to the source if it is inside, else its whole path
    sheet: str = ""  # of a workbook; empty: the first with content
    encoding: str = ""  # empty: by its bytes
    delimiter: str = ""  # comma, semicolon, tab, bar or a sign; empty: by its header
    header_lines: str = (
        ""  # the line with the names of the columns, such as 2, or several, such as 1-2; empty: the first
    )
    columns: dict[str, str] = field(default_factory=dict)  # our name: its column
    labels: tuple[str, ...] = ()  # the columns of labels

    def __post_init__(self) -> None:
        TableForm(self.encoding, self.delimiter, self.sheet, self.header_lines)

    @property
    def form(self) -> TableForm:
        """How the file is read. Raises RecordError for a form that there is not."""
        return TableForm(self.encoding, self.delimiter, self.sheet, self.header_lines)


@dataclass(frozen=True)
class Labels:
    """How the cells of label columns are read."""

    classes: tuple[str, ...] = ()  # the classes, in their order
    values: dict[str, str] = field(default_factory=dict)  # word: 1 present, 0 absent, -1 uncertain, empty not stated
    column: str = ""  # the column that names the findings, where classes have no columns of their own
    separator: str = ""  # between findings in one cell: a sign or its name, "none" if a cell has one; empty: found out

    def __post_init__(self) -> None:
        values.declared(self.values)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the tables that hold labels."""
        return (self.column,) if self.column else self.classes


@dataclass(frozen=True)
class Reports:
    """How the texts of reports are read."""

    sections: tuple[str, ...] = ()  # those to keep; empty: all of the text
    folder: str = ""  # of files named by an accession, or of HL7 messages; relative to the source if it is inside
    encoding: str = ""  # of files of text; empty: by their bytes
    remove_shared_lines: bool = False  # a letterhead and a signature, which at least half of the reports share


@dataclass(frozen=True)
class Description:
    """An export, see the top of this file. `join_by` names the column by which rows find their images."""

    tables: tuple[Table, ...] = ()
    join_by: str = ""  # empty: by the most specific column that fits
    within_days: int = 0  # patient_id+date: how far the date of a row may be from that of the study
    loose_keys: bool = False  # whether keys match without regard to blanks, upper case and leading zeros
    date_order: DateOrder | None = None  # of dates such as 03/04/2024; null: as the column itself tells
    labels: Labels = field(default_factory=Labels)
    reports: Reports = field(default_factory=Reports)

    def __post_init__(self) -> None:
        if self.within_days < 0:
            raise RecordError(f"within_days {self.within_days}: give 0 or more")
        check_join_by(self.join_by)
        for table in self.tables:
            check_names(table.columns, table.file)

    def to_yaml(self) -> str:
        """The text of `description.yaml`, which `read` reads back."""
        return to_yaml(self)


def check_names(columns: Mapping[str, str], where: str) -> None:
    """Raises RecordError for a name that no column can be taken for."""
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise RecordError(f"{where}: unknown name {', '.join(unknown)}; choose from {', '.join(COLUMNS)}")


def read(file: Path) -> Description:
    """The description in a YAML file. Raises ConfigError that names the setting that is wrong."""
    return read_yaml(Description, file)


def asked(source: Path, tables: Sequence[Path], options: Options) -> Description:
    """The description that the options ask for: that of `--config`, with the tables and settings of other options.

    `--sheet` and `--header-lines` concern the first table, `--encoding` and `--delimiter` each that is text. A table takes the place of the one of the same number in the file, and keeps its columns. Raises RecordError.
    """
    description = read(options.config) if options.config else Description()
    check_names(options.columns, "--columns")
    described = [*description.tables, *[Table("")] * len(tables)]
    if tables:
        described = [replace(old, file=place_of(source, new)) for old, new in zip(described, tables, strict=False)]
    described = [_with_form(table, number, options) for number, table in enumerate(described)]
    return replace(
        description,
        tables=tuple(described),
        join_by=options.join_by or description.join_by,
        date_order=options.date_order or description.date_order,
        within_days=options.within_days or description.within_days,
        loose_keys=options.loose_keys or description.loose_keys,
        labels=Labels(
            options.classes or description.labels.classes,
            {**description.labels.values, **options.values},
            options.label_column or description.labels.column,
            options.label_separator or description.labels.separator,
        ),
        reports=_reports(source, description.reports, options),
    )


def _reports(source: Path, described: Reports, options: Options) -> Reports:
    return Reports(
        options.sections or described.sections,
        place_of(source, options.reports) if options.reports else described.folder,
        options.encoding or described.encoding,
        options.remove_shared_lines or described.remove_shared_lines,
    )


def _with_form(table: Table, number: int, options: Options) -> Table:
    """The table, to be read as the options say; `number` counts the tables from 0."""
    form: dict[str, Any] = {}
    if number == 0:
        form |= {"sheet": options.sheet, "header_lines": options.header_lines}
    if Path(table.file).name.lower().endswith(TEXT_TABLES):
        form |= {"encoding": options.encoding, "delimiter": options.delimiter}
    return replace(table, **{name: value for name, value in form.items() if value})


def place_of(source: Path, table: Path) -> str:
    """How a description names a table: relative to the source if it is inside."""
    file, root = table.absolute(), source.absolute()
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
