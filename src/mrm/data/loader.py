"""From an order of samples to batches: worker processes that read, and files fetched ahead of them."""

from __future__ import annotations

import atexit
import math
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.multiprocessing import reductions
from torch.utils.data import DataLoader, Dataset

from mrm.data.reach import Reach
from mrm.data.samples import Data, Skipped
from mrm.data.sampling import FetchedFiles, Sample, fetched_files
from mrm.data.shards import WINDOW, ShardFile
from mrm.system import hardware
from mrm.system.errors import (
    STOPS,
    ImageError,
    MRMError,
    StoreError,
    UnexpectedError,
    UnreachableError,
    first_line,
    unexpected,
)
from mrm.system.object_store import Fetcher, default_cache


class _Failed(NamedTuple):
    """An error passed out of a worker as one line instead of a traceback."""

    kind: type[MRMError]
    reason: str


class _Batched(Dataset):
    """A data set whose items are whole batches: a DataLoader worker maps a list of samples to one."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.reach = Reach(getattr(data, "records", ()) or getattr(data, "masked", ()))

    def __getitem__(self, batch: list[Sample]) -> Any:
        samples, skipped = [], []
        try:
            for epoch, index in batch:
                sample, failed = self._readable(epoch, index)
                samples.append(sample)
                skipped += failed
            return self.data.collate(samples, skipped)
        except MRMError as error:
            return _Failed(type(error), str(error))
        except STOPS:
            raise
        except BaseException as error:
            return _Failed(UnexpectedError, str(unexpected(f"record {self.data.name(batch[0].index)}", error)))

    def _readable(self, epoch: int, index: int) -> tuple[Any, list[Skipped]]:
        """The sample, or with on_error "skip" the next readable one, and the records skipped on the way."""
        failed: list[Skipped] = []
        for offset in range(len(self.data)):
            at = (index + offset) % len(self.data)
            try:
                sample = self.data.sample(epoch, at)
                self.reach.reached()
                return sample, failed
            except (ImageError, OSError) as error:
                again = isinstance(error, UnreachableError | OSError)
                if self.data.on_error == "stop":
                    kind = UnreachableError if again else ImageError
                    raise kind(
                        f"record {self.data.name(at)}: {error}; or leave such records out with --on-error skip"
                    ) from error
                self.reach.miss(str(error)) if again else self.reach.reached()
                failed.append(Skipped(at, self.data.name(at), str(error)))
            except (MRMError, *STOPS):
                raise
            except BaseException as error:
                raise unexpected(f"record {self.data.name(at)}", error) from error
        first = failed[0]
        raise ImageError(
            f"none of the {len(self.data)} images could be read; first error: {first.name}: {first.reason}"
        )


def loader(data: Data, batches: Iterator[list[Sample]], workers: int | None = None, pin: bool = False) -> Iterator[Any]:
    """Batches of `data`, read by `workers` processes (None: as many as suit this machine; 0: in this process).

    Raises ImageError for an image that cannot be read, unless the data skips such records, and UnexpectedError for any
    other exception in reading or for a worker that was killed.
    """
    count = hardware.default_workers("cuda" if pin else "cpu") if workers is None else workers
    files = fetched_files(getattr(data, "records", ()) or getattr(data, "masked", ()))
    loaded = DataLoader(
        _Batched(data),
        sampler=_fetched_ahead(batches, files) if files else batches,  # whole lists of samples
        batch_size=None,  # each list is a batch already
        num_workers=count,
        pin_memory=pin,
        prefetch_factor=4 if count else None,
        worker_init_fn=_start_worker,
        # The client of an object store does not survive a fork.
        multiprocessing_context="spawn" if files and count else None,
        generator=torch.Generator().manual_seed(0),  # otherwise a DataLoader draws from the global generator
    )
    return _raise_failures(iter(loaded))


def _raise_failures(loaded: Iterator[Any]) -> Iterator[Any]:
    try:
        while True:
            try:
                batch = next(loaded)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise UnexpectedError(
                    f"a process that reads images was killed ({first_line(error)}), most likely because memory ran "
                    "out; run the same command again with fewer workers or a smaller batch (0 workers read in this "
                    "process)"
                ) from error
            if isinstance(batch, _Failed):
                raise batch.kind(batch.reason)
            _release_shared_tensors()
            yield batch
    finally:
        # An error keeps this frame, and whoever keeps the error would keep the processes that read. Collected in a
        # cycle later on, PyTorch waits five seconds for each of them, since the queue to it is closed by then.
        del loaded


@atexit.register
def _end_workers() -> None:
    """End the processes that still read when this one ends, whatever ended it.

    They ignore SIGTERM, by which Python would end them, and Python would then wait for them for ever.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _release_shared_tensors() -> None:
    """Free what PyTorch remembers about tensors that other processes sent and that no longer exist.

    It keeps up to 128 of these entries. They are a few bytes each, but lie in memory between the activations of a batch
    and fragment it: without this call, memory grew by megabytes a batch.
    """
    with reductions.shared_cache.lock:
        reductions.shared_cache.free_dead_references()


def _fetched_ahead(batches: Iterator[list[Sample]], fetched: FetchedFiles) -> Iterator[list[Sample]]:
    """The same batches, while the files of later ones are fetched in the background, one window ahead.

    Raises StoreError if the cache is too small for the window being read and the next one.
    """
    cache = default_cache()
    files, number_N = fetched
    sizes = sorted((files[number].bytes for number in np.unique(number_N)), reverse=True)
    if sum(sizes[: 2 * WINDOW]) > cache.limit:
        raise StoreError(
            f"{cache.folder}: a cache of {cache.limit / 1e9:g} GB is too small for {2 * WINDOW} files at once; "
            f"set MRM_CACHE_GB to at least {math.ceil(sum(sizes[: 2 * WINDOW]) / 1e8) / 10:g}"
        )
    ahead = WINDOW * -(-len(number_N) // len(sizes))  # samples
    fetcher, requested = Fetcher(cache), deque[ShardFile](maxlen=2 * WINDOW)
    waiting, waiting_samples = deque[list[Sample]](), 0
    try:
        for batch in batches:
            for file in dict.fromkeys(files[number_N[sample.index]] for sample in batch):
                if file not in requested:
                    requested.append(file)
                    fetcher.request(file.place, file.bytes, file.sha256)
            waiting.append(batch)
            waiting_samples += len(batch)
            while waiting_samples > ahead:
                waiting_samples -= len(waiting[0])
                yield waiting.popleft()
        yield from waiting
    finally:
        fetcher.close()


def _start_worker(_: int) -> None:
    """Use one thread, and ignore signals: Ctrl-C and SIGTERM reach all processes, and the main one handles them."""
    cv2.setNumThreads(0)  # in a forked worker, 1 would wait for the parent's threads
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
