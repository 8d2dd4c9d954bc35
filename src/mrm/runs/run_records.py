"""The records of a run, mapped from the folder of the run that keeps them (`mrm.data.record_cache`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrm.data.record_cache import mapped_records
from mrm.data.record_sources import UNLABELLED, Labels
from mrm.data.records import Records
from mrm.runs.first_rank import first_rank_first
from mrm.training.trainer import processes

FOLDER = "records"  # of a run: its records, and the tokens of their reports, in the form in which they are mapped


def mapped_set(config: Any, table: Path, name: str, labels: Labels = UNLABELLED) -> Records:
    """The records of a table, mapped from the folder of the run that keeps them, `records/NAME`."""
    folder, prepares = Path(config.out) / FOLDER / name, processes().is_main_process
    with first_rank_first(config.out):
        return mapped_records(table, folder, config.images, config.on_error, prepares, labels)


@contextmanager
def removed_if_refused(out: Path, record: str) -> Iterator[None]:
    """Remove the records that were converted inside the block if it fails before the run has its file `record`."""
    try:
        yield
    except BaseException:
        if processes().is_main_process and not (out / record).exists():
            shutil.rmtree(out / FOLDER, ignore_errors=True)
        raise
