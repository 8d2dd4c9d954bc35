"""The order of samples: pure functions of (seed, number of samples seen), whatever the workers and the world size."""

# Shapes: N records
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrm.data.records import Records
from mrm.data.shards import WINDOW, PackedImage, ShardFile


class Sample(NamedTuple):
    """The epoch and the record of a sample."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides a method of tuples


def shuffled(seed: int, n: int, seen: int) -> Iterator[Sample]:
    """Endless samples from number `seen` on: every record once an epoch, in a new order each epoch."""
    epoch, at = divmod(seen, n)
    while True:
        for index in np.random.default_rng([seed, epoch]).permutation(n)[at:]:
            yield Sample(epoch, int(index))
        epoch, at = epoch + 1, 0


class Balanced:
    """An order in which each epoch has all positive records and `negatives` times as many negative ones, drawn again."""

    def __init__(self, positive_N: np.ndarray, negatives: float) -> None:
        self.positive, self.negative = np.flatnonzero(positive_N), np.flatnonzero(~positive_N)
        self.drawn = min(len(self.negative), round(negatives * len(self.positive)))

    def __len__(self) -> int:
        """The number of samples in an epoch."""
        return len(self.positive) + self.drawn

    def __call__(self, seed: int, n: int, seen: int) -> Iterator[Sample]:
        """Endless samples from number `seen` on; `n` must be the length of an epoch."""
        epoch, at = divmod(seen, len(self))
        while True:
            rng = np.random.default_rng([seed, epoch])
            chosen = np.concatenate([self.positive, rng.permutation(self.negative)[: self.drawn]])
            for index in rng.permutation(chosen)[at:]:
                yield Sample(epoch, int(index))
            epoch, at = epoch + 1, 0


class InWindows:
    """An order for records in files that have to be fetched: a few files at a time, their records shuffled together.

    Each epoch shuffles the files, takes them in windows of `window` files, and shuffles the records of each window. So
    at most two windows of files are needed at any time, and each file once an epoch.
    """

    def __init__(self, file_N: np.ndarray, window: int = WINDOW) -> None:
        self.file_N, self.window = np.unique(file_N, return_inverse=True)[1], window
        self.files = int(self.file_N.max(initial=-1)) + 1

    def __call__(self, seed: int, n: int, seen: int) -> Iterator[Sample]:
        """Endless samples from number `seen` on; `n` must be the number of records."""
        epoch, at = divmod(seen, n)
        while True:
            for index in self.epoch(seed, epoch)[at:]:
                yield Sample(epoch, int(index))
            epoch, at = epoch + 1, 0

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """The indices of the records in the order of one epoch, (N,)."""
        rng = np.random.default_rng([seed, epoch])
        turn_F = rng.permutation(self.files)
        order_N = rng.permutation(len(self.file_N))
        return order_N[np.argsort(turn_F[self.file_N[order_N]] // self.window, kind="stable")]


def order_of(records: Records) -> Callable[[int, int, int], Iterator[Sample]]:
    """The order to shuffle these records in: freely, or in windows of files if their images have to be fetched."""
    files = fetched_files(records)
    if not files:
        return shuffled
    numbers = {file: number for number, file in enumerate(dict.fromkeys(files))}
    return InWindows(np.array([numbers[file] for file in files]))


def fetched_files(records: Sequence[Any]) -> list[ShardFile]:
    """The file of each image if the files have to be fetched, otherwise an empty list."""
    first = records[0].image if len(records) else None
    if not isinstance(first, PackedImage) or not first.file.remote:
        return []
    return [record.image.file for record in records]


def micro_batches(
    order: Iterator[Sample], steps: int, accumulate: int, micro_batch: int, rank: int, world: int
) -> Iterator[list[Sample]]:
    """This rank's micro-batches of `steps` global batches, taken from the order that all ranks share."""
    for _ in range(steps):
        whole = [next(order) for _ in range(accumulate * micro_batch * world)]
        mine = whole[rank::world]
        for start in range(0, len(mine), micro_batch):
            yield mine[start : start + micro_batch]


def in_order(count: int, batch: int) -> Iterator[list[Sample]]:
    """Every record once, in order, for evaluation."""
    for start in range(0, count, batch):
        yield [Sample(0, i) for i in range(start, min(start + batch, count))]
