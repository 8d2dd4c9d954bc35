"""Hashes of images in a file beside their records, so that an image is read once, and not for every audit of it.

    FOLDER/.image-hashes          what is known of the images of the records in FOLDER: lists, a prepared corpus, shards
    FOLDER/.image-hashes.2-of-8   what one share of a command has hashed, until a last one puts all together

A file is a header and entries of eleven words of 64 bits: a key, the exact hash (0 if the image could not be read), the
eight words of the perceptual hashes, and a check of the ten. Entries are appended as images are hashed, so that work that
was interrupted resumes; what was cut off or damaged fails its check, and those images are hashed again. The key of an image
file is a hash of its path as seen from FOLDER, of its size and of the time of its last change: an image that was changed has no
entry, and a folder that is moved together with its images keeps all. That of a packed image is a hash of its place and of the
checksum of its file.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import math
import os
import struct
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mrm.audit.perceptual_hashes import VERSION
from mrm.data.shards import PackedImage
from mrm.system.files import write_by
from mrm.system.lock import is_at, locked
from mrm.system.permissions import restricted
from mrm.system.shares import WHOLE, Share

FILE = ".image-hashes"
HASHES = 9  # words of an image: its exact hash, and its two perceptual ones
ENTRY = struct.Struct(f"<{HASHES + 2}Q")
HEADER = struct.pack("<8sQ", b"mrmhash\n", VERSION)
AT_ONCE = 1 << 16  # entries that are checked at a time
WAIT = 1.0  # seconds after which what was added is written
_WORD = (1 << 64) - 1
_FACTORS = [pow(0x9E3779B97F4A7C15, place, 1 << 64) for place in range(1, HASHES + 2)]  # odd, so each bit counts
_START = 0xD1B54A32D192ED03  # the check of zeros, with which some file systems fill a file after a crash


class KeptHashes:
    """The hashes that the files of a folder keep, as they were when they were read last; more can be added.

    Files of another version or with damaged entries are read as far as they are whole, and a warning says so. A process that
    does a `share` adds to a file of its own, and knows the hashes of all. Any number of processes may add to a file at the
    same time: what was added is written about once a second, under the lock of the file. `called` is what messages call the
    file, if that is not its path. Raises OSError.
    """

    def __init__(self, folder: Path, share: Share = WHOLE, called: str = "") -> None:
        self.folder, self._called = os.path.abspath(folder), called
        self.whole = Path(self.folder) / FILE
        self.path = self.whole if share == WHOLE else self.whole.with_name(f"{FILE}.{share.label}")
        self._relative = lru_cache(4096)(lambda folder: os.path.relpath(folder, self.folder))
        self._waiting, self._written = bytearray(), -math.inf
        self._load()

    def _load(self, held: io.FileIO | None = None) -> None:
        """Read all files; `held` is the whole one where this process has locked it."""
        self._own, self._spoilt = np.zeros((0, HASHES + 2), "<u8"), False
        parts, self._state = [], self._state_now()
        for file in self._files():
            try:
                entries, problem = _read(held) if held and file == self.whole else _read_locked(file)
            except FileNotFoundError:  # another share has just put all files together
                self._load(held)
                return
            if problem:
                warnings.warn(f"{self._called or file}: {problem}; the images concerned are hashed again", stacklevel=3)
            if file == self.path:
                self._own, self._spoilt = entries, bool(problem)
            parts.append(entries)
        self._entries = parts[0] if len(parts) == 1 else np.concatenate([self._own[:0], *parts])
        self._keys = np.ascontiguousarray(self._entries[:, 0])
        if not (self._keys[1:] > self._keys[:-1]).all():
            order = np.argsort(self._keys, kind="stable")
            last = np.append(np.diff(self._keys[order]) != 0, True)  # of entries for one key the latest counts
            self._entries, self._keys = self._entries[order[last]], self._keys[order[last]]

    def refresh(self) -> None:
        """Read the files again if anything was added to them since they were read."""
        if self._state_now() != self._state:
            self._load()

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self, images: Sequence[Any]) -> np.ndarray:
        """The keys (N,) of images as they are now; 0 for those that are no file, nor packed."""
        return np.array([self._key(image) for image in images], np.uint64)

    def hashes(self, keys_N: np.ndarray) -> np.ndarray:
        """The nine words (N, 9) of each key, zeros for an unknown one and for an image that could not be read."""
        words_N9 = np.zeros((len(keys_N), HASHES), np.uint64)
        if len(self):
            places = np.minimum(np.searchsorted(self._keys, keys_N), len(self) - 1)
            known = np.flatnonzero(self._keys[places] == keys_N)
            words_N9[known] = self._entries[places[known], 1:-1]
        return words_N9

    def tried(self, keys_N: np.ndarray) -> np.ndarray:
        """Which of the keys (N,) have an entry, if only that the image could not be read."""
        return np.isin(keys_N, self._keys)

    def add(self, key: int, words: Sequence[int]) -> None:
        """Keep the nine words of an image. Raises OSError if what was added cannot be written, of which that is then lost."""
        self._waiting += ENTRY.pack(key, *words, _check(key, *words))
        if time.monotonic() - self._written > WAIT:
            self.flush()

    def flush(self) -> None:
        """Write what was added. Raises OSError, and then only the entries are kept for which there was room."""
        content, self._waiting = bytes(self._waiting), bytearray()
        if not content:
            return
        self._mend()
        with _held(self.path) as file:
            _append(file, content)
        self._written = time.monotonic()

    def _mend(self) -> None:
        """Remove from the file of this process whatever is damaged in it."""
        with _held(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            if size and (
                self._spoilt or (size - len(HEADER)) % ENTRY.size or os.pread(file.fileno(), len(HEADER), 0) != HEADER
            ):
                _write(self.path, _read(file)[0])
                self._spoilt = False

    def settle(self) -> None:
        """Put what all shares have kept into one file, in order of the keys, and remove theirs. Raises OSError."""
        with _held(self.whole) as held:
            shares = [file for file in self._files() if file != self.whole]
            self._load(held)
            readable = self._entries[self._entries[:, 1] > 0]
            if len(readable):
                _write(self.whole, readable)
            else:
                self.whole.unlink()
        for share in shares:
            share.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove the files."""
        for file in self._files():
            file.unlink(missing_ok=True)

    def _key(self, image: Any) -> int:
        if isinstance(image, PackedImage):
            text = f"{image.file.sha256}|{image.offset}|{image.length}"
        elif isinstance(image, Path):
            try:
                state = os.stat(image)
            except (OSError, ValueError):
                return 0
            folder, name = os.path.split(image)
            text = f"{self._relative(folder)}/{name}|{state.st_size}|{state.st_mtime_ns}"
        else:
            return 0
        digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "little") or 1

    def _files(self) -> list[Path]:
        shares = sorted(self.whole.parent.glob(f"{glob.escape(FILE)}.*-of-*"))
        return [file for file in (self.whole, *shares) if file.is_file()]

    def _state_now(self) -> list[tuple[str, int, int]]:
        """By what it is known whether the files have changed: their names, inodes and sizes."""
        states = [(file.name, *_inode_and_size(file)) for file in self._files()]
        return [state for state in states if state[1]]


def _check(*words: int) -> int:
    return (sum(word * factor for word, factor in zip(words, _FACTORS, strict=True)) + _START) & _WORD


def _inode_and_size(file: Path) -> tuple[int, int]:
    """Inode and bytes of a file; zeros where there is none."""
    try:
        state = file.stat()
    except OSError:
        return 0, 0
    return state.st_ino, state.st_size


def _read_locked(file: Path) -> tuple[np.ndarray, str]:
    """As `_read`, while no other process writes. Raises OSError."""
    with io.FileIO(file) as opened, locked(opened, shared=True):
        return _read(opened)


def _read(file: io.FileIO) -> tuple[np.ndarray, str]:
    """The whole entries (M, 11) of an open file, and what is wrong with it, '' if nothing. Raises OSError."""
    size = os.fstat(file.fileno()).st_size
    count, rest = divmod(max(0, size - len(HEADER)), ENTRY.size)
    header = os.pread(file.fileno(), len(HEADER), 0)
    if header != HEADER:
        return np.zeros((0, HASHES + 2), "<u8"), _other(header) if size else ""
    shape = (count, HASHES + 2)
    entries = np.memmap(file, "<u8", "r", len(HEADER), shape) if count else np.zeros(shape, "<u8")
    whole = np.concatenate([np.zeros(0, bool), *map(_are_whole, np.split(entries, range(AT_ONCE, count, AT_ONCE)))])
    if whole.all():
        return entries, "was cut off in its last entry" if rest else ""
    return entries[whole], f"{count - int(whole.sum()):,} of its {count:,} entries are damaged"


def _other(header: bytes) -> str:
    """What a file is whose header is not that of this version."""
    if len(header) < len(HEADER) or header[:8] != HEADER[:8]:
        return "is damaged"
    return f"has hashes of version {struct.unpack('<Q', header[8:])[0]}, and this mrm makes version {VERSION}"


def _are_whole(entries_M11: np.ndarray) -> np.ndarray:
    check_M = (entries_M11[:, :-1] * np.array(_FACTORS, np.uint64)).sum(axis=1, dtype=np.uint64) + np.uint64(_START)
    return np.asarray(check_M == entries_M11[:, -1])


@contextmanager
def _held(path: Path) -> Iterator[io.FileIO]:
    """The file at a path, made if necessary, opened to be read and added to, and locked against other processes."""
    while True:
        with restricted():
            path.parent.mkdir(parents=True, exist_ok=True)
            file = io.FileIO(path, "a+")
        with file, locked(file):
            if is_at(file, path):  # else another process has just put a new file in its place
                yield file
                return


def _append(file: io.FileIO, content: bytes) -> None:
    """Add entries to a locked file. Raises OSError, after which those are in it that there was room for."""
    before = os.fstat(file.fileno()).st_size
    content = content if before else HEADER + content
    written = file.write(content)
    if written < len(content):
        entries = (before + written - len(HEADER)) // ENTRY.size
        os.ftruncate(file.fileno(), len(HEADER) + entries * ENTRY.size if entries > 0 else 0)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write(file: Path, entries: np.ndarray) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "wb") as opened:
            opened.write(HEADER)
            np.ascontiguousarray(entries).tofile(opened)

    write_by(file, write)
