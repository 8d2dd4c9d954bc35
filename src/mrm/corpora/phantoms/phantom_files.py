"""Phantoms as a corpus on disk: images, `records.csv` with reports and labels, `boxes.csv`, and masks if asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from mrm.corpora.phantoms.phantom import ALL, FINDINGS, Kinds, Phantom, phantom
from mrm.data import boxes, images
from mrm.data.boxes import Box
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError
from mrm.system.files import write_csv, write_whole
from mrm.system.worker_pool import SLOW, each

MASKS = ("lungs", "pneumothorax")


def write(
    out: Path,
    count: int,
    seed: int = 0,
    size: int = 512,
    masks: Sequence[str] = (),
    workers: int | None = None,
    kinds: Kinds = ALL,
) -> Records:
    """Draw `count` phantoms and write them under `out`.

    `records.csv` has image_path, report_content, patient, study, view, a 0/1 column for each finding of `kinds`, sex
    and age; `boxes.csv` a box around each part of each finding (`boxes_of`). `masks` names what is also written as PNG (0 and
    255) under a folder of that name.
    """
    if unknown := set(masks) - set(MASKS):
        raise RecordError(f"no phantom mask {', '.join(sorted(unknown))}; there are {', '.join(MASKS)}")
    if count < 1:
        raise RecordError(f"{count} phantoms: at least one can be drawn")
    draw = partial(_write_one, Path(out), seed, size, tuple(masks), kinds)
    drawn = list(each(draw, range(count), workers or 0, "drawing phantoms", SLOW))
    records = Records([record for record, _ in drawn], kinds.findings, f"phantoms, seed {seed}")
    records.to_csv(Path(out) / "records.csv")
    own = {record.name: found for record, found in drawn}
    write_csv(Path(out) / boxes.FILE, boxes.HEADER, boxes.rows(own, records, Path(out)))
    return records


def boxes_of(p: Phantom) -> list[Box]:
    """A box around each connected part of each finding; parts of less than a tenth of the largest, as single pixels, have none."""
    found = []
    for name in sorted(p.regions):
        _, _, facts_P5, _ = cv2.connectedComponentsWithStats(p.regions[name].astype(np.uint8), connectivity=8)
        parts_P5 = facts_P5[1:]
        large_P5 = parts_P5[10 * parts_P5[:, 4] >= parts_P5[:, 4].max(initial=0)]
        found += [Box(name, float(x), float(y), float(w), float(h)) for x, y, w, h, _ in large_P5.tolist()]
    return found


def _write_one(
    out: Path, seed: int, size: int, masks: tuple[str, ...], kinds: Kinds, index: int
) -> tuple[Record, list[Box]]:
    p = phantom(seed, index, size, kinds)
    name = f"images/{p.study}.jpg"
    write_whole(out / name, images.encode_jpeg(p.image, quality=95))
    for kind in masks:
        write_whole(out / kind / f"{p.study}.png", images.encode_png(np.uint8(255) * getattr(p, kind)))
    record = Record(
        image=out / name,
        report=p.report,
        patient=p.patient,
        study=p.study,
        view=p.view,
        labels=tuple(p.labels[FINDINGS.index(name)] for name in kinds.findings),
        extra={"sex": p.sex, "age": str(p.age)},
        name=name,
    )
    return record, boxes_of(p)
