"""NIH ChestX-ray14: 112,120 frontal PNG of 30,805 patients, 14 findings mined from reports.

Wang et al. 2017, arXiv:1705.02315. The download has `Data_Entry_2017_v2020.csv`, `train_val_list.txt`,
`test_list.txt` and the images in `images_001/images` to `images_012/images`, or all in `images`.
Counts are those of the publisher's table and lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mrm.corpora.class_names import NIH as CLASSES
from mrm.corpora.contract import (
    ABSENT,
    IMAGES,
    UNLABELLED,
    Exclusion,
    Options,
    Release,
    Row,
    by_key,
    file_stem,
    find_table,
    inside,
    list_images,
    plain_age,
    read_table,
    unique_rows,
)
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError
from mrm.system.text_files import read_text

NONE = "No Finding"
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
SEX = ("Patient Gender", "Patient Sex")  # until 2023, and as the table is served now
OFFICIAL = {"official train_val": "train_val_list.txt", "official test": "test_list.txt"}
EXPECTED = {
    "rows": 112_120,
    "images": 112_120,
    "patients": 30_805,
    "official train_val": 86_524,
    "official test": 25_596,
}


def read(source: Path, options: Options) -> Release:
    """Records of the images that exist, with the official test set if its list is there."""
    table = find_table(source, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    rows = read_table(table, COLUMNS)
    _require_sex(table, rows)
    excluded: list[Exclusion] = []
    files = by_key(list_images(source), file_stem, excluded)
    records = []
    for name, row in unique_rows(rows, lambda r: inside(source, r["Image Index"], r.where), excluded):
        labels = _labels(row)
        if file_stem(name) in files:
            records.append(_record(*files[file_stem(name)], row, labels))
        else:
            excluded.append(Exclusion(name, ABSENT))
    known = {file_stem(r["Image Index"]) for r in rows}
    excluded += [
        Exclusion(PurePosixPath(name).name, UNLABELLED) for key, (name, _) in files.items() if key not in known
    ]
    every = Records(records, CLASSES, str(table))
    splits, lists, notes = _official(source, every)
    return Release(
        records=every,
        inputs=[table, *lists.values()],
        version=table.name.partition(".")[0],
        splits=splits,
        excluded=excluded,
        expected={k: v for k, v in EXPECTED.items() if k not in OFFICIAL or k in lists},
        counts={"rows": len(rows), **{k: len(_lines(path)) for k, path in lists.items()}},
        list_classes=CLASSES,
        notes=notes,
    )


def _require_sex(table: Path, rows: list[Row]) -> None:
    """Raises RecordError unless one of the two columns of the sex is there."""
    if rows and not any(column in rows[0].cells for column in SEX):
        raise RecordError(
            f"{table}: no column {' or '.join(SEX)}; the columns found are {', '.join(rows[0].cells)}. "
            "Check that this is the publisher's file"
        )


def _labels(row: Row) -> tuple[float, ...]:
    findings = set(row["Finding Labels"].split("|"))
    if stray := findings - {*CLASSES, NONE}:
        raise RecordError(f"{row.where}: {sorted(stray)} is none of the 14 findings, nor {NONE!r}")
    return tuple(float(c in findings) for c in CLASSES)


def _record(name: str, file: Path, row: Row, labels: tuple[float, ...]) -> Record:
    sex = next(row[column] for column in SEX if column in row.cells)
    return Record(
        image=file,
        patient=row["Patient ID"],
        view=row["View Position"],
        labels=labels,
        extra={"sex": sex, "age": plain_age(row["Patient Age"])},  # "058Y" in the table of 2017
        name=name,
    )


def _official(source: Path, records: Records) -> tuple[dict[str, Records], dict[str, Path], list[str]]:
    """The official train_val and test sets; the validation set is split off train_val later."""
    lists = {k: source / name for k, name in OFFICIAL.items() if (source / name).is_file()}
    if len(lists) < len(OFFICIAL):
        note = "train_val_list.txt and test_list.txt are not both in the source: the official test set is unknown"
        return {}, {}, [note]
    train, test = (_chosen(records, _lines(path)) for path in lists.values())
    return {"train": train, "test": test}, lists, []


def _lines(path: Path) -> list[str]:
    """The file names in an official list. Raises RecordError for a list without image names."""
    names = read_text(path).split()
    if not any(name.lower().endswith(IMAGES) for name in names):
        raise RecordError(
            f"{path}: has no image names (00000001_000.png, ...); download the publisher's list, or remove this one"
        )
    return names


def _chosen(records: Records, names: Iterable[str]) -> Records:
    chosen = {file_stem(name) for name in names}
    return records.where(lambda r: file_stem(r.name) in chosen)
