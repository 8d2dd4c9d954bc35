"""The rows of a shard folder with the places of their images, some at a time or all in memory.

A place is a file of the folder, an offset and a length. Once all rows have been read it is known that every image lies in its
file, after the one before it, and that the first and the last of each file on this machine begin as an image does.
"""

# Shapes: F files, R rows that are read together
from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrm.data.shards import (
    INDEX,
    LENGTH,
    MAGIC,
    MASK_LENGTH,
    MASK_OFFSET,
    OFFSET,
    SHARD,
    PackedImage,
    ShardFile,
    ShardFolder,
    open_file,
)
from mrm.system.errors import ShardError, first_line
from mrm.system.tables import open_parquet

BATCH_ROWS = 1 << 14  # rows that are in memory at a time
ADVICE = "copy it again, or remove the folder and pack again"


class Part(NamedTuple):
    """Some rows that follow one another: their columns as text, and their images."""

    first: int  # number of the first of them; that of the first of all is 0
    columns: dict[str, list[str]]
    images: list[PackedImage]
    masks: list[PackedImage]  # of segmentation folders; otherwise empty

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(row number from 1, fields in the order of the columns), as tables of records are read."""
        return enumerate((list(row) for row in zip(*self.columns.values(), strict=True)), self.first + 1)


def read_all(place: Path | str) -> tuple[ShardFolder, Part]:
    """A shard folder, its `shards.json` or an address, and all of its rows. Images are not read. Raises as `parts` does."""
    folder = ShardFolder.open(place)
    columns: dict[str, list[str]] = {name: [] for name in folder.index.columns}
    images, masks = list[PackedImage](), list[PackedImage]()
    for part in parts(folder):
        for name, values in part.columns.items():
            columns[name] += values
        images += part.images
        masks += part.masks
    return folder, Part(0, columns, images, masks)


def parts(folder: ShardFolder) -> Iterator[Part]:
    """The rows of a shard folder, in order. Images are not read.

    Raises ShardError for a damaged table and for wrong places of images, some of which only the last row tells, and
    StoreError if an object store does not answer.
    """
    import pyarrow

    where, first = folder.table.place, 0
    checks = [
        _Places(folder, *names) for names in ((OFFSET, LENGTH, folder.index.format), (MASK_OFFSET, MASK_LENGTH, "png"))
    ]
    try:
        with open_file(where) as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != folder.table.sha256:
                raise ShardError(f"{where}: damaged, its checksum differs from that in {INDEX}; {ADVICE}")
            for batch in open_parquet(content, content.tell()).iter_batches(BATCH_ROWS):
                columns = {name: _values(batch.column(name)) for name in folder.index.columns}
                images, masks = (check.of(first, batch) for check in checks)
                yield Part(first, columns, images, masks)
                first += batch.num_rows
    except (pyarrow.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise ShardError(f"{where}: cannot be read ({first_line(error)}); {ADVICE}") from None
    if problem := next((problem for check in checks if (problem := check.end())), ""):
        raise ShardError(
            f"{where}: the places of the images are wrong: {problem}; copy the folder again, or remove it and pack again"
        )


def _values(column: Any) -> list[str]:
    import pyarrow

    return (column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column).to_pylist()


class _Places:
    """The places of images, or of masks, batch by batch, and what was seen of those in each file."""

    def __init__(self, folder: ShardFolder, offset: str, length: str, kind: str) -> None:
        self.files, self.rows = folder.files, folder.index.files
        self.names, self.magic = (SHARD, offset, length), MAGIC[kind]
        self.size_F = np.array([file.bytes for file in self.files], np.int64)
        self.count_F, self.end_F, self.first_F, self.last_F = np.zeros((4, len(self.files)), np.int64)
        self.present, self.overlap = False, ""

    def of(self, first: int, batch: Any) -> list[PackedImage]:
        """The images of a batch whose first row has this number. Raises ValueError for one that is not inside a file."""
        if self.names[1] not in batch.schema.names:
            return []
        self.present = True
        shard_R, start_R, size_R = (_whole_numbers(batch.column(name)) for name in self.names)
        if (lost_R := (shard_R < 0) | (shard_R >= len(self.files))).any():
            raise ValueError(f"row {first + int(lost_R.argmax()) + 1} is in no file of the folder")
        inside_R = (start_R >= 0) & (size_R >= 0) & (size_R <= self.size_F[shard_R] - start_R)
        if not inside_R.all():
            row = int(inside_R.argmin())
            shard, start, size = int(shard_R[row]), int(start_R[row]), int(size_R[row])
            raise ValueError(
                f"row {first + row + 1} lies at bytes {start} to {start + size} of {self.files[shard].bytes}"
            )
        self._see(shard_R, start_R, size_R)
        places = zip(shard_R.tolist(), start_R.tolist(), size_R.tolist(), strict=True)
        return [PackedImage(self.files[shard], start, size) for shard, start, size in places]

    def _see(self, shard_R: np.ndarray, start_R: np.ndarray, size_R: np.ndarray) -> None:
        """Note whether each image comes after the one before it in its file, and which are the first and the last there."""
        order_R = np.argsort(shard_R, kind="stable")
        shard_R, start_R, size_R = shard_R[order_R], start_R[order_R], size_R[order_R]
        opens_R, closes_R = np.diff(shard_R, prepend=-1) != 0, np.diff(shard_R, append=-1) != 0
        end_R = start_R + size_R
        before_R = np.where(opens_R, self.end_F[shard_R], np.roll(end_R, 1))
        if (wrong_R := (size_R == 0) | (start_R < before_R)).any() and not self.overlap:
            self.overlap = self.files[shard_R[wrong_R.argmax()]].place
        new_R = opens_R & (self.count_F[shard_R] == 0)
        self.first_F[shard_R[new_R]] = start_R[new_R]
        self.last_F[shard_R[closes_R]], self.end_F[shard_R[closes_R]] = start_R[closes_R], end_R[closes_R]
        self.count_F += np.bincount(shard_R, minlength=len(self.files))

    def end(self) -> str:
        """What is wrong with the places now that all were seen; '' if nothing."""
        if not self.present:
            return ""
        if self.count_F.tolist() != [file.rows for file in self.rows]:
            return f"{INDEX} has other numbers of images"
        if self.overlap:
            return f"images of {self.overlap} overlap or lie outside of it"
        for file, count, *starts in zip(self.files, self.count_F, self.first_F, self.last_F, strict=True):
            if count and not file.remote and not all(_begins(file, int(start), self.magic) for start in starts):
                return f"there is no image at a place named in {file.place}"
        return ""


def _whole_numbers(column: Any) -> np.ndarray:
    """A column as int64. Raises ValueError for other values."""
    import pyarrow

    if column.null_count or not pyarrow.types.is_integer(column.type):
        raise ValueError("places that are no whole numbers")
    return column.cast(pyarrow.int64()).to_numpy()


def _begins(file: ShardFile, start: int, magic: bytes) -> bool:
    with open(file.place, "rb") as opened:
        opened.seek(start)
        return opened.read(len(magic)) == magic
