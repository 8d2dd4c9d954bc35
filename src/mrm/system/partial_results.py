"""The rows of a long table while they are being computed, kept on disk so that they survive a kill.

They lie in the folder `OUT.partial`, in files that are only ever appended to: one file a rank, so that several
processes can write at once. The same command resumes from them. `mrm.system.table_files` writes the finished table.
"""

# Shapes: W values of a row
from __future__ import annotations

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


class Place(NamedTuple):
    """Where a row is: its file, the byte at which its line starts, and its number in that file."""

    part: Path
    offset: int
    number: int


class Partial:
    """The rows of an unfinished table, each under a key; `width` float32 values go with each row."""

    def __init__(self, out: Path, width: int = 0) -> None:
        self.folder, self.width = out.with_name(f"{out.name}.partial"), width

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
        """Where each row is, by key."""
        places = {}
        for part in self._parts():
            offset = 0
            with open(part, "rb") as lines:
                for number, line in enumerate(lines):
                    places[json.loads(line)[0]] = Place(part, offset, number)
                    offset += len(line)
        return places

    def add(self, rank: int, rows: Iterable[tuple[str, Row]], values: np.ndarray | None = None) -> None:
        """Append rows by key, and their values (rows, W) if the table has any, to the file of this rank."""
        part = self.folder / f"part-{rank}.jsonl"
        with restricted():
            if values is not None:  # before the lines: a line says that its values are there
                with open(part.with_suffix(".f32"), "ab") as numbers:
                    numbers.write(np.ascontiguousarray(values, dtype="<f4").tobytes())
            with open(part, "ab") as lines:
                lines.write("".join(json.dumps([key, row]) + "\n" for key, row in rows).encode())

    def close(self, rank: int) -> None:
        """Note that this rank has written all its rows."""
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
        maps: dict[Path, np.ndarray] = {}
        for key in keys:
            place = places[key]
            if place.part not in maps:
                flat = np.memmap(place.part.with_suffix(".f32"), "<f4", "r")
                maps[place.part] = flat.reshape(-1, self.width)
            yield maps[place.part][place.number]

    def remove(self) -> None:
        """Remove the folder, once the table is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.jsonl"))

    def _repair(self, part: Path) -> None:
        """Cut off what a kill left half-written: a line without its end, values without their line."""
        with open(part, "rb") as lines:
            lengths = [len(line) for line in lines if line.endswith(b"\n")]
        count, file = len(lengths), part.with_suffix(".f32")
        if self.width:
            count = min(count, file.stat().st_size // (4 * self.width) if file.is_file() else 0)
            if file.is_file():
                os.truncate(file, 4 * self.width * count)
        os.truncate(part, sum(lengths[:count]))
