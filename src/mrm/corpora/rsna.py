"""RSNA Pneumonia Detection Challenge, stage 2: 26,684 labelled and 3,000 unlabelled DICOM, one a patient.

Shih et al. 2019, doi:10.1148/ryai.2019180041. The download has `stage_2_train_labels.csv` with a row
for each box, `stage_2_detailed_class_info.csv`, and `<patientId>.dcm` in `stage_2_train_images` and
`stage_2_test_images`. An image is positive if it has a box. View, sex and age are in the DICOM headers.

The images come from NIH ChestX-ray14, whose patients have other ids there: see `mrm audit`.
"""

from __future__ import annotations

from pathlib import Path

from mrm.corpora.class_names import RSNA as CLASSES
from mrm.corpora.contract import (
    ABSENT,
    CONTRADICTORY,
    DUPLICATE,
    UNLABELLED,
    Exclusion,
    Options,
    Release,
    Row,
    by_key,
    file_stem,
    find_table,
    image_key,
    inside,
    list_images,
    read_table,
)
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError

TRAIN, TEST = "stage_2_train_images", "stage_2_test_images"
BOX = ("x", "y", "width", "height")
EXPECTED = {
    "images": 29_684,
    "rows": 30_227,
    "boxes": 9_555,
    "labelled patients": 26_684,
    "positive Pneumonia": 6_012,
}


def read(source: Path, options: Options) -> Release:
    """Records of the training images with their target, and of the test images without one."""
    table = find_table(source, "stage_2_train_labels.csv")
    details, detail_tables = _details(source)
    rows = read_table(table, ("patientId", *BOX, "Target"))
    excluded: list[Exclusion] = []
    boxes = join_boxes(rows, excluded)
    keys = {p: inside(source, f"{TRAIN}/{p}", f"{table.name}, patientId {p}") for p in boxes}
    files = by_key(list_images(source, TRAIN), image_key, excluded, first=".dcm")
    records = []
    for patient, key in keys.items():
        if key in files:
            records.append(_labelled(*files[key], boxes[patient], details.get(patient, "")))
        else:
            excluded.append(Exclusion(f"{key}.dcm", ABSENT))
    known = {f"{TRAIN}/{r['patientId']}" for r in rows}
    excluded += [Exclusion(name, UNLABELLED) for key, (name, _) in files.items() if key not in known]
    for name, file in by_key(list_images(source, TEST), image_key, excluded, first=".dcm").values():
        records.append(Record(file, patient=file_stem(name), labels=(float("nan"),), name=name))
    return Release(
        records=Records(records, CLASSES, str(table)),
        inputs=[table, *detail_tables],
        version="stage 2",
        excluded=excluded,
        expected=EXPECTED,
        counts={
            "rows": len(rows),
            "boxes": sum(len(b) for b in boxes.values()),
            "labelled patients": len(boxes),
        },
        key=file_stem,
        list_classes=CLASSES,
        notes=["these images come from NIH ChestX-ray14: run an audit before training on one and testing on the other"],
    )


def join_boxes(rows: list[Row], excluded: list[Exclusion]) -> dict[str, list[str]]:
    """The boxes of each patient, `x y width height` in pixels; none means no pneumonia.

    A repeated row counts once; a patient with both targets is left out. Raises RecordError for a target that
    is not 0 or 1, or a box that is not four numbers.
    """
    boxes: dict[str, dict[str, str]] = {}  # patient -> box -> target
    for row in rows:
        _check(row)
        box = " ".join(row[side].removesuffix(".0") for side in BOX).strip()
        known = boxes.setdefault(row["patientId"], {})
        if known.get(box) == row["Target"]:
            excluded.append(Exclusion(row["patientId"], DUPLICATE, f"line {row.line}"))
        known[box] = row["Target"]
    both = {patient for patient, known in boxes.items() if len(set(known.values())) > 1}
    excluded += [Exclusion(patient, CONTRADICTORY) for patient in both]
    return {
        patient: [box for box, target in known.items() if target == "1"]
        for patient, known in boxes.items()
        if patient not in both
    }


def _check(row: Row) -> None:
    if row["Target"] not in ("0", "1"):
        raise RecordError(f"{row.where}: Target {row['Target']!r} is not 0 or 1")
    if row["Target"] == "1" and not all(row[side].replace(".", "", 1).isdigit() for side in BOX):
        raise RecordError(f"{row.where}: Target 1 without a box of four numbers")


def _details(source: Path) -> tuple[dict[str, str], list[Path]]:
    """The detailed class of each patient (Normal, Lung Opacity, ...), and its table, if there is one."""
    try:
        table = find_table(source, "stage_2_detailed_class_info.csv")
    except RecordError:
        return {}, []
    return {row["patientId"]: row["class"] for row in read_table(table, ("patientId", "class"))}, [table]


def _labelled(name: str, file: Path, boxes: list[str], detail: str) -> Record:
    extra = {"detail": detail, "boxes": "; ".join(boxes)}
    return Record(file, patient=file_stem(name), labels=(float(bool(boxes)),), extra=extra, name=name)
