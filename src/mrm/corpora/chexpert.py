"""CheXpert v1.0, full size or small: 223,414 training radiographs of 64,540 patients, 14 observations.

Irvin et al. 2019, arXiv:1901.07031. The download is a folder `CheXpert-v1.0` or `CheXpert-v1.0-small` with
`train.csv`, `valid.csv` and images such as `train/patient00001/study1/view1_frontal.jpg`; the source is that
folder or the one it is in. A cell is 1, 0, -1 (uncertain) or empty (not mentioned); all four are kept distinct.

The 234 `valid` images, labelled by three radiologists, are the test set, as in the published lists.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from mrm.corpora.class_names import CHEXPERT as COMPETITION
from mrm.corpora.contract import (
    ABSENT,
    UNLABELLED,
    Exclusion,
    Options,
    Release,
    Row,
    by_key,
    find_table,
    image_key,
    inside,
    list_images,
    read_table,
    unique_rows,
)
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError

OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
UNCERTAIN_IN_LISTS = {  # derived by joining the published lists with train.csv: no exception in 29,025 lines
    "Atelectasis": "ones",
    "Cardiomegaly": "zeros",
    "Consolidation": "zeros",
    "Edema": "ones",
    "Pleural Effusion": "ones",
}
COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS)
ROOT = re.compile(r"^CheXpert-v1\.0(-small)?/")
CELLS = {"": float("nan"), "1.0": 1.0, "0.0": 0.0, "-1.0": -1.0, "1": 1.0, "0": 0.0, "-1": -1.0}
EXPECTED = {"images": 223_648, "rows of train.csv": 223_414, "rows of valid.csv": 234}
TABLES = {"train": "train.csv", "test": "valid.csv"}


def read(source: Path, options: Options) -> Release:
    """Records with all 14 observations; by default the sets have the five of the competition."""
    root = _root(source)
    tables = {"train": find_table(root, TABLES["train"])}
    if (root / TABLES["test"]).is_file():
        tables["test"] = root / TABLES["test"]
    excluded: list[Exclusion] = []
    files = by_key(list_images(root, "train", "valid"), image_key, excluded, first=".jpg")
    parts, counts, known = {}, Counter[str](), set[str]()
    for split, table in tables.items():
        rows = read_table(table, COLUMNS)
        counts[f"rows of {TABLES[split]}"] = len(rows)
        counts.update(_cells(rows, TABLES[split]))
        known.update(image_key(_name(row)) for row in rows)
        records = []
        for name, row in unique_rows(rows, _name, excluded):
            labels = _labels(row)
            if image_key(name) in files:
                records.append(_record(source, files[image_key(name)][1], row, labels))
            else:
                excluded.append(Exclusion(name, ABSENT, split))
        parts[split] = Records(records, OBSERVATIONS, str(table))
    excluded += [Exclusion(name, UNLABELLED) for key, (name, _) in files.items() if key not in known]
    return Release(
        records=Records([r for part in parts.values() for r in part], OBSERVATIONS, str(root)),
        inputs=list(tables.values()),
        version=root.name if ROOT.match(f"{root.name}/") else "CheXpert-v1.0",
        splits={split: part for split, part in parts.items() if part},
        excluded=excluded,
        expected=EXPECTED,
        counts=counts,
        key=lambda name: image_key(plain(name)),
        list_classes=COMPETITION,
        uncertain=UNCERTAIN_IN_LISTS,
        unstated_absent=True,
        notes=[] if "test" in tables else ["no valid.csv in the source: the publisher's test set is unknown"],
    )


def plain(name: str) -> str:
    """`CheXpert-v1.0-small/train/p/s/v.jpg` -> `train/p/s/v.jpg`: the same in full size and small."""
    return ROOT.sub("", name)


def _root(source: Path) -> Path:
    places = [source, source / "CheXpert-v1.0", source / "CheXpert-v1.0-small"]
    for place in places:
        if (place / "train.csv").is_file() or (place / "train.csv.gz").is_file():
            return place
    raise RecordError(f"{source}: no train.csv in this folder or in CheXpert-v1.0 or CheXpert-v1.0-small below it")


def _name(row: Row) -> str:
    return inside(row.path.parent, plain(row["Path"]), row.where)


def _cells(rows: list[Row], table: str) -> Counter[str]:
    """The numbers of uncertain and of empty cells of a table."""
    cells = Counter(row[c] for row in rows for c in OBSERVATIONS)
    uncertain = cells["-1.0"] + cells["-1"]
    return Counter({f"uncertain cells of {table}": uncertain, f"empty cells of {table}": cells[""]})


def _labels(row: Row) -> tuple[float, ...]:
    try:
        return tuple(CELLS[row[c]] for c in OBSERVATIONS)
    except KeyError as error:
        raise RecordError(f"{row.where}: label {error} is not 1.0, 0.0, -1.0 or empty") from None


def _record(source: Path, file: Path, row: Row, labels: tuple[float, ...]) -> Record:
    folders = plain(row["Path"]).split("/")
    if len(folders) < 4:
        raise RecordError(f"{row.where}: {row['Path']!r} is not split/patient/study/view")
    return Record(
        image=file,
        patient=folders[-3],
        study=f"{folders[-3]}/{folders[-2]}",
        view=row["AP/PA"] or row["Frontal/Lateral"],
        labels=labels,
        extra={"sex": row["Sex"], "age": row["Age"], "projection": row["Frontal/Lateral"]},
        name=file.relative_to(source).as_posix(),
    )
