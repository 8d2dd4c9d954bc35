"""MIMIC-CXR-JPG 2.0.0: 377,110 radiographs of 227,835 studies, with the reports of MIMIC-CXR.

Layout and counts: Johnson et al. 2019, arXiv:1901.07042, and physionet.org/content/mimic-cxr-jpg/2.0.0.
Images are `files/p10/p10000032/s50414267/<dicom_id>.jpg`; every image of a study has the study's report.
A download may hold anything between a few patients and all, with or without reports and labels.
"""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from mrm.corpora.contract import (
    ABSENT,
    Exclusion,
    Options,
    Release,
    Row,
    find_table,
    inside,
    list_images,
    read_table,
    unique_rows,
    without_label,
)
from mrm.data.records import Record, Records
from mrm.data.sections import sections, select_sections
from mrm.system.errors import RecordError

# The columns of mimic-cxr-2.0.0-chexpert.csv, in its order.
CLASSES = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture"),
    *("Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia"),
    *("Pneumothorax", "Support Devices"),
)
EXPECTED = {
    **{"images": 377_110, "studies": 227_835, "patients": 65_379, "reports": 227_835},
    **{"train": 368_960, "val": 2_991, "test": 5_159},
}
_NOT_STATED = (float("nan"),) * len(CLASSES)
SPLITS = {"train": "train", "validate": "val", "test": "test"}
NO_SPLIT = "image without split"
DAMAGED = "report unreadable"
SECOND = "second report of one study"
_REPORT = re.compile(r"(?:^|/)p\d+/s(\d+)\.txt$")  # files/p10/p10000032/s50414267.txt, in the archive too
_FOLDERS = ("mimic-cxr-reports", "files", "reports")


def read(source: Path, options: Options) -> Release:
    """Join metadata, split, labels, images and reports. Raises RecordError where a table is missing."""
    tables = {name: find_table(source, f"mimic-cxr-2.0.0-{name}.csv") for name in ("metadata", "split")}
    excluded: list[Exclusion] = []
    rows, split_of = _wanted(source, tables, excluded)
    labels, notes = _labels(source, tables, excluded)
    reports = read_reports(source, options.reports, {row["study_id"] for _, row in rows})
    excluded += reports.unreadable
    texts, untitled = _chosen_sections(reports.texts, options.sections)
    records = Records(
        [_record(source, name, row, texts, labels, split_of) for name, row in rows], CLASSES, "MIMIC-CXR-JPG"
    )
    splits = {part: records.where(partial(_is_in, part)) for part in SPLITS.values()}
    return Release(
        records=records,
        inputs=[*tables.values(), *reports.inputs],
        version="2.0.0",
        splits=splits,
        excluded=excluded,
        expected=EXPECTED,
        counts=_counts(records, reports.texts, untitled, options.sections),
        purpose="reports",
        notes=[*notes, *reports.notes],
    )


def _is_in(split: str, record: Record) -> bool:
    return record.extra["split"] == split


# Images ---------------------------------------------------------------------------------------------------


def _wanted(
    source: Path, tables: Mapping[str, Path], excluded: list[Exclusion]
) -> tuple[list[tuple[str, Row]], dict[str, str]]:
    """(image, metadata row) of every image that is there and in a split; and the splits."""
    split_rows = unique_rows(read_table(tables["split"], ("dicom_id", "split")), lambda r: r["dicom_id"], excluded)
    split_of = {dicom: SPLITS.get(row["split"], "") for dicom, row in split_rows}
    needed = ("dicom_id", "subject_id", "study_id", "ViewPosition")
    files = list_images(source, "files")
    stems = {name.rpartition(".")[0]: name for name in files}  # the DICOM of MIMIC-CXR serves as well
    known, rows = set[str](), []
    for dicom, row in unique_rows(read_table(tables["metadata"], needed), lambda r: r["dicom_id"], excluded):
        stem = _stem(source, row)
        name = stems.get(stem, f"{stem}.jpg")
        known.add(name)
        if name not in files:
            excluded.append(Exclusion(name, ABSENT))
        elif not split_of.get(dicom):
            excluded.append(Exclusion(name, NO_SPLIT, row.where))
        else:
            rows.append((name, row))
    excluded += without_label(files, known)
    return rows, split_of


def _stem(source: Path, row: Row) -> str:
    patient, study = row["subject_id"], row["study_id"]
    return inside(source, f"files/p{patient[:2]}/p{patient}/s{study}/{row['dicom_id']}", row.where)


def _record(source, name, row, texts, labels, split_of) -> Record:
    study = row["study_id"]
    return Record(
        image=source / name,
        report=texts.get(study, ""),
        patient=row["subject_id"],
        study=study,
        view=row["ViewPosition"],
        labels=labels.get(study, _NOT_STATED),
        extra={"split": split_of[row["dicom_id"]]},
        name=name,
    )


def _labels(
    source: Path, tables: dict[str, Path], excluded: list[Exclusion]
) -> tuple[dict[str, tuple[float, ...]], list[str]]:
    """The CheXpert labels of each study: 1, 0, -1 uncertain, empty not stated. The file may be missing."""
    try:
        path = find_table(source, "mimic-cxr-2.0.0-chexpert.csv")
    except RecordError:
        return {}, ["mimic-cxr-2.0.0-chexpert.csv is missing: no labels"]
    tables["chexpert"] = path
    found = {}
    for study, row in unique_rows(read_table(path, ("study_id", *CLASSES)), lambda r: r["study_id"], excluded):
        try:
            found[study] = tuple(float(row[c] or "nan") for c in CLASSES)
        except ValueError as error:
            raise RecordError(f"{row.where}: {error}; a label is 1.0, 0.0, -1.0 or empty") from error
    return found, []


# Reports ----------------------------------------------------------------------------------------------------


@dataclass
class Reports:
    """The text of each study that has one, and what was found on the way."""

    texts: dict[str, str] = field(default_factory=dict)
    inputs: list[Path] = field(default_factory=list)
    unreadable: list[Exclusion] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_reports(source: Path, given: Path | None, studies: set[str]) -> Reports:
    """The reports of `studies`, from the archive or the folder `given`, else sought in the source."""
    found = Reports()
    place = given or next((p for p in _places(source) if p.exists()), None)
    if place is None:
        found.notes.append("no reports: give the archive mimic-cxr-reports.zip of MIMIC-CXR with --reports FILE")
        return found
    if not place.exists():
        raise RecordError(f"{place}: no such archive or folder of reports")
    if place.is_file():
        found.inputs.append(place)
    replaced = 0
    for study, name, content in _report_files(place, studies):
        if content is None:
            found.unreadable.append(Exclusion(name, DAMAGED))
        elif study in found.texts:
            found.unreadable.append(Exclusion(name, SECOND))
        else:
            text = content.decode("utf-8", errors="replace")
            replaced += "\ufffd" in text
            found.texts[study] = text.strip()
    if replaced:
        warnings.warn(f"{place}: {replaced} reports hold bytes that are not UTF-8; shown as \ufffd", stacklevel=2)
    if studies and found.unreadable and not found.texts:
        raise RecordError(f"{place}: not one report in it can be read: damaged or encrypted; get it again")
    if studies and not found.texts:
        raise RecordError(f"{place}: no report of these studies in it; files/p10/p10000032/s50414267.txt is expected")
    return found


def _places(source: Path) -> Iterator[Path]:
    yield source / "mimic-cxr-reports.zip"
    for folder in _FOLDERS:
        for layout in ("p1*/p1*", "files/p1*/p1*"):
            patients = islice((source / folder).glob(layout), 100)  # all 65,379 would take long
            if any(next(patient.glob("s*.txt"), None) for patient in patients):
                yield source / folder


def _report_files(place: Path, studies: set[str]) -> Iterator[tuple[str, str, bytes | None]]:
    """(study, file, content) of the wanted reports, as they lie; the content is None where it is damaged."""
    if place.is_dir():
        for name, file in list_images(place, suffixes=(".txt",)).items():
            if (match := _REPORT.search(f"/{name}")) and match[1] in studies:
                yield match[1], name, file.read_bytes()
        return
    try:
        archive = zipfile.ZipFile(place)
    except (zipfile.BadZipFile, OSError) as error:
        raise RecordError(f"{place}: not a whole ZIP archive ({error}); get it again, or unpack it") from error
    with archive:
        for member in archive.infolist():
            if (match := _REPORT.search(member.filename)) and match[1] in studies:
                try:
                    yield match[1], member.filename, archive.read(member)
                except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError):  # the last: encrypted, other packing
                    yield match[1], member.filename, None


def _chosen_sections(texts: Mapping[str, str], names: Sequence[str]) -> tuple[Mapping[str, str], int]:
    """The named sections of each report; where it has none of them it stays whole, and these are counted."""
    if not names:
        return texts, 0
    chosen = {study: select_sections(text, names) for study, text in texts.items()}
    return chosen, sum(not any(sections(text).get(n) for n in names) for text in texts.values())


def _counts(records: Records, texts: Mapping[str, str], untitled: int, names: Sequence[str]) -> dict[str, int]:
    counts = {
        "studies": len({r.study for r in records}),
        "reports": len(texts),
        "images without report": sum(not r.report for r in records),
    }
    if names:
        counts["reports without these sections, kept whole"] = untitled
    return counts
