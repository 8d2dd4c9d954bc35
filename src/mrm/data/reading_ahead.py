"""Images read in order while earlier ones are still being computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

from mrm.data import images
from mrm.data.records import Record
from mrm.system import hardware
from mrm.system.errors import STOPS, ImageError, MRMError, unexpected

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(records: Sequence[Record], workers: int | None = None) -> Iterator[np.ndarray | ImageError | OSError]:
    """The image (H, W) of each record, in order, or the reason why it cannot be read.

    `workers` threads read ahead, by default one for each core but one. Raises UnexpectedError for any other exception
    in reading.
    """
    return work_ahead(records, _read, hardware.cores() - 1 if workers is None else workers)


def work_ahead(items: Iterable[Item], work: Callable[[Item], Result], workers: int) -> Iterator[Result]:
    """What `work` returns for each item, in order, computed ahead by so many threads; with 0 when it is asked for.

    The items are taken from their iterator one by one, in this thread, and never more than two for each worker are held.
    """
    if workers == 0:
        yield from map(work, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            pending.extend(pool.submit(work, item) for item in islice(remaining, 2 * workers))
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(work, item) for item in islice(remaining, 1))
                yield result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _read(record: Record) -> np.ndarray | ImageError | OSError:
    try:
        return images.read(record.image)
    except (ImageError, OSError) as error:
        return error
    except (MRMError, *STOPS):
        raise
    except BaseException as error:
        raise unexpected(f"record {record.name}", error) from error
