"""Read tables row by row as text: CSV in any of its forms, also compressed, workbooks of a spreadsheet, and Parquet.

What counts as missing in a table is decided here alone: see `stated`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from mrm.system import unpacking
from mrm.system.csv_tables import read_csv
from mrm.system.errors import ConfigError, RecordError
from mrm.system.table_form import DELIMITERS, Rows, TableForm, described, split_header
from mrm.system.text_files import INVISIBLE, spelled

SUFFIXES = (".csv", ".tsv", ".parquet", ".xlsx", ".xls", ".ods", ".gz", ".zip")  # of tables, in small letters
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # how .xlsx and .ods, and how .xls begin
MISSING = frozenset(  # in small letters: what pandas, R, SQL, spreadsheets, DICOM tools and people write for "unknown"
    (
        *("", "nan", "none", "na", "n/a", "n.a.", "<na>", "nat", "null", "nil", "\\n", "#n/a", "#null!", "#value!"),
        *("-", "--", "---", "–", "—", ".", "?", "unknown", "missing", "not available", "not stated"),
    )
)
LONGEST_MISSING = max(map(len, MISSING))
VALUE_BYTES = 8  # that a value of a table takes at least, once it is read
BATCH_ROWS = 1024  # of Parquet that are in memory at a time


def stated(text: str) -> str:
    """The text of a cell without blanks around it; empty if it is one of the words for a missing value.

    `nan`, `NaN`, `None`, `NA`, `-` and the like mean what an empty cell means, in every text column of every table.
    """
    text = text.strip()
    if len(text) > LONGEST_MISSING and text[0] not in INVISIBLE and text[-1] not in INVISIBLE:
        return text
    return "" if text.strip(INVISIBLE).strip().lower() in MISSING else text


@dataclass(frozen=True)
class Table:
    """An open table: the names of its columns, its rows as (line number, fields), and how it is read.

    `form` reads the same table again without finding anything out. `how` says it in words, `doubts` what a user should know
    of it: a guess, damaged bytes, sheets that are not read, cells with errors.
    """

    header: list[str]
    rows: Rows
    form: TableForm
    how: str
    doubts: tuple[str, ...] = ()


def open_table(path: Path, form: TableForm | None = None) -> Table:
    """Open a table of any kind, to be read as `form` says, else as is found out.

    Raises RecordError for a file that is no table, for one that is damaged, and for a form that does not fit it.
    """
    form = form or TableForm()
    if path.suffix.lower() == ".parquet":
        _check_no(path, form, "a Parquet file", "encoding", "delimiter", "sheet", "header_lines")
        return Table(*read_parquet_rows(path), form, "Parquet")
    if is_workbook(path):
        _check_no(path, form, "a workbook", "encoding", "delimiter")
        from mrm.system import workbooks

        sheet = workbooks.read_sheet(path, form.sheet, form.header_lines)
        header, rows = split_header(path, sheet.rows, form.header_lines)
        return Table(header, rows, replace(form, sheet=sheet.name), f"sheet {sheet.name}", sheet.doubts)
    if form.sheet:
        raise RecordError(f"{path}: has no sheets, as it is not a workbook; leave out --sheet {form.sheet}")
    return _open_csv(path, form)


def _open_csv(path: Path, form: TableForm) -> Table:
    rows, decoded, sign = read_csv(path, form)
    header, rows = split_header(path, rows, form.header_lines)
    if not header:
        raise RecordError(f"{path}: empty file; a header line with the names of the columns is expected")
    how, doubts = described(decoded.encoding, sign), list[str]()
    if decoded.guessed and not form.encoding:
        doubts.append(how)
    if decoded.replaced:
        doubts.append(
            f"{decoded.replaced} bytes are not {decoded.name} (first on line {decoded.first_bad_line}); they are shown as "
            "\ufffd"
        )
    return Table(
        header,
        rows,
        replace(form, encoding=spelled(decoded.encoding), delimiter=DELIMITERS.get(sign, sign)),
        how,
        tuple(doubts),
    )


def _check_no(path: Path, form: TableForm, kind: str, *names: str) -> None:
    """Raises RecordError if the form states one of these, which files of this kind do not have."""
    if stated_names := [name for name in names if getattr(form, name)]:
        option = f"--{stated_names[0].replace('_', '-')}"
        raise RecordError(f"{path}: {kind} has no {stated_names[0].replace('_', ' ')} to state; leave out {option}")


def read_rows(path: Path, form: TableForm | None = None) -> tuple[list[str], Rows]:
    """Header and (line number, fields) of a table of any kind. Warns of what is doubtful. Raises RecordError."""
    return _warned(path, open_table(path, form))


def read_csv_rows(path: Path) -> tuple[list[str], Rows]:
    """Header and (line number, fields) of a table that is a CSV whatever its name, as commands write them."""
    return _warned(path, _open_csv(path, TableForm()))


def _warned(path: Path, table: Table) -> tuple[list[str], Rows]:
    for doubt in table.doubts:
        warnings.warn(f"{path}: {doubt}", stacklevel=4)
    return table.header, table.rows


def is_workbook(path: Path) -> bool:
    """Whether the file is one of Excel or LibreOffice, which its first bytes tell, whatever its name."""
    if path.suffix.lower() == ".zip":
        return False  # a table that a publisher has compressed
    with open(path, "rb") as file:
        return file.read(4) in WORKBOOKS


# Parquet ------------------------------------------------------------------------------------------------


def read_parquet_rows(path: Path) -> tuple[list[str], Rows]:
    """Column names and (row number, fields as text) of a Parquet file; null and NaN are empty.

    Rows are read some at a time. Raises RecordError for a damaged file and for one that unpacks to far more than its
    size, the latter where the rows are consumed.
    """
    size = path.stat().st_size
    with _as_parquet_error(path):
        file = open_parquet(path, size)
        header = [str(name) for name in file.schema_arrow.names]
    return header, _parquet_rows(path, file, size)


def open_parquet(source: Path | BinaryIO, size: int, lists: Sequence[str] = ()) -> Any:
    """A Parquet file of `size` bytes, opened. Raises TooLargeError if it has far more values than bytes, and what
    pyarrow raises.

    Only the columns `lists` may hold lists, as nothing bounds the length of one before it is read.
    A run of equal values takes a few bytes however long it is; text is kept as numbers into a dictionary until it is
    asked for.
    """
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_metadata(source)
    groups = [
        metadata.row_group(i) for i in range(metadata.num_row_groups)
    ]  # not its columns: damage there ends Python
    rows = max(metadata.num_rows, sum(group.num_rows for group in groups))
    unpacked = sum(max(0, group.total_byte_size) for group in groups) + VALUE_BYTES * rows * metadata.num_columns
    unpacking.check(unpacked, size)
    columns = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    if listed := [
        column.path for column in columns if column.max_repetition_level and column.path.split(".")[0] not in lists
    ]:
        raise ValueError(f"the column {listed[0].split('.')[0]} holds lists; write them as text")
    return pyarrow.parquet.ParquetFile(source, metadata=metadata, read_dictionary=[column.path for column in columns])


def _parquet_rows(path: Path, file: Any, size: int) -> Rows:
    with _as_parquet_error(path):
        number = unpacked = 0
        for batch in file.iter_batches(BATCH_ROWS):
            unpacked += sum(_text_bytes(column) for column in batch.columns)
            unpacking.check(unpacked, size)
            columns = [column.to_pylist() for column in batch.columns]
            for row in zip(*columns, strict=True):
                number += 1
                yield number, ["" if v is None or v != v else str(v) for v in row]


def _text_bytes(column: Any) -> int:
    """The bytes that the values of a column take as text; texts that stand in a dictionary count each time."""
    import pyarrow
    import pyarrow.compute

    if not pyarrow.types.is_dictionary(column.type):
        return int(column.nbytes)
    lengths = pyarrow.compute.binary_length(column.dictionary)
    return int(pyarrow.compute.sum(pyarrow.compute.take(lengths, column.indices)).as_py() or 0)


@contextmanager
def _as_parquet_error(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises for damaged files, of which there are a dozen kinds, into a RecordError."""
    try:
        yield
    except (RecordError, ConfigError, GeneratorExit):
        raise
    except unpacking.TooLargeError as error:
        raise RecordError(f"{path}: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RecordError(
            f"{path}: not a Parquet file, a damaged one, or text that is not UTF-8 ({reason}); write it again"
        ) from error
