"""Records divided by patient: a share of them, 1 % and 10 % of the labels, each set with its part of every class.

A division works like this:

1. Each patient belongs to one stratum: the rarest class, counted in patients, that any of their images shows,
   or none.
2. The patients of a stratum are ordered by a hash of (seed, patient). The first ones are taken until they
   have the required share of the stratum's images, rounded to whole patients; the rounding error is carried over to
   the next, more common stratum. So a set has its share of each stratum and of all images.
3. A class that would be missing although at least `HANDFUL` patients show it gets the first of them.

The result depends only on the hash, not on the order of records, so adding records moves only the patients at the
boundary of a share. A larger share starts from the smaller one, and so contains it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from mrm.data.records import Record, Records
from mrm.system.errors import RecordError

HANDFUL = 5


def is_stated(record: Record) -> bool:
    """Whether any label of the record is stated."""
    return not all(math.isnan(value) for value in record.labels)


def divide(records: Records, share: float, seed: int, salt: str, by_file: bool = False) -> tuple[Records, Records]:
    """The records of a share of the patients, or files, and all others. Raises RecordError unless 0 < share < 1."""
    if not 0 < share < 1:
        raise RecordError(f"the share for {salt} must be between 0 and 1, not {share:g}")
    people = _people(records, by_file)
    taken = choose(patients_in(records, people, f"{seed}:{salt}"), share)
    inside = [person in taken for person in people]
    return (
        records.select(i for i, one in enumerate(inside) if one),
        records.select(i for i, one in enumerate(inside) if not one),
    )


def fractions(train: Records, percents: Sequence[float], seed: int, by_file: bool = False) -> dict[str, Records]:
    """`train_1`, `train_10`, ...: these percentages of the training images, each contained in the next."""
    people = _people(train, by_file)
    patients = patients_in(train, people, f"{seed}:labels")
    taken: set[str] = set()
    parts = {}
    for percent in sorted(percents):
        if not 0 < percent < 100:
            raise RecordError(
                f"a share of the training labels must be more than 0 and less than 100 %, not {percent:g} %"
            )
        taken = choose(patients, percent / 100, taken)
        parts[f"train_{percent:g}"] = train.select(i for i, person in enumerate(people) if person in taken)
    return parts


@dataclass
class Patient:
    """The facts about a patient that a split needs."""

    key: str
    place: bytes  # the hash by which patients are ordered
    images: int
    shows: set[int]  # classes that any image is positive for


def _people(records: Records, by_file: bool) -> list[str]:
    """What must stay together: the images of each patient, or each file alone."""
    return [record.name for record in records] if by_file else records.people


def patients_in(records: Records, people: Sequence[str], salt: str) -> list[Patient]:
    """The patients of the records, in the order of a hash of (salt, patient); `people` says whose each record is."""
    by_key: dict[str, Patient] = {}
    for record, key in zip(records, people, strict=True):
        if key not in by_key:
            place = hashlib.blake2b(f"{salt}:{key}".encode(), digest_size=8).digest()
            by_key[key] = Patient(key, place, 0, set())
        by_key[key].images += 1
        by_key[key].shows.update(c for c, v in enumerate(record.labels) if v == 1)
    return sorted(by_key.values(), key=lambda p: (p.place, p.key))


def choose(patients: Sequence[Patient], share: float, at_least: Set[str] = frozenset()) -> set[str]:
    """The keys of patients who have a share of the images, chosen as described above, including those in `at_least`."""
    commonness = Counter(c for p in patients for c in p.shows)
    strata: dict[int, list[Patient]] = {}
    for patient in patients:
        rarest = min(patient.shows, key=lambda c: (commonness[c], c), default=-1)
        strata.setdefault(rarest, []).append(patient)
    classes = sorted(commonness, key=lambda c: (commonness[c], c))
    taken, owed = set(at_least), 0.0  # owed: images that rounding carries over to the next stratum
    for stratum in (*classes, -1):
        members = strata.get(stratum, [])
        owed += share * sum(p.images for p in members) - sum(p.images for p in members if p.key in taken)
        for patient in members:
            if patient.key in taken:
                continue
            if patient.images / 2 > owed:
                break
            taken.add(patient.key)
            owed -= patient.images
    for c in classes:
        showing = [p.key for p in patients if c in p.shows]
        if len(showing) >= HANDFUL and taken.isdisjoint(showing):
            taken.add(showing[0])
    return taken


def require_patients(records: Records) -> None:
    """Raises RecordError where one id seems to stand for everybody: by patient, all of them would be in one set."""
    if shared := records.known_patients.placeholder():
        patient, count = shared
        raise RecordError(
            f"{records.source}: {count:,} of {len(records):,} images have the patient {patient!r}, so they cannot be split "
            "by patient. If de-identification put one id in place of all, give a table with ids of the patients "
            "(patient_id), or split by file with --split-by file; images of one patient may then be in several sets"
        )


def with_classes(records: Records, classes: Sequence[str]) -> Records:
    """The records with these classes only, in this order; all if none are named. Raises RecordError for unknown ones."""
    if missing := [c for c in classes if c not in records.classes]:
        raise RecordError(f"unknown class {', '.join(missing)}; choose from {', '.join(records.classes)}")
    if tuple(classes) in ((), records.classes):
        return records
    places = [records.classes.index(c) for c in classes]
    rows = [replace(r, labels=tuple(r.labels[p] for p in places)) for r in records]
    return Records(rows, tuple(classes), records.source)
