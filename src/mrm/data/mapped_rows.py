"""Records in a file that is mapped into memory: none of them is an object until it is asked for.

The file is Arrow IPC, written a batch at a time. All processes of a machine that map it share its pages, and the system
drops them when memory is short. So what a process holds does not grow with the number of records.
"""

from __future__ import annotations

import copy
import itertools
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from mrm.data.record import Record
from mrm.data.record_facts import Facts
from mrm.data.shards import LENGTH, OFFSET, SHARD, PackedImage, ShardFile
from mrm.system.errors import RecordError, first_line

PLACES = ((SHARD, "int32"), (OFFSET, "int64"), (LENGTH, "int64"))  # of packed images; the last columns of the file
BATCH_ROWS = 1 << 14
BATCH_CHARACTERS = 1 << 27  # a report may be far longer than most; a column of a batch holds less than 2 GB
TEXTS = ("name", "report", "patient", "study", "view")  # of a Record; the first columns of the file, in this order


class MappedRows(Sequence[Record]):
    """The records in a file that `write_rows` wrote, or those at some `indices`; their images lie in `folder`, or in `files`.

    `files` are those of the shards that the records were read from. `facts` are known of all records, and of no selection. It
    can be pickled, and another process then maps the file itself. Raises RecordError for a damaged file.
    """

    def __init__(
        self,
        file: Path,
        folder: Path,
        facts: Facts | None = None,
        files: Sequence[ShardFile] = (),
        indices: np.ndarray | None = None,
    ) -> None:
        self.file, self.folder, self.facts, self.files, self.indices = file, folder, facts, tuple(files), indices
        try:
            batches, (self.classes, self._extras) = _opened(file, bool(files))
        except ValueError as error:
            raise self._damaged(error) from None
        self._names = [*TEXTS, *self.classes, *self._extras]
        self._columns = [batch.columns for batch in batches]
        self._starts = [0, *itertools.accumulate(batch.num_rows for batch in batches)]

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedRows, (self.file, self.folder, self.facts, self.files, self.indices)

    def __len__(self) -> int:
        return self._starts[-1] if self.indices is None else len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> MappedRows: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.select(range(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self):,}")
        index %= len(self)
        row = index if self.indices is None else int(self.indices[index])
        batch = bisect_right(self._starts, row) - 1
        try:
            return self._record([column[row - self._starts[batch]].as_py() for column in self._columns[batch]])
        except UnicodeDecodeError as error:
            raise self._damaged(error) from None

    def __iter__(self) -> Iterator[Record]:
        if self.indices is not None:
            yield from (self[index] for index in range(len(self)))
            return
        for columns in self._columns:
            try:
                values = [column.to_pylist() for column in columns]
            except UnicodeDecodeError as error:
                raise self._damaged(error) from None
            yield from map(self._record, zip(*values, strict=True))

    def values(self, name: str) -> Iterator[str]:
        """One of the TEXTS of each record, or what a further column says ("" without that column); no record is made."""
        if name not in self._names:
            yield from itertools.repeat("", len(self))
            return
        place = self._names.index(name)
        try:
            if self.indices is None:
                for columns in self._columns:
                    yield from columns[place].to_pylist()
            else:
                for index in self.indices.tolist():
                    batch = bisect_right(self._starts, index) - 1
                    yield self._columns[batch][place][index - self._starts[batch]].as_py()
        except UnicodeDecodeError as error:
            raise self._damaged(error) from None

    def file_numbers(self) -> np.ndarray:
        """Which of `files` the image of each record is in, (N,) int32."""
        columns = [batch[-len(PLACES)].to_numpy() for batch in self._columns]
        number_N = np.concatenate([np.zeros(0, np.int32), *columns])
        return number_N if self.indices is None else number_N[self.indices]

    def select(self, indices: Iterable[int]) -> MappedRows:
        """The records at `indices`, in that order; only their numbers are kept. Raises IndexError."""
        chosen = np.fromiter(indices, np.int64)
        if outside := chosen[(chosen < -len(self)) | (chosen >= len(self))].tolist():
            raise IndexError(f"record {outside[0]} of {len(self):,}")
        chosen[chosen < 0] += len(self)
        selection = copy.copy(self)
        selection.indices = chosen if self.indices is None else self.indices[chosen]
        selection.facts = None
        return selection

    def _damaged(self, error: ValueError) -> RecordError:
        return RecordError(f"{self.file}: cannot be read ({error}); remove it and run the same command again")

    def _record(self, values: Sequence[Any]) -> Record:
        name, report, patient, study, view = values[: len(TEXTS)]
        labelled, described = len(TEXTS) + len(self.classes), len(self._names)
        return Record(
            image=self._packed(*values[described:]) if self.files else self.folder / name,
            report=report,
            patient=patient,
            study=study,
            view=view,
            labels=tuple(values[len(TEXTS) : labelled]),
            extra=dict(zip(self._extras, values[labelled:described], strict=True)),
            name=name,
        )

    def _packed(self, number: int, offset: int, length: int) -> PackedImage:
        if not 0 <= number < len(self.files):
            raise self._damaged(ValueError(f"an image in file {number} of {len(self.files)}"))
        return PackedImage(self.files[number], offset, length)


def _opened(file: Path, packed: bool) -> tuple[list[Any], list[list[str]]]:
    """The batches in a file, and the names of its classes and further columns. Raises ValueError.

    The last columns of a file whose images are packed are their places.
    """
    import pyarrow

    try:
        with pyarrow.memory_map(str(file)) as source:
            reader = pyarrow.ipc.open_file(source)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            names = [json.loads(reader.schema.metadata[key]) for key in (b"classes", b"extras")]
            if len(reader.schema) != len(TEXTS) + sum(map(len, names)) + packed * len(PLACES):
                raise ValueError(f"{len(reader.schema)} columns")
            return batches, names
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(first_line(error)) from None


def damage_of(file: Path, files: Sequence[ShardFile] = ()) -> str:
    """What is wrong with a file that `write_rows` wrote; '' if nothing.

    It is looked at where each text begins and ends, at no text, and whether the images lie in their files.
    """
    import pyarrow

    try:
        batches, _ = _opened(file, bool(files))
        for batch in batches:
            batch.validate()
            if files and not _images_lie_in(files, *(column.to_numpy() for column in batch.columns[-len(PLACES) :])):
                return f"{file.name} is damaged (images that lie in no file)"
            for column in batch.columns:
                if pyarrow.types.is_string(column.type) and not _texts_follow(column):
                    return f"{file.name} is damaged (texts that overlap)"
    except (ValueError, pyarrow.ArrowException) as error:
        return f"{file.name} is damaged ({first_line(error)})"
    return ""


def _texts_follow(column: Any) -> bool:
    """Whether each text of a column ends after it begins, and where the next one begins, inside the column."""
    _, places, content = column.buffers()
    places_N = np.frombuffer(places, np.int32, len(column) + 1, column.offset * 4)
    size = content.size if content else 0
    return bool(places_N[0] >= 0 and places_N[-1] <= size and (np.diff(places_N) >= 0).all())


def _images_lie_in(files: Sequence[ShardFile], number_N: np.ndarray, start_N: np.ndarray, size_N: np.ndarray) -> bool:
    if ((number_N < 0) | (number_N >= len(files))).any():
        return False
    bytes_N = np.array([file.bytes for file in files])[number_N]
    return bool(((start_N >= 0) & (size_N > 0) & (size_N <= bytes_N - start_N)).all())


def write_rows(
    file: Path,
    records: Iterable[Record],
    classes: Sequence[str],
    extras: Sequence[str],
    files: Sequence[ShardFile] = (),
) -> None:
    """Write records for `MappedRows`, a batch in memory at a time. Each has a label for every class and all `extras`.

    The image of each is a place in one of `files`, if there are some. Raises OSError.
    """
    import pyarrow

    texts, labels = pyarrow.string(), pyarrow.float64()
    fields = (
        [(name, texts) for name in TEXTS] + [(name, labels) for name in classes] + [(name, texts) for name in extras]
    ) + [(name, pyarrow.type_for_alias(kind)) for name, kind in PLACES if files]
    numbers = {shard: number for number, shard in enumerate(files)}
    metadata = {"classes": json.dumps(list(classes)), "extras": json.dumps(list(extras))}
    schema = pyarrow.schema(fields).with_metadata(metadata)
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_file(sink, schema) as writer:
        for rows in _batches(_values(record, extras, numbers) for record in records):
            columns = [
                pyarrow.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))


def _values(record: Record, extras: Sequence[str], numbers: Mapping[ShardFile, int]) -> tuple[Any, ...]:
    texts = (record.name, record.report, record.patient, record.study, record.view)
    image = record.image
    place = (numbers[image.file], image.offset, image.length) if isinstance(image, PackedImage) else ()
    return (*texts, *record.labels, *(record.extra[name] for name in extras), *place)


def _batches(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """The rows in lists of at most BATCH_ROWS rows and about BATCH_CHARACTERS characters."""
    batch: list[tuple[Any, ...]] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += sum(len(value) for value in row if isinstance(value, str))
        if len(batch) == BATCH_ROWS or characters > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
