"""Read tables of text row by row: CSV in any of its forms, also compressed, workbooks of a spreadsheet, and Parquet.

What counts as missing in a table is decided here alone: see `stated`.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mrm.system import unpacking
from mrm.system.errors import ConfigError, RecordError
from mrm.system.spreadsheet_cells import unguarded
from mrm.system.text_files import INVISIBLE, encoding_of

Rows = Iterator[tuple[int, list[str]]]  # line number and fields
SUFFIXES = (".csv", ".tsv", ".parquet", ".xlsx", ".xls", ".ods", ".gz", ".zip")  # of tables, in small letters
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # how .xlsx and .ods, and how .xls begin
MISSING = frozenset(  # in small letters: what pandas, R, SQL, spreadsheets, DICOM tools and people write for "unknown"
    (
        *("", "nan", "none", "na", "n/a", "n.a.", "<na>", "nat", "null", "nil", "\\n", "#n/a", "#null!", "#value!"),
        *("-", "--", "---", "–", "—", ".", "?", "unknown", "missing", "not available", "not stated"),
    )
)
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
LONGEST_HEADER = 1_000_000  # characters of the names of the columns
ENCRYPTED = 1  # the bit of a zip archive's flags
VALUE_BYTES = 8  # that a value of a table takes at least, once it is read
BATCH_ROWS = 1024  # of Parquet that are in memory at a time


def stated(text: str) -> str:
    """The text of a cell without blanks around it; empty if it is one of the words for a missing value.

    `nan`, `NaN`, `None`, `NA`, `-` and the like mean what an empty cell means, in every text column of every table.
    """
    text = text.strip()
    return "" if text.strip(INVISIBLE).strip().lower() in MISSING else text


def read_rows(path: Path, sheet: str = "") -> tuple[list[str], Rows]:
    """Header and (line number, fields) of a table of any kind; `sheet` names that of a workbook, by default the first.

    Raises RecordError for a file that is no table, or that is damaged.
    """
    if path.suffix.lower() == ".parquet":
        return read_parquet_rows(path)
    if is_workbook(path):
        from mrm.system import workbooks

        return workbooks.read_sheet_rows(path, sheet)
    if sheet:
        raise RecordError(f"{path}: has no sheets, as it is not a workbook; leave out --sheet {sheet}")
    return read_csv_rows(path)


def is_workbook(path: Path) -> bool:
    """Whether the file is one of Excel or LibreOffice, which its first bytes tell, whatever its name."""
    if path.suffix.lower() == ".zip":
        return False  # a table that a publisher has compressed
    with open(path, "rb") as file:
        return file.read(4) in WORKBOOKS


# CSV ----------------------------------------------------------------------------------------------------


def read_csv_rows(path: Path) -> tuple[list[str], Rows]:
    """Header and (line number, fields) of a CSV: spaces after commas and quoted line breaks allowed.

    Text is UTF-8, or UTF-16 or UTF-32 as spreadsheets save it. Columns may be separated by semicolons, tabs or upright
    bars, as the header shows. Cells that were guarded against a spreadsheet come back as they were. The file may be
    compressed: `.gz`, or the only file in a `.zip`, as publishers distribute them. Bytes that are not UTF-8 become
    U+FFFD, with a warning that counts them and names the first line.
    """
    raw = _decompressed(path)
    encoding = encoding_of(raw)
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        text = raw.decode(encoding, errors="replace")
        bad = text.count("\ufffd")
        line = raw[: error.start].count(b"\n") + 1
        name = "UTF-8" if encoding == "utf-8-sig" else encoding.upper()
        warnings.warn(
            f"{path}: {bad} bytes are not {name} (first on line {line}); they are shown as \ufffd", stacklevel=3
        )
    first = LINE.search(text)
    if first and len(first[0]) > LONGEST_HEADER:
        raise RecordError(f"{path}: its first line has {len(first[0]):,} characters; a table with a header is expected")
    rows = _csv_rows(path, text)
    _, header = next(rows, (0, []))
    if not header:
        raise RecordError(f"{path}: empty file; a header line with the names of the columns is expected")
    return [h.strip().strip(INVISIBLE) for h in header], rows


def _csv_rows(path: Path, text: str) -> Rows:
    """(first line, fields) of each record; blank records are left out.

    A quote that is never closed would silently swallow the rest of the file; an end mark shows whether one is open.
    """
    end = "\x04end of file\x04"
    csv.field_size_limit(2**31 - 1)
    lines = (match[0] for match in LINE.finditer(text))  # one at a time, as a copy of the text in UCS-4 is large
    delimiter, before = _delimiter(text)
    records = itertools.chain(itertools.islice(lines, before, None), ["\n", end])
    reader = csv.reader(records, delimiter=delimiter, skipinitialspace=True)
    line = before + 1
    for row in reader:
        if row and row[-1].endswith(f"\n{end}"):
            raise RecordError(
                f"{path}: line {line}: a quote opens there and is never closed; close it, or double it if it is part of the text"
            )
        if row != [end] and any(cell.strip() for cell in row):
            yield line, [unguarded(cell) for cell in row]
        line = before + reader.line_num + 1


def _delimiter(text: str) -> tuple[str, int]:
    """What separates the columns, by the first line, and how many lines come before the header.

    Excel writes semicolons where the comma separates decimals, and may say so in a line `sep=;` before the header.
    """
    first = re.search(r"[^\r\n]+", text)
    if first is None:
        return ",", 0
    if match := re.fullmatch(r'"?sep=(.)"?', first[0], re.IGNORECASE):
        return match[1], len(LINE.findall(text[: first.start()])) + 1
    unquoted = re.sub(r'"[^"]*"', "", first[0])
    best = max(",;\t|", key=unquoted.count)  # the first of equals
    return ("," if "," in unquoted else best), 0


def _decompressed(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return unpacking.read_bounded(file, size)
        if path.suffix != ".zip":
            return path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise RecordError(f"{path}: expected one table, found {len(names)} files; unpack the archive")
            if archive.getinfo(names[0]).flag_bits & ENCRYPTED:
                raise RecordError(f"{path}: encrypted; unpack it with its password and give the table inside")
            return unpacking.read_member(archive, names[0], size)
    except unpacking.TooLargeError as error:
        raise RecordError(f"{path}: {error}") from None
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except unpacking.ARCHIVE_ERRORS as error:
        raise RecordError(f"{path}: damaged archive ({error}); download it again") from None


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
