"""Perceptual hashes of radiographs, and the search for near-duplicates among many of them.

The hash has 256 bits. Grey values become mid-ranks (histogram equalisation with ties in the middle, so
any increasing change of intensity keeps them), the image shrinks to 32 x 32, and the bits are the
signs of 256 low coefficients of its cosine transform (after Zauner 2010, "pHash"). Inverting an image flips every
bit, so MONOCHROME1 copies are found through the complement; mirroring it flips the bits of odd columns. An image of 512 pixels or
more is halved first, and then both hold for all but a few bits. Each image is hashed as it is and without its borders. Crops of
more than 2 % and rotations are not found reliably.

`benchmarks/near_duplicates.py` measures on real radiographs what is found (the table is in `docs/audit.md`) and how near
different patients come: of 13,594,160 pairs of children none differ in 36 bits or fewer, 1 in 39, 11 in 44, 85 in 52;
median 113. The tail thins about threefold every 4 bits. Extrapolated, that is about 6 in 10^8 pairs at 36 bits and 2 in
10^8 at 31: among 10^9 pairs expect about sixty false alarms, so look at the examples, or lower the threshold.

The search is exact. If bands 0 to 15, of 16 bits, differ in more than r_0, ..., r_15 bits, then the hashes
differ in at least r_0 + ... + r_15 + 16 bits. With r_b = floor((t - b) / 16) that is t + 1. So two hashes that are
t bits apart differ in at most r_b bits in some band b, and are found by looking up each band with up to r_b bits
changed (pigeonhole principle; Norouzi et al. 2012, arXiv:1307.2982).

Shapes: N, M images, 4 words of 64 bits.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import xxhash

from mrm.data import images
from mrm.data.borders import content_box

VERSION = 4  # of the hashes of images; those of other versions cannot be compared
BITS = 256
THRESHOLD = 36
_MAX_THRESHOLD = 47  # above it, three changed bits a band would have to be tried, and different chests are as near
SIDE_OF_BORDERS, SIDE_OF_RANKS = 512, 256  # pixels that the shorter side of an image keeps when it is halved for these
_SIDE, _BAND = 32, 16  # side of the shrunken image; bits in a band, and number of bands
_FLAT = 0.01  # standard deviation of ranks below which an image is blank; a uniform histogram has 0.29
_CHUNK = 1 << 17  # candidate pairs verified at once
ONE_BY_ONE = 1 << 18  # pairs that are sooner compared one by one than found by their bands
# Band b holds the coefficients (v, (v + b) mod 16): one of each row and column. This spreads the low frequencies, which
# differ little between chests, over the bands, so fewer pairs share a band by chance.
_ROWS = np.tile(np.arange(16), 16)
_COLUMNS = 1 + (_ROWS + np.repeat(np.arange(16), 16)) % 16
# The bits that change when an image is mirrored left to right: the signs of the coefficients of odd columns
_MIRROR = np.packbits(_COLUMNS % 2 == 1, bitorder="little").view(np.uint64)


def content_hash(image: np.ndarray) -> int:
    """A 64-bit hash (XXH3), never 0, of the shape and every pixel of an (H, W) uint8 image.

    It tells images apart that differ by chance, as a cryptographic hash does in fifteen times the time. Someone who wants two
    images to have the same one can make them.
    """
    digest = xxhash.xxh3_64(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.intdigest() or 1


def without_border(image: np.ndarray, tolerance: int = 32) -> np.ndarray:
    """The image (H, W) without the rows and columns at its edges that are of one grey, whichever it is.

    `tolerance` in grey levels, between the lightest and the darkest pixel of a line, allows for lossy compression, whose
    blocks smear the image into a border. An image that is nothing but border is left whole.
    """
    box = content_box(image, lambda part: (np.ptp(part, axis=1) > tolerance, np.ptp(part, axis=0) > tolerance))
    return np.ascontiguousarray(images.crop(image, box))


def perceptual_hashes(image: np.ndarray) -> np.ndarray:
    """(2, 4) uint64: `perceptual_hash` of an (H, W) uint8 image as it is, and without its borders.

    Without borders, a copy in a frame or padded to a square is found. As it is, a copy is found whose window made more of
    its edges black than are in the original. Borders are sought in an image that is large enough to tell them, and cut off
    before it is halved further: one that ends between two lines that become one would be part of the image.
    """
    image = halved(image, SIDE_OF_BORDERS)
    inner = without_border(image)
    whole = perceptual_hash(halved(image, SIDE_OF_RANKS))
    if inner.shape == image.shape:
        return np.stack([whole, whole])
    return np.stack([whole, perceptual_hash(halved(inner, SIDE_OF_RANKS))])


def halved(image: np.ndarray, least_side: int) -> np.ndarray:
    """An (H, W) uint8 image, halved by means of 2 x 2 pixels as long as its shorter side keeps so many of them.

    The last line of an odd number is left out.
    """
    while min(image.shape) >= 2 * least_side:
        height, width = image.shape[0] // 2, image.shape[1] // 2
        image = cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)
    return image


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """(4,) uint64 of an (H, W) uint8 image; all zero if it is blank, because blank images cannot be told apart."""
    counts = cv2.calcHist([image], [0], None, [256], [0, 256]).ravel().astype(np.float64)
    ranks = (np.cumsum(counts) - counts / 2) / image.size - 0.5
    ranked = cv2.LUT(image, ranks.astype(np.float32))
    small = cv2.resize(ranked, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    if small.std() < _FLAT:
        return np.zeros(4, np.uint64)
    bits = cv2.dct(small)[_ROWS, _COLUMNS] > 0
    return np.packbits(bits, bitorder="little").view(np.uint64)


def mirrored(hashes_N4: np.ndarray) -> np.ndarray:
    """The hashes of the same images mirrored left to right."""
    return hashes_N4 ^ _MIRROR


def distance(first_N4: np.ndarray, second_N4: np.ndarray) -> np.ndarray:
    """(N,) the fewest bits in which hashes differ, as they are, inverted, mirrored, or both."""
    nearest = []
    for other_N4 in (second_N4, mirrored(second_N4)):
        bits = np.bitwise_count(first_N4 ^ other_N4).sum(-1, dtype=np.int16)
        nearest.append(np.minimum(bits, BITS - bits))
    return np.minimum(*nearest)


def near_pairs(
    first_N4: np.ndarray, second_M4: np.ndarray | None = None, threshold: int = THRESHOLD, workers: int = 2
) -> np.ndarray:
    """All pairs at most `threshold` bits apart, as they are, inverted or mirrored: (P, 3) int64 rows of i, j, distance.

    Without `second_M4`, the pairs i < j within `first_N4`. Sorted by i, then j. Time grows with N + M and the
    number of pairs that look alike, not with N x M: 100,000 against 100,000 take a quarter of a minute. Pass distinct
    hashes: an image that occurs 10,000 times in both sets has 10^8 pairs. Raises ValueError for a threshold
    above 47.
    """
    if not 0 <= threshold <= _MAX_THRESHOLD:
        raise ValueError(
            f"threshold {threshold}: give 0 to {_MAX_THRESHOLD} bits; most pairs of chests are only a little farther apart"
        )
    within = second_M4 is None
    first = np.ascontiguousarray(first_N4, np.uint64)
    second = first if second_M4 is None else np.ascontiguousarray(second_M4, np.uint64)
    if not len(first) or not len(second):
        return np.zeros((0, 3), np.int64)
    if len(first) * len(second) <= ONE_BY_ONE:
        bits_NM = distance(first[:, None], second[None])
        i, j = np.nonzero(np.triu(bits_NM <= threshold, 1) if within else bits_NM <= threshold)
        return np.stack([i, j, bits_NM[i, j]], axis=1)
    with ThreadPoolExecutor(workers) as pool:
        searches = itertools.product((second, mirrored(second)), range(_BAND))
        matches = pool.map(lambda search: _matches(first, search[0], search[1], within, threshold), searches)
        keys = np.unique(np.concatenate(list(matches)))
    i, j = np.divmod(keys, len(second))
    return np.stack([i, j, distance(first[i], second[j])], axis=1)


def _matches(first: np.ndarray, second: np.ndarray, band: int, within: bool, threshold: int) -> np.ndarray:
    """The near pairs that agree in this band except for a few bits, each as one integer i * M + j.

    Both sides are sorted by their band, so that what is compared lies close together in memory.
    """
    rows, index, first_4N = _sorted_by(first, band)
    columns, queries, second_4M = _sorted_by(second, band)
    starts = np.concatenate([[0], np.cumsum(np.bincount(index, minlength=1 << _BAND))]).astype(np.int32)
    matches = [np.zeros(0, np.int64)]
    for probe in _probes((threshold - band) // _BAND):
        for values in (queries ^ np.uint16(probe), ~(queries ^ np.uint16(probe))):  # as they are, and inverted
            for i, j in _candidates(starts[values], starts[values.astype(np.int32) + 1]):
                if within:
                    i, j = i[rows[i] < columns[j]], j[rows[i] < columns[j]]
                i, j = _verified(first_4N, second_4M, i, j, threshold)
                matches.append(rows[i] * len(second) + columns[j])
    return np.unique(np.concatenate(matches))


def _probes(radius: int) -> list[int]:
    """All 16-bit masks with up to `radius` bits; none for a negative radius."""
    counts = range(radius + 1)
    return [sum(1 << bit for bit in bits) for k in counts for bits in itertools.combinations(range(_BAND), k)]


def _sorted_by(hashes_N4: np.ndarray, band: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order of one band, its values in that order, and the hashes (4, N) in that order."""
    values = hashes_N4.view(np.uint16)[:, band]
    order = np.argsort(values, kind="stable")
    return order, values[order], np.ascontiguousarray(hashes_N4[order].T)


def _verified(
    first_4N: np.ndarray, second_4M: np.ndarray, i: np.ndarray, j: np.ndarray, threshold: int
) -> tuple[np.ndarray, np.ndarray]:
    """The pairs (i, j) that are near; two of the four words already rule out nearly all others."""
    differ = np.zeros(len(i), np.int16)
    for word in range(4):
        differ += np.bitwise_count(first_4N[word].take(i) ^ second_4M[word].take(j))
        if word % 2:
            near = np.minimum(differ, 64 * (word + 1) - differ) <= threshold
            i, j, differ = i[near], j[near], differ[near]
    return i, j


def _candidates(lows: np.ndarray, highs: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(entry, query) for every entry from `lows[query]` up to `highs[query]`, in chunks."""
    counts = highs - lows
    ends = np.cumsum(counts, dtype=np.int64)
    edges = np.searchsorted(ends, np.arange(0, ends[-1] + _CHUNK, _CHUNK), side="right")
    for start, stop in itertools.pairwise(np.unique(np.append(edges, len(lows)))):
        part = counts[start:stop]
        shift = lows[start:stop] - (np.cumsum(part) - part)
        entries = np.arange(part.sum(), dtype=np.int32) + np.repeat(shift.astype(np.int32), part)
        yield entries, np.repeat(np.arange(start, stop, dtype=np.int32), part)
