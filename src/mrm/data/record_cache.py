"""A table of records, converted once into a file that is mapped (`mrm.data.mapped_rows`), in a folder of the run.

    FOLDER/records.arrow   the records
    FOLDER/records.json    which table they are from, how it was read, and what is known of them as a whole

A later start uses the folder again. The table is taken for the same if its path, its size, and the times of its last change and
of the last change of its entry in the file system are the same; if they are not, or were less than two seconds before
it was read, its content is read, and its checksum decides. Anything that does not fit (another table, another version, a file
that was cut off) is converted anew, and a warning says why.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mrm.data import shards
from mrm.data.config import OnError
from mrm.data.mapped_rows import MappedRows, damage_of, write_rows
from mrm.data.patients import patients_of
from mrm.data.record import RESERVED
from mrm.data.record_facts import Facts, FactsInPassing
from mrm.data.records import Records
from mrm.data.table_records import check_columns, records_of, report_bad_lines, require_table
from mrm.system.errors import RecordError
from mrm.system.files import write_by, write_json
from mrm.system.lock import LOCK, in_turn
from mrm.system.output_folder import make_folder, writing
from mrm.system.progress import Progress
from mrm.system.tables import open_table
from mrm.system.typed_json import read_as

VERSION = 1  # of the two files
ROWS, INDEX = "records.arrow", "records.json"
RECENT = 2.0  # seconds within which some file systems give two changes the same time
CHUNK = 1 << 22  # bytes that are read at a time

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class TableState:
    """A table as it was when it was read."""

    path: str
    stamp: Stamp  # its size, and when its content and its entry in the file system last changed, in nanoseconds
    read_at: float  # seconds
    checksum: str

    @staticmethod
    def of(table: Path) -> TableState:
        """The state of a table now. Reads all of it."""
        stamp, now, digest = _stamp(table), time.time(), hashlib.blake2b(digest_size=16)
        with open(table, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return TableState(str(table.absolute()), stamp, now, digest.hexdigest())

    def is_still(self, table: Path) -> bool:
        """Whether the table is surely the same, without a look at its content."""
        settled = max(self.stamp[1:]) / 1e9 + RECENT < self.read_at
        return settled and (self.path, self.stamp) == (str(table.absolute()), _stamp(table))


def _stamp(table: Path) -> Stamp:
    state = table.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


@dataclass(frozen=True)
class Index:
    """The content of `records.json`."""

    version: int
    table: TableState
    bytes: int  # of records.arrow
    facts: Facts
    problems: list[str]  # lines of the table that hold no record, and why
    doubts: list[str]  # what a user should know of how the table was read


def mapped_records(
    table: Path, folder: Path, images: Path | None = None, on_error: OnError = "stop", prepares: bool = True
) -> Records:
    """The records of a table, mapped; `folder` keeps the converted table. Labels are not read.

    Of several ranks one `prepares` the folder, and the others open it afterwards. Label lists and shard folders are read into
    memory, as `Records.load` does. Raises RecordError for a table that cannot be used and for a folder that is not there, and
    OutputError for one that cannot be written.
    """
    if shards.is_shard_folder(table) or Path(table).suffix == ".txt":
        return Records.load(table, images=images, on_error=on_error)
    table = Path(table)
    require_table(table)
    index = _prepared(table, folder) if prepares else _opened(folder)
    for doubt in index.doubts:
        warnings.warn(f"{table}: {doubt}", stacklevel=2)
    report_bad_lines(table, index.problems, on_error)
    return Records(MappedRows(folder / ROWS, images or table.parent, index.facts), source=str(table))


def _opened(folder: Path) -> Index:
    """The index of a folder that another rank has prepared. Raises RecordError."""
    try:
        return read_as(Index, folder / INDEX, VERSION)
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{folder}: the records that the first rank has converted are not there ({error}); the output folder must be on "
            "storage that all nodes share"
        ) from None


def _prepared(table: Path, folder: Path) -> Index:
    """The index of the folder, whose files are written unless they fit the table."""
    make_folder(folder)
    with in_turn(folder / LOCK):
        index, reason = _existing(table, folder)
        if index:
            return index
        if reason:
            warnings.warn(f"{folder}: {reason}; the records are converted again", stacklevel=4)
        return _convert(table, folder)


def _existing(table: Path, folder: Path) -> tuple[Index | None, str]:
    """The index of the folder if it fits the table; else why it does not, '' where there is none."""
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
    if damage := damage_of(rows):
        return None, damage
    if index.table.is_still(table):
        return index, ""
    if _stamp(table)[0] == index.table.stamp[0] and (now := TableState.of(table)).checksum == index.table.checksum:
        index = replace(index, table=now)
        with writing(folder):
            write_json(file, asdict(index))
        return index, ""
    return None, f"it holds the records of {index.table.path} as they were before"


def _convert(table: Path, folder: Path) -> Index:
    """Write the files of the folder. Raises RecordError for a table that cannot be used, OutputError for a full disk."""
    (folder / INDEX).unlink(missing_ok=True)  # it must never describe other records than those beside it
    state = TableState.of(table)
    opened = open_table(table)
    check_columns(table, opened.header)
    extras = list(dict.fromkeys(name for name in opened.header if name not in RESERVED))
    passing, problems = FactsInPassing(()), list[str]()
    rows = records_of(opened.header, opened.rows, (), lambda *_: b"", "findings", problems)  # images follow from names
    records = passing.over(rows)

    def write(temporary: Path) -> None:
        write_rows(temporary, progress.over(records), (), extras)
        if not passing.n:
            report_bad_lines(table, problems, "stop")
            raise RecordError(f"{table}: has no records")
        if _stamp(table) != state.stamp:
            raise RecordError(f"{table}: was changed while it was read; run the same command again")

    with writing(folder), Progress(f"converting {table.name}") as progress:
        file = write_by(folder / ROWS, write)
        facts = passing.facts(lambda: _patients(file))
        index = Index(VERSION, state, file.stat().st_size, facts, problems, list(opened.doubts))
        write_json(folder / INDEX, asdict(index))
    return index


def _patients(file: Path) -> int | None:
    """The number of patients in records of which not all state theirs."""
    names, stated = zip(*((r.name, r.patient) for r in MappedRows(file, Path())), strict=True)
    return patients_of(names, stated).count
