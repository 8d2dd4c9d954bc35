"""Files that are written whole or not at all: bytes, JSON, CSV, and whatever a library writes.

Each is written under a temporary name in the same folder and then renamed, so that a reader never sees half a file
and an error or a kill leaves the previous file as it was. All functions make the folder if necessary, let only those
read that `mrm.system.permissions` names, and raise OSError where the file cannot be written (see `mrm.system.output_folder.writing`).
"""

from __future__ import annotations

import csv
import errno
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from mrm.system.permissions import restricted
from mrm.system.spreadsheet_cells import guarded

MAX_JSON = 1 << 26  # bytes of a JSON file that is held in memory; model cards and indexes have far less

Row = (
    Mapping[str, Any] | Sequence[Any]
)  # by column name, where a missing value is empty; or in the order of the columns


def is_file(path: Path | str) -> bool:
    """Whether there is a file of that name; a text may be too long for a name, or have characters that none has."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def write_by(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a file by calling `write` with a temporary path, which is then renamed to `path`. Returns `path`."""
    temporary = path.with_name(f".{path.name}.tmp")
    with restricted():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # of a killed process; a file that exists would keep its permissions
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path


def reserve(file: IO[bytes], size: int) -> None:
    """Take the disk space that a new file will need, so that a full disk is known before the long writing. Raises OSError."""
    file.flush()
    try:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # a file system that cannot reserve
            raise


def write_whole(path: Path, content: bytes) -> Path:
    """Write bytes. Returns `path`."""
    return write_by(path, lambda temporary: temporary.write_bytes(content))


def write_json(path: Path, value: Any) -> Path:
    """Write dictionaries, lists, numbers, text and paths as JSON; NaN and infinity become null. Returns `path`."""
    return write_whole(path, as_json(value).encode("utf-8", "backslashreplace"))


def as_json(value: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse_json(text: str | bytes) -> Any:
    """The value in a JSON text. Raises ValueError for any other text, and for one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises ValueError for another or too large a file, and OSError."""
    if (size := path.stat().st_size) > MAX_JSON:
        raise ValueError(f"{size:,} bytes, but at most {MAX_JSON:,} are expected")
    return parse_json(path.read_bytes())


def plain(value: Any) -> Any:
    """The value with None in place of NaN and infinity, which JSON does not have, and text in place of paths."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Row]) -> Path:
    """Write a CSV that `mrm.system.tables.read_csv_rows` reads back; None is empty. Returns `path`.

    Text that a spreadsheet would compute is guarded (see `mrm.system.spreadsheet_cells`). The rows are consumed one at
    a time.
    """
    names, line_of = list(columns), csv_line_maker()
    return write_lines(path, (line_of(cells(names, row)) for row in itertools.chain([names], rows)))


def csv_line_maker() -> Callable[[Sequence[Any]], str]:
    """A function of the values of a row: the line of `write_csv`, with its line break."""
    lines: list[str] = []
    into = SimpleNamespace(write=lines.append)
    minimal = csv.writer(into, lineterminator="\n")
    quoted = csv.writer(into, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def line_of(values: Sequence[Any]) -> str:
        texts = [guarded(value) if isinstance(value, str) else value for value in values]
        has_return = "\r" in "".join([text for text in texts if isinstance(text, str)])
        (quoted if has_return else minimal).writerow(texts)  # Python before 3.13 does not quote "\r"
        return lines.pop()

    return line_of


def write_lines(path: Path, lines: Iterable[str]) -> Path:
    """Write text in UTF-8 whose lines have their line breaks; what UTF-8 cannot hold is escaped. Returns `path`."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(lines)

    return write_by(path, write)


def cells(columns: Sequence[str], row: Row) -> Sequence[Any]:
    """The values of a row in the order of the columns; None where it has none."""
    return [row.get(column) for column in columns] if isinstance(row, Mapping) else row
