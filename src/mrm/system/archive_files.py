"""Archives of files (.zip, .tar, .tar.gz, .tgz) from a stranger, unpacked into a folder and nowhere else."""

from __future__ import annotations

import gzip
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath

from mrm.system.errors import DownloadError, first_line
from mrm.system.files import write_by
from mrm.system.unpacking import ARCHIVE_ERRORS, BLOCK, Readable, TooLargeError, check

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
OF_SYSTEMS = ("__MACOSX", ".DS_Store", "Thumbs.db")  # what programs leave in archives


@dataclass(frozen=True)
class _Member:
    """A file of an archive."""

    name: str
    size: int
    position: int  # the bytes of the archive up to here, about
    chunks: Iterator[bytes]


def is_archive(name: str) -> bool:
    """Whether `unpack` takes a file of that name."""
    return name.lower().endswith(SUFFIXES)


def unpack(
    archive: Path, into: Path, top: str = "", shown: Callable[[int, int], object] = lambda done, total: None
) -> list[Path]:
    """Write the files of an archive below a folder, each whole or not at all. Returns their paths.

    With `top`, only what is below that folder of the archive is taken, without it. `shown` is called with the bytes of the archive
    that are done, and all. Raises DownloadError for an archive that is damaged, that holds links, devices or names outside
    of the folder, or that unpacks to more than it may; what was written stays. Raises OSError where it cannot be written.
    """
    written, unpacked, packed = list[Path](), 0, archive.stat().st_size
    for member in _members(archive):
        place = _place(member.name, top, archive)
        if place is None:
            continue
        unpacked += member.size
        with _named(archive):
            check(unpacked, packed)
        written.append(write_by(into / place, lambda temporary, member=member: _write(temporary, member)))  # type: ignore[misc]
        shown(member.position, packed)
    shown(packed, packed)
    return written


def _write(file: Path, member: _Member) -> None:
    with open(file, "wb") as out:
        for chunk in member.chunks:
            out.write(chunk)


def _place(name: str, top: str, archive: Path) -> PurePosixPath | None:
    """Where a file goes below the folder; None for one that is not wanted. Raises DownloadError for one that leaves it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or "\0" in name:
        raise DownloadError(f"{archive}: {name!r} leads out of its folder, so the archive is not to be trusted")
    if any(part in OF_SYSTEMS or part.startswith("._") for part in path.parts):
        return None
    if top and not path.is_relative_to(top):
        return None
    return path.relative_to(top) if top else path


# Reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def _named(archive: Path) -> Iterator[None]:
    """Turn what goes wrong in reading an archive into a DownloadError."""
    try:
        yield
    except TooLargeError as error:
        raise DownloadError(f"{archive}: {error}") from None
    except (*ARCHIVE_ERRORS, tarfile.TarError) as error:
        raise DownloadError(f"{archive}: is damaged ({first_line(error)})") from None


def _members(archive: Path) -> Iterator[_Member]:
    """The files of an archive in their order; each must be read before the next one. Raises DownloadError."""
    with _named(archive):
        yield from _of_zip(archive) if archive.name.lower().endswith(".zip") else _of_tar(archive)


def _of_zip(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        position = 0
        for info in opened.infolist():
            position += info.compress_size
            if not info.filename:
                raise zipfile.BadZipFile("a file in it has no name")
            if info.is_dir():
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                raise _not_a_file(archive, info.filename)
            with opened.open(info) as content:
                yield _Member(info.filename, info.file_size, position, _chunks(archive, content, info.file_size))


def _of_tar(archive: Path) -> Iterator[_Member]:
    with open(archive, "rb") as raw:
        stream = gzip.GzipFile(fileobj=raw) if archive.name.lower().endswith("gz") else raw
        packed = _Bounded(stream, archive.stat().st_size)
        with tarfile.open(fileobj=packed, mode="r:") as opened:  # type: ignore[call-overload]  # all that it needs of a file
            for info in opened:
                if info.isdir():
                    continue
                content = opened.extractfile(info) if info.isreg() else None
                if content is None:
                    raise _not_a_file(archive, info.name)
                yield _Member(info.name, info.size, raw.tell(), _chunks(archive, content, info.size))
                opened.members.clear()  # else it remembers a hundred thousand
        while packed.read(BLOCK):  # to its end, where its checksum is
            pass


class _Bounded:
    """What a .tar is read from: no further than the file may unpack to, since a header too may claim any size."""

    def __init__(self, file: gzip.GzipFile | BufferedReader, packed: int) -> None:
        self.file, self.packed = file, packed
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """So many bytes. Raises TooLargeError."""
        check(self.file.tell() + size, self.packed)
        return self.file.read(size)


def _chunks(archive: Path, content: Readable, size: int) -> Iterator[bytes]:
    """The content of a file. Raises DownloadError, also where the archive ends before it, which `tarfile` does not say."""
    with _named(archive):
        while block := content.read(BLOCK):
            size -= len(block)
            yield block
        if size:
            raise tarfile.ReadError("it ends in the middle of a file")


def _not_a_file(archive: Path, name: str) -> DownloadError:
    return DownloadError(f"{archive}: {name!r} is a link or a device, which no data set needs")
