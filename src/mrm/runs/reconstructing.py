"""Images with most of their patches hidden, restored by a pre-trained model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data import images
from mrm.data.finding_files import records_at
from mrm.data.records import Record
from mrm.data.reports import Tokenizer
from mrm.inference import predict
from mrm.models import model_folder
from mrm.models.mrm import MRM
from mrm.pages import sheets
from mrm.runs.run_folder import output_names, spare_inputs
from mrm.system.errors import ImageError, RunError
from mrm.system.files import write_csv, write_whole
from mrm.system.hardware import best_device
from mrm.system.output_folder import make_folder
from mrm.system.progress import Progress


def reconstruct(
    model: Path,
    paths: Sequence[Path],
    out: Path,
    seed: int = 0,
    keep: int | None = None,
    folder: Path | None = None,
) -> Path:
    """Write NAME.png for each image: masked, restored, original, residual. Returns `errors.csv`.

    The mask follows from `seed`, the same for every image; `keep` patches stay visible (None: as in training).
    Raises RunError for another kind of model, an impossible `keep`, or where no image could be read.
    """
    network = load_mrm(model)
    keep = network.config.keep if keep is None else keep
    if not 0 < keep < network.patches:
        raise RunError(f"--keep must be from 1 to {network.patches - 1} of the {network.patches} patches, not {keep}")
    records, out = records_at(paths, folder, Path(out)), make_folder(Path(out))
    names = output_names([r.name for r in records])
    spare_inputs(paths, records, [out / "errors.csv", *(out / f"{name}.png" for name in names)])
    rows: list[dict[str, Any]] = []
    with Progress("restoring", len(records)) as progress:
        for record, name in progress.over(zip(records, names, strict=True)):
            try:
                rows.append(restore_one(network, record, out / f"{name}.png", seed, keep))
            except (ImageError, OSError) as error:
                rows.append({"image": record.name, "error": str(error)})
                warnings.warn(f"left out {record.name}: {error}", stacklevel=2)
    columns = ("image", "error_normalised", "error_grey", "keep", "seed", "file", "error")
    table = write_csv(out / "errors.csv", columns, rows)
    if all(row.get("error") for row in rows):
        raise RunError(f"not one of {len(records)} images could be read; the first: {rows[0]['error']}")
    return table


def restore_one(model: MRM, record: Record, file: Path, seed: int, keep: int) -> dict[str, Any]:
    """Restore one image and write its sheet to `file`; its row of `errors.csv`. Raises ImageError and OSError."""
    restored = predict.reconstruct(model, images.read(record.image), seed, keep)
    levels = grey_error(restored, 1 - keep / model.patches)
    heading = (
        f"{Path(record.name).name}: {keep} of {model.patches} patches visible, seed {seed}; error of the hidden ones "
        f"{restored.error:.3f} as in training, {levels:.1f} grey levels"
    )
    write_whole(file, sheets.restored_sheet(restored, heading))
    return {
        "image": record.name,
        "error_normalised": f"{restored.error:.6f}",
        "error_grey": f"{levels:.4f}",
        "keep": keep,
        "seed": seed,
        "file": file.name,
    }


def grey_error(shown: predict.Reconstruction, hidden: float) -> float:
    """Root mean square error of the hidden pixels, a share `hidden` of all, in grey levels of 255."""
    squares_HW = (shown.restored.astype(np.float64) - shown.original) ** 2
    return math.sqrt(squares_HW.mean() / hidden)


def load_mrm(path: Path, tokenizer: Path | None = None) -> MRM:
    """The MRM at `path`, on the best device. Raises RunError for another kind of model."""
    model = model_folder.load_as(path, MRM)
    if tokenizer:
        model.tokenizer = Tokenizer.load(tokenizer)
    return model.to(best_device())
