"""What the module of a corpus provides, and the functions for reading that all of them share.

The module of a corpus has one function `read(source, options) -> Release`: it reads the publisher's tables under
`source`, joins them with the images that exist, and lists what it left out and why. It decodes no images and writes
nothing; `mrm.corpora.prepare` inspects the images, creates the splits and writes.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

from mrm.corpora.options import Options
from mrm.data.boxes import Box
from mrm.data.folders import IMAGES, image_key, list_images, list_stored_images
from mrm.data.header_index import HeaderIndex
from mrm.data.placed_images import PlacedImage
from mrm.data.records import Records
from mrm.system import object_store
from mrm.system.errors import RecordError
from mrm.system.table_rows import Row

Purpose = Literal["labels", "reports", "masks"]

ABSENT = "image absent"  # the reasons that several corpora share
UNNAMED = "image without "  # how the reasons begin for images that no row names; others are those of rows
UNLABELLED = f"{UNNAMED}label"
DUPLICATE = "duplicate row"
UNREADABLE = "unreadable image"
TWICE = "same file name in two folders, or in two formats"
CONTRADICTORY = "rows contradict each other"
_DIRECT = re.compile(r"(?:[^/\\.:][^/\\:]*/)*[^/\\.:][^/\\:]*")  # a path below a folder, written in the shortest way


@dataclass(frozen=True)
class Exclusion:
    """An image or row of the download that is not among the records. `reason` is the same text for the same case."""

    name: str
    reason: str
    detail: str = ""


def file_stem(name: str) -> str:
    """`stage_2_train_images/abc.dcm` -> `abc`. Images are identified without folder and format."""
    file = name.rpartition("/")[2]
    return image_key(PurePosixPath(name).name if file in ("", ".") else file)


Finish = Callable[[Mapping[str, Records], Path, Options], list[Exclusion]]


@dataclass(frozen=True)
class Release:
    """The content of a download, as read by the module of its corpus.

    `Record.name` is the image's path relative to the source, as `--images SOURCE` finds it; `extra` may
    contain sex and age. `splits` are those of the publisher: none, `test`, `train` and `test`, or all three; missing
    ones are created by patient. Splits of other names (`covid1/train`) are written as they are; then no others are
    created, and the module of the corpus reads `options.splits` itself.

    `expected` are the publisher's counts (images, patients, ...), `counts` those of this download that `prepare` does
    not count itself (rows). `key` joins the names of published lists with `Record.name`, and `list_classes`
    are their columns. In label lists an uncertain label becomes what `uncertain` says for its class (ones,
    zeros, else ignore), and a label that is not stated becomes 0 if `unstated_absent`, as in CheXpert's. `finish` writes
    further files that the corpus needs; `notes` are shown to the user and saved.
    """

    records: Records
    inputs: Sequence[Path]  # the tables that were read
    version: str
    splits: Mapping[str, Records] = field(default_factory=dict)
    excluded: Sequence[Exclusion] = ()
    expected: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    purpose: Purpose = "labels"
    key: Callable[[str], str] = file_stem
    list_classes: tuple[str, ...] = ()
    uncertain: Mapping[str, str] = field(default_factory=dict)
    unstated_absent: bool = False
    finish: Finish | None = None
    notes: Sequence[str] = ()
    patient_advice: str = ""  # what a user can do about images whose patient is neither in a table nor in a header
    headers: HeaderIndex | None = None  # of images whose DICOM headers have been read, and are part of the records
    understood: str = ""  # how the tables were understood, for people
    files: Mapping[str, str] = field(default_factory=dict)  # further files of the output folder: name -> text
    advice: str = ""  # what to do where no record is left
    boxes: Mapping[str, Sequence[Box]] = field(default_factory=dict)  # of findings, by the names of their images


def inside(source: Path, name: str, where: str) -> str:
    """A path from a publisher's table, relative to the source. Raises RecordError if it leads out of it."""
    if _DIRECT.fullmatch(name):
        return name
    plain = name.replace("\\", "/")
    if plain.startswith("/") or plain[1:2] == ":":
        base = posixpath.normpath(source.absolute().as_posix())
        plain = posixpath.relpath(posixpath.normpath(plain), base) if plain.startswith("/") else ".."
    plain = posixpath.normpath(plain)
    if plain == ".." or plain.startswith("../"):
        raise RecordError(f"{where}: the path {name!r} leads out of the source folder; correct the table")
    return plain


def images_of(
    options: Options, source: Path, root: Path, *folders: str, suffixes: Sequence[str] = IMAGES
) -> Mapping[str, Path | PlacedImage]:
    """The images below `root`, a folder of the source, or, with `options.images`, the same place in an object store, by path.

    Raises StoreError.
    """
    address = options.images and object_store.address(options.images)
    if not address:
        return list_images(root, *folders, suffixes=suffixes)
    return list_stored_images(address, source, root, *folders, suffixes=suffixes)


def by_key(
    files: Mapping[str, Path | PlacedImage], key: Callable[[str], str], excluded: list[Exclusion], first: str = ".png"
) -> dict[str, tuple[str, Path | PlacedImage]]:
    """Key -> (name, file). Of files with the same key the one with the suffix `first` is taken, the others excluded."""
    chosen: dict[str, tuple[str, Path | PlacedImage]] = {}
    for name in sorted(files, key=lambda n: not n.lower().endswith(first)):
        kept, _ = chosen.setdefault(key(name), (name, files[name]))
        if kept != name:
            excluded.append(Exclusion(name, TWICE, kept))
    return chosen


@lru_cache(1000)
def plain_age(text: str) -> str:
    """`058Y` -> 58, `000Y` -> 0, `006M` -> 6M, `57,5` -> 57.5: without leading zeros, the unit of years, and decimal commas."""
    match = re.fullmatch(r"0*(\d+)(?:[.,](\d*?)0*)?([YMWD]?)", text.upper())
    if match is None:
        return text
    return f"{match[1]}{'.' if match[2] else ''}{match[2] or ''}{match[3].removesuffix('Y')}"


def unique_rows(rows: Iterable[Row], key: Callable[[Row], str], excluded: list[Exclusion]) -> Iterator[tuple[str, Row]]:
    """One row for each key. Identical copies are added to `excluded`; keys whose rows differ are excluded altogether."""
    firsts: dict[str, Row] = {}
    repeated: dict[str, list[Row]] = {}
    for row in rows:
        if firsts.setdefault(name := key(row), row) is not row:
            repeated.setdefault(name, []).append(row)
    for name, first in firsts.items():
        others = repeated.get(name, ())
        if any(row.cells != first.cells for row in others):
            lines = ", ".join(str(row.line) for row in (first, *others))
            excluded.append(Exclusion(name, CONTRADICTORY, f"lines {lines}"))
            continue
        excluded += [Exclusion(name, DUPLICATE, f"line {row.line}") for row in others]
        yield name, first


def without_label(files: Iterable[str], labelled: Iterable[str]) -> list[Exclusion]:
    """Exclusions for the images on disk that no table mentions. Both are relative paths."""
    known = set(labelled)
    return [Exclusion(name, UNLABELLED) for name in files if name not in known]
