"""Processes that work for a command: one thread each, and none outlives the command."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from mrm.system.errors import STOPS, MRMError, UnexpectedError, unexpected
from mrm.system.progress import Progress

QUICK, SLOW = 1000, 50  # headers, or whole images, that can be read in the time that a process takes to start


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """A pool of so many processes, started anew, since the caller may hold threads of OpenCV and PyTorch."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=start_worker)


def each(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int, what: str, per_process: int = QUICK
) -> Iterator[Any]:
    """Yield `function(item)` of each item, in order, with progress, from `workers` processes (0: one per core).

    Each process has at least `per_process` items; where there is work for only one, it is done in this process.
    """
    processes = min(workers or len(os.sched_getaffinity(0)), max(1, len(items) // per_process))
    with Progress(what, len(items)) as progress, named_faults(what):
        if processes == 1:
            yield from progress.over(map(function, items))
            return
        with worker_pool(processes) as pool:
            yield from progress.over(pool.map(function, items, chunksize=min(32, per_process)))


@contextmanager
def named_faults(what: str) -> Iterator[None]:
    """Turn a worker's exception that nothing foresaw, and its death, into an UnexpectedError, which is one line."""
    try:
        yield
    except (MRMError, OSError, *STOPS):
        raise
    except BrokenProcessPool as error:
        raise UnexpectedError(
            f"{what}: a process was killed, most likely because memory ran out; run the same command again with fewer "
            "--workers, and it resumes"
        ) from error
    except BaseException as error:
        raise unexpected(what, error) from error


def start_worker() -> None:
    """Use one thread, since there is one process per core, and end with the command, however that ends."""
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and the command itself answers it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)  # else it would wait forever for work that a killed command no longer sends
