"""Records in a file that is mapped into memory: none of them is an object until it is asked for.

The file is Arrow IPC, written a batch at a time. All processes of a machine that map it share its pages, and the system
drops them when memory is short. So what a process holds does not grow with the number of records.
"""

from __future__ import annotations

import copy
import itertools
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from mrm.data.placed_images import PlacedImage, image_in
from mrm.data.record import Record
from mrm.data.record_facts import Facts
from mrm.data.shards import LENGTH, OFFSET, SHARD, PackedImage, ShardFile
from mrm.system import object_store
from mrm.system.errors import RecordError, first_line

PLACES = ((SHARD, "int32"), (OFFSET, "int64"), (LENGTH, "int64"))  # of packed images; the last columns of the file
BATCH_ROWS = 1 << 14
BATCH_CHARACTERS = 1 << 27  # a report may be far longer than most; a column of a batch holds less than 2 GB
IMAGE_FILE = "image_file"  # the last column of a file of records whose images do not all lie in one folder
TEXTS = ("name", "report", "patient", "study", "view")  # of a Record; the first columns of the file, in this order


# From the labels (N, C) of any number of records to other labels (N, C') of theirs
Relabelling = Callable[[np.ndarray], np.ndarray]


class MappedRows(Sequence[Record]):
    """The records in a file that `write_rows` wrote, or those at some `indices`; their images lie in `folder`, or in `files`.

    `folder` may be the address of one in an object store. `files` are those of the shards that the records were read from.
    `facts` are known of all records, and of no selection. It can be pickled, and another process then maps the file itself.
    Raises RecordError for a damaged file.
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
        self.labels_NC: np.ndarray | None = None  # in place of those in the file
        self._address = object_store.address(folder)
        self.changes: tuple[Relabelling, ...] = ()  # of the labels, one after the other
        try:
            batches, self._stored, self._extras, self._by_file = _opened(file, bool(files))
        except ValueError as error:
            raise self._damaged(error) from None
        self.classes: list[str] = self._stored
        self._names = [*TEXTS, *self._stored, *self._extras]
        self._labelled = slice(len(TEXTS), len(TEXTS) + len(self._stored))
        self._columns = [batch.columns for batch in batches]
        self._starts = [0, *itertools.accumulate(batch.num_rows for batch in batches)]

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: getattr(self, name) for name in ("labels_NC", "changes", "classes")}
        return MappedRows, (self.file, self.folder, self.facts, self.files, self.indices), state

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
            values = [column[row - self._starts[batch]].as_py() for column in self._columns[batch]]
            return self._record(values, self._labels(slice(index, index + 1), [values[self._labelled]])[0])
        except UnicodeDecodeError as error:
            raise self._damaged(error) from None

    def __iter__(self) -> Iterator[Record]:
        if self.indices is not None:
            yield from (self[index] for index in range(len(self)))
            return
        for columns, start in zip(self._columns, self._starts, strict=False):
            try:
                values = [column.to_pylist() for column in columns]
            except UnicodeDecodeError as error:
                raise self._damaged(error) from None
            rows = list(zip(*values, strict=True))
            labels = self._labels(slice(start, start + len(rows)), [row[self._labelled] for row in rows])
            yield from map(self._record, rows, labels)

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

    def labels(self) -> np.ndarray:
        """The labels of each record, (N, C) float64. They are computed anew at each call, and not kept."""
        if self.labels_NC is not None:
            return self._changed(self.labels_NC)
        stored_NC = np.empty((self._starts[-1], len(self._stored)))
        for columns, start in zip(self._columns, self._starts, strict=False):
            for c, column in enumerate(columns[self._labelled]):
                stored_NC[start : start + len(column), c] = column.to_numpy()
        return self._changed(stored_NC if self.indices is None else stored_NC[self.indices])

    def relabelled(self, change: Relabelling, classes: Sequence[str]) -> MappedRows:
        """The records with labels that follow from theirs, which is computed of a record when it is asked for."""
        other = self._with_classes(classes)
        other.changes = (*self.changes, change)
        return other

    def with_fingerprints(self, fingerprint: str, unordered: str) -> MappedRows:
        """The records with fingerprints that are known of them."""
        other = copy.copy(self)
        other.facts = self.facts and replace(self.facts, fingerprint=fingerprint, unordered=unordered)
        return other

    def with_labels(self, labels_NC: np.ndarray, classes: Sequence[str]) -> MappedRows:
        """The records with these labels (N, C), which are held."""
        other = self._with_classes(classes)
        other.labels_NC, other.changes = labels_NC, ()
        return other

    def _with_classes(self, classes: Sequence[str]) -> MappedRows:
        """A copy for other labels, with which its fingerprints are no longer known."""
        other = self.with_fingerprints("", "")
        other.classes = list(classes)
        return other

    def _changed(self, labels_NC: np.ndarray) -> np.ndarray:
        for change in self.changes:
            labels_NC = change(labels_NC)
        return labels_NC

    def select(self, indices: Iterable[int]) -> MappedRows:
        """The records at `indices`, in that order; only their numbers are kept. Raises IndexError."""
        chosen = np.fromiter(indices, np.int64)
        if outside := chosen[(chosen < -len(self)) | (chosen >= len(self))].tolist():
            raise IndexError(f"record {outside[0]} of {len(self):,}")
        chosen[chosen < 0] += len(self)
        selection = copy.copy(self)
        selection.indices = chosen if self.indices is None else self.indices[chosen]
        selection.facts = None
        if self.labels_NC is not None:
            selection.labels_NC = self.labels_NC[chosen]
        return selection

    def _damaged(self, error: ValueError) -> RecordError:
        return RecordError(f"{self.file}: cannot be read ({error}); remove it and run the same command again")

    def _record(self, values: Sequence[Any], labels: Sequence[float]) -> Record:
        name, report, patient, study, view = values[: len(TEXTS)]
        return Record(
            image=self._image(name, values[len(self._names) :]),
            report=report,
            patient=patient,
            study=study,
            view=view,
            labels=tuple(labels),
            extra=dict(zip(self._extras, values[self._labelled.stop : len(self._names)], strict=True)),
            name=name,
        )

    def _labels(self, records: slice, stored: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
        """The labels of some records that follow one another, of which these are in the file."""
        if self.labels_NC is None and not self.changes:
            return stored
        labels_NC = np.array(stored) if self.labels_NC is None else self.labels_NC[records]
        labels: Sequence[Sequence[float]] = self._changed(labels_NC).tolist()
        return labels

    def _image(self, name: str, place: Sequence[Any]) -> Path | PlacedImage | PackedImage:
        if self.files:
            return self._packed(*place)
        if self._address:
            return image_in(self.folder, name)
        return Path(place[0]) if self._by_file else self.folder / name

    def _packed(self, number: int, offset: int, length: int) -> PackedImage:
        if not 0 <= number < len(self.files):
            raise self._damaged(ValueError(f"an image in file {number} of {len(self.files)}"))
        return PackedImage(self.files[number], offset, length)


def _opened(file: Path, packed: bool) -> tuple[list[Any], list[str], list[str], bool]:
    """The batches in a file, the names of its classes and further columns, and whether it names the file of each image.

    The last columns are the places of packed images, or that of their files. Raises ValueError.
    """
    import pyarrow

    try:
        with pyarrow.memory_map(str(file)) as source:
            reader = pyarrow.ipc.open_file(source)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            classes, extras, by_file = [
                json.loads(reader.schema.metadata[key]) for key in (b"classes", b"extras", b"by_file")
            ]
            if len(reader.schema) != len(TEXTS) + len(classes) + len(extras) + packed * len(PLACES) + by_file:
                raise ValueError(f"{len(reader.schema)} columns")
            return batches, classes, extras, by_file
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(first_line(error)) from None


def damage_of(file: Path, files: Sequence[ShardFile] = ()) -> str:
    """What is wrong with a file that `write_rows` wrote; '' if nothing.

    It is looked at where each text begins and ends, at no text, and whether the images lie in their files.
    """
    import pyarrow

    try:
        batches = _opened(file, bool(files))[0]
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
    by_file: bool = False,
) -> None:
    """Write records for `MappedRows`, a batch in memory at a time. Each has a label for every class and all `extras`.

    The image of each is a place in one of `files`, if there are some. With `by_file` the path of each is written; without, it
    follows from the name. Raises OSError.
    """
    import pyarrow

    texts, labels = pyarrow.string(), pyarrow.float64()
    fields = (
        [(name, texts) for name in TEXTS] + [(name, labels) for name in classes] + [(name, texts) for name in extras]
    ) + [(name, pyarrow.type_for_alias(kind)) for name, kind in PLACES if files]
    fields += [(IMAGE_FILE, texts)] if by_file else []
    numbers = {shard: number for number, shard in enumerate(files)}
    metadata = {
        "classes": json.dumps(list(classes)),
        "extras": json.dumps(list(extras)),
        "by_file": json.dumps(by_file),
    }
    schema = pyarrow.schema(fields).with_metadata(metadata)
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_file(sink, schema) as writer:
        for rows in _batches(_values(record, extras, numbers, by_file) for record in records):
            columns = [
                pyarrow.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))


def _values(record: Record, extras: Sequence[str], numbers: Mapping[ShardFile, int], by_file: bool) -> tuple[Any, ...]:
    texts = (record.name, record.report, record.patient, record.study, record.view)
    image = record.image
    place: tuple[Any, ...] = (str(Path(str(image)).absolute()),) if by_file else ()
    if isinstance(image, PackedImage):
        place = (numbers[image.file], image.offset, image.length)
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
