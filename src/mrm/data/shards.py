"""Packed images: a folder of large files in place of many small ones, read without copying.

    DIR/shards.json            the index, with the size and SHA-256 of every file below
    DIR/records.parquet        the records, every column as text, and the places of their images
    DIR/shard-00000.arrow ...  Arrow IPC files with the same columns and the encoded images
    DIR/failures.csv           images that could not be packed, and the reasons
    DIR/.image-hashes          the hashes of the packed images (`mrm.audit.kept_hashes`)

An image is a place in a file: `PackedImage` can be pickled, and each process, forked or spawned, maps the files that it
reads. The folder may be on this machine, on a network disk or in an object store (`mrm.system.object_store`), from
which files are fetched when first read. `mrm.data.packing` writes such folders, and `mrm.data.shard_rows` reads their tables.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from mrm.system import object_store
from mrm.system.errors import LostShardError, ShardError, StoreError
from mrm.system.files import parse_json

VERSION = 1
INDEX, TABLE, FAILURES = "shards.json", "records.parquet", "failures.csv"
SHARD, OFFSET, LENGTH, MASK_OFFSET, MASK_LENGTH = PLACES = (".shard", ".offset", ".length", ".mask_offset", ".mask_length")  # fmt: skip
MAGIC = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG", "pgm": b"P5"}  # the first bytes of an image
WINDOW = 8  # files read at the same time, if they have to be fetched
MAPPED = 256  # files that a process keeps mapped; systems allow about a thousand


@dataclass(frozen=True)
class File:
    """The entry of a file in the index."""

    name: str
    bytes: int
    sha256: str
    rows: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name in ("", ".", "..") or self.name != os.path.basename(self.name):
            raise ValueError(f"{self.name!r} is not the name of a file in the folder")
        if not isinstance(self.sha256, str):
            raise ValueError(f"{self.name}: its checksum must be text")
        if not all(type(number) is int and number >= 0 for number in (self.bytes, self.rows)):
            raise ValueError(f"{self.name}: its size and its rows must be whole numbers")


@dataclass(frozen=True)
class Index:
    """The content of `shards.json`."""

    version: int
    kind: Literal["records", "masks"]
    rows: int
    failed: int  # images listed in failures.csv
    size: int  # pixels of the shorter side; smaller images keep their size
    format: Literal["jpeg", "png", "pgm"]
    quality: int | None  # of JPEG
    columns: tuple[str, ...]
    classes: tuple[str, ...]  # the label columns of a label list, in its order
    named: bool  # False for a label list packed without class names
    fingerprint: str  # of the records packed, with their images' names
    table: File
    files: tuple[File, ...]
    mrm: str  # the version of mrm that packed it

    @staticmethod
    def from_json(text: str | bytes, where: str) -> Index:
        """The index in the text of `shards.json`. Raises ShardError for any other text."""
        try:
            values = parse_json(text)
            if values["version"] != VERSION:
                raise ShardError(
                    f"{where}: shards of version {values['version']}, but this mrm reads version {VERSION}; "
                    "pack the records again, or use the mrm that packed them"
                )
            for name, known in (("format", tuple(MAGIC)), ("kind", ("records", "masks"))):
                if values[name] not in known:
                    raise ValueError(f"{name} is {str(values[name])[:40]!r}; expected {' or '.join(known)}")
            if not all(isinstance(name, str) for name in (*values["columns"], *values["classes"])):
                raise ValueError("columns and classes must be names")
            values["table"] = File(**values["table"])
            values["files"] = tuple(File(**f) for f in values["files"])
            return Index(**{**values, "columns": tuple(values["columns"]), "classes": tuple(values["classes"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, ShardError):
                raise
            raise ShardError(
                f"{where}: not the index of a shard folder, or damaged ({error}); remove the folder and pack again"
            ) from None


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A file of images: its path or address, and its expected size and checksum."""

    place: str
    bytes: int
    sha256: str

    @property
    def remote(self) -> bool:
        """Whether it has to be fetched."""
        return object_store.address(self.place) is not None

    def view(self) -> memoryview:
        """The whole file, mapped into memory. Raises ShardError, StoreError."""
        return (_fetched if self.remote else _mapped)(self)


@dataclass(frozen=True, slots=True)
class PackedImage:
    """An encoded image in a file of images."""

    file: ShardFile
    offset: int
    length: int

    def read_bytes(self) -> memoryview:
        """The image's bytes in the mapped file; nothing is copied. Raises ShardError, StoreError."""
        return self.file.view()[self.offset : self.offset + self.length]

    def __str__(self) -> str:
        return f"{self.file.place}, bytes {self.offset} to {self.offset + self.length}"


def is_shard_folder(place: Path | str) -> bool:
    """Whether `place` is a shard folder or its index, or an address, which is always taken for one."""
    if object_store.address(place):
        return True
    path = Path(place)
    return path.name == INDEX or (path / INDEX).is_file()


@dataclass(frozen=True)
class ShardFolder:
    """A shard folder or its address, with its index, and the files of images that it names."""

    place: str
    index: Index
    digest: str  # of the text of the index, which has the checksums of all files: another folder has another one
    files: tuple[ShardFile, ...]

    @staticmethod
    def open(place: Path | str) -> ShardFolder:
        """The shards at a folder, its `shards.json` or an address. Neither the table nor images are read.

        Raises ShardError for a folder that is not a shard folder, that lacks files or whose files have wrong sizes, and
        StoreError if an object store does not answer.
        """
        folder = folder_of(place)
        text = _index_text(folder)
        index = Index.from_json(text, _inside(folder, INDEX))
        files = tuple(ShardFile(_inside(folder, f.name), f.bytes, f.sha256) for f in index.files)
        for file in files:
            if not file.remote:
                _require(Path(file.place), file.bytes)
        return ShardFolder(folder, index, hashlib.blake2b(text, digest_size=16).hexdigest(), files)

    @property
    def table(self) -> ShardFile:
        """The table of its records."""
        table = self.index.table
        return ShardFile(_inside(self.place, table.name), table.bytes, table.sha256)


def folder_of(place: Path | str) -> str:
    """The folder, or its address, of a place that may also be its index."""
    uri = object_store.address(place)
    if uri is None:
        return str(Path(place).parent if Path(place).name == INDEX else place)
    path, mark, options = uri.partition("?")
    return path.removesuffix(f"/{INDEX}") + mark + options


def read_index(folder: str) -> Index:
    """The content of the folder's `shards.json`. Raises ShardError, StoreError."""
    return Index.from_json(_index_text(folder), _inside(folder, INDEX))


def _index_text(folder: str) -> bytes:
    where = _inside(folder, INDEX)
    if object_store.address(folder) is None and not Path(where).is_file():
        raise ShardError(f"{where}: no such file; expected a folder that `mrm pack` has finished")
    with open_file(where) as file:
        return file.read()


def check_files(place: Path | str) -> Iterator[tuple[str, str]]:
    """Each file of a shard folder, and what is wrong with it ('' if nothing). Reads every byte. Raises ShardError."""
    folder = folder_of(place)
    index = read_index(folder)
    for file in (index.table, *index.files):
        yield file.name, _problem_of(ShardFile(_inside(folder, file.name), file.bytes, file.sha256))


def _problem_of(file: ShardFile) -> str:
    try:
        view = file.view() if file.remote else _mapped.__wrapped__(file)  # mapped again, to see the file as it is now
    except (ShardError, StoreError) as error:
        return str(error)
    if hashlib.sha256(view).hexdigest() != file.sha256:
        return f"{file.place}: damaged, its checksum differs from that in {INDEX}; copy it again, or remove the folder and pack again"
    return ""


# Files --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=MAPPED)
def _mapped(file: ShardFile) -> memoryview:
    _require(Path(file.place), file.bytes)
    return _view(os.open(file.place, os.O_RDONLY))


@lru_cache(maxsize=2 * WINDOW)  # few, because a file that the cache drops takes disk space until it is unmapped
def _fetched(file: ShardFile) -> memoryview:
    return _view(object_store.default_cache().open(file.place, file.bytes, file.sha256))


def _view(descriptor: int) -> memoryview:
    try:
        return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)


def _require(path: Path, size: int) -> None:
    try:
        actual = path.stat().st_size
    except OSError as error:
        raise LostShardError(
            f"{path}: cannot be opened ({error.strerror}); copy the whole folder, or remove it and pack again"
        ) from None
    if actual != size:
        raise ShardError(
            f"{path}: has {actual:,} bytes, but {INDEX} says {size:,}; copy it again, or remove the folder and pack again"
        )


def _inside(folder: str, name: str) -> str:
    return object_store.within(folder, name) if object_store.address(folder) else str(Path(folder) / name)


def open_file(where: str) -> io.BytesIO | io.BufferedReader:
    """The file at a path, or at an address the content of a small one. Raises ShardError, StoreError."""
    if object_store.address(where):
        return io.BytesIO(object_store.read(where))
    try:
        return open(where, "rb")
    except OSError as error:
        raise LostShardError(
            f"{where}: cannot be read ({error.strerror}); copy the whole folder, or remove it and pack again"
        ) from None
