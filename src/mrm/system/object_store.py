"""Files in an object store by their address, fetched once into a local cache of limited size.

An address is a URI that `pyarrow.fs` opens: `s3://bucket/folder?region=...`, `gs://...`, `hdfs://...`. Credentials
come from the environment (for S3 `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or the machine's role), never from
the address, because runs record it. Two variables set where fetched files are kept and how much space they may take:

    MRM_CACHE      a folder on a local disk; ~/.cache/mrm/fetched by default
    MRM_CACHE_GB   gigabytes (1e9 bytes) it may hold; 50 by default

Any number of processes may share a cache. A file appears in it whole and with the right checksum or not at all; the
least recently opened files are removed first. A process that still maps a removed file can use it until it unmaps it.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mrm.system.errors import StoreError
from mrm.system.lock import is_held, waiting_for
from mrm.system.permissions import restricted

Answer = TypeVar("Answer")
SCHEMES = ("s3", "gs", "hdfs")
CHUNK = 1 << 23  # bytes requested at a time
WAITS = (1.0, 4.0, 15.0)  # seconds before a request that failed is repeated
NEVER = re.compile("ACCESS_DENIED|NO_SUCH|INVALID|SIGNATURE|UNRECOGNIZED|MISSING|403|Forbidden")  # failures that stay
PATIENCE = 120.0  # seconds to wait for space that running downloads take
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,2}}([^/].*)")


def address(place: Path | str) -> str | None:
    """The URI of a location in an object store; None for a location on this machine.

    A `Path` turns two slashes into one, so `s3:/bucket` also means `s3://bucket`. Raises StoreError for an address
    that contains a password.
    """
    match = _ADDRESS.fullmatch(str(place))
    if not match:
        return None
    if "@" in match[2].partition("/")[0]:
        raise StoreError(
            f"{match[1]}://...: an address must not contain a password, because runs record their settings; "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    return f"{match[1]}://{match[2]}"


def within(folder: str, name: str) -> str:
    """The address of a file in the folder at that address; the options after `?` stay last."""
    path, mark, options = folder.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def read(uri: str, offset: int = 0, length: int | None = None, limit: int | None = None) -> bytes:
    """The content of an object, or of a part of it, of at most `limit` bytes. Raises StoreError."""
    return b"".join(_chunks(uri, offset, length, limit))


class StoreFile(io.RawIOBase):
    """An object to read in any order, each time as much as is asked for; wrap it in a `BufferedReader`. Raises StoreError."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri, self.at, self.size = uri, 0, size_of(uri)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte."""
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        """Read the bytes that come next, as many as fit."""
        length = max(0, min(len(buffer), self.size - self.at))
        content = read(self.uri, self.at, length) if length else b""
        buffer[: len(content)] = content
        self.at += len(content)
        return len(content)


def size_of(uri: str) -> int:
    """The number of bytes of an object. Raises StoreError."""
    return _tried(uri, partial(_range, at=0, end=0))[0]


def listed(folder: str) -> list[str]:
    """The names of the objects directly in a folder, in order. Raises StoreError."""
    return list(_sizes(folder, below=False))


def sizes_below(folder: str) -> dict[str, int]:
    """The bytes of each object below a folder, by its path there, in order. Raises StoreError."""
    return _sizes(folder, below=True)


def _sizes(folder: str, below: bool) -> dict[str, int]:
    """The bytes of each object in a folder, or also of those in folders `below` it, by its path there, in order."""
    from pyarrow.fs import FileSelector, FileType

    def ask(files: Any, path: str) -> tuple[str, Any]:
        return path.rstrip("/"), files.get_file_info(FileSelector(path.rstrip("/"), recursive=below))

    base, infos = _tried(folder, ask)
    sizes = {info.path[len(base) :].lstrip("/"): int(info.size) for info in infos if info.type == FileType.File}
    return dict(sorted(sizes.items()))


def _chunks(uri: str, start: int = 0, length: int | None = None, limit: int | None = None) -> Iterator[bytes]:
    """The bytes of an object from `start` on. What has arrived is not fetched again where the store fails in between."""
    at, end = start, None if length is None else start + length
    while end is None or at < end:
        size, chunk = _tried(uri, partial(_range, at=at, end=end))
        end = size if end is None else end
        if limit is not None and end - start > limit:
            raise StoreError(
                f"{uri}: {end - start:,} bytes, but at most {limit:,} are expected; is this the right object?"
            )
        at += len(chunk)
        if at < end and not chunk:
            raise StoreError(f"{uri}: ends after {at:,} of {end:,} bytes; upload it again")
        yield chunk


def _range(files: Any, path: str, at: int, end: int | None) -> tuple[int, bytes]:
    """The size of an object, and its bytes from `at` to `end`, or fewer."""
    with files.open_input_file(path) as file:
        size = file.size()
        if not size and files.type_name == "s3" and not (file.metadata() or {}).get(b"ETag"):
            raise OSError("the answer that states the size ended in its middle")  # the client takes that for 0 bytes
        return size, file.read_at(max(0, min(CHUNK, (size if end is None else end) - at)), at)


def _tried(uri: str, ask: Callable[[Any, str], Answer]) -> Answer:
    """What the store answers; a request that fails is repeated after a while, unless it can never succeed. Raises StoreError."""
    import pyarrow

    waits = iter(WAITS)
    while True:
        try:
            return ask(*_opened(uri))
        except FileNotFoundError:
            raise StoreError(f"{uri}: no such file; check the bucket and the folder") from None
        except (pyarrow.ArrowException, OSError) as error:
            wait = None if (lasting := NEVER.search(str(error))) else next(waits, None)
            if wait is None:
                tries = "" if lasting else f" in {len(WAITS) + 1} tries"
                raise StoreError(
                    f"{uri}: cannot be read{tries} ({error}); check the address, the network and the credentials "
                    "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE)"
                ) from error
            time.sleep(wait)


def _opened(uri: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it. Raises StoreError in a fork of a process that has used it."""
    parts = urlsplit(uri)
    first = _first_process()
    if first != os.getpid():  # the client's threads do not exist in a fork, which would wait for them forever
        raise StoreError(
            f"{uri}: this process is a fork of a process that has read from an object store; start it with spawn instead"
        )
    files = _file_system(f"{parts.scheme}://{parts.netloc}/{f'?{parts.query}' if parts.query else ''}")
    return files, f"{parts.netloc}{parts.path}" if parts.scheme != "hdfs" else parts.path


@cache
def _first_process() -> int:
    return os.getpid()


@cache
def _file_system(uri: str) -> Any:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(uri)[0]


# The cache ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cache:
    """A folder that holds fetched files of at most `limit` bytes in total."""

    folder: Path
    limit: int

    def open(self, uri: str, size: int, sha256: str) -> int:
        """A file descriptor of the fetched file; the caller closes it. Raises StoreError.

        `size` and `sha256` are those of the file that must arrive; they identify it, whatever its address.
        """
        while True:
            file = self.fetch(uri, size, sha256)
            with suppress(FileNotFoundError):  # another process removed it in between: fetch it again
                return os.open(file, os.O_RDONLY)

    def fetch(self, uri: str, size: int, sha256: str) -> Path:
        """The path of the file, once it is in the cache. Raises StoreError."""
        file = self.folder / sha256
        try:
            if _touched(file):
                return file
            with restricted():
                self.folder.mkdir(parents=True, exist_ok=True)
            with waiting_for(self.folder / f"{sha256}.lock"):
                if not _touched(file):
                    self._download(uri, size, sha256, file)
        except OSError as error:
            raise StoreError(
                f"{self.folder}: cannot be written to ({error}); free disk space, or set MRM_CACHE"
            ) from None
        return file

    def _download(self, uri: str, size: int, sha256: str, file: Path) -> None:
        temporary = self._room_for(size, file)
        try:
            digest, arrived = hashlib.sha256(), 0
            with open(temporary, "r+b") as out:
                for chunk in _chunks(uri):
                    out.write(chunk)
                    digest.update(chunk)
                    arrived += len(chunk)
            if arrived != size or digest.hexdigest() != sha256:
                raise StoreError(
                    f"{uri}: not the file that the index names ({arrived:,} of {size:,} bytes arrived, or the checksum differs); "
                    "upload the folder again"
                )
            with waiting_for(
                self.folder / "room.lock"
            ):  # else a process that makes room could see it under neither name
                os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)

    def _room_for(self, size: int, file: Path) -> Path:
        """A file of `size` bytes under a temporary name, for which older files were removed. Raises StoreError."""
        temporary = file.with_suffix(".part")
        until = time.monotonic() + PATIENCE
        while size <= self.limit and time.monotonic() < until:
            with waiting_for(self.folder / "room.lock"):
                if self._shrink(self.limit - size):
                    with open(temporary, "wb") as out:  # reserved at once, so that other processes count it
                        out.truncate(size)
                    return temporary
            time.sleep(0.1)
        raise StoreError(
            f"{self.folder}: a cache of {self.limit / 1e9:g} GB has no room for a file of {size / 1e9:.2g} GB beside the "
            "running downloads; raise MRM_CACHE_GB"
        )

    def _shrink(self, limit: int) -> bool:
        """Remove the least recently opened files until at most `limit` bytes are left; whether that succeeded."""
        files = []
        for file in self.folder.iterdir():
            if file.suffix != ".lock":
                with suppress(FileNotFoundError):  # a download has failed, and its temporary file was just removed
                    files.append((file, file.stat()))
        total = sum(state.st_size for _, state in files)
        for file, state in sorted(files, key=lambda f: (f[0].suffix != ".part", f[1].st_mtime_ns)):
            if total <= limit:
                break
            if file.suffix != ".part" or not is_held(file.with_suffix(".lock")):
                file.unlink(missing_ok=True)
                total -= state.st_size
        return total <= limit


def default_cache() -> Cache:
    """The cache that MRM_CACHE and MRM_CACHE_GB describe. Raises StoreError."""
    text = os.environ.get("MRM_CACHE_GB", "50")
    try:
        limit = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise StoreError(f"MRM_CACHE_GB is {text!r}, but must be a number of gigabytes above 0")
    return Cache(Path(os.environ.get("MRM_CACHE") or Path.home() / ".cache" / "mrm" / "fetched"), limit)


def _touched(file: Path) -> bool:
    """Whether the file exists; if so, it now counts as just opened."""
    try:
        os.utime(file)
    except FileNotFoundError:
        return False
    return True


class Fetcher:
    """Fetches files into a cache in the background. A failure is left to the reader that needs the file, which reports it."""

    def __init__(self, cache: Cache, threads: int = 4) -> None:
        self.cache, self.requests = cache, threading.Semaphore(0)
        self.queue: list[tuple[str, int, str]] = []
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def request(self, uri: str, size: int, sha256: str) -> None:
        """Request a file."""
        self.queue.append((uri, size, sha256))
        self.requests.release()

    def close(self) -> None:
        """Drop the requests that have not started."""
        self.queue.clear()
        for _ in self.threads:
            self.requests.release()

    def _run(self) -> None:
        while True:
            self.requests.acquire()
            try:
                file = self.queue.pop(0)
            except IndexError:
                return
            with suppress(StoreError):
                self.cache.fetch(*file)
