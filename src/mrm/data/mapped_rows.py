"""Records in a file that is mapped into memory: none of them is an object until it is asked for.

The file is Arrow IPC, written a batch at a time. All processes of a machine that map it share its pages, and the system
drops them when memory is short. So what a process holds does not grow with the number of records.
"""

from __future__ import annotations

import copy
import itertools
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from mrm.data.record import Record
from mrm.data.record_facts import Facts
from mrm.system.errors import RecordError, first_line

BATCH_ROWS = 1 << 14
BATCH_CHARACTERS = 1 << 27  # a report may be far longer than most; a column of a batch holds less than 2 GB
TEXTS = ("name", "report", "patient", "study", "view")  # of a Record; the first columns of the file, in this order


class MappedRows(Sequence[Record]):
    """The records in a file that `write_rows` wrote, or those at some `indices`; their images lie in `folder`.

    `facts` are known of all of them, and of no selection. It can be pickled, and another process then maps the file itself.
    Raises RecordError for a damaged file.
    """

    def __init__(self, file: Path, folder: Path, facts: Facts | None = None, indices: np.ndarray | None = None) -> None:
        self.file, self.folder, self.facts, self.indices = file, folder, facts, indices
        try:
            batches, (self._classes, self._extras) = _opened(file)
        except ValueError as error:
            raise self._damaged(error) from None
        self._names = [*TEXTS, *self._classes, *self._extras]
        self._columns = [batch.columns for batch in batches]
        self._starts = [0, *itertools.accumulate(batch.num_rows for batch in batches)]

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedRows, (self.file, self.folder, self.facts, self.indices)

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
        labelled = len(TEXTS) + len(self._classes)
        return Record(
            image=self.folder / name,
            report=report,
            patient=patient,
            study=study,
            view=view,
            labels=tuple(values[len(TEXTS) : labelled]),
            extra=dict(zip(self._extras, values[labelled:], strict=True)),
            name=name,
        )


def _opened(file: Path) -> tuple[list[Any], list[list[str]]]:
    """The batches in a file, and the names of its classes and further columns. Raises ValueError."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(file)) as source:
            reader = pyarrow.ipc.open_file(source)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            names = [json.loads(reader.schema.metadata[key]) for key in (b"classes", b"extras")]
            if len(reader.schema) != len(TEXTS) + sum(map(len, names)):
                raise ValueError(f"{len(reader.schema)} columns")
            return batches, names
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(first_line(error)) from None


def damage_of(file: Path) -> str:
    """What is wrong with a file that `write_rows` wrote; '' if nothing. Where each text begins and ends is looked at, no text."""
    import pyarrow

    try:
        batches, _ = _opened(file)
        for batch in batches:
            batch.validate()
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


def write_rows(file: Path, records: Iterable[Record], classes: Sequence[str], extras: Sequence[str]) -> None:
    """Write records for `MappedRows`, a batch in memory at a time. Each has a label for every class and all `extras`.

    Raises OSError.
    """
    import pyarrow

    texts, labels = pyarrow.string(), pyarrow.float64()
    fields = (
        [(name, texts) for name in TEXTS] + [(name, labels) for name in classes] + [(name, texts) for name in extras]
    )
    metadata = {"classes": json.dumps(list(classes)), "extras": json.dumps(list(extras))}
    schema = pyarrow.schema(fields).with_metadata(metadata)
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_file(sink, schema) as writer:
        for rows in _batches(_values(record, extras) for record in records):
            columns = [
                pyarrow.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)
            ]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))


def _values(record: Record, extras: Sequence[str]) -> tuple[Any, ...]:
    texts = (record.name, record.report, record.patient, record.study, record.view)
    return (*texts, *record.labels, *(record.extra[name] for name in extras))


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
