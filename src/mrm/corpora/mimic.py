"""MIMIC-CXR-JPG 2.0.0: 377,110 radiographs of 227,835 studies, with the reports of MIMIC-CXR.

Layout and counts: Johnson et al. 2019, arXiv:1901.07042, and physionet.org/content/mimic-cxr-jpg/2.0.0.
Images are `files/p10/p10000032/s50414267/<dicom_id>.jpg`; every image of a study has the study's report.
A download may contain a few patients or all, with or without reports and labels.
"""

from __future__ import annotations

import math
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path

from mrm.corpora.contract import ABSENT, Exclusion, Options, Release, images_of, inside, unique_rows, without_label
from mrm.data.folders import list_images
from mrm.data.placed_images import PlacedImage
from mrm.data.records import Record, Records
from mrm.data.sections import sections, select_sections
from mrm.system.errors import RecordError
from mrm.system.table_rows import Row, find_table, read_table
from mrm.system.unpacking import ARCHIVE_ERRORS

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
HAND_LABELLED = "mimic-cxr-2.1.0-test-set-labeled.csv"  # 687 studies
RENAMED = {"Lung Opacity": "Airspace Opacity"}  # class: its column there
_NOT_STATED = (math.nan,) * len(CLASSES)
SPLITS = {"train": "train", "validate": "val", "test": "test"}
NO_SPLIT = "image without split"
DAMAGED = "report unreadable"
SECOND = "second report of one study"
_REPORT = re.compile(r"(?:^|/)p\d+/s(\d+)\.txt$")  # files/p10/p10000032/s50414267.txt, in the archive too
LARGEST_REPORT = 1 << 20  # bytes of a report in the archive once unpacked; the longest have about ten thousand
_FOLDERS = ("mimic-cxr-reports", "files", "reports")


def read(source: Path, options: Options) -> Release:
    """Join metadata, split, labels, images and reports. Raises RecordError if a table is missing."""
    tables = {name: find_table(source, f"mimic-cxr-2.0.0-{name}.csv") for name in ("metadata", "split")}
    excluded: list[Exclusion] = []
    rows, split_of = _selected(source, tables, excluded, options)
    labels, notes = _labels(source, tables, excluded)
    reports = read_reports(source, options.reports, {row["study_id"] for *_, row in rows})
    excluded += reports.unreadable
    texts, untitled = _chosen_sections(reports.texts, options.sections)
    records = Records(
        [_record(name, file, row, texts, labels, split_of) for name, file, row in rows], CLASSES, "MIMIC-CXR-JPG"
    )
    splits = {part: records.where(partial(_is_in, part)) for part in SPLITS.values()}
    splits |= _labelled_by_hand(source, records, tables, excluded)
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


def _selected(
    source: Path, tables: Mapping[str, Path], excluded: list[Exclusion], options: Options
) -> tuple[list[tuple[str, Path | PlacedImage, Row]], dict[str, str]]:
    """(name, image, metadata row) of every image that exists and is in a split; and the split of each image."""
    split_rows = unique_rows(read_table(tables["split"], ("dicom_id", "split")), lambda r: r["dicom_id"], excluded)
    split_of = {dicom: SPLITS.get(row["split"], "") for dicom, row in split_rows}
    needed = ("dicom_id", "subject_id", "study_id", "ViewPosition")
    files = images_of(options, source, source, "files")
    stems = {name.rpartition(".")[0]: name for name in files}  # the DICOM files of MIMIC-CXR work as well
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
            rows.append((name, files[name], row))
    excluded += without_label(files, known)
    return rows, split_of


def _stem(source: Path, row: Row) -> str:
    patient, study = row["subject_id"], row["study_id"]
    return inside(source, f"files/p{patient[:2]}/p{patient}/s{study}/{row['dicom_id']}", row.where)


def _record(name, file, row, texts, labels, split_of) -> Record:
    study = row["study_id"]
    return Record(
        image=file,
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
    return _labels_in(path, CLASSES, excluded), []


def _labels_in(path: Path, columns: Sequence[str], excluded: list[Exclusion]) -> dict[str, tuple[float, ...]]:
    """The labels of each study in a table. Raises RecordError for a cell that is none."""
    labels, value_of = {}, cache(lambda cell: float(cell or "nan"))
    for study, row in unique_rows(read_table(path, ("study_id", *columns)), lambda r: r["study_id"], excluded):
        try:
            labels[study] = tuple(value_of(row[c]) for c in columns)
        except ValueError as error:
            raise RecordError(f"{row.where}: {error}; a label is 1.0, 0.0, -1.0 or empty") from error
    return labels


def _labelled_by_hand(
    source: Path, records: Records, tables: dict[str, Path], excluded: list[Exclusion]
) -> dict[str, Records]:
    """`test_labeled`: the test images of the studies that a radiologist labelled, with these labels, if their table is there."""
    path = source / HAND_LABELLED
    if not path.is_file():
        return {}
    tables["test-set-labeled"] = path
    labels = _labels_in(path, [RENAMED.get(c, c) for c in CLASSES], excluded)
    rows = [replace(r, labels=labels[r.study]) for r in records if r.study in labels]
    return {"test_labeled": replace(records, rows=rows)}


# Reports ----------------------------------------------------------------------------------------------------


@dataclass
class Reports:
    """The report of each study that has one, the files read, and what was wrong with them."""

    texts: dict[str, str] = field(default_factory=dict)
    inputs: list[Path] = field(default_factory=list)
    unreadable: list[Exclusion] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_reports(source: Path, reports_at: Path | None, studies: set[str]) -> Reports:
    """The reports of `studies`, from the archive or folder `reports_at`, by default the one in the source."""
    reports = Reports()
    place = reports_at or next((p for p in _places(source) if p.exists()), None)
    if place is None:
        reports.notes.append("no reports: name the archive mimic-cxr-reports.zip of MIMIC-CXR with --reports FILE")
        return reports
    if not place.exists():
        raise RecordError(f"{place}: no such archive or folder of reports")
    if place.is_file():
        reports.inputs.append(place)
    replaced = 0
    for study, name, content in _report_files(place, studies):
        if content is None:
            reports.unreadable.append(Exclusion(name, DAMAGED))
        elif study in reports.texts:
            reports.unreadable.append(Exclusion(name, SECOND))
        else:
            text = content.decode("utf-8", errors="replace")
            replaced += "\ufffd" in text
            reports.texts[study] = text.strip()
    if replaced:
        warnings.warn(f"{place}: {replaced} reports have bytes that are not UTF-8, replaced by \ufffd", stacklevel=2)
    if studies and reports.unreadable and not reports.texts:
        raise RecordError(f"{place}: none of its reports can be read, they are damaged or encrypted; download it again")
    if studies and not reports.texts:
        raise RecordError(
            f"{place}: has no reports of these studies; expected files such as files/p10/p10000032/s50414267.txt"
        )
    return reports


def _places(source: Path) -> Iterator[Path]:
    yield source / "mimic-cxr-reports.zip"
    for folder in _FOLDERS:
        for layout in ("p1*/p1*", "files/p1*/p1*"):
            patients = islice((source / folder).glob(layout), 100)  # all 65,379 would take long
            if any(next(patient.glob("s*.txt"), None) for patient in patients):
                yield source / folder


def _report_files(place: Path, studies: set[str]) -> Iterator[tuple[str, str, bytes | None]]:
    """(study, file, content) of the reports of these studies; the content is None if it is damaged."""
    if place.is_dir():
        for name, file in list_images(place, suffixes=(".txt",)).items():
            if (match := _REPORT.search(f"/{name}")) and match[1] in studies:
                yield match[1], name, file.read_bytes()
        return
    try:
        archive = zipfile.ZipFile(place)
    except ARCHIVE_ERRORS as error:
        raise RecordError(f"{place}: not a complete ZIP archive ({error}); download it again, or unpack it") from error
    with archive:
        for member in archive.infolist():
            if (match := _REPORT.search(member.filename)) and match[1] in studies:
                try:
                    content = archive.read(member) if member.file_size <= LARGEST_REPORT else None
                except ARCHIVE_ERRORS:  # damaged, encrypted, or of another packing
                    content = None
                yield match[1], member.filename, content


def _chosen_sections(texts: Mapping[str, str], names: Sequence[str]) -> tuple[Mapping[str, str], int]:
    """The named sections of each report, and the number of reports that have none of them and so stay whole."""
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
