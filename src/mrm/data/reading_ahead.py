"""Images read in order while earlier ones are still being computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from mrm.data import images
from mrm.data.records import Record
from mrm.system import hardware
from mrm.system.errors import STOPS, ImageError, MRMError, unexpected


def read_ahead(records: Sequence[Record], workers: int | None = None) -> Iterator[np.ndarray | ImageError | OSError]:
    """The image (H, W) of each record, in order, or the reason why it cannot be read.

    `workers` threads read ahead, by default one for each core but one; with 0 each image is read when it is asked for.
    Never more than two images per worker are held. Raises UnexpectedError for any other exception in reading.
    """
    workers = hardware.cores() - 1 if workers is None else workers
    if workers == 0:
        yield from map(_read, records)
        return
    remaining = iter(records)
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[np.ndarray | ImageError | OSError]] = deque()
        try:
            pending.extend(pool.submit(_read, record) for record in islice(remaining, 2 * workers))
            while pending:
                image = pending.popleft().result()
                pending.extend(pool.submit(_read, record) for record in islice(remaining, 1))
                yield image
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
