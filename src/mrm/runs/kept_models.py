"""What the commands that fine-tune many models share: lists to train on, the tested model alone kept, arrays in files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mrm.data.records import Records
from mrm.models import model_folder
from mrm.recipes import FinetuneConfig
from mrm.system.errors import RunError
from mrm.system.files import write_by
from mrm.system.output_folder import writing
from mrm.training.checkpoints import STATE


def with_small_batch(settings: FinetuneConfig, records: int, workers: int | None) -> tuple[FinetuneConfig, str]:
    """The settings with `workers`, unless that is None, and a batch that so many records can fill; and a note if it shrank."""
    batch, note = settings.training.global_batch, ""
    if records < batch:  # few labels may not fill the recipe's batch
        note = f"batch of {records} in place of {batch}"
        batch = records
    workers = settings.training.workers if workers is None else workers
    return replace(settings, training=replace(settings.training, global_batch=batch, workers=workers)), note


def remove_checkpoints(run: Path) -> None:
    """Keep only the tested model and the log of a run, since the checkpoints of many runs would fill the disk."""
    if not (run / "checkpoints").is_dir():
        return
    tested = model_folder.find_model(run).resolve()
    for folder in (run / "checkpoints").iterdir():
        if folder.resolve() != tested:
            shutil.rmtree(folder)
    if not (run / "last").exists():
        (run / "last").unlink(missing_ok=True)
    (tested / STATE).unlink(missing_ok=True)  # last of all: its absence tells `is_only_model` that this is done


def is_only_model(run: Path) -> bool:
    """Whether `remove_checkpoints` has been here, so that there is nothing left to train."""
    return any((run / n / "config.json").is_file() and not (run / n / STATE).is_file() for n in ("best", "last"))


def write_list(out: Path, name: str, records: Records) -> Path:
    """Records as `out/lists/NAME.csv`, which a fine-tuning run reads. Raises RunError for images that are not files."""
    if any(not isinstance(r.image, Path) for r in records):
        raise RunError(
            f"{records.source}: images in shards cannot be divided among fine-tunings; give records whose images are files"
        )
    file = Path(out) / "lists" / f"{name}.csv"
    if not file.is_file():
        records.to_csv(file)
    return file


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays as an `.npz` file, written whole or not at all."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as opened:
            np.savez_compressed(opened, **arrays)  # type: ignore[arg-type]

    with writing(file):
        write_by(file, write)


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """What `write_arrays` wrote."""
    with np.load(file, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}
