"""Segmentation folders from run lengths or boxes: `images/{training,validation,test}` and `annotations/{...}`, as PNG of the
same names.

Run lengths are pairs of numbers, the first counted from the end of the previous run ("pixels-relative", as SIIM writes them),
over the pixels column by column from the top left. A mask is 1 in the lesion and 0 elsewhere; of a box it is 1 in the pixels
whose centre lies inside.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mrm.corpora.contract import UNREADABLE, Exclusion, Options, file_stem
from mrm.data import images
from mrm.data.boxes import Box
from mrm.data.masks import decode
from mrm.data.patients import PATIENTS
from mrm.data.records import Records
from mrm.system.errors import ImageError, RecordError
from mrm.system.files import write_csv, write_whole
from mrm.system.table_rows import Row
from mrm.system.worker_pool import SLOW, each

FOLDERS = {"train": "training", "val": "validation", "test": "test"}  # split -> folder
BAD_MASK = "mask does not fit the image"
NO_LESION = "-1"


def run_lengths(rows: Iterable[Row], column: str) -> list[str]:
    """The run lengths of an image's lesions, none for -1. Raises RecordError for text that is not run lengths."""
    runs = []
    for row in rows:
        text = row[column]
        if (not all(number.isdigit() for number in text.split()) and text != NO_LESION) or not text:
            raise RecordError(f"{row.where}: {text[:40]!r} is not a run length, nor {NO_LESION} for no lesion")
        runs += [text] if text != NO_LESION else []
    return runs


class Job(NamedTuple):
    """One image to write, and all the places where it and its mask go."""

    name: str
    image: Path
    lesions: Sequence[str | Box]  # run lengths, or boxes
    places: list[tuple[Path, Path]]
    size: int


def write_folders(
    lesions: Mapping[str, Sequence[str | Box]], splits: Mapping[str, Records], out: Path, options: Options
) -> list[Exclusion]:
    """Write `images/<folder>/<id>.png` and `annotations/<folder>/<id>.png` of train, val and test, from the lesions by id.

    Existing pairs are kept, so an interrupted run resumes. `options.size` limits the longer
    side. Returns what could not be written, and why.
    """
    jobs: dict[str, Job] = {}
    for split, folder in FOLDERS.items():
        for record in splits.get(split, ()):
            assert isinstance(record.image, Path)
            stem = file_stem(record.name)
            job = jobs.setdefault(stem, Job(record.name, record.image, lesions[stem], [], options.size))
            file = f"{folder}/{stem}.png"
            job.places.append((out / "images" / file, out / "annotations" / file))
    rows = [[f"{file_stem(r.name)}.png", r.patient] for part in splits.values() for r in part if r.patient]
    write_csv(out / PATIENTS, ["image_path", "patient_id"], sorted(dict.fromkeys(map(tuple, rows))))
    made_from = hashlib.sha256(repr((options.size, sorted(lesions.items()))).encode()).hexdigest()
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
        for lesion in job.lesions:
            if isinstance(lesion, Box):
                mask[_between(lesion.y, lesion.height), _between(lesion.x, lesion.width)] = True
            else:
                mask |= decode(lesion, *image.shape)
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


def _between(start: float, length: float) -> slice:
    """The pixels whose centres lie between the ends of a side of a box."""
    return slice(max(0, math.ceil(start - 0.5)), max(0, math.ceil(start + length - 0.5)))


def _shrunk(image: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Both with a longer side of `size`; the mask is 1 where at least half of a pixel's area is lesion."""
    height, width = (max(1, round(side * size / max(image.shape))) for side in image.shape)
    area = images.resize(mask.astype(np.uint8) * 255, height, width)
    return images.resize(image, height, width), area >= 128
