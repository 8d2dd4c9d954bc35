"""Training, validation and test sets of a corpus: the publisher's, those of published lists, or our own by patient.

Sets are split by patient, never by image (`mrm.data.dividing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mrm.corpora.contract import ABSENT, DUPLICATE, Exclusion, Release
from mrm.corpora.options import Options
from mrm.data.dividing import divide, fractions, is_stated, require_patients, with_classes
from mrm.data.records import Record, Records, read_list, resolve_uncertain
from mrm.system.errors import RecordError
from mrm.system.text_files import read_text

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


# ---- published lists ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """The sets in a folder of published lists, joined with the images that exist."""

    splits: dict[str, Records]
    expected: dict[str, int]  # lines of each list
    excluded: list[Exclusion]
    notes: list[str]


def published(release: Release, folder: Path) -> Published:
    """Join the label lists in `folder` with the release. The labels are those of the lists, in a list of names alone those of
    the publisher. Raises RecordError.

    Without a `train_list.txt`, as for CheXpert, the training set is the publisher's training images that are not in
    the validation or test list.
    """
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        raise RecordError(f"{folder}: has no label lists (train_list.txt, val_list.txt, ...)")
    names = {file_name: split for split, file_name in LISTS.items()}
    stated = with_classes(release.records, release.list_classes)
    known = {release.key(r.name): (r, s) for r, s in zip(stated, as_listed(stated, release), strict=True)}
    result = Published({}, {}, [], [])
    listed: set[str] = set()
    for file in files:
        classes = release.list_classes if _has_labels(file) else ()
        entries = read_list(file, classes or None, images=folder, must_exist=False)
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


def with_validation(lists: Published, options: Options) -> Published:
    """The sets with one for validation, a share of the training set, where lists for training and test come without it."""
    if "val" in lists.splits or not {"train", "test"} <= set(lists.splits) or not options.val:
        return lists
    by_file = options.split_by == "file"
    if not by_file:
        require_patients(lists.splits["train"])
    val, train = divide(lists.splits["train"], options.val, options.seed, "val", by_file)
    note = f"the lists have no validation set: val is {len(val):,} of the {len(val) + len(train):,} images of the training list"
    sets = ordered({**lists.splits, "train": train, "val": val})
    return replace(lists, splits=sets, notes=[*lists.notes, note])


def _has_labels(file: Path) -> bool:
    """Whether a list has anything but a name in its lines."""
    return any(len(line.split()) > 1 for line in read_text(file).splitlines())


def _join(
    entries: Records,
    known: Mapping[str, tuple[Record, Record]],  # the publisher's record with the classes of a list, and as in a list
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
        if release.list_classes and entry.labels and is_stated(record):
            compared += len(entry.labels)
            if mine.labels != entry.labels:
                differing += sum(a != b for a, b in zip(mine.labels, entry.labels, strict=True))
        rows[key] = replace(record, labels=entry.labels) if release.list_classes and entry.labels else record
    if differing:
        result.notes.append(f"{file}: {differing:,} of {compared:,} labels differ from the publisher's table")
    return Records(list(rows.values()), release.list_classes or release.records.classes, file)


def as_listed(records: Records, release: Release, policy: str = "") -> Records:
    """The records with labels as a published list has them.

    Uncertain labels are replaced by the rules of the corpus, or by `policy` for all classes; labels that are not stated
    become 0 if the rules of the corpus say so. Raises RecordError for an unknown policy.
    """
    chosen = {c: policy or release.uncertain.get(c, "ignore") for c in records.classes}
    records = resolve_uncertain(records, chosen)
    if not release.unstated_absent:
        return records
    return records.with_labels(np.nan_to_num(records.labels_NC))
