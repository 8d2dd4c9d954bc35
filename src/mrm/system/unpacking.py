"""How much a packed file may unpack to: a small file from a stranger must not fill the memory of a machine."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

from mrm.system.errors import ConfigError

MIB = 1 << 20
ALWAYS_MIB = 256  # what any file may unpack to
RATIO = 20  # a larger file may unpack to this many times its size; tables of text reach 5 to 15 times
VARIABLE = "MRM_MAX_UNPACKED_MB"  # the environment variable that takes the place of ALWAYS_MIB
BLOCK = 1 << 20  # bytes unpacked at a time


class Readable(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes: ...


class TooLargeError(ValueError):
    """A file that unpacks to more than it may."""


def limit_of(packed: int) -> int:
    """The bytes that a file of `packed` bytes may unpack to. Raises ConfigError for a variable that is no number."""
    text = os.environ.get(VARIABLE, str(ALWAYS_MIB))
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ConfigError(f"the environment variable {VARIABLE} must be a whole number of megabytes, not {text[:40]!r}")
    return max(int(text) * MIB, RATIO * packed)


def check(unpacked: int, packed: int) -> None:
    """Raises TooLargeError if a file of `packed` bytes may not unpack to `unpacked` bytes."""
    if unpacked > (limit := limit_of(packed)):
        raise TooLargeError(
            f"{packed:,} bytes unpack to more than {limit // MIB:,} MiB; if the file is genuine, set the environment "
            f"variable {VARIABLE} to the megabytes that it may take"
        )


def read_bounded(file: Readable, packed: int) -> bytes:
    """All that an opened packed file holds. Raises TooLargeError once it is more than a file of that size may hold."""
    content = io.BytesIO()  # which grows in place and gives its bytes without a copy
    while block := file.read(BLOCK):
        content.write(block)
        check(content.tell(), packed)
    return content.getvalue()


def read_member(archive: zipfile.ZipFile, name: str, packed: int) -> bytes:
    """The content of a file in a zip archive of `packed` bytes. Raises TooLargeError, and what `zipfile` raises."""
    check(archive.getinfo(name).file_size, packed)  # `zipfile` never reads more than that
    with archive.open(name) as file:
        return read_bounded(file, packed)


def check_archive(path: Path) -> None:
    """Raises TooLargeError for a zip archive whose files unpack to more than they may, BadZipFile for no archive."""
    with zipfile.ZipFile(path) as archive:
        check(sum(info.file_size for info in archive.infolist()), path.stat().st_size)


# What `zipfile`, `gzip` and `zlib` raise for archives that are damaged, encrypted or packed by an unknown method
ARCHIVE_ERRORS = (
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,  # gzip.BadGzipFile too
    RuntimeError,
    UnicodeDecodeError,
    zipfile.BadZipFile,
    zlib.error,
)
