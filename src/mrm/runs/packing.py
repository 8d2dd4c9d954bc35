"""Packing records into shards, and looking whether shards are whole."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from mrm.data import shards
from mrm.data.config import OnError
from mrm.data.packing import PackConfig, Packing, open_source
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
    """Pack records or a segmentation folder into `out`; says what came of it."""
    source = open_source(records, images, classes, on_error)
    packing = pack_source(source, out, config, workers, Progress("packing"))
    index = packing.index
    size = sum(f.bytes for f in index.files)
    print(
        f"{out}: {index.rows:,} images in {len(index.files)} files, {size / 1e6:,.1f} MB, "
        f"{size / max(1, index.rows) / 1e3:.1f} kB each; {index.failed:,} left out"
    )
    if index.failed:
        name, reason = packing.failures[0]
        warnings.warn(
            f"{index.failed:,} images could not be read, see {out / FAILURES}; the first, {name}: {reason}",
            stacklevel=2,
        )
    return packing


def check_shards(folder: Path | str) -> int:
    """Read every file of a shard folder; prints each that is damaged, and raises ShardError if there is one."""
    progress = Progress("checking")
    found = list(shards.read_index(shards.folder_of(folder)).files)
    wrong = []
    for done, (_, problem) in enumerate(shards.check_files(folder), 1):
        wrong += [problem] if problem else []
        progress(done, len(found) + 1)
    for problem in wrong:
        print(problem)
    if wrong:
        raise ShardError(
            f"{folder}: {len(wrong)} of {len(found) + 1} files are damaged or missing; the first: {wrong[0]}"
        )
    print(f"{folder}: {len(found) + 1} files as they were written")
    return len(found) + 1
