"""From an order of samples to batches on their way to the device: reading processes, and files fetched ahead of them."""

from __future__ import annotations

import math
import signal
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import torch
from torch.multiprocessing import reductions
from torch.utils.data import DataLoader, Dataset

from mrm.data.samples import Data, Skipped
from mrm.data.sampling import Sample, fetched_files
from mrm.data.shards import WINDOW, ShardFile
from mrm.system import hardware
from mrm.system.errors import ImageError, StoreError
from mrm.system.object_store import Fetcher, default_cache


class _Failed(NamedTuple):
    """An error on its way out of a worker, as one line instead of a traceback."""

    reason: str


class _Batched(Dataset):
    """A map from a list of samples to a batch, as a DataLoader worker runs it."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __getitem__(self, wanted: list[Sample]) -> Any:
        samples, skipped = [], []
        try:
            for epoch, index in wanted:
                sample, failed = self._readable(epoch, index)
                samples.append(sample)
                skipped += failed
        except (ImageError, StoreError) as error:
            return _Failed(str(error))
        return self.data.collate(samples, skipped)

    def _readable(self, epoch: int, index: int) -> tuple[Any, list[Skipped]]:
        """The sample, or the next one that can be read if errors are to be skipped."""
        failed: list[Skipped] = []
        for offset in range(len(self.data)):
            at = (index + offset) % len(self.data)
            try:
                return self.data.sample(epoch, at), failed
            except (ImageError, OSError) as error:
                if self.data.on_error == "stop":
                    raise ImageError(
                        f"record {self.data.name(at)}: {error}; or leave such records out with --on-error skip"
                    ) from error
                failed.append(Skipped(at, self.data.name(at), str(error)))
        first = failed[0]
        raise ImageError(f"not one of {len(self.data)} images could be read; the first, {first.name}: {first.reason}")


def loader(data: Data, batches: Iterator[list[Sample]], workers: int | None = None, pin: bool = False) -> Iterator[Any]:
    """Batches of `data`, made by `workers` processes (None: by what this machine has; 0: in this one).

    Raises ImageError for an image that cannot be read, unless the data skips such records.
    """
    count = hardware.default_workers("cuda" if pin else "cpu") if workers is None else workers
    files = fetched_files(getattr(data, "records", ()) or getattr(data, "masked", ()))
    loaded = DataLoader(
        _Batched(data),
        sampler=_fetched_ahead(batches, files)
        if files
        else batches,  # a list of samples at a time, so no second batching
        batch_size=None,
        num_workers=count,
        pin_memory=pin,
        prefetch_factor=4 if count else None,
        worker_init_fn=_start_worker,
        multiprocessing_context="spawn"
        if files and count
        else None,  # an object store's client does not survive a fork
        generator=torch.Generator().manual_seed(0),  # a DataLoader would draw from the global one otherwise
    )
    return _unless_failed(iter(loaded))


def _unless_failed(loaded: Iterator[Any]) -> Iterator[Any]:
    for batch in loaded:
        if isinstance(batch, _Failed):
            raise ImageError(batch.reason)
        _forget_shared()
        yield batch


def _forget_shared() -> None:
    """Let go of what PyTorch remembers of tensors that other processes sent and that are gone.

    It keeps up to 128 of them: a few bytes each, but they lie between the activations of a batch, and the next batch
    finds no room there. Without this, memory grew by megabytes a batch.
    """
    with reductions.shared_cache.lock:
        reductions.shared_cache.free_dead_references()


def _fetched_ahead(batches: Iterator[list[Sample]], files: list[ShardFile]) -> Iterator[list[Sample]]:
    """The same batches; the files of those to come are fetched in the background, one window ahead.

    Raises StoreError where the cache is too small for the window that is read and the one on its way.
    """
    cache = default_cache()
    sizes = sorted((file.bytes for file in set(files)), reverse=True)
    if sum(sizes[: 2 * WINDOW]) > cache.limit:
        raise StoreError(
            f"{cache.folder}: {cache.limit / 1e9:g} GB are too few to read from {2 * WINDOW} files at once; "
            f"set MRM_CACHE_GB to {math.ceil(sum(sizes[: 2 * WINDOW]) / 1e8) / 10:g} at least"
        )
    ahead = WINDOW * -(-len(files) // len(sizes))  # samples
    fetcher, waiting, counted, asked = Fetcher(cache), deque[list[Sample]](), 0, deque[ShardFile](maxlen=2 * WINDOW)
    try:
        for batch in batches:
            for file in dict.fromkeys(files[sample.index] for sample in batch):
                if file not in asked:
                    asked.append(file)
                    fetcher.request(file.place, file.bytes, file.sha256)
            waiting.append(batch)
            counted += len(batch)
            while counted > ahead:
                counted -= len(waiting[0])
                yield waiting.popleft()
        yield from waiting
    finally:
        fetcher.close()


def _start_worker(_: int) -> None:
    """One thread, and deaf to signals: Ctrl-C and a scheduler's SIGTERM reach all processes, and the loop answers."""
    cv2.setNumThreads(0)  # in this process only; 1 would wait for the parent's threads in a forked worker
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
