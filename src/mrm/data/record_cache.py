"""A table, label list or shard folder, converted once into a file that is mapped (`mrm.data.mapped_rows`), in a folder of the run.

    FOLDER/records.arrow   the records
    FOLDER/records.json    what they are from, how it was read, and what is known of them as a whole

A later start uses the folder again if the source is still the same (`mrm.data.record_sources`). Anything that does not fit
(another table, another version, a file that was cut off) is converted anew, and a warning says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mrm.data.config import OnError
from mrm.data.mapped_rows import MappedRows, damage_of, write_rows
from mrm.data.patients import patients_of
from mrm.data.record_facts import Facts, FactsInPassing
from mrm.data.record_sources import UNLABELLED, Labels, Source, SourceState, source_of
from mrm.data.records import Records
from mrm.data.shards import ShardFile
from mrm.data.table_records import report_bad_lines
from mrm.system.errors import RecordError
from mrm.system.files import write_by, write_json
from mrm.system.lock import LOCK, in_turn
from mrm.system.output_folder import make_folder, writing
from mrm.system.progress import Progress
from mrm.system.typed_json import read_as

VERSION = 3  # of the two files
ROWS, INDEX = "records.arrow", "records.json"


@dataclass(frozen=True)
class Index:
    """The content of `records.json`."""

    version: int
    source: SourceState
    bytes: int  # of records.arrow
    facts: Facts
    problems: list[str]  # lines of it that hold no record, and why
    doubts: list[str]  # what a user should know of how it was read


def mapped_records(
    place: Path | str,
    folder: Path,
    images: Path | None = None,
    on_error: OnError = "stop",
    prepares: bool = True,
    labels: Labels = UNLABELLED,
) -> Records:
    """The records of a table, a label list or a shard folder, mapped; `folder` keeps them.

    They are those of `Records.load`. Of several ranks one `prepares` the folder, and the others open it afterwards. Raises
    RecordError for a table that cannot be used and for a folder that is not there, ShardError and StoreError for shards that
    cannot be used, and OutputError for a folder that cannot be written.
    """
    source = source_of(place, labels, images)
    index = _prepared(source, folder) if prepares else _opened(folder)
    for doubt in index.doubts:
        warnings.warn(f"{source.place}: {doubt}", stacklevel=2)
    report_bad_lines(source.place, index.problems, on_error, source.advice)
    rows = MappedRows(folder / ROWS, images or Path(place).parent, index.facts, source.files)
    return Records(rows, tuple(rows.classes), source.place, labels.kind)


def _opened(folder: Path) -> Index:
    """The index of a folder that another rank has prepared. Raises RecordError."""
    try:
        return read_as(Index, folder / INDEX, VERSION)
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{folder}: the records that the first rank has converted are not there ({error}); the output folder must be on "
            "storage that all nodes share"
        ) from None


def _prepared(source: Source, folder: Path) -> Index:
    """The index of the folder, whose files are written unless they fit the source."""
    make_folder(folder)
    with in_turn(folder / LOCK):
        index, reason = _existing(source, folder)
        if index:
            return index
        if reason:
            warnings.warn(f"{folder}: {reason}; the records are converted again", stacklevel=4)
        return _convert(source, folder)


def _existing(source: Source, folder: Path) -> tuple[Index | None, str]:
    """The index of the folder if it fits the source; else why it does not, '' where there is none."""
    file, rows = folder / INDEX, folder / ROWS
    if not file.exists():
        return None, ""
    try:
        index = read_as(Index, file, VERSION)
        size = rows.stat().st_size
    except ValueError as error:
        return None, str(error)
    except OSError as error:
        return None, f"{ROWS} cannot be read ({error.strerror})"
    if size != index.bytes:
        return None, f"{ROWS} has {size:,} bytes, but {index.bytes:,} were written"
    if source.read != index.source.read:
        return None, "its records were read with other labels, or their images sought in another folder"
    state = _same(source, index.source)
    if state is None:
        return None, f"it holds the records of {index.source.path} as they were before"
    if damage := damage_of(rows, source.files):
        return None, damage
    if source.by_file and not _file_of_first(rows).exists():
        return None, "the images of the list are no longer where they were"
    if state != index.source:
        index = replace(index, source=state)
        with writing(folder):
            write_json(file, asdict(index))
    return index, ""


def _file_of_first(rows: Path) -> Path:
    image = MappedRows(rows, Path())[0].image
    assert isinstance(image, Path)
    return image


def _same(source: Source, then: SourceState) -> SourceState | None:
    """The state of the source now if its content is what it was then; else None."""
    if source.is_still(then):
        return then
    if source.size() != then.stamp[0]:
        return None
    now = source.state()
    return now if now.checksum == then.checksum else None


def _convert(source: Source, folder: Path) -> Index:
    """Write the files of the folder. Raises RecordError for a table that cannot be used, OutputError for a full disk."""
    (folder / INDEX).unlink(missing_ok=True)  # it must never describe other records than those beside it
    state, opened = source.state(), source.open()
    passing = FactsInPassing(opened.classes)

    def write(temporary: Path) -> None:
        records = progress.over(passing.over(opened.records))
        write_rows(temporary, records, opened.classes, opened.extras, source.files, source.by_file)
        if not passing.n:
            report_bad_lines(source.place, opened.problems, "stop", source.advice)
            raise RecordError(f"{source.place}: has no records")
        if source.has_changed(state):
            raise RecordError(f"{source.place}: was changed while it was read; run the same command again")

    with writing(folder), Progress(f"converting {Path(source.place).name}") as progress:
        file = write_by(folder / ROWS, write)
        facts = passing.facts(lambda: _patients(file, source.files))
        index = Index(VERSION, state, file.stat().st_size, facts, opened.problems, list(opened.doubts))
        write_json(folder / INDEX, asdict(index))
    return index


def _patients(file: Path, files: Sequence[ShardFile]) -> int | None:
    """The number of patients in records of which not all state theirs."""
    rows = MappedRows(file, Path(), files=files)
    return patients_of(list(rows.values("name")), list(rows.values("patient"))).count
