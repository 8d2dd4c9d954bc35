"""The rows of a long table while they are being computed, kept on disk so that they survive a kill.

They lie in the folder `OUT.partial`, in files that are only ever appended to: one file a share of the work, so that
several processes can write at once. A line has the rows of one batch, so that a batch is there as a whole or not at all. Rows
and values both carry their key and are joined by it. The same command resumes from them. `mrm.system.table_files` writes the
finished table.
"""

# Shapes: W values of a row
from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrm.system.errors import OutputError
from mrm.system.files import as_json, write_whole
from mrm.system.lock import LOCK, in_turn
from mrm.system.output_folder import json_settings, make_folder, open_folder, writing
from mrm.system.permissions import restricted
from mrm.system.shares import WHOLE, Share

Row = dict[str, Any]
VERSION = 2  # of the files
SETTINGS, KEYS, MERGED = "settings.json", "images", "merged.json"
AGAIN = "again"  # a row with this is of an image that could not be reached: the same command tries it again


class Place(NamedTuple):
    """Where a row is: its file, the byte at which its line starts, and its number there; and whether it has `AGAIN`."""

    part: Path
    offset: int
    number: int
    again: bool


class Partial:
    """The rows of an unfinished table, each under a key; `width` float32 values go with each row.

    This process writes those of its `share`, and reads those of all.
    """

    def __init__(self, out: Path, width: int = 0, share: Share = WHOLE) -> None:
        self.folder, self.width = out.with_name(f"{out.name}.partial"), width
        self.keyed = np.dtype([("key", "S16"), ("values", "<f4", (width,))])  # one record of a file of values
        self.part = self.folder / f"part-{share.label}.jsonl"

    def begin(self, settings: Mapping[str, Any], keys: str = "", other_keys: bool = True) -> None:
        """Begin, or resume what the same settings left behind. No other process may hold the same share.

        `keys` is a digest of all keys; rows of other keys are only resumed with `other_keys`. Raises OutputError if
        something else is there, or the folder cannot be written to.
        """
        advice = "repeat the command with those settings, remove the folder, or choose another --out"
        make_folder(self.folder)
        with writing(self.folder):
            with in_turn(self.folder / LOCK):
                stated = {"version": VERSION, **settings}
                open_folder(self.folder, json_settings("unfinished table", SETTINGS, stated, advice=advice))
                self._agree(keys, other_keys)
            self._repair()

    def _agree(self, keys: str, other_keys: bool) -> None:
        note = self.folder / KEYS
        if note.is_file() and note.read_text() != keys and not other_keys:
            raise OutputError(
                f"{self.folder}: holds rows of another list of images; give every share of the command the same images, or "
                "remove the folder to begin anew"
            )
        write_whole(note, keys.encode())

    @property
    def begun(self) -> Path:
        """The file that is there once a share has begun."""
        return self.folder / SETTINGS

    def places(self) -> dict[str, Place]:
        """Where each row is, by key: the last one of a key. A row whose values are not there does not count."""
        places: dict[str, Place] = {}
        for part in self._parts():
            there = self._numbers(part) if self.width else {}
            for offset, batch in self._batches(part):
                for number, (key, row) in enumerate(batch):
                    whole = not self.width or _digest(key) in there
                    if whole and (key not in places or places[key].again):
                        places[key] = Place(part, offset, number, AGAIN in row)
        return places

    def done(self) -> set[str]:
        """The keys whose rows are final."""
        return {key for key, place in self.places().items() if not place.again}

    def add(self, rows: Iterable[tuple[str, Row]], values: np.ndarray | None = None) -> None:
        """Append a batch of rows by key, and their values (rows, W) if the table has any. Raises OutputError."""
        given = list(rows)
        with writing(self.folder), restricted():
            if values is not None:  # before the line, which says that its values are there
                records = np.empty(len(given), self.keyed)
                records["key"], records["values"] = [_digest(key) for key, _ in given], values
                with open(self.part.with_suffix(".values"), "ab") as file:
                    file.write(records.tobytes())
            with open(self.part, "ab") as lines:
                lines.write(json.dumps(given).encode() + b"\n")

    def rows(self, keys: Iterable[str]) -> Iterator[Row]:
        """The rows of `keys`, in that order, one in memory at a time."""
        places = self.places()
        with ExitStack() as stack:
            files = {part: stack.enter_context(open(part, "rb")) for part in self._parts()}
            at, batch = None, []
            for key in keys:
                place = places[key]
                if (place.part, place.offset) != at:  # the rows of a batch mostly follow each other
                    files[place.part].seek(place.offset)
                    at, batch = (place.part, place.offset), json.loads(files[place.part].readline())
                yield batch[place.number][1]

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

    @contextmanager
    def merging(self) -> Iterator[bool]:
        """Inside the block no other share puts the table together. Yields whether that is still to be done."""
        with in_turn(self.folder.with_name(f".{self.folder.name}{LOCK}")):
            note = self.folder / MERGED
            yield bool(self._parts()) and not (note.is_file() and note.read_text() == self._state())

    def keep(self) -> None:
        """Keep the rows though the table is written, for a command that resumes from them."""
        with writing(self.folder):
            write_whole(self.folder / MERGED, self._state().encode())

    def remove(self) -> None:
        """Remove the folder, once the table is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _state(self) -> str:
        """What the table that these rows give depends on."""
        return as_json([(self.folder / KEYS).read_text(), *([p.name, p.stat().st_size] for p in self._parts())])

    def shares(self) -> list[str]:
        """The shares that have written rows here: ["2-of-8"]."""
        return [part.stem.removeprefix("part-") for part in self._parts()]

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.jsonl"))

    def _batches(self, part: Path) -> Iterator[tuple[int, list[tuple[str, Row]]]]:
        """The byte at which each line of a part starts, and its rows. What another share is just writing is left out."""
        offset = 0
        with open(part, "rb") as lines:
            for line in lines:
                with suppress(ValueError):  # a line that a disk has damaged is computed again
                    if line.endswith(b"\n"):
                        yield offset, json.loads(line)
                offset += len(line)

    def _numbers(self, part: Path) -> dict[bytes, int]:
        """The number of each whole record in a part's file of values, by its key; of two with one key the later."""
        file, size = part.with_suffix(".values"), self.keyed.itemsize
        if not file.is_file():
            return {}
        with open(file, "rb") as values:  # not mapped: a file that is cut short meanwhile would end the process
            return {os.pread(values.fileno(), 16, n * size): n for n in range(file.stat().st_size // size)}

    def _repair(self) -> None:
        """Cut off what a kill left half-written by this share: a line without its end, a part of a record of values."""
        if not self.part.is_file():
            return
        with open(self.part, "rb") as lines:
            os.truncate(self.part, sum(len(line) for line in lines if line.endswith(b"\n")))
        file = self.part.with_suffix(".values")
        if self.width and file.is_file():
            os.truncate(file, file.stat().st_size // self.keyed.itemsize * self.keyed.itemsize)


def _digest(key: str) -> bytes:
    """A key at a fixed length: 16 hexadecimal digits."""
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest().encode()
