"""Locks on files: one process at a time. The system releases a lock when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mrm.system.errors import OutputError

LOCK = ".lock"  # the file in an output folder that a command holds while it writes there


@contextmanager
def waiting_for(file: Path) -> Iterator[None]:
    """Hold the lock on `file` inside the block; waits while another process, or another thread, holds it."""
    with open(file, "w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def is_held(file: Path) -> bool:
    """Whether any process holds the lock on `file`."""
    with open(file, "w") as opened:
        return not _acquire(opened)


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Hold an existing output folder inside the block. Raises OutputError if another process holds it.

    The lock file is removed at the end; one that a killed process has left behind is taken over.
    """
    path = folder / LOCK
    with trying(path) as acquired:
        if not acquired:
            raise OutputError(
                f"{folder}: another process is writing to this folder; wait for it to end, or choose another --out"
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def trying(path: Path) -> Iterator[bool]:
    """Try to hold the lock on `path` inside the block, without waiting; yields whether it is held."""
    while True:
        with open(path, "ab") as file:
            acquired = _acquire(file)
            if acquired and not _is_at(file, path):
                continue  # the process that held it removed it between `open` and the lock
            yield acquired
            return


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether `path` still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _acquire(file: IO[bytes] | IO[str]) -> bool:
    """Lock an open file without waiting; whether that succeeded."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
