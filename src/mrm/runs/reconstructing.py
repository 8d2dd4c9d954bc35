"""Images with most of their patches hidden, restored by a pre-trained model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.finding_files import records_at
from mrm.data.records import Record
from mrm.inference import reconstruction
from mrm.models import model_folder
from mrm.models.mrm import MRM
from mrm.pages import sheets
from mrm.runs.one_by_one import Rows, write_rows
from mrm.runs.output_lock import alone_in
from mrm.runs.reading_options import device_named
from mrm.runs.run_folder import output_names, spare_inputs
from mrm.runs.written import Written
from mrm.system.errors import RunError
from mrm.system.files import write_whole
from mrm.system.output_folder import make_folder, writing

COLUMNS = ("image", "error_normalised", "error_grey", "keep", "seed", "file", "error")


@alone_in("out")
def reconstruct(
    model: Path,
    paths: Sequence[Path],
    out: Path,
    seed: int = 0,
    keep: int | None = None,
    folder: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Written:
    """Write NAME.png for each image: masked, restored, original, residual; and `errors.csv`, a row for each.

    The mask follows from `seed` and is the same for every image; `keep` patches stay visible, by default as many as in
    training. Relative paths in lists start from `folder`; `workers` read images ahead. Raises RunError for another kind of model, an impossible
    `keep`, or where no image can be read.
    """
    network = model_folder.load_as(model, MRM).to(device_named(device))
    keep = network.config.keep if keep is None else keep
    if not 0 < keep < network.patches:
        raise RunError(f"--keep must be from 1 to {network.patches - 1} of the {network.patches} patches, not {keep}")
    records, out = records_at(paths, folder, Path(out)), make_folder(Path(out))
    table, names = out / "errors.csv", output_names([r.name for r in records])
    spare_inputs(paths, records, [table, *(out / f"{name}.png" for name in names)])

    def restore(record: Record, name: str, image_HW: np.ndarray) -> Rows:
        return [reconstruct_one(network, record, image_HW, out / f"{name}.png", seed, keep)]

    return write_rows(table, COLUMNS, "restoring", records, names, restore, workers)


def reconstruct_one(
    model: MRM, record: Record, image_HW: np.ndarray, file: Path, seed: int, keep: int
) -> dict[str, Any]:
    """Restore one image and write it to `file`. Returns its row. Raises OutputError."""
    restored = reconstruction.reconstruct(model, image_HW, seed, keep)
    levels = grey_error(restored, 1 - keep / model.patches)
    heading = (
        f"{Path(record.name).name}: {keep} of {model.patches} patches visible, seed {seed}; error of the hidden "
        f"patches {restored.error:.3f} as in training, {levels:.1f} grey levels"
    )
    with writing(file.parent):
        write_whole(file, sheets.restored_sheet(restored, heading))
    errors = {"error_normalised": f"{restored.error:.6f}", "error_grey": f"{levels:.4f}"}
    return {"image": record.name, **errors, "keep": keep, "seed": seed, "file": file.name}


def grey_error(restored: reconstruction.Reconstruction, hidden: float) -> float:
    """Root mean square error of the hidden pixels in grey levels (0 to 255); `hidden` is their share of all pixels."""
    squares_HW = (restored.restored.astype(np.float64) - restored.original) ** 2
    return math.sqrt(squares_HW.mean() / hidden)
