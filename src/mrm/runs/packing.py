"""Packing records into shards, and checking that the files of a shard folder are undamaged."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from mrm.data import shards
from mrm.data.config import OnError, PackConfig
from mrm.data.packing import Packing, open_source
from mrm.data.packing import pack as pack_source
from mrm.data.shards import FAILURES
from mrm.system.errors import ShardError
from mrm.system.progress import Progress


def pack(
    records: Path | str,
    out: Path,
    config: PackConfig,
    images: Path | None = None,
    classes: Sequence[str] = (),
    workers: int | None = None,
    on_error: OnError = "stop",
) -> Packing:
    """Pack records or a segmentation folder into `out`, and print a summary."""
    source = open_source(records, images, classes, on_error)
    with Progress("packing") as progress:
        packing = pack_source(source, out, config, workers, progress, on_error)
    index = packing.index
    size = sum(f.bytes for f in index.files)
    print(
        f"{out}: {index.rows:,} images in {len(index.files)} files, {size / 1e6:,.1f} MB, "
        f"{size / max(1, index.rows) / 1e3:.1f} kB each; {index.failed:,} left out"
    )
    if index.failed:
        name, reason = packing.failures[0]
        warnings.warn(
            f"{index.failed:,} images could not be read, see {out / FAILURES}; first error: {name}: {reason}",
            stacklevel=2,
        )
    return packing


def check_shards(folder: Path | str) -> int:
    """Read every file of a shard folder and print the damaged ones. Returns the number of files. Raises ShardError."""
    count = 1 + len(shards.read_index(shards.folder_of(folder)).files)  # the table, and the files of images
    with Progress("checking", count) as progress:
        problems = [problem for _, problem in progress.over(shards.check_files(folder)) if problem]
    for problem in problems:
        print(problem)
    if problems:
        raise ShardError(
            f"{folder}: {len(problems)} of {count} files are damaged or missing; first error: {problems[0]}"
        )
    print(f"{folder}: all {count} files are undamaged")
    return count
