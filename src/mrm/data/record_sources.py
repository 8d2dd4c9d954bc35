"""What the mapped records of a run are converted from, and whether it is still what it was.

It is a table, a published label list, or a shard folder, and it is read with the labels that a run learns, or without.

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
from mrm.data.label_values import LabelKind
from mrm.data.record import RESERVED, Record
from mrm.data.records import header_and_classes, listed_records
from mrm.data.shard_rows import Part, parts
from mrm.data.shards import ShardFile, ShardFolder
from mrm.data.table_records import (
    LIST_ADVICE,
    TABLE_ADVICE,
    check_columns,
    numeric_columns,
    records_of,
    require_columns,
    require_table,
)
from mrm.system import object_store
from mrm.system.tables import open_table

RECENT = 2.0  # seconds within which some file systems give two changes the same time
CHUNK = 1 << 22  # bytes that are read at a time

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Labels:
    """Which labels of a source are read, as `Records.load` takes them; those of a list are always read."""

    classes: tuple[str, ...] | None = ()
    kind: LabelKind = "findings"
    list_classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.classes}, {self.list_classes}"


UNLABELLED = Labels()


@dataclass(frozen=True)
class SourceState:
    """A source as it was when it was read, and how it was read."""

    path: str
    read: str  # with which labels; of a list also where its images were sought
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
    read: str
    by_file: bool  # whether the path of each image is kept
    advice: str  # on lines that hold no record

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


def source_of(place: Path | str, labels: Labels = UNLABELLED, images: Path | None = None) -> Source:
    """The source at a path or an address. Raises RecordError, ShardError, StoreError."""
    if shards.is_shard_folder(place):
        return Packed(ShardFolder.open(place), labels)
    path = Path(place)
    return LabelList(path, labels, images) if path.suffix == ".txt" else Table(path, labels)


class Table:
    """A table of records. Raises RecordError where there is none."""

    files: tuple[ShardFile, ...] = ()
    by_file, advice = False, TABLE_ADVICE

    def __init__(self, path: Path, labels: Labels = UNLABELLED) -> None:
        require_table(path)
        self.path, self.place, self.labels, self.read = path, str(path), labels, str(labels)

    def state(self) -> SourceState:
        """What the table is now. Reads all of it."""
        stamp, now, digest = self._stamp(), time.time(), hashlib.blake2b(digest_size=16)
        with open(self.path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return SourceState(str(self.path.absolute()), self.read, stamp, now, digest.hexdigest())

    def size(self) -> int:
        """Bytes."""
        return self._stamp()[0]

    def is_still(self, state: SourceState) -> bool:
        """Whether path and stamp are the same, and the last change was long before the file was read."""
        settled = max(state.stamp[1:]) / 1e9 + RECENT < state.read_at
        return settled and (state.path, state.stamp) == (str(self.path.absolute()), self._stamp())

    def has_changed(self, state: SourceState) -> bool:
        """Whether its stamp is another."""
        return self._stamp() != state.stamp

    def open(self) -> Opened:
        """Its records, each with an empty image: the path of the image follows from the name. Raises RecordError."""
        opened, problems = open_table(self.path), list[str]()
        check_columns(self.path, opened.header)
        classes = self._classes(opened.header)
        extras = list(dict.fromkeys(name for name in opened.header if name not in (*RESERVED, *classes)))
        records = records_of(opened.header, opened.rows, classes, lambda *_: b"", self.labels.kind, problems)
        return Opened(classes, extras, opened.doubts, problems, records)

    def _classes(self, header: Sequence[str]) -> tuple[str, ...]:
        if self.labels.classes is not None:
            return require_columns(self.path, header, self.labels.classes)
        return numeric_columns(self.path, header, open_table(self.path).rows)

    def _stamp(self) -> Stamp:
        state = self.path.stat()
        return state.st_size, state.st_mtime_ns, state.st_ctime_ns


class LabelList(Table):
    """A published label list (`.txt`), which is read whole, and the files of its images."""

    advice = LIST_ADVICE

    def __init__(self, path: Path, labels: Labels, images: Path | None) -> None:
        super().__init__(path, labels)
        self.images, self.by_file = images, not (images and object_store.address(images))
        self.read = f"{labels}; {images and Path(images).absolute()}"

    def open(self) -> Opened:
        """Its records. Raises RecordError, also where none of the images is found."""
        names = self.labels.classes or self.labels.list_classes or None
        records, problems = listed_records(self.path, names, self.images)
        return Opened(records.classes, [], (), problems, iter(records))


class Packed:
    """A shard folder or its address. Labels are also read if it was packed from a label list."""

    by_file, advice = False, TABLE_ADVICE

    def __init__(self, folder: ShardFolder, labels: Labels = UNLABELLED) -> None:
        self.folder, self.files, self.labels, self.read = folder, folder.files, labels, str(labels)
        self.place = object_store.address(folder.place) or str(Path(folder.place).absolute())

    def state(self) -> SourceState:
        """What its index says."""
        return SourceState(self.place, self.read, (self.size(), 0, 0), 0.0, self.folder.digest)

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
        given, problems = self.labels, list[str]()
        header, classes = header_and_classes(self.place, self.folder.index, given.classes, given.list_classes)
        check_columns(self.place, header)
        if classes is None:
            rows = (row for part in parts(self.folder) for row in part.rows())
            classes = numeric_columns(self.place, header, rows)
        classes = require_columns(self.place, header, classes)
        extras = [name for name in header if name not in (*RESERVED, *classes)]
        records = (record for part in parts(self.folder) for record in self._of(part, header, classes, problems))
        return Opened(classes, extras, (), problems, records)

    def _of(self, part: Part, header: Sequence[str], classes: tuple[str, ...], problems: list[str]) -> Iterator[Record]:
        def image_of(number: int, _: str) -> shards.PackedImage:
            return part.images[number - part.first - 1]

        return records_of(header, part.rows(), classes, image_of, self.labels.kind, problems)
