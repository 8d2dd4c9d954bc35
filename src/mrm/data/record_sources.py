"""What the mapped records of a run are converted from, a table or a shard folder, and whether it is still what it was.

A table is taken for the same if its path, its size, and the times of its last change and of the last change of its entry in
the file system are the same; if they are not, or were less than two seconds before it was read, its content is read, and its
checksum decides. A shard folder is the same as long as the text of its index is, which has the checksums of all its files.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from mrm.data import shards
from mrm.data.record import RESERVED, Record
from mrm.data.shard_rows import Part, parts
from mrm.data.shards import ShardFile, ShardFolder
from mrm.data.table_records import check_columns, records_of, require_table
from mrm.system import object_store
from mrm.system.tables import open_table

RECENT = 2.0  # seconds within which some file systems give two changes the same time
CHUNK = 1 << 22  # bytes that are read at a time

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class SourceState:
    """A table or a shard folder as it was when it was read."""

    path: str
    stamp: Stamp  # its size, and when its content and its entry in the file system last changed, in nanoseconds
    read_at: float  # seconds
    checksum: str


class Opened(NamedTuple):
    """The records of a source, to be read once; `problems` then has what is wrong with lines that hold no record."""

    classes: tuple[str, ...]
    extras: list[str]  # names of the further columns
    doubts: Sequence[str]  # what a user should know of how it is read
    problems: list[str]
    records: Iterator[Record]


class Source(Protocol):
    """What records are converted from. `place` names it in messages; `files` are those of packed images, if they are packed."""

    place: str
    files: tuple[ShardFile, ...]

    def state(self) -> SourceState:
        """What it is now, for which all of a table is read."""

    def size(self) -> int:
        """The size that its state has now."""

    def is_still(self, state: SourceState) -> bool:
        """Whether it surely is what it was, without a look at the content of a table."""

    def has_changed(self, state: SourceState) -> bool:
        """Whether it has changed since this state was noted, a moment ago."""

    def open(self) -> Opened:
        """Its records, and how they are read."""


def source_of(place: Path | str) -> Source:
    """The source at a path or an address. Raises RecordError, ShardError, StoreError."""
    return Packed(ShardFolder.open(place)) if shards.is_shard_folder(place) else Table(Path(place))


class Table:
    """A table of records, whose labels are not read. Raises RecordError where there is none."""

    files: tuple[ShardFile, ...] = ()

    def __init__(self, path: Path) -> None:
        require_table(path)
        self.path, self.place = path, str(path)

    def state(self) -> SourceState:
        """What the table is now. Reads all of it."""
        stamp, now, digest = self._stamp(), time.time(), hashlib.blake2b(digest_size=16)
        with open(self.path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return SourceState(str(self.path.absolute()), stamp, now, digest.hexdigest())

    def size(self) -> int:
        """Bytes."""
        return self._stamp()[0]

    def is_still(self, state: SourceState) -> bool:
        """Whether path and stamp are the same, and the last change was long before the table was read."""
        settled = max(state.stamp[1:]) / 1e9 + RECENT < state.read_at
        return settled and (state.path, state.stamp) == (str(self.path.absolute()), self._stamp())

    def has_changed(self, state: SourceState) -> bool:
        """Whether its stamp is another."""
        return self._stamp() != state.stamp

    def open(self) -> Opened:
        """Its records, each with an empty image: the path of the image follows from the name. Raises RecordError."""
        opened, problems = open_table(self.path), list[str]()
        check_columns(self.path, opened.header)
        extras = list(dict.fromkeys(name for name in opened.header if name not in RESERVED))
        records = records_of(opened.header, opened.rows, (), lambda *_: b"", "findings", problems)
        return Opened((), extras, opened.doubts, problems, records)

    def _stamp(self) -> Stamp:
        state = self.path.stat()
        return state.st_size, state.st_mtime_ns, state.st_ctime_ns


class Packed:
    """A shard folder or its address. Labels are read if it was packed from a label list."""

    def __init__(self, folder: ShardFolder) -> None:
        self.folder, self.files = folder, folder.files
        self.place = object_store.address(folder.place) or str(Path(folder.place).absolute())

    def state(self) -> SourceState:
        """What its index says."""
        return SourceState(self.place, (self.size(), 0, 0), 0.0, self.folder.digest)

    def size(self) -> int:
        """Bytes of its table."""
        return self.folder.table.bytes

    def is_still(self, state: SourceState) -> bool:
        """Whether its index is the same."""
        return state == self.state()

    def has_changed(self, state: SourceState) -> bool:
        """Whether its index is another now."""
        return ShardFolder.open(self.folder.place).digest != state.checksum

    def open(self) -> Opened:
        """Its records, each with the place of its image. Raises ShardError, StoreError where they are read."""
        index, problems = self.folder.index, list[str]()
        check_columns(self.place, index.columns)
        extras = [name for name in index.columns if name not in (*RESERVED, *index.classes)]
        records = (record for part in parts(self.folder) for record in self._of(part, problems))
        return Opened(index.classes, extras, (), problems, records)

    def _of(self, part: Part, problems: list[str]) -> Iterator[Record]:
        def image_of(number: int, _: str) -> shards.PackedImage:
            return part.images[number - part.first - 1]

        return records_of(list(part.columns), part.rows(), self.folder.index.classes, image_of, "findings", problems)
