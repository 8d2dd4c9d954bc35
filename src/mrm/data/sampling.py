"""The order of samples: pure functions of (seed, number of samples seen), whatever the workers and the world size."""

# Shapes: N records
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np

from mrm.data.mapped_rows import MappedRows
from mrm.data.permutation import Permutation
from mrm.data.records import Records
from mrm.data.shards import WINDOW, PackedImage, ShardFile
from mrm.data.table_records import SITE
from mrm.system.errors import ConfigError

DRAWN = 1 << 20  # records up to which an order is drawn and held, 8 MB at most; of more records it is computed
AT_ONCE = 1 << 12  # places of an order that are computed together
NO_WEIGHTS: Mapping[str, float] = {}


class Sample(NamedTuple):
    """The epoch and the record of a sample."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides a method of tuples


Order = Callable[[int, int, int], Iterator[Sample]]  # of the seed, the length of an epoch, and the samples seen


def shuffled(seed: int, n: int, seen: int) -> Iterator[Sample]:
    """Endless samples from number `seen` on: every record once an epoch, in a new order each epoch."""
    epoch, at = divmod(seen, n)
    while True:
        rng = np.random.default_rng([seed, epoch])
        for index in rng.permutation(n)[at:] if n <= DRAWN else _computed(rng, n, at):
            yield Sample(epoch, int(index))
        epoch, at = epoch + 1, 0


def _computed(rng: np.random.Generator, n: int, at: int) -> Iterator[int]:
    """The numbers 0 to n - 1 in an order that `rng` decides on, from place `at` on."""
    order = Permutation(rng, n)
    for start in range(at, n, AT_ONCE):
        yield from order.at(np.arange(start, min(start + AT_ONCE, n))).tolist()


class Drawn:
    """An order in which each epoch takes a number of samples from each group of records, in a new order each epoch.

    A number beyond the size of its group takes all its records as often as it holds them, and draws the rest anew each epoch.
    A record that an epoch takes twice is another sample each time: the epochs of its samples are numbers of their own.
    """

    def __init__(self, groups: Sequence[np.ndarray], counts: Sequence[int]) -> None:
        self.groups, self.counts = [group.astype(np.int32) for group in groups], counts
        self.passes = max(
            (-(-count // len(group)) for group, count in zip(groups, counts, strict=True) if count), default=1
        )

    def __len__(self) -> int:
        """The number of samples in an epoch."""
        return sum(self.counts)

    def __call__(self, seed: int, n: int, seen: int) -> Iterator[Sample]:
        """Endless samples from number `seen` on; `n` must be the length of an epoch."""
        epoch, at = divmod(seen, len(self))
        while True:
            for turn, index in self.epoch(seed, epoch)[at:]:
                yield Sample(epoch * self.passes + int(turn), int(index))
            epoch, at = epoch + 1, 0

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """The samples of an epoch, (S, 2): how often its record was taken before, and the record."""
        rng, parts = np.random.default_rng([seed, epoch]), list[np.ndarray]()
        for group, count in zip(self.groups, self.counts, strict=True):
            times, rest = divmod(count, len(group)) if count else (0, 0)
            taken = [group] * times + ([rng.permutation(group)[:rest]] if rest else [])
            parts += [np.stack([np.full_like(part, turn), part], axis=1) for turn, part in enumerate(taken)]
        samples_S2 = np.concatenate(parts)
        return samples_S2[rng.permutation(len(samples_S2))]


def balanced(positive_N: np.ndarray, negatives: float) -> Drawn:
    """An order in which each epoch has all positive records and `negatives` times as many negative ones, drawn again."""
    positive, negative = np.flatnonzero(positive_N), np.flatnonzero(~positive_N)
    return Drawn([positive, negative], [len(positive), min(len(negative), round(negatives * len(positive)))])


def by_site(records: Records, weights: Mapping[str, float]) -> Drawn:
    """An order in which each epoch takes the records of a site as often as its weight says; those of other sites once.

    Raises ConfigError for a site that no record has, and for weights that leave nothing.
    """
    numbers: dict[str, int] = {}
    number_of = (numbers.setdefault(site, len(numbers)) for site in records.values(SITE))
    site_N = np.fromiter(number_of, np.int32, len(records))
    sites = sorted(numbers.keys() - {""})
    if unknown := sorted(set(weights) - set(sites)):
        known = f"choose from {', '.join(sites)}" if sites else f"no record has a column {SITE}, which mrm merge writes"
        raise ConfigError(f"site_weights: unknown site {unknown[0]!r}; {known}")
    groups = [np.flatnonzero(site_N == numbers[site]) for site in sorted(numbers)]
    wanted = [len(group) * weights.get(site, 1.0) for site, group in zip(sorted(numbers), groups, strict=True)]
    counts = [max(1, round(count)) if count else 0 for count in wanted]
    if not any(counts):
        raise ConfigError("site_weights: every site has the weight 0, so nothing is left to train on")
    return Drawn(groups, counts)


class InWindows:
    """An order for records in files that have to be fetched: a few files at a time, their records shuffled together.

    Each epoch shuffles the files, takes them in windows of `window` files, and shuffles the records of each window. So
    at most two windows of files are needed at any time, and each file once an epoch.
    """

    def __init__(self, file_N: np.ndarray, window: int = WINDOW) -> None:
        self.file_N, self.window = np.unique(file_N, return_inverse=True)[1].astype(np.int32), window
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


def order_of(records: Records, weights: Mapping[str, float] = NO_WEIGHTS) -> Order:
    """The order to shuffle these records in: by the weights of their sites, freely, or in windows of files that are fetched.

    Raises ConfigError for weights that cannot be used.
    """
    files = fetched_files(records)
    if weights and files:
        raise ConfigError(
            "site_weights: shards in an object store are read a few files at a time, which no weights can follow; copy them "
            "to this machine"
        )
    if weights:
        return by_site(records, weights)
    if not files:
        return shuffled
    return InWindows(files.number_N)


def epoch_length(order: Order, records: Sized) -> int:
    """The number of samples in an epoch of an order: every record once, unless the order has a length of its own."""
    return len(order) if isinstance(order, Sized) else len(records)


class FetchedFiles(NamedTuple):
    """The files that images have to be fetched with, and the number among them of each record's file."""

    files: Sequence[ShardFile]
    number_N: np.ndarray  # int32


def fetched_files(records: Sequence[Any]) -> FetchedFiles | None:
    """The files of the images if they have to be fetched, otherwise None."""
    first = records[0].image if len(records) else None
    if not isinstance(first, PackedImage) or not first.file.remote:
        return None
    rows: Sequence[Any] = records.rows if isinstance(records, Records) else records
    if isinstance(rows, MappedRows):
        return FetchedFiles(rows.files, rows.file_numbers())
    numbers: dict[ShardFile, int] = {}
    number_of = (numbers.setdefault(record.image.file, len(numbers)) for record in rows)
    number_N = np.fromiter(number_of, np.int32, len(rows))
    return FetchedFiles(tuple(numbers), number_N)


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
