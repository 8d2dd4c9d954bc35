"""What a user points at, as records: images, folders, globs, lists, tables of records and shards, in any mixture.

What a file is, its content says: an image named `list.txt` is an image. A list or a table that cannot be used stops
with an error; an image that cannot be read is a matter of its own row, later.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mrm.data import shards
from mrm.data.headers import kind_of, load
from mrm.data.records import Record, Records, find_images
from mrm.system.errors import ImageError, RecordError

TABLES = (".csv", ".parquet", ".gz", ".zip")
LISTS = (".txt",)
NO_IMAGES = (  # not looked at in a folder, whose other files are all taken: DICOM often has no suffix, or a number
    *TABLES,
    *LISTS,
    *(".json", ".jsonl", ".npy", ".npz", ".md", ".html", ".xml", ".yaml", ".yml", ".log", ".pdf", ".py", ".sh"),
)


def records_at(paths: Sequence[Path | str], images: Path | None = None, out: Path | None = None) -> Records:
    """Records of all images at `paths`, in their order, those of a folder sorted; without labels.

    A path is an image, a folder (searched through), a shard folder, a glob, a table of records (`Records.load`), or
    a list: a path a line, or `name 0 1 ...` lines. `images` is where relative names of tables and lists are. `out` is
    where results go: where it lies in a folder that is searched, what is in it is left out. Raises RecordError for a
    path that is not there, a folder without images, and a list or table that cannot be used.
    """
    rows: list[Record] = []
    for given in paths:
        if shards.is_shard_folder(given):
            rows += Records.load(given).rows
            continue
        for path in _expanded(Path(given)):
            rows += _rows_at(path, Path(images) if images else None, out)
    if not rows:
        raise RecordError("no images given; name files, folders, globs, lists or tables")
    return Records([_without_labels(r) for r in rows], source=", ".join(map(str, paths)))


def record_keys(records: Records) -> list[str]:
    """A key for each record that stays when other records come or go: its name, numbered where it comes again."""
    seen: Counter[str] = Counter()
    keys = []
    for record in records:
        seen[record.name] += 1
        times = seen[record.name]
        keys.append(record.name if times == 1 else f"{record.name}\0{times}")
    return keys


def _expanded(path: Path) -> list[Path]:
    if os.path.lexists(path) or not glob.has_magic(str(path)):
        return [path]
    found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
    if not found:
        raise RecordError(f"{path}: nothing matches this pattern")
    folders = {p for p in found if p.is_dir()}
    return [p for p in found if folders.isdisjoint(p.parents)]  # `**` matches a folder and all in it: once is enough


def _rows_at(path: Path, images: Path | None, out: Path | None) -> Sequence[Record]:
    if path.is_dir():
        return Records.load(path).rows if shards.is_shard_folder(path) else _in_folder(path, out)
    if not os.path.lexists(path):
        raise RecordError(f"{path}: no such file or folder")
    if path.suffix not in (*TABLES, *LISTS) or _is_image(path):
        return [Record(path)]
    if path.suffix in LISTS or _is_plain_list(path):
        return _in_list(path, images)
    records = Records.load(path, images=images)
    _check_inside([r.name for r in records], path)
    return records.rows


def _in_folder(folder: Path, out: Path | None) -> Sequence[Record]:
    found = sorted(p for p in folder.rglob("*") if not _hidden(p.relative_to(folder)) and not p.is_dir())
    if out and folder.absolute() in out.absolute().parents:  # results of an earlier run
        found = [p for p in found if out.absolute() not in p.absolute().parents]
    taken = [p for p in found if p.suffix.lower() not in NO_IMAGES and p.name != "DICOMDIR"]
    if not taken:
        raise RecordError(f"{folder}: no images in it")
    return [Record(p) for p in taken]


def _hidden(path: Path) -> bool:
    """Whether a name on the way begins with a dot, or is that of an unfinished table (`mrm.system.partial_results.Partial`)."""
    return any(part.startswith(".") or part.endswith(".partial") for part in path.parts)


def _is_image(path: Path) -> bool:
    try:
        kind_of(load(path, 1024), str(path))
    except ImageError:
        return False
    return True


def _is_plain_list(path: Path) -> bool:
    """Whether a CSV is a list of paths: one column, and no header of records."""
    if path.suffix != ".csv":
        return False
    lines = [line for line in _lines(path) if line]
    return bool(lines) and lines[0] != "image_path" and not any("," in line for line in lines)


def _in_list(path: Path, images: Path | None) -> Sequence[Record]:
    lines = _lines(path)
    names = [line for line in lines if line]
    if not names:
        raise RecordError(f"{path}: an empty list; it should have a path on each line")
    fields = [line.split() for line in names]
    if all(len(f) > 1 and set(f[1:]) <= {"0", "1"} for f in fields):  # a published label list
        names = [f[0] for f in fields]
    _check_inside(names, path)
    found = find_images(names, path, images)
    return [Record(file, name=name) for name, file in zip(names, found, strict=True)]


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip().strip('"') for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (UnicodeDecodeError, OSError) as error:
        raise RecordError(f"{path}: not a text file in UTF-8 ({error}); a list of paths is expected") from None


def _check_inside(names: Sequence[str], path: Path) -> None:
    """Refuse relative names that climb out of their folder: lists come from others, and may mean more than images."""
    for name in names:
        if not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] == os.pardir:
            raise RecordError(
                f"{path}: {name} leads out of the folder that names are relative to; give --images DIR and names "
                "within it, or absolute paths"
            )


def _without_labels(record: Record) -> Record:
    if not record.labels:
        return record
    return Record(record.image, patient=record.patient, study=record.study, view=record.view, name=record.name)
