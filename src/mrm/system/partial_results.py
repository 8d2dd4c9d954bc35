"""Long tables, made a few rows at a time: they survive a kill, and end as CSV, JSON, JSON lines or Parquet.

`Partial` keeps what is there so far in the folder `OUT.partial`, in files that are only ever appended to; the same
command again goes on from them. Several processes write a file each. `write_table` makes the table in the end, row
by row, under a temporary name that is then renamed: OUT is there whole or not at all.
"""

# Shapes: W values of a row
from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrm.system.errors import RecordError
from mrm.system.tables import write_whole

TYPES = {str: "string", float: "float64", int: "int64"}  # of columns, as Parquet calls them
CHUNK = 1000  # rows of Parquet in memory
Row = dict[str, Any]


class Place(NamedTuple):
    """Where a row is: its file, the byte its line starts at, and its number in that file."""

    part: Path
    offset: int
    number: int


class Partial:
    """The rows of a table that are there so far, each under a key; `width` float32 values go with each row."""

    def __init__(self, out: Path, width: int = 0) -> None:
        self.folder, self.width = out.with_name(f"{out.name}.partial"), width

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Begin, or go on with what the same settings left. One process does this, before any other starts.

        Raises RecordError where other settings left something, or the folder cannot be written to.
        """
        file = self.folder / "settings.json"
        if file.is_file():
            before = json.loads(file.read_text())
            names = [k for k in {**before, **settings} if before.get(k) != settings.get(k)]
            changed = [f"{k} was {before.get(k)!r} and is now {settings.get(k)!r}" for k in names]
            if changed:
                raise RecordError(
                    f"{self.folder}: holds the beginning of another table ({'; '.join(changed)}); give that command "
                    "again, remove the folder, or choose another --out"
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise RecordError(f"{self.folder}: is in the way and no unfinished table; move it, or choose another --out")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(dict(settings), indent=2).encode())
            for part in self._parts():
                self._mend(part)
            for mark in self.folder.glob("*.whole"):
                mark.unlink()
        except OSError as error:
            raise RecordError(f"{self.folder}: cannot be written to ({error}); choose another --out") from error

    def places(self) -> dict[str, Place]:
        """Where each row is, by key."""
        found = {}
        for part in self._parts():
            offset = 0
            with open(part, "rb") as lines:
                for number, line in enumerate(lines):
                    found[json.loads(line)[0]] = Place(part, offset, number)
                    offset += len(line)
        return found

    def add(self, rank: int, rows: Iterable[tuple[str, Row]], values: np.ndarray | None = None) -> None:
        """Append rows by key, and their values (rows, W) if the table has any, to this process's file."""
        part = self.folder / f"part-{rank}.jsonl"
        if values is not None:  # before the lines: a line says that its values are there
            with open(part.with_suffix(".f32"), "ab") as numbers:
                numbers.write(np.ascontiguousarray(values, dtype="<f4").tobytes())
        with open(part, "ab") as lines:
            lines.write("".join(json.dumps([key, row]) + "\n" for key, row in rows).encode())

    def close(self, rank: int) -> None:
        """Say that this process has written all it has to."""
        (self.folder / f"part-{rank}.whole").touch()

    def whole(self, ranks: int) -> bool:
        """Whether that many processes have written all they have to."""
        return all((self.folder / f"part-{rank}.whole").is_file() for rank in range(ranks))

    def rows(self, keys: Iterable[str]) -> Iterator[Row]:
        """The rows of `keys`, in that order, one in memory at a time."""
        places = self.places()
        with ExitStack() as stack:
            files = {part: stack.enter_context(open(part, "rb")) for part in self._parts()}
            for key in keys:
                place = places[key]
                files[place.part].seek(place.offset)
                yield json.loads(files[place.part].readline())[1]

    def values(self, keys: Iterable[str]) -> Iterator[np.ndarray]:
        """The values (W,) of `keys`, in that order."""
        places = self.places()
        maps: dict[Path, np.ndarray] = {}
        for key in keys:
            place = places[key]
            if place.part not in maps:
                flat = np.memmap(place.part.with_suffix(".f32"), "<f4", "r")
                maps[place.part] = flat.reshape(-1, self.width)
            yield maps[place.part][place.number]

    def remove(self) -> None:
        """Remove the folder: the table is there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.jsonl"))

    def _mend(self, part: Path) -> None:
        """Cut off what a kill left half written: a line without its end, values without their line."""
        ends = []
        with open(part, "rb") as lines:
            ends = [len(line) for line in lines if line.endswith(b"\n")]
        count, file = len(ends), part.with_suffix(".f32")
        if self.width:
            count = min(count, file.stat().st_size // (4 * self.width) if file.is_file() else 0)
            if file.is_file():
                os.truncate(file, 4 * self.width * count)
        os.truncate(part, sum(ends[:count]))


# Tables -----------------------------------------------------------------------------------------------


def check_suffix(path: Path, more: Sequence[str] = ()) -> str:
    """The suffix of a table that is to be written. Raises RecordError for one that no table has."""
    known = [*WRITERS, *more]
    if path.suffix not in known:
        raise RecordError(f"{path}: a table ends in {', '.join(known)}; choose another name for --out")
    if path.is_dir():
        raise RecordError(f"{path}: is a folder; a table is to be written, choose another --out")
    return path.suffix


def write_table(
    path: Path, columns: Mapping[str, type], rows: Iterable[Row], facts: Mapping[str, Any] | None = None
) -> Path:
    """Write rows by the suffix of `path`: .csv, .json (one list), .jsonl (a line each) or .parquet.

    `columns` are their names and types in order (str, float, int); what is None or missing is empty. `facts` go into
    Parquet's metadata, under "mrm". Raises RecordError where it cannot be written; what was there is kept then.
    """
    return write_by(path, lambda file: WRITERS[check_suffix(path)](file, columns, rows, facts or {}))


def write_by(path: Path, write: Callable[[Path], object]) -> Path:
    """A file as `write` writes it, there whole or not at all. Raises RecordError where it cannot be written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise RecordError(f"{path}: cannot be written ({error}); what was there is kept") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _write_csv(path: Path, columns: Mapping[str, type], rows: Iterable[Row], _: Mapping[str, Any]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)


def _write_json(path: Path, columns: Mapping[str, type], rows: Iterable[Row], _: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write("[")
        for number, row in enumerate(rows):
            file.write(("\n" if number == 0 else ",\n") + _as_json(columns, row))
        file.write("\n]\n")


def _write_lines(path: Path, columns: Mapping[str, type], rows: Iterable[Row], _: Mapping[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(_as_json(columns, row) + "\n" for row in rows)


def _as_json(columns: Mapping[str, type], row: Row) -> str:
    return json.dumps({c: row.get(c) for c in columns}, ensure_ascii=False)


def _write_parquet(path: Path, columns: Mapping[str, type], rows: Iterable[Row], facts: Mapping[str, Any]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, _parquet_type(kind)) for name, kind in columns.items()])
    schema = schema.with_metadata({"mrm": json.dumps(dict(facts))})
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for chunk in chunks(rows, CHUNK):
            arrays = [pyarrow.array([r.get(f.name) for r in chunk], f.type) for f in schema]
            writer.write_table(pyarrow.table(arrays, schema=schema))


def _parquet_type(kind: Any) -> Any:
    """A column's type in Parquet; a whole number stands for a list of that many float32."""
    import pyarrow

    if isinstance(kind, int):
        return pyarrow.list_(pyarrow.float32(), kind)
    return pyarrow.type_for_alias(TYPES[kind])


def chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Lists of at most `size` rows, and never none: a table without rows has columns too."""
    held: list[Row] = []
    empty = True
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield held
            held, empty = [], False
    if held or empty:
        yield held


WRITERS: dict[str, Callable[[Path, Mapping[str, Any], Iterable[Row], Mapping[str, Any]], None]] = {
    ".csv": _write_csv,
    ".json": _write_json,
    ".jsonl": _write_lines,
    ".parquet": _write_parquet,
}
