"""Pack records, or a segmentation folder, into shards: every image is decoded, shrunk and encoded once.

`mrm.data.shards` says what a shard folder is. Packing can be killed at any moment: a file of images has its name only
when it is whole, and the same call packs the others. The result depends neither on the number of processes and shares
(`mrm.system.shares`), each of which packs every n-th file, nor on how often packing was stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mrm.data import masks, shard_writing, webdataset
from mrm.data.config import Layout, OnError, PackConfig
from mrm.data.image_encoding import CHUNK, Encoded, HashImage, encode_all
from mrm.data.reach import Reach
from mrm.data.records import Record, Records
from mrm.data.shard_writing import IMAGE, MASK, Failures
from mrm.data.shards import FAILURES, INDEX, VERSION, Index, PackedImage
from mrm.system import hardware
from mrm.system.errors import MaskError, PackError, UnreachableError
from mrm.system.files import write_csv, write_json
from mrm.system.lock import OPENING, in_turn, only_process
from mrm.system.output_folder import json_settings, make_folder, open_folder, writing
from mrm.system.shares import WHOLE, Share
from mrm.system.tables import read_csv_rows

DEFAULTS = PackConfig()
PLAN = "packing.json"  # what is packed and how, for a command that resumes


@dataclass(frozen=True)
class Source:
    """What is to be packed: a table of text, and for each row its image, or its `MaskedImage`."""

    kind: Literal["records", "masks"]
    header: list[str]
    rows: list[list[str]]
    items: Sequence[Any]
    classes: tuple[str, ...]
    named: bool
    fingerprint: str

    def name(self, row: int) -> str:
        """The image's name."""
        return self.rows[row][self.header.index("image_path")]


@dataclass(frozen=True)
class Hashing:
    """How images are hashed as they are packed.

    `keep` is called with the images of each file, and their hashes, before the file counts as packed.
    """

    of: HashImage
    keep: Callable[[Sequence[PackedImage], Sequence[Sequence[int]]], object]


@dataclass(frozen=True)
class Packing:
    """The result of a packing."""

    folder: Path
    index: Index
    failures: Failures


def no_progress(done: int, total: int) -> None:
    """Show nothing."""


def pack(
    source: Source,
    out: Path | str,
    config: PackConfig = DEFAULTS,
    workers: int | None = None,
    progress: Callable[[int, int], None] = no_progress,
    missing: OnError = "stop",
) -> Packing:
    """Pack `source` into the folder `out`, or resume a packing that was stopped there.

    `workers` processes encode, one per core by default; `progress` is called with (images done, images in all).
    Damaged images are left out and listed in `failures.csv`. An image that cannot be reached may be there later: the
    file of images that it belongs to is not written, and UnreachableError is raised at the end, or at once if the folder
    of the images is gone or many in a row cannot be reached; the same call tries again. With `missing="skip"` such
    images are left out as damaged ones are. Raises OutputError if `out` holds anything else, is in use by another process
    or cannot be written, and PackError if none of the images can be read.
    """
    pack_share(source, out, config, workers, progress, missing)
    return read_packing(Path(out))


def pack_share(
    source: Source,
    out: Path | str,
    config: PackConfig = DEFAULTS,
    workers: int | None = None,
    progress: Callable[[int, int], None] = no_progress,
    missing: OnError = "stop",
    share: Share = WHOLE,
    hashing: Hashing | None = None,
) -> int:
    """Pack the files of images of one share of the work, as `pack` packs all, and finish the folder if all are there.

    With `hashing` the packed images are hashed in passing. Returns the number of files that other shares still have to pack.
    Raises as `pack` does.
    """
    out = Path(out)
    if reserved := {IMAGE, MASK} & set(source.header):
        raise PackError(f"a column is called {', '.join(reserved)}, as the packed images are; rename it")
    make_folder(out)
    with writing(out), only_process(out, share):
        with in_turn(out / OPENING):
            open_folder(out, json_settings("packing", PLAN, _plan(source, config)))
        if not (out / INDEX).is_file():
            _write_missing_shards(source, out, config, workers or hardware.cores(), progress, missing, share, hashing)
        with in_turn(out / OPENING):
            if (out / INDEX).is_file():
                # A process that is killed right after it has written the index leaves its notes
                shard_writing.remove_notes(out)
                return 0
            numbers = range(len(_parts(source, config)))
            if left := sum(not shard_writing.is_whole(out, number) for number in numbers):
                return left
            _finish(source, out, config)
    return 0


def read_packing(out: Path) -> Packing:
    """The result of a packing that is finished. Raises ShardError."""
    index = Index.from_json((out / INDEX).read_bytes(), str(out / INDEX))
    return Packing(out, index, [(name, reason) for _, (name, reason) in read_csv_rows(out / FAILURES)[1]])


# Sources ------------------------------------------------------------------------------------------------


def open_source(
    place: Path | str,
    images: Path | None = None,
    classes: Sequence[str] = (),
    on_error: OnError = "stop",
    layout: Layout = "records",
) -> Source:
    """Records, in any form that `Records.load` reads, a segmentation folder with its splits, or the tar files of a WebDataset.

    `classes` names the labels of a list that does not name them, or the classes that the numbers of a WebDataset mean. Raises
    RecordError, MaskError.
    """
    if layout == "webdataset":
        return of_records(webdataset.load(place, classes, on_error))
    if (Path(place) / "images").is_dir() and (Path(place) / "annotations").is_dir():
        return _segmentation_source(Path(place))
    is_list = Path(place).suffix == ".txt"  # any other file names its label columns, which are packed as text
    records = Records.load(place, tuple(classes) if is_list else (), images, on_error)
    return of_records(records, named=bool(classes) or not is_list)


def of_records(records: Records, named: bool = True) -> Source:
    """Records as a source; `named` is False for a label list that does not name its labels."""
    header, rows = records.table()
    return Source("records", header, rows, [r.image for r in records], records.classes, named, records.fingerprint())


def _segmentation_source(folder: Path) -> Source:
    """All splits of a segmentation folder. An image without a mask is an error of the folder, not of an image."""
    rows, items = [], []
    for split in masks.SPLITS:
        if (folder / "images" / split).is_dir():
            pairs, problems = masks.pair(folder, split)
            if problems:
                raise MaskError(f"{folder}: {len(problems)} without a partner: {'; '.join(problems[:5])}")
            rows += [[pair.name, pair.patient, split] for pair in pairs]
            items += pairs
    if not items:
        raise MaskError(f"{folder}: no images in images/{{{','.join(masks.SPLITS)}}}")
    named = Records(
        [
            Record(item.image, patient=patient, name=f"{split}/{name}")
            for item, (name, patient, split) in zip(items, rows, strict=True)
        ]
    )
    return Source("masks", ["image_path", "patient_id", "split"], rows, items, (), True, named.fingerprint())


# Packing ------------------------------------------------------------------------------------------------


def _plan(source: Source, config: PackConfig) -> dict[str, Any]:
    """Everything that decides what is packed."""
    digest = hashlib.sha256()
    for row in (source.header, *source.rows):
        digest.update(repr(row).encode())
    settings = asdict(config) | {"rows": config.rows_per_file(), "quality": _quality(config)}
    return {"version": VERSION, "kind": source.kind, "records": digest.hexdigest(), **settings}


def _quality(config: PackConfig) -> int | None:
    return config.quality if config.format == "jpeg" else None


@dataclass
class _Counter:
    """The number of images packed so far, and what is called with it."""

    done: int
    total: int
    progress: Callable[[int, int], None]

    def add(self, count: int) -> None:
        self.done += count
        self.progress(self.done, self.total)


class _Lost:
    """Images out of reach: the reasons, unless they are left out as asked for."""

    def __init__(self, source: Source, on_missing: OnError) -> None:
        files = [Record(item.image if source.kind == "masks" else item) for item in source.items]
        self.skip, self.reasons = on_missing == "skip", list[str]()
        self.reach = Reach(files, any_number=self.skip)

    def note(self, images: Sequence[Encoded]) -> None:
        """Take note of the next images. Raises UnreachableError as `Reach` does."""
        for image in images:
            if not image.again:
                self.reach.reached()
                continue
            self.reach.miss(image.reason)
            if not self.skip:
                self.reasons.append(image.reason)


def _write_missing_shards(
    source: Source,
    out: Path,
    config: PackConfig,
    workers: int,
    progress: Callable[[int, int], None],
    on_missing: OnError,
    share: Share,
    hashing: Hashing | None,
) -> None:
    """Write the files of images of a share that are not there yet, each with its note. Raises UnreachableError as `pack`."""
    parts = _parts(source, config)
    mine = [number for number in range(len(parts)) if share.has(number)]
    missing = [number for number in mine if not shard_writing.is_whole(out, number)]
    counter = _Counter(0, sum(len(parts[number]) for number in mine), progress)
    if len(missing) < len(mine):
        counter.add(counter.total - sum(len(parts[number]) for number in missing))
    lost = _Lost(source, on_missing)
    chunks = [[source.items[i] for i in chunk] for number in missing for chunk in _chunks(parts[number])]
    try:
        with closing(encode_all(chunks, config, workers, hashing.of if hashing else None)) as encoded:
            for number in missing:
                failures, hashes, before = Failures(), list[Sequence[int]](), len(lost.reasons)
                batches = _batches(source, parts[number], encoded, failures, hashes, counter, lost)
                file = shard_writing.write_shard(shard_writing.shard_path(out, number), batches)
                if len(lost.reasons) > before:
                    shard_writing.shard_path(out, number).unlink()
                else:
                    if hashing:
                        hashing.keep(shard_writing.packed_images(out, number, file), hashes)
                    shard_writing.write_note(out, number, file, failures)
    except BrokenProcessPool:
        raise PackError(
            f"{out}: a worker process was killed, perhaps for lack of memory; the files written so far are kept. Run the "
            "same command again to resume, with fewer --workers if necessary"
        ) from None
    if lost.reasons:
        raise UnreachableError(
            f"{len(lost.reasons)} images could not be reached, so {out} is not complete; first error: {lost.reasons[0]}. If a "
            "disk or a share was gone, run the same command again; add --on-error skip to leave out images that do not exist"
        )


def _parts(source: Source, config: PackConfig) -> list[range]:
    """The rows of each file of images."""
    per_file, total = config.rows_per_file(), len(source.items)
    return [range(start, min(start + per_file, total)) for start in range(0, total, per_file)]


def _chunks(rows: range) -> list[range]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


def _batches(
    source: Source,
    rows: range,
    encoded: Iterator[list[Encoded]],
    failures: Failures,
    hashes: list[Sequence[int]],
    counter: _Counter,
    lost: _Lost,
) -> Iterator[Any]:
    """The record batches of one file, as the images become available; adds to `failures` and `hashes`, and counts."""
    for chunk in _chunks(rows):
        images = next(encoded)
        lost.note(images)
        failures += [(source.name(i), image.reason) for i, image in zip(chunk, images, strict=True) if image.reason]
        hashes += [image.hashes for image in images if not image.reason]
        texts = [source.rows[i] for i in chunk]
        yield shard_writing.record_batch(source.header, texts, images, has_masks=source.kind == "masks")
        counter.add(len(chunk))


def _finish(source: Source, out: Path, config: PackConfig) -> None:
    """Write the table of records with the places of their images, the failures, and last the index."""
    import mrm

    files, failures = shard_writing.read_notes(out)
    if not sum(file.rows for file in files):
        for path in (*out.glob("shard-*"), out / PLAN):
            path.unlink()
        name, reason = failures[0]
        raise PackError(f"none of the {len(failures)} images could be read; first error: {name}: {reason}")
    table = shard_writing.write_records_table(out, files)
    write_csv(out / FAILURES, ("image_path", "reason"), failures)
    index = Index(
        version=VERSION,
        kind=source.kind,
        rows=sum(file.rows for file in files),
        failed=len(failures),
        size=config.size,
        format=config.format,
        quality=_quality(config),
        columns=tuple(source.header),
        classes=source.classes,
        named=source.named,
        fingerprint=source.fingerprint,
        table=table,
        files=tuple(files),
        mrm=mrm.__version__,
    )
    write_json(out / INDEX, asdict(index))
    shard_writing.remove_notes(out)
