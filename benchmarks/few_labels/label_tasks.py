"""The tasks of the study: small images in files, once; a pool whose labels are drawn, and test patients of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from mrm.corpora.phantoms import phantom_files
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.system.files import write_whole
from mrm.system.tables import read_rows

SIDE = 96  # of the small images; models take them at their own size
TEST = 0.4  # the share of the patients that are tested
MOST = {"pool": 600, "test": 250}  # images, chosen at random where there are more
PHANTOMS = 2_000


def tuberculosis(data: Path, folder: Path) -> Records:
    """662 radiographs of Shenzhen: tuberculosis or not."""
    return Records.load(data / "tuberculosis" / "records.csv", ("tuberculosis",))


def pneumonia(data: Path, folder: Path) -> Records:
    """5,216 radiographs of children: pneumonia or not."""
    return Records.load(data / "pneumonia-cxr" / "labels.csv", ("pneumonia",))


def virus(data: Path, folder: Path) -> Records:
    """The same children with pneumonia of known cause: virus or bacteria."""
    known = pneumonia(data, folder).where(lambda r: r.extra.get("cause") in ("virus", "bacteria"))
    rows = [replace(r, labels=(float(r.extra["cause"] == "virus"),)) for r in known]
    return replace(known, rows=rows, classes=("virus",))


def covid(data: Path, folder: Path) -> Records:
    """Frontal radiographs of the COVID-19 Image Data Collection: COVID-19 or another finding."""
    place = data / "covid-cxr"
    header, lines = read_rows(place / "metadata.csv")
    table = [dict(zip(header, fields, strict=True)) for _, fields in lines]
    rows = [
        Record(file, patient=row["patientid"], labels=(float(row["finding"].startswith("COVID-19")),), name=file.name)
        for row in table
        if row["view"] != "L" and (file := place / "images" / row["filename"]).is_file()
    ]
    return Records(rows, ("covid19",), str(place / "metadata.csv"))


def phantoms(data: Path, folder: Path) -> Records:
    """Drawn radiographs: effusion or not."""
    file = folder / "drawn" / "records.csv"
    if not file.is_file():
        phantom_files.write(folder / "drawn", PHANTOMS, seed=4_711, size=192)
    return Records.load(file, ("effusion",))


TASKS: dict[str, Callable[[Path, Path], Records]] = {
    "tuberculosis": tuberculosis,
    "pneumonia": pneumonia,
    "virus": virus,
    "covid": covid,
    "phantoms": phantoms,
}


def prepared(task: str, data: Path, folder: Path) -> dict[str, Records]:
    """`pool` and `test` of a task, patients apart, as small images under FOLDER/TASK; made once."""
    place = folder / task
    if not (place / "test.csv").is_file():
        parts = TASKS[task](data, folder).split({"test": TEST, "pool": 1 - TEST}, seed=17)
        for name in ("pool", "test"):
            order = np.random.default_rng(17).permutation(len(parts[name]))[: MOST[name]]
            small(parts[name].select(np.sort(order)), place / name).to_csv(place / f"{name}.csv")
    return {name: loaded(place / f"{name}.csv") for name in ("pool", "test")}


def loaded(file: Path) -> Records:
    """The records of a file that `prepared` has written, with its only class."""
    header, _ = read_rows(file)
    return Records.load(file, (header[-1],))


def small(records: Records, folder: Path) -> Records:
    """The records with their images as small files; an image that cannot be read is an error."""
    rows = []
    for number, record in enumerate(records):
        file = folder / f"{number:05d}.png"
        if not file.is_file():
            encoded = cv2.imencode(".png", images.eval_image(record.image, SIDE))[1]
            write_whole(file, encoded.tobytes())
        rows.append(Record(file, patient=record.patient, labels=record.labels, name=file.name))
    return replace(records, rows=rows)


def drawn(pool: Records, count: int | None, draw: int) -> Records:
    """`count` records of the pool by (task, count, draw) alone, with as many positives as their share; None: all."""
    if count is None:
        return pool
    labels_N = pool.labels_NC[:, 0]
    rng = np.random.default_rng([count, draw])
    positives = min(max(round(count * float((labels_N == 1).mean())), 3), count - 3)
    chosen = [
        rng.permutation(np.flatnonzero(labels_N == value))[:size]
        for value, size in ((1, positives), (0, count - positives))
    ]
    return pool.select(np.sort(np.concatenate(chosen)))
