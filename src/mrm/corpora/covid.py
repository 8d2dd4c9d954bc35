"""COVID-19 Image Data Collection: radiographs collected from publications, with notes, and two tasks.

Layout: Cohen et al. 2020, arXiv:2006.11988, github.com/ieee8023/covid-chestxray-dataset: `metadata.csv`
beside `images/`. The tasks are those of the published MRM lists, whose labels follow from these rules:

* `covid19`: COVID-19 (1) against other diseases of the lung (0); images without finding are in neither class;
* `viral`: viral (1) against bacterial (0) pneumonia; fungal, lipoid and unspecified ones are in neither class.

Each has five splits by patient, `covid1` ... `covid5` and `viral1` ... `viral5`. `finding` has two
formats: `COVID-19, ARDS` in early releases and the path `Pneumonia/Viral/COVID-19` in later ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mrm.corpora.contract import (
    ABSENT,
    DUPLICATE,
    Exclusion,
    Options,
    Release,
    file_stem,
    images_of,
    inside,
    unique_rows,
    without_label,
)
from mrm.corpora.splits import LISTS
from mrm.data.dividing import divide
from mrm.data.placed_images import PlacedImage
from mrm.data.records import Record, Records, read_list
from mrm.system.errors import RecordError
from mrm.system.table_rows import Row, read_table

COLUMNS = ("patientid", "finding", "view", "modality", "filename")
TASKS = {"covid": "covid19", "viral": "viral"}  # name of the lists -> class
CLASSES = tuple(TASKS.values())
SPLITS = 5
# Terms in `finding`, in small letters, that imply the kind of pathogen.
VIRUSES = {"viral", "covid-19", "sars", "mers", "mers-cov", "influenza", "h1n1", "varicella", "herpes"}
BACTERIA = {"bacterial", "streptococcus", "klebsiella", "legionella", "e.coli", "mycoplasma", "chlamydophila",
            "staphylococcus", "mrsa", "nocardia", "pseudomonas"}  # fmt: skip
UNKNOWN = {"", "no finding", "todo", "unknown"}
NOT_XRAY = "not an X-ray"
LATERAL = "view not frontal"
NAN = float("nan")
KEPT = ("sex", "age", "offset", "finding", "license", "url")


def read(source: Path, options: Options) -> Release:
    """Join `metadata.csv` with `images/`. Takes frontal views only, unless `options.views` names others.

    With `options.splits`, the published lists (`iscovid_train.txt`, `isviral_val.txt`, ...) determine the images, of any
    view, and the labels; a listed image without a row in the table has no patient.
    """
    if unknown := set(options.classes) - set(CLASSES):
        raise RecordError(f"unknown class {', '.join(sorted(unknown))}; choose from {', '.join(CLASSES)}")
    table = source / "metadata.csv"
    rows = read_table(table, COLUMNS)
    excluded: list[Exclusion] = []
    records = Records(_records(source, rows, options, excluded), CLASSES, "COVID-19 Image Data Collection")
    return Release(
        records=records,
        inputs=[table, *(sorted(options.splits.glob("*.txt")) if options.splits else [])],
        version=f"metadata.csv with {len(rows):,} rows",
        splits=_published(records, options.splits, excluded) if options.splits else _splits(records, options),
        excluded=excluded,
        counts={"rows": len(rows), "images with notes": sum(bool(r.report) for r in records)},
        notes=_notes(rows),
    )


def labels_of(finding: str) -> tuple[float, float]:
    """(covid19, viral) of a `finding`; NaN if the image is not part of the task."""
    terms = {" ".join(term.split()).lower() for term in re.split(r"[/,;]", finding)}
    words = terms | {word for term in terms for word in term.split()}
    if terms <= UNKNOWN:
        return NAN, NAN
    viral, bacterial = bool(words & VIRUSES), bool(words & BACTERIA)
    return float("covid-19" in terms), float(viral) if viral != bacterial else NAN


def _records(source: Path, rows: list[Row], options: Options, excluded: list[Exclusion]) -> list[Record]:
    files = images_of(options, source, source, "images")
    known, kept = set(), []
    for name, row in unique_rows(rows, lambda row: _path(source, row), excluded):
        known.add(name)
        if row["modality"].lower() not in ("x-ray", "xray"):
            excluded.append(Exclusion(name, NOT_XRAY, row["modality"]))
        elif not (
            options.views or options.splits or _frontal(row["view"])
        ):  # `prepare` selects the views in the options
            excluded.append(Exclusion(name, LATERAL, row["view"] or "not stated"))
        elif name not in files:
            excluded.append(Exclusion(name, ABSENT))
        else:
            kept.append(_record(name, files[name], row))
    known |= {e.name for e in excluded}
    if options.splits:
        return kept + [Record(file, labels=(NAN, NAN), name=name) for name, file in files.items() if name not in known]
    excluded += without_label(files, known)
    return kept


def _path(source: Path, row: Row) -> str:
    folder = row.cells.get("folder") or "images"
    return inside(source, f"{folder}/{row['filename']}", row.where)


def _frontal(view: str) -> bool:
    """PA, AP, AP Supine, AP Erect, AP semi erect."""
    return view.upper().partition(" ")[0] in ("PA", "AP")


def _record(name: str, file: Path | PlacedImage, row: Row) -> Record:
    return Record(
        image=file,
        report=row.cells.get("clinical_notes", ""),
        patient=row["patientid"],
        study=f"{row['patientid']}-{row.cells.get('offset', '')}".rstrip("-"),
        view=row["view"],
        labels=labels_of(row["finding"]),
        extra={k: row.cells[k] for k in KEPT if row.cells.get(k)},
        name=name,
    )


def _splits(records: Records, options: Options) -> dict[str, Records]:
    """`covid1/train`, `covid1/val`, ...: five splits by patient of each task; `training`: all with notes."""
    parts: dict[str, Records] = {}
    for column, (task, name) in enumerate(TASKS.items()):
        if options.classes and name not in options.classes:
            continue
        rows = [_two_sided(r, column) for r in records if not math.isnan(r.labels[column])]
        for number in range(1, SPLITS + 1):
            labelled = Records(rows, (name, f"not {name}"), f"{task}{number}")
            for part, chosen in _cut(labelled, number, options).items():
                parts[f"{task}{number}/{part}"] = Records([_only(r, (0,)) for r in chosen], (name,), labelled.source)
    columns = tuple(CLASSES.index(c) for c in options.classes if c in CLASSES)
    noted = [_only(r, columns) for r in records if r.report]
    return parts | {"training": Records(noted, tuple(CLASSES[c] for c in columns), "clinical notes")}


def _two_sided(record: Record, column: int) -> Record:
    """The record with its label and the opposite, so that splits keep the rare side too: only a dozen are bacterial."""
    return replace(record, labels=(record.labels[column], 1 - record.labels[column]))


def _only(record: Record, columns: tuple[int, ...]) -> Record:
    return replace(record, labels=tuple(record.labels[c] for c in columns))


def _cut(records: Records, number: int, options: Options) -> Mapping[str, Records]:
    """One split; a set whose share is 0 is left out."""
    seed, parts, rest = options.seed * SPLITS + number, {}, records
    if options.test:
        parts["test"], rest = divide(rest, options.test, seed, "test")
    if options.val:
        parts["val"], rest = divide(rest, options.val / (1 - options.test), seed, "val")
    return {"train": rest, **parts}


def _published(records: Records, folder: Path, excluded: list[Exclusion]) -> dict[str, Records]:
    """The sets of the published lists in `folder`: `iscovid/train` of iscovid_train.txt. Raises RecordError."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise RecordError(f"{folder}: has no label lists (iscovid_train.txt, isviral_val.txt, ...)")
    known = {file_stem(r.name): r for r in records}
    parts = {}
    for file in files:
        name = TASKS["viral" if "viral" in file.stem else "covid"]
        rows: dict[str, Record] = {}
        for entry in read_list(file, (name,), must_exist=False):
            record = known.get(file_stem(entry.name))
            if record is None or entry.name in rows:
                excluded.append(Exclusion(entry.name, DUPLICATE if record else ABSENT, file.name))
            else:
                rows[entry.name] = replace(record, labels=entry.labels)
        task, _, part = file.stem.rpartition("_")
        parts[f"{task}/{part}" if part in LISTS else file.stem] = Records(list(rows.values()), (name,), file.name)
    return parts


def _notes(rows: list[Row]) -> list[str]:
    notes = ["the notes often name the disease, so a model trained on them has seen the labels of their images"]
    if lost := sum("\ufffd" in "".join(row.cells.values()) for row in rows):
        notes.append(f"metadata.csv: {lost} rows hold \ufffd, letters that were lost before it was published")
    return notes
