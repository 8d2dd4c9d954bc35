"""Read tables of text row by row: CSV, also compressed, and Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from mrm.system.errors import RecordError
from mrm.system.spreadsheet_cells import unguarded


def read_csv_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Header and (line number, fields) of a CSV: UTF-8, spaces after commas and quoted line breaks allowed.

    Cells that were guarded against a spreadsheet come back as they were. The file may be compressed: `.gz`, or the only
    file in a `.zip`, as publishers distribute them. Bytes that are not UTF-8 become U+FFFD, with a warning that counts
    them and names the first line.
    """
    raw = _decompressed(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        text = raw.decode("utf-8-sig", errors="replace")
        bad = text.count("\ufffd")
        line = raw[: error.start].count(b"\n") + 1
        warnings.warn(
            f"{path}: {bad} bytes are not UTF-8 (first on line {line}); they are shown as \ufffd", stacklevel=3
        )
    rows = _csv_rows(path, text)
    _, header = next(rows, (0, []))
    if not header:
        raise RecordError(f"{path}: empty file; a header line with the column image_path is expected")
    return [h.strip() for h in header], rows


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """(first line, fields) of each record; blank records are left out.

    A quote that is never closed would silently swallow the rest of the file; an end mark shows whether one is open.
    """
    end = "\x04end of file\x04"
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(f"{text}\n{end}", newline=""), skipinitialspace=True)
    line = 1
    for row in reader:
        if row and row[-1].endswith(f"\n{end}"):
            raise RecordError(
                f"{path}: line {line}: a quote opens there and is never closed; close it, or double it if it is part of the text"
            )
        if row != [end] and any(cell.strip() for cell in row):
            yield line, [unguarded(cell) for cell in row]
        line = reader.line_num + 1


def read_parquet_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Column names and (row number, fields as text) of a Parquet file; null and NaN are empty."""
    import pyarrow
    import pyarrow.parquet

    try:
        columns = pyarrow.parquet.read_table(path).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise RecordError(f"{path}: not a Parquet file, or a damaged one ({error})") from error
    rows = zip(*columns.values(), strict=True)
    return list(columns), enumerate((["" if v is None or v != v else str(v) for v in row] for row in rows), 1)


def _decompressed(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            return gzip.decompress(path.read_bytes())
        if path.suffix != ".zip":
            return path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise RecordError(f"{path}: expected one table, found {len(names)} files; unpack the archive")
            return archive.read(names[0])
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise RecordError(f"{path}: damaged archive ({error}); download it again") from None
