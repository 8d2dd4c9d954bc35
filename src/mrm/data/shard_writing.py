"""The files of a shard folder as they are written: files of images, and the table that says where each image lies.

A file of images is an Arrow IPC file with the text columns of the records and the encoded images. Beside it stands a
note, FILE.json, with its checksum and the images that could not be read, until the packing is complete.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.image_encoding import Encoded
from mrm.data.shards import LENGTH, MASK_LENGTH, MASK_OFFSET, OFFSET, SHARD, TABLE, File, PackedImage, ShardFile
from mrm.system.files import write_by, write_json, write_whole

IMAGE, MASK = "image_bytes", "mask_bytes"  # columns of a file of images
Failures = list[tuple[str, str]]  # name and reason of each image that could not be read


def record_batch(
    header: Sequence[str], rows: Sequence[Sequence[str]], images: Sequence[Encoded], has_masks: bool
) -> Any:
    """The rows whose images could be read, with these images, as an Arrow record batch."""
    import pyarrow

    readable = [(row, image) for row, image in zip(rows, images, strict=True) if not image.reason]
    columns = [pyarrow.array([row[i] for row, _ in readable], pyarrow.string()) for i in range(len(header))]
    columns.append(pyarrow.array([image.image for _, image in readable], pyarrow.large_binary()))
    names = [*header, IMAGE]
    if has_masks:
        columns.append(pyarrow.array([image.mask for _, image in readable], pyarrow.large_binary()))
        names.append(MASK)
    return pyarrow.record_batch(columns, names)


# Files of images ----------------------------------------------------------------------------------------


def shard_path(out: Path, number: int) -> Path:
    """Where a file of images is."""
    return out / f"shard-{number:05d}.arrow"


def note_path(out: Path, number: int) -> Path:
    """Where the note of a file of images is."""
    return out / f"{shard_path(out, number).name}.json"


def write_note(out: Path, number: int, file: File, failures: Failures) -> None:
    """Note that a file of images is whole, and which of its images could not be read."""
    write_json(note_path(out, number), {"file": asdict(file), "failures": failures})


def is_whole(out: Path, number: int) -> bool:
    """Whether a file of images is there with the length that its note states. Warns of one that is damaged, not absent."""
    note, path = note_path(out, number), shard_path(out, number)
    if not note.is_file():
        return False
    try:
        size = File(**json.loads(note.read_bytes())["file"]).bytes
    except (ValueError, TypeError, KeyError) as error:
        warnings.warn(f"{note}: damaged ({error}), so this file of images is packed again", stacklevel=2)
        return False
    actual = path.stat().st_size if path.is_file() else 0
    if actual != size:
        warnings.warn(
            f"{path}: has {actual:,} bytes, but {size:,} were written, so it is packed again; is the disk in order?",
            stacklevel=2,
        )
    return actual == size


def read_notes(out: Path) -> tuple[list[File], Failures]:
    """All files of images by their notes, and the images that could not be read."""
    files: list[File] = []
    failures: Failures = []
    while note_path(out, len(files)).is_file():
        note = json.loads(note_path(out, len(files)).read_bytes())
        files.append(File(**note["file"]))
        failures += [(name, reason) for name, reason in note["failures"]]
    return files, failures


def remove_notes(out: Path) -> None:
    """Remove all notes of a folder that is complete."""
    for note in out.glob("shard-*.arrow.json"):
        note.unlink(missing_ok=True)


class _HashingFile(io.BufferedWriter):
    """A new file that computes its SHA-256 while it is written. Its writer must not seek."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self.digest = hashlib.sha256()

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return super().write(content)


def write_shard(path: Path, batches: Iterator[Any]) -> File:
    """Write record batches as a file of images, whole and on the disk or not at all."""
    files: list[File] = []
    write_by(path, lambda temporary: files.append(_write_arrow(temporary, path.name, batches)))
    return files[0]


def _write_arrow(path: Path, name: str, batches: Iterator[Any]) -> File:
    import pyarrow

    rows = 0
    with _HashingFile(path) as sink:
        first = next(batches)
        with pyarrow.ipc.new_file(sink, first.schema) as writer:
            for batch in itertools.chain([first], batches):
                writer.write_batch(batch)
                rows += batch.num_rows
        sink.flush()
        os.fsync(sink.fileno())
        return File(name, sink.tell(), sink.digest.hexdigest(), rows)


def packed_images(out: Path, number: int, file: File) -> list[PackedImage]:
    """The images of a file, in order."""
    path = shard_path(out, number)
    table, shard = _table_of(path, number), ShardFile(str(path), file.bytes, file.sha256)
    places = zip(table[OFFSET].to_pylist(), table[LENGTH].to_pylist(), strict=True)
    return [PackedImage(shard, offset, length) for offset, length in places]


# The table ----------------------------------------------------------------------------------------------


def write_records_table(out: Path, files: Iterable[File]) -> File:
    """Write `records.parquet`: the text columns of all files, and where each image lies."""
    import pyarrow
    import pyarrow.parquet

    parts = [_table_of(out / file.name, number) for number, file in enumerate(files)]
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.concat_tables(parts), sink, compression="zstd")
    content = sink.getvalue()
    write_whole(out / TABLE, content)
    return File(TABLE, len(content), hashlib.sha256(content).hexdigest(), sum(len(part) for part in parts))


def _table_of(path: Path, number: int) -> Any:
    """The columns of a file, with the place of each image in the file instead of the image."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as mapped:
        buffer = mapped.read_buffer()
        reader = pyarrow.ipc.open_file(buffer)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        table = pyarrow.Table.from_batches(batches, reader.schema)
        places = {SHARD: pyarrow.array(np.full(len(table), number, np.int32))}
        for column, offset, length in ((IMAGE, OFFSET, LENGTH), (MASK, MASK_OFFSET, MASK_LENGTH)):
            if column in table.column_names:
                parts = [_places(batch.column(column), buffer.address) for batch in batches]
                offsets, lengths = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
                places |= {offset: pyarrow.array(offsets), length: pyarrow.array(lengths)}
                table = table.drop_columns([column])
        for name, values in places.items():
            table = table.append_column(name, values)
        return pyarrow.table(table.to_pydict(), table.schema)  # a copy, since the file is closed here


def _places(column: Any, base: int) -> tuple[np.ndarray, np.ndarray]:
    """Offset in the file and length of each value of a binary column."""
    if not len(column):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    _, edges, data = column.buffers()
    edges_N = np.frombuffer(edges, np.int64)[column.offset : column.offset + len(column) + 1]
    start = data.address - base if data else 0
    return start + edges_N[:-1], np.diff(edges_N)
