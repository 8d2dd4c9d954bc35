"""The records that a user's paths stand for: images, folders, globs, lists, tables of records and shards, in any mixture.

The content of a file tells what it is: an image named `list.txt` is an image. A list or a table that cannot be used
raises an error; an image that cannot be read is reported later, with its record.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath

from mrm.data import shards
from mrm.data.archive_address import is_archive
from mrm.data.folders import LISTS, every_file, is_image, is_system_file, may_be_image, system_note
from mrm.data.records import Record, Records, find_images
from mrm.system.errors import RecordError
from mrm.system.tables import SUFFIXES, is_workbook, stated
from mrm.system.text_files import read_text


def records_at(paths: Sequence[Path | str], images: Path | None = None, out: Path | None = None) -> Records:
    """Records of all images at `paths`, in their order and without labels; the files of a folder are sorted.

    A path is an address of an archive (`mrm.data.archive_address`), an image, a folder (searched recursively), a shard folder, a glob, a table of records (`Records.load`), or
    a list: one path a line, or `name 0 1 ...` lines. Relative names in tables and lists are looked up in `images`.
    `out` is where results are written: if it lies in a folder that is searched, its files are ignored. Raises
    RecordError for a path that does not exist, a folder without images, and a list or table that cannot be used.
    """
    rows: list[Record] = []
    for path in paths:
        if is_archive(path):
            from mrm.data.archived_images import records_of

            rows += records_of(path)
            continue
        if shards.is_shard_folder(path):
            rows += Records.load(path).rows
            continue
        for match in _expanded(Path(path)):
            rows += _rows_at(match, Path(images) if images else None, out)
    if not rows:
        raise RecordError("no images to read; name files, folders, globs, lists or tables")
    return Records([_without_labels(r) for r in rows], source=", ".join(map(str, paths)))


def record_keys(records: Records) -> list[str]:
    """A key for each record that does not depend on other names: its name, numbered from the second occurrence on."""
    occurrences: Counter[str] = Counter()
    keys = []
    for record in records:
        occurrences[record.name] += 1
        number = occurrences[record.name]
        keys.append(record.name if number == 1 else f"{record.name}\0{number}")
    return keys


def _expanded(path: Path) -> list[Path]:
    if os.path.lexists(path) or not glob.has_magic(str(path)):
        return [path]
    matches = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
    if not matches:
        raise RecordError(f"{path}: nothing matches this pattern")
    folders = {p for p in matches if p.is_dir()}
    return [p for p in matches if folders.isdisjoint(p.parents)]  # `**` matches a folder and also each file in it


def _rows_at(path: Path, images: Path | None, out: Path | None) -> Sequence[Record]:
    if path.is_dir():
        return Records.load(path).rows if shards.is_shard_folder(path) else _in_folder(path, out)
    if not os.path.lexists(path):
        raise RecordError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    if suffix not in (*SUFFIXES, *LISTS) or is_image(path):
        return [Record(path)]
    if suffix in LISTS or _is_plain_list(path):
        return _in_list(path, images)
    records = Records.load(path, images=images)
    _check_inside([r.name for r in records], path)
    return records.rows


def _in_folder(folder: Path, out: Path | None) -> Sequence[Record]:
    every = dict(sorted(every_file(folder).items(), key=lambda named: named[1]))
    left_out = [str(path) for name, path in every.items() if is_system_file(name)]
    files = [path for name, path in every.items() if not (is_system_file(name) or _hidden(PurePosixPath(name)))]
    if out and folder.absolute() in out.absolute().parents:  # results of an earlier run
        files = [p for p in files if out.absolute() not in p.absolute().parents]
    candidates = [p for p in files if may_be_image(p)]
    if not candidates:
        raise RecordError(f"{folder}: this folder has no images")
    if left_out:
        warnings.warn(f"{folder}: {system_note(left_out)}", stacklevel=4)
    return [Record(p) for p in candidates]


def _hidden(path: PurePath) -> bool:
    """Whether a part of the path begins with a dot, or is an unfinished table (`mrm.system.partial_results.Partial`)."""
    return any(part.startswith(".") or part.endswith(".partial") for part in path.parts)


def _is_plain_list(path: Path) -> bool:
    """Whether a CSV is a list of paths: one column, without the header of a table of records."""
    if path.suffix.lower() != ".csv" or is_workbook(path):
        return False
    lines = [line for line in _lines(path) if line]
    separated = any(mark in line for line in lines for mark in ",;\t")
    return bool(lines) and lines[0] != "image_path" and not separated


def _in_list(path: Path, images: Path | None) -> Sequence[Record]:
    lines = _lines(path)
    names = [line for line in lines if line]
    if not names:
        raise RecordError(f"{path}: an empty list; expected one path on each line")
    fields = [line.split() for line in names]
    if all(len(f) > 1 and set(f[1:]) <= {"0", "1"} for f in fields):  # a published label list
        names = [f[0] for f in fields]
    _check_inside(names, path)
    files = find_images(names, path, images)
    return [Record(file, name=name) for name, file in zip(names, files, strict=True)]


def _lines(path: Path) -> list[str]:
    try:
        return [stated(line.strip().strip('"')) for line in read_text(path).splitlines()]
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror or error}); expected a list of paths") from None


def _check_inside(names: Sequence[str], path: Path) -> None:
    """Refuse relative names that lead out of their folder: a list from someone else might point at any file."""
    for name in names:
        if "\0" in name:
            raise RecordError(f"{path}: the path {name!r} has a NUL byte, which no file name has: the list is damaged")
        if not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] == os.pardir:
            raise RecordError(
                f"{path}: {name} leads out of the folder that names are relative to; use names within --images DIR, "
                "or absolute paths"
            )


def _without_labels(record: Record) -> Record:
    if not record.labels:
        return record
    return replace(record, labels=(), report="")
