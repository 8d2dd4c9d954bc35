"""Pack records, or a segmentation folder, into shards: every image decoded, shrunk and encoded once.

What a shard folder is, `mrm.data.shards` says. Packing can be killed at any moment: a file of images has its name only
when it is whole, and the same call goes on after the last whole one. The result does not depend on the number of
processes, nor on how often it was stopped.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mrm.data import images
from mrm.data.config import OnError
from mrm.data.records import Records
from mrm.data.shards import (
    FAILURES,
    INDEX,
    LENGTH,
    MASK_LENGTH,
    MASK_OFFSET,
    OFFSET,
    SHARD,
    TABLE,
    VERSION,
    File,
    Index,
)
from mrm.system import hardware
from mrm.system.errors import ImageError, MaskError, PackError
from mrm.system.files import write_csv, write_json, write_whole

IMAGE, MASK = "image_bytes", "mask_bytes"  # columns of the files of images
PLAN = "packing.json"  # what is packed and how, for a command that goes on
CHUNK = 32  # images that a process encodes at a time, and that lie in one Arrow record batch
LARGEST = 1 << 30  # bytes of a file of images
QUALITY = 90


@dataclass(frozen=True)
class PackConfig:
    """How images are packed."""

    size: int = 512  # pixels of the shorter side; smaller images stay as they are
    format: Literal["jpeg", "png"] = "jpeg"
    quality: int = QUALITY  # of JPEG
    rows: int | None = None  # images a file; None = 2048, fewer where a file might grow beyond 1 GB

    def __post_init__(self) -> None:
        if self.size < 16:
            raise PackError(f"size is {self.size}; at least 16 pixels are expected")
        if self.format not in ("jpeg", "png"):
            raise PackError(f"format is {self.format!r}; jpeg or png is expected")
        if not 1 <= self.quality <= 100:
            raise PackError(f"quality is {self.quality}; 1 to 100 is expected")
        if self.rows is not None and self.rows < 1:
            raise PackError(f"rows is {self.rows}; at least one image a file is expected")

    def rows_per_file(self) -> int:
        """A file stays below 1 GB even where nothing can be compressed and images are twice as long as wide."""
        return self.rows or max(1, min(2048, LARGEST // (2 * self.size**2)))


class Encoded(NamedTuple):
    """An image as it is packed, with its mask; or why it could not be."""

    image: bytes = b""
    mask: bytes = b""
    reason: str = ""


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
class Packing:
    """What a packing came to."""

    folder: Path
    index: Index
    failures: list[tuple[str, str]]  # name and reason


def pack(
    source: Source,
    out: Path | str,
    config: PackConfig = PackConfig(),
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Packing:
    """Pack `source` into the folder `out`, or go on with a packing that was stopped there.

    `workers` processes encode, one a core unless given; `progress` is called with (images done, images in all).
    Images that cannot be read are left out and listed in `failures.csv`. Raises PackError where `out` holds
    anything else, where not one image can be read, or where the disk is full.
    """
    out = Path(out)
    if taken := {IMAGE, MASK} & set(source.header):
        raise PackError(f"a column is called {', '.join(taken)}, as the packed images are; rename it")
    try:
        with _only_one(out, _plan(source, config)) as finished:
            if not finished:
                _write_files(source, out, config, workers or hardware.cores(), progress)
                _finish(source, out, config)
    except OSError as error:
        raise PackError(
            f"{out}: cannot be written to ({error}); whole files are kept: free disk space, then the same command goes on"
        ) from error
    return Packing(out, Index.from_json((out / INDEX).read_bytes(), str(out / INDEX)), _read_failures(out))


# Sources ------------------------------------------------------------------------------------------------


def open_source(
    place: Path | str, images: Path | None = None, classes: Sequence[str] = (), on_error: OnError = "stop"
) -> Source:
    """Records, in any form that `Records.load` reads, or a segmentation folder with its splits.

    `classes` names the labels of a list that does not. Raises RecordError, MaskError.
    """
    if (Path(place) / "images").is_dir() and (Path(place) / "annotations").is_dir():
        return _masked(Path(place))
    is_list = Path(place).suffix == ".txt"  # any other file names its label columns, which travel as text
    records = Records.load(place, tuple(classes) if is_list else (), images, on_error)
    return of_records(records, named=bool(classes) or not is_list)


def of_records(records: Records, named: bool = True) -> Source:
    """Records as a source."""
    header, rows = records.table()
    return Source("records", header, rows, [r.image for r in records], records.classes, named, records.fingerprint())


def _masked(folder: Path) -> Source:
    """All splits of a segmentation folder. An image without a mask is an error of the folder, not of an image."""
    from mrm.data import masks
    from mrm.data.records import Record

    rows, items = [], []
    for split in masks.SPLITS:
        if (folder / "images" / split).is_dir():
            pairs, problems = masks.pair(folder, split)
            if problems:
                raise MaskError(f"{folder}: {len(problems)} without a partner: {'; '.join(problems[:5])}")
            rows += [[pair.name, split] for pair in pairs]
            items += pairs
    if not items:
        raise MaskError(f"{folder}: no images in images/{{{','.join(masks.SPLITS)}}}")
    named = Records([Record(i.image, name=f"{split}/{name}") for i, (name, split) in zip(items, rows, strict=True)])
    return Source("masks", ["image_path", "split"], rows, items, (), True, named.fingerprint())


# The folder ---------------------------------------------------------------------------------------------


def _plan(source: Source, config: PackConfig) -> dict[str, Any]:
    """All that decides what is packed."""
    digest = hashlib.sha256()
    for row in (source.header, *source.rows):
        digest.update(repr(row).encode())
    settings = asdict(config) | {"rows": config.rows_per_file()}
    quality = config.quality if config.format == "jpeg" else None
    return {"version": VERSION, "kind": source.kind, "records": digest.hexdigest(), **settings, "quality": quality}


@contextmanager
def _only_one(out: Path, plan: dict[str, Any]) -> Iterator[bool]:
    """Hold the folder for this packing; gives whether it is finished already. Raises PackError."""
    if out.exists() and not out.is_dir():
        raise PackError(f"{out}: is a file; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    file = out / PLAN
    if not file.is_file() and any(out.iterdir()):
        raise PackError(f"{out}: is not empty and holds no shards; choose another --out")
    with open(file, "a+b") as held:  # never replaced: two that start at once lock the same file
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PackError(
                f"{out}: another process is packing into it; wait for it, or choose another --out"
            ) from None
        held.seek(0)
        if before := held.read():
            _same_plan(out, before, plan)
        else:
            held.write(json.dumps(plan, indent=1).encode())
            held.flush()
        yield (out / INDEX).is_file()


def _same_plan(out: Path, text: bytes, plan: dict[str, Any]) -> None:
    try:
        before = dict(json.loads(text))
    except ValueError:
        raise PackError(f"{out / PLAN}: damaged; remove the folder and pack again") from None
    if changed := [key for key in plan if before.get(key) != plan[key]]:
        shown = "; ".join(f"{key}: {before.get(key)}, now {plan[key]}" for key in changed)
        raise PackError(f"{out}: holds another packing ({shown}); choose another --out, or its records and settings")


def _file_name(number: int) -> str:
    return f"shard-{number:05d}.arrow"


def _write_files(source: Source, out: Path, config: PackConfig, workers: int, progress) -> None:
    """The files of images that are not there yet, each with a note of its checksum and failures beside it."""
    per_file, n = config.rows_per_file(), len(source.items)
    parts = [range(start, min(start + per_file, n)) for start in range(0, n, per_file)]
    todo = [number for number in range(len(parts)) if not _note(out, number).is_file()]
    done = n - sum(len(parts[number]) for number in todo)
    if progress and done:
        progress(done, n)
    chunks = [chunk for number in todo for chunk in _chunks(parts[number])]
    encoded = _encode_all([[source.items[i] for i in chunk] for chunk in chunks], config, workers)

    def batches(rows: range, failures: list[tuple[str, str]]) -> Iterator[Any]:
        nonlocal done
        for chunk in _chunks(rows):
            images = next(encoded)
            failures += [(source.name(i), e.reason) for i, e in zip(chunk, images, strict=True) if e.reason]
            done += len(chunk)
            yield _batch(source, chunk, images)
            if progress:
                progress(done, n)

    try:
        for number in todo:
            failures: list[tuple[str, str]] = []
            file = _write_file(out / _file_name(number), batches(parts[number], failures))
            write_json(_note(out, number), {"file": asdict(file), "failures": failures})
    except BrokenProcessPool:
        raise PackError(
            f"{out}: a process that encodes was killed, for want of memory perhaps; whole files are kept: the same "
            "command goes on, with fewer --workers if need be"
        ) from None
    finally:
        encoded.close()


def _note(out: Path, number: int) -> Path:
    return out / f"{_file_name(number)}.json"


def _chunks(rows: range) -> list[range]:
    return [rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK)]


def _batch(source: Source, rows: range, images: Sequence[Encoded]) -> Any:
    """The images that could be read, with their rows of the table, as an Arrow record batch."""
    import pyarrow

    read = [(source.rows[i], e) for i, e in zip(rows, images, strict=True) if not e.reason]
    arrays = [pyarrow.array([row[c] for row, _ in read], pyarrow.string()) for c in range(len(source.header))]
    names = [*source.header, IMAGE]
    arrays.append(pyarrow.array([e.image for _, e in read], pyarrow.large_binary()))
    if source.kind == "masks":
        names.append(MASK)
        arrays.append(pyarrow.array([e.mask for _, e in read], pyarrow.large_binary()))
    return pyarrow.record_batch(arrays, names)


class _Hashing(io.BufferedWriter):
    """A new file that knows its SHA-256. Its writer must not seek."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self.digest = hashlib.sha256()

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return super().write(content)


def _write_file(path: Path, batches: Iterator[Any]) -> File:
    """An Arrow IPC file, which has its name only when it is whole."""
    import pyarrow

    temporary = path.with_name(f".{path.name}.tmp")
    rows = 0
    try:
        with _Hashing(temporary) as sink:
            first = next(batches)
            with pyarrow.ipc.new_file(sink, first.schema) as writer:
                for batch in itertools.chain([first], batches):
                    writer.write_batch(batch)
                    rows += batch.num_rows
            sink.flush()
            os.fsync(sink.fileno())
            size = sink.tell()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return File(path.name, size, sink.digest.hexdigest(), rows)


def _finish(source: Source, out: Path, config: PackConfig) -> None:
    """The table of records with the places of their images, the failures, and last the index."""
    import mrm

    notes: list[dict[str, Any]] = []
    while _note(out, len(notes)).is_file():
        notes.append(json.loads(_note(out, len(notes)).read_bytes()))
    files = tuple(File(**note["file"]) for note in notes)
    failures = [tuple(failure) for note in notes for failure in note["failures"]]
    rows = sum(file.rows for file in files)
    if not rows:
        for path in (*out.glob("shard-*"), out / PLAN):
            path.unlink()
        name, reason = failures[0]
        raise PackError(f"not one of {len(failures)} images could be read; the first, {name}: {reason}")
    table = _write_table(out, files)
    write_csv(out / FAILURES, ("image_path", "reason"), failures)
    index = Index(
        version=VERSION,
        kind=source.kind,
        rows=rows,
        failed=len(failures),
        size=config.size,
        format=config.format,
        quality=config.quality if config.format == "jpeg" else None,
        columns=tuple(source.header),
        classes=source.classes,
        named=source.named,
        fingerprint=source.fingerprint,
        table=table,
        files=files,
        mrm=mrm.__version__,
    )
    write_whole(out / INDEX, index.to_json().encode())
    for number in range(len(files)):
        _note(out, number).unlink()


def _write_table(out: Path, files: Sequence[File]) -> File:
    """`records.parquet`: the text columns of all files, and where each image lies."""
    import pyarrow
    import pyarrow.parquet

    parts = [_table_of(out / file.name, number) for number, file in enumerate(files)]
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.concat_tables(parts), sink, compression="zstd")
    content = sink.getvalue()
    write_whole(out / TABLE, content)
    return File(TABLE, len(content), hashlib.sha256(content).hexdigest(), sum(len(p) for p in parts))


def _table_of(path: Path, number: int) -> Any:
    """A file's columns, with the bytes that its images take in place of the images."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as mapped:
        whole = mapped.read_buffer()
        reader = pyarrow.ipc.open_file(whole)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        table = pyarrow.Table.from_batches(batches, reader.schema)
        places = {SHARD: pyarrow.array(np.full(len(table), number, np.int32))}
        for column, offset, length in ((IMAGE, OFFSET, LENGTH), (MASK, MASK_OFFSET, MASK_LENGTH)):
            if column in table.column_names:
                at, size = zip(*(_places(b.column(column), whole.address) for b in batches), strict=True)
                places |= {offset: pyarrow.array(np.concatenate(at)), length: pyarrow.array(np.concatenate(size))}
                table = table.drop_columns([column])
        for name, values in places.items():
            table = table.append_column(name, values)
        return pyarrow.table(table.to_pydict(), table.schema)  # a copy, for the file is closed here


def _places(column: Any, base: int) -> tuple[np.ndarray, np.ndarray]:
    """Offset in the file and length of each value of a binary column."""
    _, edges, data = column.buffers()
    edges_N = np.frombuffer(edges, np.int64)[column.offset : column.offset + len(column) + 1] if len(column) else np.zeros(1, np.int64)  # fmt: skip
    start = data.address - base if data else 0
    return start + edges_N[:-1], np.diff(edges_N)


def _read_failures(out: Path) -> list[tuple[str, str]]:
    with open(out / FAILURES, newline="", encoding="utf-8") as file:
        return [(name, reason) for name, reason in list(csv.reader(file))[1:]]


# Images -----------------------------------------------------------------------------------------------


def shrunk(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width once the shorter side is `size`; images are never enlarged."""
    scale = min(1.0, size / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def encode(item: Any, config: PackConfig) -> Encoded:
    """An image, or a `MaskedImage`, as it is packed. What cannot be read gives a reason."""
    masked = hasattr(item, "mask")
    source = item.image if masked else item
    try:
        image = images.open_image(source)
        height, width = images.size(image)
        new = shrunk(height, width, config.size)
        image_HW = images.resize(images.read(image, min_side=min(new)), *new)
        mask = images.encode_png(_shrunk_mask(item, (height, width), new)) if masked else b""
    except (ImageError, OSError) as error:
        return Encoded(reason=str(error))
    jpeg = config.format == "jpeg"
    return Encoded(images.encode_jpeg(image_HW, config.quality) if jpeg else images.encode_png(image_HW), mask)


def _shrunk_mask(item: Any, size: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """The mask's values at the packed image's size, by nearest neighbours. Raises MaskError."""
    import cv2

    from mrm.data import masks

    mask_HW = masks.read_mask(item)
    if mask_HW.shape != size:
        raise MaskError(f"{item.mask}: the mask has {mask_HW.shape} pixels, its image {size}")
    return cv2.resize(mask_HW, new[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def _encode_chunk(items: Sequence[Any], config: PackConfig) -> list[Encoded]:
    return [encode(item, config) for item in items]


def _encode_all(
    chunks: Sequence[Sequence[Any]], config: PackConfig, workers: int
) -> Generator[list[Encoded], None, None]:
    """The chunks in their order, encoded by several processes that are a little ahead."""
    if workers == 1 or len(chunks) < 2:
        yield from (_encode_chunk(chunk, config) for chunk in chunks)
        return
    context = multiprocessing.get_context("spawn")  # the caller may hold threads of OpenCV and PyTorch
    with ProcessPoolExecutor(
        min(workers, len(chunks)), context, initializer=_start_worker, initargs=(os.getpid(),)
    ) as pool:
        waiting: deque[Future] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_encode_chunk, chunk, config))
                if len(waiting) > 3 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker(parent: int) -> None:
    """One thread; and end with the parent, whose pipe would otherwise be waited on for ever once it is killed."""
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and the first answers

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
