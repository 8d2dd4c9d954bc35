"""Records: the images of a data set and what is known about each.

A `Record` is one radiograph with its report, patient and labels; `Records` is an immutable sequence of records with the
same classes. Everything that reads data takes such a sequence, whatever file it came from: a `training.csv`, a published
label list, a CSV of labels, Parquet.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import overload

import numpy as np

from mrm.data import shards
from mrm.data.config import OnError
from mrm.data.headers import StoredImage
from mrm.data.label_values import ALLOWED, UNCERTAIN, LabelKind, is_label
from mrm.data.mapped_rows import TEXTS, MappedRows, Relabelling
from mrm.data.patients import Patients, patients_of
from mrm.data.placed_images import PlacedImage, image_in
from mrm.data.record import Record
from mrm.data.record_facts import Facts, fingerprints_of
from mrm.data.record_tables import header_of, row_maker
from mrm.data.shard_rows import read_all
from mrm.data.table_records import (
    LIST_ADVICE,
    Row,
    check_columns,
    numeric_columns,
    records_of,
    report_bad_lines,
    require_columns,
    require_table,
)
from mrm.system import object_store
from mrm.system.collection import no_collection
from mrm.system.errors import RecordError
from mrm.system.files import is_file, write_csv, write_whole
from mrm.system.table_files import write_parquet
from mrm.system.tables import read_rows
from mrm.system.text_files import read_text


@dataclass(frozen=True)
class Records(Sequence[Record]):
    """An immutable sequence of records with the same classes. `source` names their file, for messages."""

    rows: Sequence[Record]
    classes: tuple[str, ...] = ()
    source: str = ""
    kind: LabelKind = "findings"

    def __post_init__(self) -> None:
        if isinstance(self.rows, MappedRows):
            return  # they were examined when their file was written
        known = set[float]()  # NaN too, by its identity
        for row in self.rows:
            if len(row.labels) != len(self.classes):
                raise RecordError(
                    f"{self.source or 'records'}: {row.name} has {len(row.labels)} labels, "
                    f"expected {len(self.classes)} ({', '.join(self.classes) or 'none'})"
                )
            if known.issuperset(row.labels):
                continue
            for value in row.labels:
                if not math.isnan(value) and not is_label(value, self.kind):
                    raise RecordError(f"{row.name}: label {value:g} is not {ALLOWED[self.kind]} or empty (not stated)")
            known.update(row.labels)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index):
        return self.select(range(len(self))[index]) if isinstance(index, slice) else self.rows[index]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.rows)

    def select(self, indices: Iterable[int]) -> Records:
        """The records at `indices`, in that order."""
        if isinstance(self.rows, MappedRows):
            return replace(self, rows=self.rows.select(indices))
        return replace(self, rows=[self.rows[i] for i in indices])

    def where(self, condition: Callable[[Record], bool]) -> Records:
        """The records for which `condition` holds."""
        return self.select(i for i, record in enumerate(self.rows) if condition(record))

    def with_labels(
        self, labels_NC: np.ndarray, classes: Sequence[str] | None = None, kind: LabelKind | None = None
    ) -> Records:
        """The records with other labels (N, C), by default of the same classes and kind."""
        names = self.classes if classes is None else tuple(classes)
        if isinstance(self.rows, MappedRows):
            return replace(self, rows=self.rows.with_labels(labels_NC, names), classes=names, kind=kind or self.kind)
        rows = [replace(r, labels=tuple(own)) for r, own in zip(self.rows, labels_NC.tolist(), strict=True)]
        return replace(self, rows=rows, classes=names, kind=kind or self.kind)

    def relabelled(
        self, change: Relabelling, classes: Sequence[str] | None = None, kind: LabelKind | None = None
    ) -> Records:
        """The records with labels that `change` computes from theirs, by default of the same classes and kind.

        `change` gets the labels (N, C) of all records, or, of mapped ones, those of the record in hand (1, C).
        """
        names = self.classes if classes is None else tuple(classes)
        if isinstance(self.rows, MappedRows):
            return replace(self, rows=self.rows.relabelled(change, names), classes=names, kind=kind or self.kind)
        return self.with_labels(change(self.labels_NC), names, kind)

    @property
    def labels_NC(self) -> np.ndarray:
        """(N, C) float64: 1, 0, NaN = not stated, -1 = uncertain."""
        if isinstance(self.rows, MappedRows):
            return self.rows.labels()
        return np.array([r.labels for r in self.rows], dtype=np.float64).reshape(len(self), len(self.classes))

    @cached_property
    def known_patients(self) -> Patients:
        """The patients as the records state them, or as their published file names tell."""
        return patients_of([r.name for r in self.rows], [r.patient for r in self.rows])

    @property
    def patients(self) -> list[str]:
        """Each record's patient, as stated or as its published file name tells; "" if unknown."""
        return self.known_patients.names

    @property
    def people(self) -> list[str]:
        """Whose each record is, for splits: its patient's id, or the record's own name if the patient is unknown."""
        return [patient or r.name for patient, r in zip(self.patients, self.rows, strict=True)]

    @property
    def patient_count(self) -> int | None:
        """The number of known patients; None if no patient is known."""
        return self._facts.patients if self._facts else self.known_patients.count

    def values(self, name: str) -> Iterator[str]:
        """A text of each record: its name, report, patient, study or view, else what the column `name` says ("" without one)."""
        if isinstance(self.rows, MappedRows):
            return self.rows.values(name)
        if name in TEXTS:
            return (getattr(r, name) for r in self.rows)
        return (r.extra.get(name, "") for r in self.rows)

    @property
    def with_report(self) -> int:
        """The number of records with a report."""
        return self._facts.with_report if self._facts else sum(bool(r.report) for r in self.rows)

    def fingerprint(self) -> str:
        """Sixteen hex digits that depend on every name, report, patient, study, view, label and class."""
        return self._facts.fingerprint if self._facts and self._facts.fingerprint else self._fingerprints[0]

    def fingerprint_unordered(self) -> str:
        """Thirty-two hex digits that depend on the same, but not on the order of the records."""
        return self._facts.unordered if self._facts and self._facts.unordered else self._fingerprints[1]

    @property
    def _facts(self) -> Facts | None:
        """What was noted of the records as a whole when they were converted."""
        return self.rows.facts if isinstance(self.rows, MappedRows) else None

    @cached_property
    def _fingerprints(self) -> tuple[str, str]:
        return fingerprints_of(self.rows, self.classes)

    def split(self, shares: Mapping[str, float], seed: int = 0) -> dict[str, Records]:
        """Patient-disjoint parts, with the names and sizes in `shares`, which sum to at most 1.

        A hash of the seed and the patient decides the part, so a patient stays in it when records are added;
        the sizes are therefore close to their shares, not equal. A record of unknown patient is placed by its name.
        """
        if not shares or min(shares.values()) < 0 or sum(shares.values()) > 1 + 1e-9:
            raise RecordError(f"shares must be positive and sum to at most 1, not {dict(shares)}")
        edges = np.cumsum(list(shares.values()))
        at = [np.searchsorted(edges, _place(seed, person), side="right") for person in self.people]
        return {name: self.select(i for i, p in enumerate(at) if p == part) for part, name in enumerate(shares)}

    # Reading ------------------------------------------------------------------------------------

    @staticmethod
    @no_collection()
    def load(
        path: Path | str,
        classes: Sequence[str] | None = (),
        images: Path | None = None,
        on_error: OnError = "stop",
        must_exist: bool = True,
        list_classes: Sequence[str] = (),
        kind: LabelKind = "findings",
    ) -> Records:
        """Read a table, a published label list (`.txt`), or a shard folder or its address (`mrm.data.shards`).

        A table is a CSV, a Parquet file, or the first sheet of an Excel or LibreOffice workbook (`mrm.system.tables`).

        `classes` names the label columns; None takes every numeric column that is not an attribute; the
        default reads no labels, `kind` says which values they have. `list_classes` names the labels of a label list if `classes` does not. `images` is the folder of relative image paths, by default that of the file; shards
        hold their images. A label list is refused if none of its images exists, unless `must_exist=False`.
        Raises RecordError, or with `on_error="skip"` leaves bad rows out with a warning that counts them.
        """
        if shards.is_shard_folder(path):
            return _from_shards(path, classes, on_error, list_classes, kind)
        path = Path(path)
        require_table(path)
        if path.suffix == ".txt":
            return read_list(path, classes or list_classes or None, images, on_error, must_exist)
        header, lines = read_rows(path)
        return from_table(path, header, lines, classes, images, on_error, kind=kind)

    # Writing ------------------------------------------------------------------------------------

    def to_csv(self, path: Path | str) -> Path:
        """Write `image_path, report_content, ...`, from which `load` reads the same records."""
        return write_csv(Path(path), *self.table(Path(path).parent))

    def to_parquet(self, path: Path | str) -> Path:
        """The table of `to_csv` as Parquet, every column text."""
        header, rows = self.table(Path(path).parent)
        return write_parquet(Path(path), dict.fromkeys(header, str), rows)

    def to_list(self, path: Path | str) -> Path:
        """Write a published label list, `name 0 1 0 ...` a line. Raises RecordError for labels that are not 0 or 1."""
        labels = self.labels_NC
        if not np.isin(labels, (0, 1)).all():
            row = int(np.argmin(np.isin(labels, (0, 1)).all(axis=1)))
            raise RecordError(f"{self.rows[row].name}: a label list can hold only 0 and 1; write a CSV instead")
        if spaced := [r.name for r in self.rows if len(r.name.split()) != 1]:
            raise RecordError(f"{spaced[0]}: a name in a label list cannot have spaces; write a CSV instead")
        lines = [" ".join([r.name, *(str(int(v)) for v in r.labels)]) for r in self.rows]
        return write_whole(Path(path), ("\n".join(lines) + "\n").encode())

    def table(self, beside: Path | None = None) -> tuple[list[str], list[list[str]]]:
        """Header and rows, every field as text; images as paths relative to `beside`, or as their names."""
        header = header_of(self.rows, self.classes)
        row_of = row_maker(header, len(self.classes), beside)
        return header, [row_of(record) for record in self.rows]


def resolve_uncertain(records: Records, policy: str | Mapping[str, str]) -> Records:
    """The records with uncertain labels replaced: `ones`, `zeros` or `ignore` (not stated), for all or for each class.

    Labels of another kind than findings are never uncertain, and stay as they are.
    """
    if records.kind != "findings":
        return records
    values = {"ones": 1.0, "zeros": 0.0, "ignore": float("nan")}
    chosen = policy if isinstance(policy, Mapping) else dict.fromkeys(records.classes, policy)
    if unknown := set(chosen) - set(records.classes):
        raise RecordError(
            f"uncertain labels: unknown class {sorted(unknown)}; classes are {', '.join(records.classes)}"
        )
    if unknown := set(chosen.values()) - set(values):
        raise RecordError(f"uncertain labels: unknown policy {sorted(unknown)}; choose from {', '.join(values)}")
    replacements_C = np.array([values[chosen.get(c, "ignore")] for c in records.classes])
    if not (records.labels_NC == UNCERTAIN).any():
        return records
    return records.relabelled(partial(_resolved, replacements_C))


def _resolved(replacements_C: np.ndarray, labels_NC: np.ndarray) -> np.ndarray:
    return np.where(labels_NC == UNCERTAIN, replacements_C, labels_NC)


def read_list(
    path: Path,
    classes: Sequence[str] | None = None,
    images: Path | None = None,
    on_error: OnError = "stop",
    must_exist: bool = True,
) -> Records:
    """Read a published label list: `name 0 1 0 ...` a line; a name has no spaces.

    Without `classes` the labels are called `label0`, `label1`, ... Raises RecordError for a line with a
    different number of labels than most lines have, or with a label other than 0 and 1.
    """
    records, problems = listed_records(path, classes, images, must_exist)
    report_bad_lines(path, problems, on_error, LIST_ADVICE)
    if not records:
        raise RecordError(f"{path}: has no records")
    return records


def listed_records(
    path: Path, classes: Sequence[str] | None = None, images: Path | None = None, must_exist: bool = True
) -> tuple[Records, list[str]]:
    """The records of a label list, as `read_list` reads it, and what is wrong with the lines that hold none."""
    lines = [(n, line.split()) for n, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    if not lines:
        raise RecordError(f"{path}: empty label list")
    usual = Counter(len(fields) - 1 for _, fields in lines).most_common(1)[0][0]
    names = tuple(classes) if classes else tuple(f"label{i}" for i in range(usual))
    if len(names) != usual:
        raise RecordError(
            f"{path}: has {usual} labels a line, but {len(names)} classes are expected ({', '.join(names)}); "
            f"name its {usual} with --classes"
        )
    valid, problems = [], []
    for number, (name, *labels) in lines:
        if "\0" in name:
            problems.append(f"line {number}: {name!r} has a NUL byte, which no file name has: the list is damaged")
        elif len(labels) != len(names):
            problems.append(f"line {number}: {name} has {len(labels)} labels, expected {len(names)}")
        elif stray := [v for v in labels if v not in ("0", "1")]:
            problems.append(f"line {number}: {name} has label {stray[0]!r}; a label list can hold only 0 and 1")
        else:
            valid.append((name, tuple(float(v) for v in labels)))
    files = find_images([name for name, _ in valid], path, images, must_exist)
    rows = [Record(file, labels=labels, name=name) for (name, labels), file in zip(valid, files, strict=True)]
    return Records(rows, names, str(path)), problems


def find_images(
    names: Sequence[str], beside: Path, images: Path | None = None, must_exist: bool = True
) -> Sequence[Path | PlacedImage]:
    """The image files of a list: under `images`, or by default in the published places beside the list.

    Where `images` is an address of an object store, nothing is looked up there.

    Raises RecordError, with the folders that were searched, if none of the images is found, unless
    `must_exist=False`. An image that is not found gets its path in the first of these folders.
    """
    if images and object_store.address(images):
        return [image_in(images, name) for name in names]
    base = beside.parent
    places = [images] if images else [base, base / "images", base / "all_classes", base.parent / "images"]
    if not images:
        places += sorted(p / "all_classes" for p in base.iterdir() if (p / "all_classes").is_dir())
    places = [p for p in places if p.is_dir()]
    listed = {folder: set(os.listdir(folder)) for folder in places}

    def find(name: str) -> Path | None:
        nested = "/" in name  # a name with folders needs access to the disk, a plain one only the listing
        return next((p / name for p in places if (nested and is_file(p / name)) or name in listed[p]), None)

    files = [find(name) for name in names]
    if must_exist and names and not any(files):
        searched = ", ".join(str(p) for p in places) or "any folder that exists"
        raise RecordError(f"{beside}: none of its {len(names)} images was found in {searched}; give --images DIR")
    fallback = places[0] if places else base
    return [file or fallback / name for file, name in zip(files, names, strict=True)]


def _from_shards(
    place: Path | str,
    classes: Sequence[str] | None,
    on_error: OnError,
    list_classes: Sequence[str] = (),
    kind: LabelKind = "findings",
) -> Records:
    """Records whose images lie in shards: those of the file that was packed, without the images that failed."""
    folder, part = read_all(place)
    header, names = header_and_classes(place, folder.index, classes, list_classes)
    at = object_store.address(place) or place
    return from_table(at, header, part.rows(), names, None, on_error, part.images, kind)


def header_and_classes(
    place: Path | str, packed: shards.Index, classes: Sequence[str] | None, list_classes: Sequence[str] = ()
) -> tuple[list[str], Sequence[str] | None]:
    """The columns of a shard folder, and those of them that are classes; None where the numeric ones are.

    Labels of a list that was packed are always read, under the names that are asked for. Raises RecordError for another number
    of names.
    """
    header = list(packed.columns)
    if packed.classes and not classes:
        unnamed = bool(list_classes) and not packed.named
        classes = list_classes if unnamed else packed.classes
    if packed.classes and classes != packed.classes and classes and not packed.named:
        if len(classes) != len(packed.classes):
            raise RecordError(f"{place}: packed from a list of {len(packed.classes)} labels, expected {len(classes)}")
        names = dict(zip(packed.classes, classes, strict=True))
        header = [names.get(column, column) for column in header]
    return header, classes


def from_table(
    path: Path | str,
    header: Sequence[str],
    lines: Iterable[Row],
    classes: Sequence[str] | None,
    images: Path | None,
    on_error: OnError,
    stored: Sequence[StoredImage] | None = None,
    kind: LabelKind = "findings",
) -> Records:
    """Records of the lines of a table. `stored` are the images of lines 1, 2, ... if they are not files of their own."""
    check_columns(path, header)
    if classes is None:
        lines = list(lines)  # they are read twice
        if not lines:
            raise RecordError(f"{path}: has no records")
    names = require_columns(path, header, classes) if classes is not None else numeric_columns(path, header, lines)
    folder, problems = images or Path(path).parent, list[str]()

    def image_of(number: int, name: str) -> Path | StoredImage:
        return stored[number - 1] if stored else image_in(folder, name)

    records = list(records_of(header, lines, names, image_of, kind, problems))
    report_bad_lines(path, problems, on_error)
    if not records:
        raise RecordError(f"{path}: has no records")
    return Records(records, names, str(path), kind)


def _place(seed: int, key: str) -> float:
    """A number in [0, 1) that follows from the seed and the key alone, and is uniform over keys."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest(), "big") / 2**64
