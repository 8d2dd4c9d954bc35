"""The loop of the commands that write files for one image after the other, and list them in a table at the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.reach import Reach
from mrm.data.reading_ahead import read_ahead
from mrm.data.records import Record, Records
from mrm.runs.written import Written
from mrm.system.errors import ImageError, RunError, UnreachableError
from mrm.system.files import write_csv
from mrm.system.progress import Progress

Rows = list[dict[str, Any]]


def write_rows(
    file: Path,
    columns: Sequence[str],
    what: str,
    records: Records,
    names: Sequence[str],
    work: Callable[[Record, str, np.ndarray], Rows],
    workers: int | None = None,
    **shared: Any,
) -> Written:
    """Call `work` with each record, its name and its image, and write the rows that it returns.

    `workers` read images ahead. Every row has the columns `shared`. An image that cannot be read gets a row with the error. Raises RunError if none
    can be read, UnreachableError if none can be reached; the table is written then, too.
    """
    rows: Rows = []
    errors: list[str] = []
    reach = Reach(records)
    with Progress(what, len(records)) as progress:
        images_read = zip(records, names, read_ahead(records, workers), strict=True)
        for record, name, image_HW in progress.over(images_read):
            try:
                if isinstance(image_HW, Exception):
                    raise image_HW
                reach.reached()
                rows += [{**shared, **row} for row in work(record, name, image_HW)]
            except (ImageError, OSError) as error:
                if isinstance(error, UnreachableError | OSError):
                    reach.miss(str(error))
                errors.append(str(error))
                rows.append({"image": record.name, **shared, "error": str(error)})
                warnings.warn(f"left out {record.name}: {error}", stacklevel=2)
    write_csv(file, columns, rows)
    if len(errors) == len(records):
        kind = UnreachableError if reach.missed else RunError
        raise kind(f"none of the {len(records)} images could be read; first error: {errors[0]}")
    return Written(file, len(records), len(errors), reach.missed)
