"""Images that are in one set more than once: they count more than once, and their labels may contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mrm.audit.fingerprints import Fingerprints
from mrm.data.records import Record, Records

NAMED = 5  # images that a line names; and names, labels or patients of one image


def repeats(records: Records, prints: Fingerprints, name: str) -> list[str]:
    """A line for each kind of repetition in a set called `name`: contrary labels, several patients, or nothing else.

    Two records are of one image if they name the same file, or if their fingerprints say that every pixel is the same.
    """
    contrary, people, plain = [], [], []
    for rows in _same_image(records, prints):
        same = [records[i] for i in rows]
        patients = {records.patients[i] for i in rows} - {""}
        names = _first(list(dict.fromkeys(record.name for record in same)), " and ")
        if labels := list(_contradictions(same, records.classes)):
            contrary.append(f"{names} ({_first(labels, ', ')})")
        elif len(patients) > 1:
            people.append(f"{names} ({_first(sorted(patients), ', ')})")
        else:
            plain.append(f"{names} ({len(rows)} times)")
    kinds = (
        (contrary, "with contrary labels, so no model can be right about them; correct the labels"),
        (people, "under different patients, so the intervals take them for independent; correct the ids"),
        (plain, "and count as often; leave all but one of each out"),
    )
    return [
        f"{len(found):,} image{_s(found)} of {name} occur{_s(found, verb=True)} more than once, {what}: {_first(found, '; ')}"
        for found, what in kinds
        if found
    ]


def _same_image(records: Records, prints: Fingerprints) -> Iterator[list[int]]:
    """The rows of each image that has several."""
    rows_of: dict[object, list[int]] = {}
    for row, (record, pixels) in enumerate(zip(records, prints.exact.tolist(), strict=True)):
        place = record.image.resolve() if isinstance(record.image, Path) else record.image
        rows_of.setdefault(pixels or place, []).append(row)
    yield from (rows for rows in rows_of.values() if len(rows) > 1)


def _contradictions(same: Sequence[Record], classes: Sequence[str]) -> Iterator[str]:
    """The classes that one record of an image states as present and another as absent."""
    labels_NC = np.array([record.labels for record in same]).reshape(len(same), len(classes))
    for c, name in enumerate(classes):
        stated = labels_NC[np.isin(labels_NC[:, c], (0, 1)), c]
        if len(set(stated.tolist())) > 1:
            labels = stated if len(same) <= NAMED else dict.fromkeys(stated)
            yield f"{name} {' and '.join(f'{label:g}' for label in labels)}"


def _s(found: Sequence[str], verb: bool = False) -> str:
    return "s" if (len(found) == 1) is verb else ""


def _first(texts: Sequence[str], between: str) -> str:
    """All of a few texts, or the first ones and how many more there are."""
    last = "" if between.strip() == "and" else "and "
    more = [f"{last}{len(texts) - NAMED:,} more"] if len(texts) > NAMED else []
    return between.join([*texts[:NAMED], *more])
