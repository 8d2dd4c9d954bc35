"""An order of many things that is computed where it is asked for, and takes no memory.

A Feistel network turns the numbers of a square range into one another, whatever its round function (Luby and Rackoff 1988).
What leaves the numbers that are wanted is put through it again until it is one of them (cycle walking: Black and Rogaway
2002), so that they are permuted too.
"""

# Shapes: N places
from __future__ import annotations

import numpy as np

ROUNDS = 8
MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of splitmix64 (Steele, Lea and Flood 2014)


class Permutation:
    """A pseudo-random order of the numbers 0 to n - 1, which follows from what `rng` gives."""

    def __init__(self, rng: np.random.Generator, n: int) -> None:
        self.n = n
        self.half = np.uint64(max(1, -(-(n - 1).bit_length() // 2)))  # bits of each half of a number
        self.low = (np.uint64(1) << self.half) - np.uint64(1)
        self.keys = rng.integers(2**64, size=ROUNDS, dtype=np.uint64)

    def at(self, places_N: np.ndarray) -> np.ndarray:
        """The numbers at these places of the order, (N,) int64."""
        numbers_N = self._network(places_N.astype(np.uint64))
        while (outside := numbers_N >= self.n).any():
            numbers_N[outside] = self._network(numbers_N[outside])
        return numbers_N.astype(np.int64)

    def _network(self, numbers_N: np.ndarray) -> np.ndarray:
        left_N, right_N = numbers_N >> self.half, numbers_N & self.low
        for key in self.keys:
            left_N, right_N = right_N, left_N ^ (_mixed(right_N + key) & self.low)
        return left_N << self.half | right_N


def _mixed(values_N: np.ndarray) -> np.ndarray:
    """Each value scrambled, so that all of its bits decide on each bit of the result."""
    for shift, factor in zip((30, 27), MIX, strict=True):
        values_N = (values_N ^ values_N >> np.uint64(shift)) * factor
    return values_N ^ values_N >> np.uint64(31)
