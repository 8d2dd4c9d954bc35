"""Tables of results as CSV, JSON, JSON lines or Parquet: the suffix of the file decides.

Rows are written one after the other, so that a table may be longer than the memory. Columns have a type (`str`, `float`,
`int`), or the number of values of a list of float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrm.system.errors import RecordError
from mrm.system.files import Row, cells, plain, write_by, write_csv
from mrm.system.output_folder import writing

PARQUET_TYPES = {str: "string", float: "float64", int: "int64"}
ROW_GROUP = 1000  # rows of Parquet that are in memory at a time
SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
FEATURE_SUFFIXES = (".npy", ".parquet")  # of features, which are arrays


def check_suffix(path: Path, known: Sequence[str] = SUFFIXES) -> str:
    """The suffix of a table, or another file, that is to be written. Raises RecordError if it is not one of `known`."""
    if path.suffix not in known:
        raise RecordError(
            f"{path}: unknown suffix {path.suffix!r}; choose a name for --out that ends in {', '.join(known)}"
        )
    if path.is_dir():
        raise RecordError(f"{path}: is a folder, but --out must name a file; choose another --out")
    return path.suffix


def write_table(
    path: Path, columns: Mapping[str, Any], rows: Iterable[Row], facts: Mapping[str, Any] | None = None
) -> Path:
    """Write a table in the format that the suffix of `path` names. Returns `path`.

    A value that is None or missing is empty, in JSON null as NaN is. `facts` are kept in the metadata of Parquet, under "mrm". Raises
    RecordError for an unknown suffix and OutputError where the file cannot be written.
    """
    writers: dict[str, Callable[[], Path]] = {
        ".csv": lambda: write_csv(path, columns, rows),
        ".json": lambda: _write_json_list(path, columns, rows),
        ".jsonl": lambda: _write_json_lines(path, columns, rows),
        ".parquet": lambda: write_parquet(path, columns, rows, facts),
    }
    write = writers[check_suffix(path)]
    with writing(path):
        return write()


def _write_json_list(path: Path, columns: Iterable[str], rows: Iterable[Row]) -> Path:
    names = list(columns)

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("[")
            for number, row in enumerate(rows):
                file.write(("\n" if number == 0 else ",\n") + _json_line(names, row))
            file.write("\n]\n")

    return write_by(path, write)


def _write_json_lines(path: Path, columns: Iterable[str], rows: Iterable[Row]) -> Path:
    names = list(columns)

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(_json_line(names, row) + "\n" for row in rows)

    return write_by(path, write)


def _json_line(columns: Sequence[str], row: Row) -> str:
    values = dict(zip(columns, cells(columns, row), strict=True))
    return json.dumps(plain(values), ensure_ascii=False, allow_nan=False)


def write_parquet(
    path: Path, columns: Mapping[str, Any], rows: Iterable[Row], facts: Mapping[str, Any] | None = None
) -> Path:
    """Write a Parquet file with columns of the given types. Returns `path`. Raises OSError."""
    import pyarrow
    import pyarrow.parquet

    names = list(columns)
    schema = pyarrow.schema([(name, _parquet_type(kind)) for name, kind in columns.items()])
    if facts is not None:
        schema = schema.with_metadata({"mrm": json.dumps(dict(facts))})

    def write(temporary: Path) -> None:
        with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
            for group in _row_groups(rows):
                columns = list(zip(*(cells(names, row) for row in group), strict=True)) or [()] * len(schema)
                arrays = [pyarrow.array(c, field.type) for c, field in zip(columns, schema, strict=True)]
                writer.write_table(pyarrow.table(arrays, schema=schema))

    return write_by(path, write)


def _parquet_type(kind: Any) -> Any:
    """A column's type in Parquet; a whole number stands for a list of that many float32 values."""
    import pyarrow

    if isinstance(kind, int):
        return pyarrow.list_(pyarrow.float32(), kind)
    return pyarrow.type_for_alias(PARQUET_TYPES[kind])


def _row_groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """The rows in lists of at most `ROW_GROUP`; one empty list if there are none, since that table has columns too."""
    group: list[Row] = []
    first = True
    for row in rows:
        group.append(row)
        if len(group) == ROW_GROUP:
            yield group
            group, first = [], False
    if group or first:
        yield group
