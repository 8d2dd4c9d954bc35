"""The rows of a long table while they are being computed, kept on disk so that they survive a kill.

They lie in the folder `OUT.partial`, in files that are only ever appended to: one file a rank, so that several
processes can write at once. Rows and values both carry their key and are joined by it. The same command resumes from
them. `mrm.system.table_files` writes the finished table.
"""

# Shapes: W values of a row
from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrm.system.output_folder import json_settings, open_folder, writing
from mrm.system.permissions import restricted

Row = dict[str, Any]
AGAIN = "again"  # a row with this is of an image that could not be reached: the same command tries it again


class Place(NamedTuple):
    """Where a row is: its file, and the byte at which its line starts; and whether the row has `AGAIN`."""

    part: Path
    offset: int
    again: bool


class Partial:
    """The rows of an unfinished table, each under a key; `width` float32 values go with each row."""

    def __init__(self, out: Path, width: int = 0) -> None:
        self.folder, self.width = out.with_name(f"{out.name}.partial"), width
        self.keyed = np.dtype([("key", "S16"), ("values", "<f4", (width,))])  # one record of a file of values

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Begin, or resume what the same settings left behind. One rank does this, before any other starts.

        Raises OutputError if other settings left something there, or the folder cannot be written to.
        """
        advice = "repeat the command with those settings, remove the folder, or choose another --out"
        open_folder(self.folder, json_settings("unfinished table", "settings.json", settings, advice=advice))
        with writing(self.folder):
            for part in self._parts():
                self._repair(part)
            for mark in self.folder.glob("*.whole"):
                mark.unlink()

    def places(self) -> dict[str, Place]:
        """Where each row is, by key: the last one of a key. A row whose values are not there does not count."""
        places: dict[str, Place] = {}
        for part in self._parts():
            there = self._numbers(part) if self.width else {}
            offset = 0
            with open(part, "rb") as lines:
                for line in lines:
                    key, row = json.loads(line)
                    whole = not self.width or _digest(key) in there
                    if whole and (key not in places or places[key].again):
                        places[key] = Place(part, offset, AGAIN in row)
                    offset += len(line)
        return places

    def done(self) -> set[str]:
        """The keys whose rows are final."""
        return {key for key, place in self.places().items() if not place.again}

    def add(self, rank: int, rows: Iterable[tuple[str, Row]], values: np.ndarray | None = None) -> None:
        """Append rows by key, and their values (rows, W) if the table has any, to the file of this rank. Raises OutputError."""
        part = self.folder / f"part-{rank}.jsonl"
        given = list(rows)
        with writing(self.folder), restricted():
            if values is not None:  # before the lines: a line says that its values are there
                records = np.empty(len(given), self.keyed)
                records["key"], records["values"] = [_digest(key) for key, _ in given], values
                with open(part.with_suffix(".values"), "ab") as file:
                    file.write(records.tobytes())
            with open(part, "ab") as lines:
                lines.write("".join(json.dumps([key, row]) + "\n" for key, row in given).encode())

    def close(self, rank: int) -> None:
        """Note that this rank has written all its rows."""
        with writing(self.folder):
            (self.folder / f"part-{rank}.whole").touch()

    def whole(self, ranks: int) -> bool:
        """Whether all of that many ranks have written all their rows."""
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
        numbers = {part: self._numbers(part) for part in self._parts()}
        with ExitStack() as stack:
            files = {part: stack.enter_context(open(part.with_suffix(".values"), "rb")) for part in numbers}
            for key in keys:
                part = places[key].part
                start = numbers[part][_digest(key)] * self.keyed.itemsize
                record = os.pread(files[part].fileno(), self.keyed.itemsize, start)
                yield np.frombuffer(record, self.keyed)["values"][0]

    def remove(self) -> None:
        """Remove the folder, once the table is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.jsonl"))

    def _numbers(self, part: Path) -> dict[bytes, int]:
        """The number of each whole record in a part's file of values, by its key; of two with one key the later."""
        file, size = part.with_suffix(".values"), self.keyed.itemsize
        if not file.is_file():
            return {}
        with open(file, "rb") as values:  # not mapped: a file that is cut short meanwhile would end the process
            return {os.pread(values.fileno(), 16, n * size): n for n in range(file.stat().st_size // size)}

    def _repair(self, part: Path) -> None:
        """Cut off what a kill left half-written: a line without its end, a part of a record of values."""
        with open(part, "rb") as lines:
            os.truncate(part, sum(len(line) for line in lines if line.endswith(b"\n")))
        file = part.with_suffix(".values")
        if self.width and file.is_file():
            os.truncate(file, file.stat().st_size // self.keyed.itemsize * self.keyed.itemsize)


def _digest(key: str) -> bytes:
    """A key at a fixed length: 16 hexadecimal digits."""
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest().encode()
