"""What several readers agree on: boxes that enough of them drew around the same thing, and those that too few did.

Boxes of one class and image by different readers are of the same thing if their intersection over union is at least 0.4, by
which the VinBigData challenge calls a box found. Such boxes become one, of the mean of their sides. Boxes that fewer readers
drew than have to agree are disputed: the image neither has that finding there nor lacks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

from mrm.data.boxes import Box

SAME = 0.4  # intersection over union of boxes of the same thing


class Consensus(NamedTuple):
    """The boxes of one class on an image: those that enough readers drew, and the others."""

    agreed: list[Box]
    disputed: list[Box]


def consensus(boxes: Sequence[Box], agree: int) -> Consensus:
    """What at least `agree` readers drew, of the boxes of one class on one image."""
    result = Consensus([], [])
    for group in _groups(boxes):
        enough = len({box.reader for box in group}) >= agree
        (result.agreed if enough else result.disputed).append(_mean(group))
    return result


def readers_of_an_image(images: Iterable[Sequence[Box]]) -> int:
    """The most readers who drew boxes on one image; 1 where readers are not named."""
    return max((len({box.reader for box in boxes}) for boxes in images), default=0)


def by_class(boxes: Sequence[Box]) -> Mapping[str, list[Box]]:
    """The boxes of an image by the names of their classes."""
    classes: dict[str, list[Box]] = {}
    for box in boxes:
        classes.setdefault(box.name, []).append(box)
    return classes


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    shared = max(0.0, across) * max(0.0, down)
    return shared / (one.width * one.height + other.width * other.height - shared)


def _groups(boxes: Sequence[Box]) -> list[list[Box]]:
    """Boxes of the same thing, joined through boxes of other readers, in the order of the first of each."""
    group = list(range(len(boxes)))
    for i, j in combinations(range(len(boxes)), 2):
        if boxes[i].reader != boxes[j].reader and group[i] != group[j] and overlap(boxes[i], boxes[j]) >= SAME:
            old, new = max(group[i], group[j]), min(group[i], group[j])
            group = [new if number == old else number for number in group]
    return [[box for box, own in zip(boxes, group, strict=True) if own == number] for number in sorted(set(group))]


def _mean(group: Sequence[Box]) -> Box:
    """The box of the mean sides of a group."""
    if len(group) == 1:
        return group[0]
    sides = {side: sum(getattr(box, side) for box in group) / len(group) for side in ("x", "y", "width", "height")}
    return replace(group[0], **sides, reader=" + ".join(sorted({box.reader for box in group})))
