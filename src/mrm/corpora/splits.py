"""Training, validation and test sets, and the 1 % and 10 % of labels used to measure label efficiency.

Sets are split by patient, never by image. Our own splits work like this:

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
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mrm.corpora.contract import ABSENT, DUPLICATE, Exclusion, Release
from mrm.corpora.options import Options
from mrm.data.records import UNCERTAIN, Record, Records, read_list
from mrm.system.errors import RecordError

HANDFUL = 5
POLICIES = {"ones": 1.0, "zeros": 0.0, "ignore": float("nan")}  # what an uncertain label becomes
LISTS = {"train": "train_list", "val": "val_list", "test": "test_list"}  # split -> published file


def cut(release: Release, options: Options) -> dict[str, Records]:
    """`train`, `val`, `test` and `train_<per cent>`: the publisher's if there are any, otherwise split by patient.

    Records without a stated label are left out, unless the corpus is for learning from reports.
    """
    if not (options.val >= 0 and options.test >= 0 and options.val + options.test < 1):
        raise RecordError(f"shares of {options.val:g} for val and {options.test:g} for test leave nothing to train on")
    parts = dict(release.splits)
    if set(parts) - set(LISTS):
        return parts
    if "train" not in parts:
        held = {r.image for part in parts.values() for r in part}
        parts["train"] = release.records.where(lambda r: r.image not in held)
    if release.purpose != "reports":
        parts["train"] = parts["train"].where(is_stated)
    by_file = options.split_by == "file"
    of_rest = options.val if "test" in parts else options.val / (1 - options.test)
    for name, share in (("test", options.test), ("val", of_rest)):
        if name not in parts and share:
            if not by_file:
                require_patients(parts["train"])
            parts[name], parts["train"] = divide(parts["train"], share, options.seed, name, by_file)
    if release.purpose != "reports":
        parts |= fractions(parts["train"], options.fractions, options.seed, by_file)
    return ordered(parts)


def require_patients(records: Records) -> None:
    """Raises RecordError where one id seems to stand for everybody: by patient, all of them would be in one set."""
    if shared := records.known_patients.placeholder():
        patient, count = shared
        raise RecordError(
            f"{records.source}: {count:,} of {len(records):,} images have the patient {patient!r}, so they cannot be split "
            "by patient. If de-identification put one id in place of all, give a table with ids of the patients "
            "(patient_id), or split by file with --split-by file; images of one patient may then be in several sets"
        )


def without_placeholder(release: Release) -> Release:
    """The release without an id that seems to stand for everybody: these patients are unknown. A note says so."""
    shared = release.records.known_patients.placeholder()
    if not shared:
        return release
    patient, count = shared

    def cleared(records: Records) -> Records:
        return replace(records, rows=[replace(r, patient="") if r.patient == patient else r for r in records])

    note = f"{count:,} images have the patient {patient!r}, which seems to stand for everybody; they count as of unknown patient"
    sets = {name: cleared(part) for name, part in release.splits.items()}
    return replace(release, records=cleared(release.records), splits=sets, notes=[*release.notes, note])


def ordered(parts: Mapping[str, Records]) -> dict[str, Records]:
    """train, val, test, and then the others by name."""
    return {name: parts[name] for name in (*LISTS, *sorted(set(parts) - set(LISTS))) if name in parts}


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


# ---- published lists ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """The sets in a folder of published lists, joined with the images that exist."""

    splits: dict[str, Records]
    expected: dict[str, int]  # lines of each list
    excluded: list[Exclusion]
    notes: list[str]


def published(release: Release, folder: Path) -> Published:
    """Join the label lists in `folder` with the release. The labels are those of the lists. Raises RecordError.

    Without a `train_list.txt`, as for CheXpert, the training set is the publisher's training images that are not in
    the validation or test list.
    """
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        raise RecordError(f"{folder}: has no label lists (train_list.txt, val_list.txt, ...)")
    names = {file_name: split for split, file_name in LISTS.items()}
    as_lists = as_listed(with_classes(release.records, release.list_classes), release)
    known = {release.key(r.name): (r, s) for r, s in zip(release.records, as_lists, strict=True)}
    result = Published({}, {}, [], [])
    listed: set[str] = set()
    for file in files:
        entries = read_list(file, release.list_classes or None, images=folder, must_exist=False)
        split = names.get(file.stem, file.stem)
        result.expected[split] = len(entries)
        result.splits[split] = _join(entries, known, release, result, file.name)
        if split in ("val", "test"):
            listed |= {release.key(r.name) for r in entries}
    if "train" not in result.splits and listed:
        every = release.splits.get("train", release.records)
        keys = (key for r in every if (key := release.key(r.name)) not in listed)
        rest = [known[key][1] for key in keys if is_stated(known[key][1])]
        result.splits["train"] = Records(rest, release.list_classes or release.records.classes, str(folder))
        result.notes.append(f"no train_list.txt: train is the {len(rest):,} images in no val or test list")
    return replace(result, splits=ordered(result.splits))


def _join(
    entries: Records,
    known: Mapping[str, tuple[Record, Record]],  # the publisher's record, and the same with labels as in a list
    release: Release,
    result: Published,
    file: str,
) -> Records:
    rows: dict[str, Record] = {}
    differing = compared = 0
    for entry in entries:
        key = release.key(entry.name)
        if key in rows or key not in known:
            reason = DUPLICATE if key in rows else ABSENT
            result.excluded.append(Exclusion(entry.name, reason, file))
            continue
        record, mine = known[key]
        if release.list_classes and is_stated(record):
            compared += len(entry.labels)
            differing += sum(a != b for a, b in zip(mine.labels, entry.labels, strict=True))
        rows[key] = replace(record, labels=entry.labels) if release.list_classes else record
    if differing:
        result.notes.append(f"{file}: {differing:,} of {compared:,} labels differ from the publisher's table")
    return Records(list(rows.values()), release.list_classes or release.records.classes, file)


def as_listed(records: Records, release: Release, policy: str = "") -> Records:
    """The records with labels as a published list has them.

    Uncertain labels are replaced by the rules of the corpus, or by `policy` for all classes; labels that are not stated
    become 0 if the rules of the corpus say so. Raises RecordError for an unknown policy.
    """
    chosen = [policy or release.uncertain.get(c, "ignore") for c in records.classes]
    if unknown := set(chosen) - set(POLICIES):
        raise RecordError(
            f"unknown policy {', '.join(unknown)} for uncertain labels; choose from {', '.join(POLICIES)}"
        )
    labels_NC = records.labels_NC
    labels_NC = np.where(labels_NC == UNCERTAIN, [POLICIES[p] for p in chosen], labels_NC)
    if release.unstated_absent:
        labels_NC = np.nan_to_num(labels_NC)
    rows = [replace(r, labels=tuple(labels)) for r, labels in zip(records, labels_NC.tolist(), strict=True)]
    return replace(records, rows=rows)


def with_classes(records: Records, classes: Sequence[str]) -> Records:
    """The records with these classes only, in this order; all if none are named. Raises RecordError for unknown ones."""
    if missing := [c for c in classes if c not in records.classes]:
        raise RecordError(f"unknown class {', '.join(missing)}; choose from {', '.join(records.classes)}")
    if tuple(classes) in ((), records.classes):
        return records
    places = [records.classes.index(c) for c in classes]
    rows = [replace(r, labels=tuple(r.labels[p] for p in places)) for r in records]
    return Records(rows, tuple(classes), records.source)
