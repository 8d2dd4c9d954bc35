"""SIIM-ACR Pneumothorax Segmentation: 12,047 DICOM with run-length masks, 2,669 of them with a pneumothorax.

The download has `train-rle.csv` (`ImageId, EncodedPixels`; one row for each lesion, -1 for none) and images
as `dicom-images-train/<study>/<series>/<ImageId>.dcm`, or flat, or as PNG or JPEG under the same name. Run
lengths are pairs of numbers, the first counted from the end of the previous run ("pixels-relative"), over the
pixels column by column from the top left. Counts are those of the publisher's table.

The output is the segmentation folders `images/{training,validation,test}` and `annotations/{...}`, as PNG files of
the same names; a mask is 1 in the lesion and 0 elsewhere. Patient, view, sex and age are in the DICOM headers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mrm.corpora.contract import (
    ABSENT,
    CONTRADICTORY,
    DUPLICATE,
    TWICE,
    UNREADABLE,
    Exclusion,
    Options,
    Release,
    Row,
    file_stem,
    find_table,
    inside,
    read_table,
    without_label,
)
from mrm.data import images
from mrm.data.folders import list_images
from mrm.data.masks import decode
from mrm.data.patients import PATIENTS
from mrm.data.records import Record, Records
from mrm.system.errors import ImageError, RecordError
from mrm.system.files import write_csv, write_whole
from mrm.system.worker_pool import SLOW, each

CLASSES = ("Pneumothorax",)
FOLDERS = {"train": "training", "val": "validation", "test": "test"}  # split -> folder
EXPECTED = {"images": 12_047, "rows": 12_954, "labelled images": 12_047, "positive Pneumothorax": 2_669}
BAD_MASK = "mask does not fit the image"


def read(source: Path, options: Options) -> Release:
    """Records with a label for the presence of a lesion; the masks are written with the segmentation folders."""
    table = find_table(source, "train-rle.csv", "siim-pneumothorax-train-rle.csv", "stage_2_train.csv")
    rows = read_table(table, ("ImageId", "EncodedPixels"))
    excluded: list[Exclusion] = []
    runs = join_rows(rows, excluded)
    by_stem: dict[str, Path] = {}
    for relative, file in list_images(source).items():
        if file_stem(relative) in by_stem:
            excluded.append(Exclusion(relative, TWICE))
        by_stem.setdefault(file_stem(relative), file)
    records = []
    for name, lesions in runs.items():
        if name in by_stem:
            records.append(_record(source, by_stem[name], bool(lesions)))
        else:
            excluded.append(Exclusion(name, ABSENT))
    excluded += without_label(by_stem, (row["ImageId"] for row in rows))
    return Release(
        records=Records(records, CLASSES, str(table)),
        inputs=[table],
        version="stage 2",
        excluded=excluded,
        expected=EXPECTED,
        counts={"rows": len(rows), "labelled images": len(runs)},
        purpose="masks",
        finish=partial(write_folders, runs),
    )


def _record(source: Path, file: Path, positive: bool) -> Record:
    return Record(file, labels=(float(positive),), name=file.relative_to(source).as_posix())


def join_rows(rows: Sequence[Row], excluded: list[Exclusion]) -> dict[str, list[str]]:
    """The run lengths of each image's lesions, an empty list for none.

    A repeated row counts once; an image with both a lesion and -1 is left out. Raises RecordError for text
    that is not a run length.
    """
    runs: dict[str, list[str]] = {}
    for row in rows:
        name, text = inside(row.path.parent, row["ImageId"], row.where), row["EncodedPixels"]
        if (not all(number.isdigit() for number in text.split()) and text != "-1") or not text:
            raise RecordError(f"{row.where}: {text[:40]!r} is not a run length, nor -1 for no lesion")
        known = runs.setdefault(name, [])
        if text in known:
            excluded.append(Exclusion(name, DUPLICATE, f"line {row.line}"))
        else:
            known.append(text)
    both = {name for name, known in runs.items() if "-1" in known and len(known) > 1}
    excluded += [Exclusion(name, CONTRADICTORY) for name in both]
    return {name: [t for t in known if t != "-1"] for name, known in runs.items() if name not in both}


# ---- segmentation folders ----------------------------------------------------------------------------------


class Job(NamedTuple):
    """One image to write, and all the places where it and its mask go."""

    name: str
    image: Path
    lesions: list[str]
    places: list[tuple[Path, Path]]
    size: int


def write_folders(
    runs: Mapping[str, list[str]], splits: Mapping[str, Records], out: Path, options: Options
) -> list[Exclusion]:
    """Write `images/<folder>/<id>.png` and `annotations/<folder>/<id>.png` of train, val and test.

    Existing pairs are kept, so an interrupted run resumes. `options.size` limits the longer
    side. Returns what could not be written, and why.
    """
    jobs: dict[str, Job] = {}
    for split, folder in FOLDERS.items():
        for record in splits.get(split, ()):
            assert isinstance(record.image, Path)
            stem = file_stem(record.name)
            job = jobs.setdefault(stem, Job(record.name, record.image, runs[stem], [], options.size))
            file = f"{folder}/{stem}.png"
            job.places.append((out / "images" / file, out / "annotations" / file))
    rows = [[f"{file_stem(r.name)}.png", r.patient] for part in splits.values() for r in part if r.patient]
    write_csv(out / PATIENTS, ["image_path", "patient_id"], sorted(dict.fromkeys(map(tuple, rows))))
    made_from = hashlib.sha256(repr((options.size, sorted(runs.items()))).encode()).hexdigest()
    _remove_outdated(out, jobs, made_from)
    todo = [j for j in jobs.values() if not all(file.is_file() for place in j.places for file in place)]
    results = each(write_pair, todo, options.workers, "writing images and masks", SLOW)
    return [result for result in results if result is not None]


def _remove_outdated(out: Path, jobs: Mapping[str, Job], made_from: str) -> None:
    """Remove images of an earlier preparation that now belong to another set, into which they would leak.

    Removes all of them if the masks or the size were different, as recorded in `annotations/.made_from`.
    """
    current = {path for job in jobs.values() for place in job.places for path in place}
    note = out / "annotations/.made_from"
    if note.is_file() and note.read_text() != made_from:
        current = set()
    write_whole(note, made_from.encode())
    for kind in ("images", "annotations"):
        for folder in FOLDERS.values():
            for file in (out / kind / folder).glob("*.png"):
                if file not in current:
                    file.unlink()


def write_pair(job: Job) -> Exclusion | None:
    """Write one image and its mask to their places; the mask last, so that an image with a mask is complete."""
    try:
        image = images.read(job.image)
        mask = np.zeros(image.shape, dtype=bool)
        for text in job.lesions:
            mask |= decode(text, *image.shape)
    except ImageError as error:
        return Exclusion(job.name, UNREADABLE, str(error))
    except ValueError as error:
        return Exclusion(job.name, BAD_MASK, str(error))
    if job.size and max(image.shape) > job.size:
        image, mask = _shrunk(image, mask, job.size)
    for image_file, mask_file in job.places:
        write_whole(image_file, images.encode_png(image))
        write_whole(mask_file, images.encode_png(mask.astype(np.uint8)))
    return None


def _shrunk(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Both with a longer side of `size`; the mask is 1 where at least half of a pixel's area is lesion."""
    height, width = (max(1, round(side * size / max(image.shape))) for side in image.shape)
    area = images.resize(mask.astype(np.uint8) * 255, height, width)
    return images.resize(image, height, width), area >= 128
