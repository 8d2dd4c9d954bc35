"""Long preparations of a run: the first rank does them while the others wait, as long as it lives.

A barrier of the communication library gives up after some minutes, however much there is to prepare. Here a rank waits for a
file in the run's folder, and gives up when the lock file there shows no sign of life of the first rank.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate.utils import broadcast_object_list

from mrm.system import lock
from mrm.system.errors import RunError
from mrm.system.files import write_whole
from mrm.training.trainer import processes

PAUSE = 0.2  # seconds between two looks


@contextmanager
def first_rank_first(run: Path) -> Iterator[None]:
    """Let the first rank, which holds the folder of the run, go through the block before the others.

    Raises RunError on a rank that sees neither the end of its work nor a sign of life in the folder.
    """
    ranks = processes()
    if ranks.num_processes == 1:
        yield
        return
    done = Path(run) / f"{lock.LOCK}.prepared-{broadcast_object_list([secrets.token_hex(4)])[0]}"
    if ranks.is_main_process:
        yield
        write_whole(done, b"")
    else:
        wait_for(done, Path(run) / lock.LOCK)
    ranks.wait_for_everyone()
    if ranks.is_main_process:
        done.unlink(missing_ok=True)
    else:
        yield


def wait_for(done: Path, sign: Path) -> None:
    """Return once the file `done` is there. Raises RunError after a time without a change of the file `sign`."""
    last, seen = None, time.monotonic()
    while not done.exists():
        now = _changed(sign)
        if now != last:
            last, seen = now, time.monotonic()
        if time.monotonic() - seen > lock.SILENCE:
            raise RunError(
                f"{done.parent}: the first rank has shown no sign of life here for {lock.SILENCE:g} s, so its preparations "
                f"cannot be waited for; the output folder must be on storage that all nodes share"
            )
        time.sleep(PAUSE)


def _changed(file: Path) -> int | None:
    """When a file was changed last; None if it is not there."""
    try:
        with open(file, "rb") as opened:  # opening makes a network file system ask for the present state
            return os.fstat(opened.fileno()).st_mtime_ns
    except OSError:
        return None
