"""What boxes say of tested images: for each class of the model the boxes of the readers' consensus, and what was left out.

An image counts as one without a finding only where its label says so: one that is labelled with the finding but has no box of
it, or whose label is not stated, shows nothing about false marks and is left out of them.
"""

# Shapes: K boxes, J disputed boxes; the 4 of a box are x, y, width and height in pixels
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrm.data.box_consensus import by_class, consensus, readers_of_an_image
from mrm.data.box_files import RecordBoxes, boxes_of
from mrm.data.boxes import Box
from mrm.data.records import Records
from mrm.evaluation.map_measures import sides
from mrm.system.errors import RunError

AGREE = 2  # readers, unless told otherwise, where an image has boxes of several


@dataclass(frozen=True)
class Truth:
    """What is known of one class in one image: agreed and disputed boxes, and the label (1, 0, -1 or NaN)."""

    box_K4: np.ndarray
    disputed_J4: np.ndarray
    label: float

    @property
    def has_boxes(self) -> bool:
        """Whether there is an agreed box."""
        return len(self.box_K4) > 0

    @property
    def counts(self) -> bool:
        """Whether marks on this image are judged: there is a box, or the label says that there is nothing."""
        return self.has_boxes or self.label == 0


@dataclass(frozen=True)
class Truths:
    """What boxes say of records: by class a `Truth` for each record, the rule of readers, and sentences for people."""

    classes: Mapping[str, Sequence[Truth]]
    agree: int
    readers: int  # the most of one image
    notes: Sequence[str]


def truths_of(path: Path, records: Records, agree: int | None = None) -> Truths:
    """What a file of boxes says of the records, which have the classes of the model.

    At least `agree` readers must have drawn a box; by default one, or two where an image has boxes of several readers. Raises
    RecordError for a file that does not fit the records, RunError where no box of a class of the model is left.
    """
    if agree is not None and agree < 1:
        raise RunError(f"--agree is {agree}; at least one reader is expected")
    named = boxes_of(path, records)
    readers = readers_of_an_image(named.boxes.values())
    needed = agree or min(AGREE, readers)
    if needed > readers:
        raise RunError(
            f"{path}: --agree {needed}, but the most readers who drew boxes on one image are {readers}; choose at most that"
        )
    drawn = Counter(box.name for own in named.boxes.values() for box in own)
    if not drawn.keys() & set(records.classes):
        raise RunError(
            f"{path}: its boxes are of {', '.join(sorted(drawn))}, but the model has {', '.join(records.classes)}; name the "
            "classes in the file as the model does"
        )
    drawn_on = {image: by_class(own) for image, own in named.boxes.items()}
    classes = {name: _truths(drawn_on, records, name, needed) for name in records.classes}
    boxed = {name: own for name, own in classes.items() if any(truth.has_boxes for truth in own)}
    if not boxed:
        raise RunError(
            f"{path}: no box of a class of the model was drawn by {needed} readers who agree; choose a smaller --agree"
        )
    return Truths(boxed, needed, readers, [*_left_out(named, records, drawn), *_doubts(classes, needed, readers)])


def _truths(
    drawn_on: Mapping[str, Mapping[str, Sequence[Box]]], records: Records, name: str, agree: int
) -> list[Truth]:
    """The truth of one class in each record, from the boxes on each image by class."""
    labels_N = records.labels_NC[:, records.classes.index(name)]
    truths = []
    for record, label in zip(records, labels_N.tolist(), strict=True):
        agreed, disputed = consensus(drawn_on.get(record.name, {}).get(name, ()), agree)
        truths.append(Truth(sides(agreed), sides(disputed), label))
    return truths


def _left_out(named: RecordBoxes, records: Records, drawn: Mapping[str, int]) -> list[str]:
    """Sentences about boxes that no number here rests on."""
    notes = []
    if named.other_images:
        notes.append(
            f"{named.other_boxes:,} boxes on {named.other_images:,} images that are not among the tested records were left out"
        )
    if unknown := sorted(drawn.keys() - set(records.classes)):
        listed = ", ".join(f"{name} ({drawn[name]:,})" for name in unknown)
        notes.append(f"boxes of classes that the model does not have were left out: {listed}")
    return notes


def _doubts(classes: Mapping[str, Sequence[Truth]], agree: int, readers: int) -> list[str]:
    """Sentences about classes without boxes, readers who disagree, and labels that say something else than the boxes."""
    notes = []
    if without := [name for name, own in classes.items() if not any(truth.has_boxes for truth in own)]:
        notes.append(f"no boxes of {', '.join(without)}: not measured")
    if readers > 1:
        disputed = sum(len(truth.disputed_J4) for own in classes.values() for truth in own)
        notes.append(
            f"images have boxes of up to {readers} readers; a box counts that at least {agree} drew (--agree), and {disputed:,} "
            "that fewer did are disputed: a mark there is neither right nor wrong"
        )
    for name, own in classes.items():
        if name in without:
            continue
        if silent := sum(not truth.counts for truth in own):
            notes.append(f"{name}: {silent:,} images have no box, but are not labelled 0; no mark on them is judged")
        if against := sum(truth.has_boxes and truth.label == 0 for truth in own):
            notes.append(f"{name}: {against:,} images have a box, but are labelled 0; the box counts")
    return notes
