"""From the rows of a table to records, one at a time."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from mrm.data import shards
from mrm.data.config import OnError
from mrm.data.headers import StoredImage
from mrm.data.label_values import LabelKind, label_of
from mrm.data.record import RESERVED, Record
from mrm.system.errors import RecordError
from mrm.system.tables import stated

Row = tuple[int, list[str]]  # the number of a line, and its fields
TABLE_ADVICE = "correct them, or leave them out with --on-error skip"
LIST_ADVICE = "correct the list, or leave these lines out with --on-error skip"
SITE = "site"  # the column that says where a record is from, which `mrm merge` writes
ATTRIBUTES = (
    "sex",
    "age",
    "date",
    "accession",
    "split",
    SITE,
    "offset",
    "mask_path",
    *("birth", "run_lengths", "subtlety", "nodule_mm", "nodule_x", "nodule_y"),  # of public corpora
)  # columns that describe a record; never a class unless named as one


def require_table(path: Path) -> None:
    """Raises RecordError for a path that is no file."""
    if path.is_dir():
        raise RecordError(f"{path}: a folder without {shards.INDEX}; name the file of records in it")
    if not path.is_file():
        raise RecordError(f"{path}: no such file of records")


def check_columns(path: Path | str, header: Sequence[str]) -> None:
    """Raises RecordError for a header without image_path, and for one that names a column twice."""
    if "image_path" not in header:
        raise RecordError(f"{path}: no column image_path; the columns found are {', '.join(header)}")
    if repeated := [name for name, count in Counter(header).items() if name and count > 1]:
        raise RecordError(f"{path}: more than one column is called {', '.join(repeated)}; rename or remove one")


def require_columns(path: Path | str, header: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """The classes. Raises RecordError for one that is no column."""
    if missing := [c for c in classes if c not in header]:
        raise RecordError(f"{path}: no column {', '.join(missing)}; the columns found are {', '.join(header)}")
    return tuple(classes)


def numeric_columns(path: Path | str, header: Sequence[str], lines: Iterable[Row]) -> tuple[str, ...]:
    """The columns that are classes where none is named: those that are no attribute and hold numbers for the most part.

    A single stray word must not hide a class. Raises RecordError where there is no such column.
    """
    candidates = [(i, name) for i, name in enumerate(header) if name not in RESERVED and name.lower() not in ATTRIBUTES]
    known, numbers = Counter[str](), Counter[str]()
    for _, fields in lines:
        if len(fields) != len(header):
            continue
        for i, name in candidates:
            if text := stated(fields[i]):
                known[name] += 1
                numbers[name] += text.replace(".", "", 1).lstrip("-").isdigit()
    numeric = tuple(name for _, name in candidates if known[name] and numbers[name] * 2 > known[name])
    if not numeric:
        raise RecordError(f"{path}: no numeric column to use as a class; the columns are {', '.join(header)}")
    return numeric


def records_of(
    header: Sequence[str],
    lines: Iterable[Row],
    classes: tuple[str, ...],
    image_of: Callable[[int, str], Path | bytes | StoredImage],
    kind: LabelKind,
    problems: list[str],
) -> Iterator[Record]:
    """The record of each line; what is wrong with a line is added to `problems`, and the line left out.

    `image_of` gives the image of a line from its number and from the name that is written there.
    """
    known = {*RESERVED, *classes}
    place = {name: i for i, name in enumerate(header)}
    texts = [place.get(name) for name in ("report_content", "patient_id", "study_id", "view")]
    extras = {name: i for name, i in place.items() if name not in known}
    for number, fields in lines:
        if len(fields) != len(header):
            problems.append(f"line {number}: {len(fields)} fields, but the header has {len(header)}")
            continue
        try:
            name = _name(fields[place["image_path"]])
            labels = tuple(label_of(fields[place[c]], name, c, kind) for c in classes)
        except RecordError as error:
            problems.append(f"line {number}: {error}")
            continue
        report, patient, study, view = ("" if i is None else stated(fields[i]) for i in texts)
        extra = {key: stated(fields[i]) for key, i in extras.items()}
        yield Record(image_of(number, name), report, patient, study, view, labels, extra, name)


def _name(text: str) -> str:
    """The name of an image as a table has it. Raises RecordError where there is none."""
    name = stated(text)
    if not name:
        raise RecordError("empty image_path")
    if "\0" in name:
        raise RecordError(f"image_path {name!r} has a NUL byte, which no file name has: the table is damaged")
    return name


def report_bad_lines(
    path: Path | str,
    problems: Sequence[str],
    on_error: OnError,
    advice: str = TABLE_ADVICE,
) -> None:
    """Raise RecordError for bad lines, or warn that they are left out."""
    if not problems:
        return
    if on_error == "stop":
        raise RecordError(f"{path}: {len(problems)} bad lines: {first_five(problems)}; {advice}")
    warnings.warn(f"{path}: left out {len(problems)} lines: {first_five(problems)}", stacklevel=4)


def first_five(problems: Sequence[str]) -> str:
    """The first five problems in one line, and how many more there are."""
    return "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
