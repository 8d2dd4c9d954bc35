"""The loop of the commands that write files for one image after the other, and list them in a table at the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.reading_ahead import read_ahead
from mrm.data.records import Record, Records
from mrm.system.errors import ImageError, RunError
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
) -> Path:
    """Call `work` with each record, its name and its image, and write the rows that it returns. Returns `file`.

    `workers` read images ahead. Every row has the columns `shared`. An image that cannot be read gets a row with the error. Raises RunError if none
    can be read; the table is written then, too.
    """
    rows: Rows = []
    errors: list[str] = []
    with Progress(what, len(records)) as progress:
        images_read = zip(records, names, read_ahead(records, workers), strict=True)
        for record, name, image_HW in progress.over(images_read):
            try:
                if isinstance(image_HW, Exception):
                    raise image_HW
                rows += [{**shared, **row} for row in work(record, name, image_HW)]
            except (ImageError, OSError) as error:
                errors.append(str(error))
                rows.append({"image": record.name, **shared, "error": str(error)})
                warnings.warn(f"left out {record.name}: {error}", stacklevel=2)
    write_csv(file, columns, rows)
    if len(errors) == len(records):
        raise RunError(f"none of the {len(records)} images could be read; first error: {errors[0]}")
    return file
