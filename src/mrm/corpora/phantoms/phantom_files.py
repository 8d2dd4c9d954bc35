"""Phantoms as a corpus on disk: images, `records.csv` with reports and labels, and masks if asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mrm.corpora.phantoms.phantom import ALL, FINDINGS, Kinds, phantom
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError
from mrm.system.files import write_whole
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
    and age. `masks` names what is also written as PNG (0 and 255) under a folder of that name.
    """
    if unknown := set(masks) - set(MASKS):
        raise RecordError(f"no phantom mask {', '.join(sorted(unknown))}; there are {', '.join(MASKS)}")
    if count < 1:
        raise RecordError(f"{count} phantoms: at least one can be drawn")
    draw = partial(_write_one, Path(out), seed, size, tuple(masks), kinds)
    rows = list(each(draw, range(count), workers or 0, "drawing phantoms", SLOW))
    records = Records(rows, kinds.findings, f"phantoms, seed {seed}")
    records.to_csv(Path(out) / "records.csv")
    return records


def _write_one(out: Path, seed: int, size: int, masks: tuple[str, ...], kinds: Kinds, index: int) -> Record:
    p = phantom(seed, index, size, kinds)
    name = f"images/{p.study}.jpg"
    write_whole(out / name, images.encode_jpeg(p.image, quality=95))
    for kind in masks:
        write_whole(out / kind / f"{p.study}.png", images.encode_png(np.uint8(255) * getattr(p, kind)))
    return Record(
        image=out / name,
        report=p.report,
        patient=p.patient,
        study=p.study,
        view=p.view,
        labels=tuple(p.labels[FINDINGS.index(name)] for name in kinds.findings),
        extra={"sex": p.sex, "age": str(p.age)},
        name=name,
    )
