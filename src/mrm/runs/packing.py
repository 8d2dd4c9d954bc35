"""Packing records into shards, and checking that the files of a shard folder are undamaged."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from mrm.audit import site_key
from mrm.audit.fingerprints import hashes_of
from mrm.audit.kept_hashes import KeptHashes
from mrm.audit.site_key import SiteKey
from mrm.data import shards
from mrm.data.config import Layout, OnError, PackConfig
from mrm.data.packing import Hashing, Packing, Source, open_source, pack_share, read_packing
from mrm.data.patients import normalized_id
from mrm.data.shards import FAILURES, PackedImage
from mrm.system.errors import ShardError
from mrm.system.output_folder import writing
from mrm.system.progress import Progress
from mrm.system.shares import WHOLE, Share, torchrun_rank

KEYED = ("patient_id", "study_id", "accession")
DATES = ("date", "offset")
PLAIN = ("view", "sex", "age", "split")  # columns that name nobody


def pack(
    records: Path | str,
    out: Path,
    config: PackConfig,
    images: Path | None = None,
    classes: Sequence[str] = (),
    workers: int | None = None,
    on_error: OnError = "stop",
    share: Share = WHOLE,
    layout: Layout = "records",
    hashes: bool = True,
) -> Packing | None:
    """Pack records, a segmentation folder or the tar files of a WebDataset into `out`, and print a summary.

    `hashes` of the packed images are kept in `out`, so that neither an audit nor a training reads the images for theirs.
    With `config.deidentified` images that may name a person are left out, and ids and file names are keyed. A process that
    does one `share` of the work, or a rank's part of it, returns None while other shares still have files to pack.
    """
    share = share.among(*torchrun_rank())
    source = open_source(records, images, classes, on_error, layout)
    if config.deidentified:
        source = keyed(source, site_key.load_or_make())
    with Progress("packing") as progress:
        hashing = hashing_into(Path(out), share) if hashes else None
        left = pack_share(source, out, config, workers, progress, on_error, share, hashing)
    if left:
        print(share.is_done(out, left, "files"))
        return None
    packing = read_packing(Path(out))
    if hashes:
        with writing(out):
            KeptHashes(out).settle()
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


def hashing_into(out: Path, share: Share) -> Hashing:
    """How the hashes of packed images are kept in the folder, as an audit computes them."""

    opened = cache(partial(KeptHashes, out, share))

    def keep(images: Sequence[PackedImage], hashes: Sequence[Sequence[int]]) -> None:
        kept = opened()
        for key, words in zip(kept.keys(images).tolist(), hashes, strict=True):
            kept.add(key, words)
        kept.flush()

    return Hashing(hashes_of, keep)


def keyed(source: Source, key: SiteKey) -> Source:
    """The source with pseudonyms in place of ids and of the names of files, and without dates.

    An id has the same pseudonym wherever this site's key is used. Reports and other columns stay; a warning names them.
    """
    place = {name: column for column, name in enumerate(source.header)}
    kept = [name for name in source.header if name not in (*KEYED, *DATES, *source.classes, *PLAIN, "image_path")]
    if stated := [name for name in kept if any(row[place[name]] for row in source.rows)]:
        warnings.warn(
            f"these columns are packed as they are; look through them before you share: {', '.join(stated)}",
            stacklevel=3,
        )
    rows = [list(row) for row in source.rows]
    for row in rows:
        for name in KEYED:
            if name in place and row[place[name]]:
                row[place[name]] = key.pseudonym(normalized_id(row[place[name]]))
        for name in DATES:
            if name in place:
                row[place[name]] = ""
        path = row[place["image_path"]]
        row[place["image_path"]] = f"{key.pseudonym(path)}{Path(path).suffix}"
    return replace(source, rows=rows)


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
