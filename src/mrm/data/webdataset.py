"""WebDataset shards as something to pack: tar files of images with their reports, as many sets on Hugging Face have them.

The files of a sample follow each other in a tar and share their name up to the first dot: `0001.jpg`, `0001.txt`,
`0001.json`, `0001.cls`. Each image becomes a record; the report is the `.txt`, the keys of the `.json` become columns, the
number in `.cls` too. Images stay where they are: what is kept is their place in the tar, on a disk or in an object store.
"""

from __future__ import annotations

import glob
import io
import json
import os
import re
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mrm.data.config import OnError
from mrm.data.placed_images import PlacedImage
from mrm.data.record import RESERVED
from mrm.data.records import Records, from_table
from mrm.data.table_records import first_five
from mrm.system import object_store
from mrm.system.errors import RecordError
from mrm.system.files import parse_json
from mrm.system.progress import Progress

IMAGES = ("jpg", "jpeg", "png", "tif", "tiff", "dcm")
TEXTS = ("txt", "json", "cls")
REPORTS = ("txt", "report.txt", "caption.txt")  # what holds the report, the first of them that there is
MAX_TEXT = 1 << 24  # bytes of a text, which are held in memory
BUFFER = 1 << 20  # bytes that are read at a time: a small image is passed over with its neighbours
SAMPLE = re.compile(r"(?:\./)*((?:.*/)?[^./][^./]*)\.([^/]+)")  # a name up to the first dot of the file, and the rest
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # 00..11


@dataclass
class Sample:
    """The files of a sample, by what follows its key in their names: images by their places, texts by their content."""

    key: str
    images: dict[str, PlacedImage] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)
    problem: str = ""


def load(place: Path | str, classes: Sequence[str] = (), on_error: OnError = "stop") -> Records:
    """The records of the tar files that `place` means (see `tars_at`), without labels; every column is text.

    With `classes` the number in `.cls` chooses the class that is present. Raises RecordError for tar files that are damaged and
    for samples that cannot be used, which `on_error="skip"` leaves out with a warning; StoreError.
    """
    table, problems = Table(tuple(classes)), list[str]()
    tars = tars_at(place)
    with Progress("listing", len(tars)) as progress:
        for tar in progress.over(tars):
            count = 0
            try:
                for count, sample in enumerate(samples_of(tar), 1):  # noqa: B007
                    table.add(sample, tar, problems)
            except (tarfile.TarError, OSError, EOFError) as error:
                problems.append(f"{tar}: damaged or cut off after {count:,} samples ({error}); copy it again")
    if problems and on_error == "stop":
        raise RecordError(
            f"{place}: {len(problems)} problems: {first_five(problems)}; correct them, or leave these samples out with "
            "--on-error skip"
        )
    for problem in problems[:5]:
        warnings.warn(f"left out {problem}", stacklevel=3)
    table.warn(str(place), len(problems))
    return from_table(str(place), *table.lines(), (), None, on_error, table.images)


# Tar files ------------------------------------------------------------------------------------------------


def tars_at(place: Path | str) -> list[str]:
    """The tar files that a path or an address means: one, a folder of them, `a-*.tar`, `a-{000..011}.tar`. Raises RecordError."""
    text = object_store.address(place) or str(place)
    if re.match(r"(https?|hf|pipe):", text):
        raise RecordError(f"{text}: is not read from there; download the tar files first, and give their folder")
    tars = [tar for part in expanded(text) for tar in _matching(part)]
    if not tars:
        raise RecordError(
            f"{text}: no tar files; give one, a folder of them, or a quoted pattern such as 'a-*.tar' or 'a-{{00..11}}.tar'"
        )
    return list(dict.fromkeys(tars))


def expanded(text: str) -> list[str]:
    """The names that braces such as {000..011} mean, with as many digits as are written there."""
    if not (match := RANGE.search(text)):
        return [text]
    first, last = match[1], match[2]
    if int(last) < int(first) or int(last) - int(first) > 1_000_000:
        raise RecordError(f"{text}: {match[0]} is no range; expected the smaller number first")
    numbers = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return [name for number in numbers for name in expanded(text[: match.start()] + number + text[match.end() :])]


def _matching(text: str) -> list[str]:
    if object_store.address(text):
        path, mark, options = text.partition("?")
        folder, _, name = path.rpartition("/")
        if not name.endswith(".tar"):
            folder, name = path.rstrip("/"), "*.tar"
        elif not any(c in name for c in "*["):
            return [text]
        folder += mark + options
        return [object_store.within(folder, n) for n in object_store.listed(folder) if fnmatchcase(n, name)]
    if os.path.isdir(text):
        return sorted(glob.glob(os.path.join(glob.escape(text), "*.tar")))
    if os.path.isfile(text):
        return [text]
    if any(c in text for c in "*?["):
        return sorted(glob.glob(text, recursive=True))
    raise RecordError(f"{text}: no such file")


@contextmanager
def _opened(tar: str) -> Iterator[io.BufferedReader]:
    raw: Any = object_store.StoreFile(tar) if object_store.address(tar) else io.FileIO(tar)
    with io.BufferedReader(raw, BUFFER) as file:
        yield file


def samples_of(tar: str) -> Iterator[Sample]:
    """The samples of a tar file, in its order. Raises TarError for one that is damaged or cut off, OSError, StoreError."""
    sample: Sample | None = None
    with _opened(tar) as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            raise tarfile.ReadError("it is compressed; unpack it with gunzip, images gain nothing by it")
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                archive.members = []  # type: ignore[attr-defined]  # else every header stays in memory
                match = SAMPLE.fullmatch(info.name) if info.isreg() else None
                if not match:
                    continue
                key, suffix = match[1], match[2].lower()
                if sample is None or key != sample.key:
                    if sample:
                        yield sample
                    sample = Sample(key)
                _take(sample, suffix, info, archive, tar)
            _require_end(file, archive.offset)
    if sample:
        yield sample


def _take(sample: Sample, suffix: str, info: tarfile.TarInfo, archive: tarfile.TarFile, tar: str) -> None:
    """Add a file to the sample that it belongs to."""
    kind = suffix.rpartition(".")[2]
    if suffix in sample.images or suffix in sample.texts:
        sample.problem = f"has two files .{suffix}"
    elif kind in IMAGES:
        sample.images[suffix] = PlacedImage(tar, info.offset_data, info.size)
    elif kind not in TEXTS:
        sample.texts.setdefault(f"?{kind}", b"")
    elif info.size > MAX_TEXT:
        sample.problem = f".{suffix} has {info.size:,} bytes, more than a text has"
    else:
        content = archive.extractfile(info)
        sample.texts[suffix] = content.read() if content else b""


def _require_end(file: io.BufferedReader, at: int) -> None:
    """Raises TarError unless what follows the last header is the end of a tar file: two blocks of zeros, and only zeros."""
    file.seek(at)
    rest = file.read(2 * tarfile.BLOCKSIZE)
    if len(rest) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("the end of the archive is missing")
    while rest:
        if rest.strip(b"\0"):
            raise tarfile.ReadError(f"no header at byte {at:,}, though the file goes on")
        at, rest = at + len(rest), file.read(BUFFER)


# Records --------------------------------------------------------------------------------------------------


class Table:
    """The rows that samples become, as a table of records has them, and the image of each."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes, self.columns = classes, dict.fromkeys(RESERVED)
        self.rows: list[dict[str, str]] = []
        self.images: list[PlacedImage] = []
        self.tars: dict[str, str] = {}  # where each key was
        self.unknown = Counter[str]()

    def add(self, sample: Sample, tar: str, problems: list[str]) -> None:
        """Add the images of a sample; what is wrong with it is added to `problems`, and the sample left out."""
        where = f"{tar}: {sample.key}"
        try:
            self.unknown.update(name for name in sample.texts if name.startswith("?"))
            known = self._known(sample)
        except ValueError as error:
            problems.append(f"{where} {error}")
            return
        if sample.key in self.tars:
            problems.append(f"{where} is also in {self.tars[sample.key]}: keys must be unique")
            return
        self.tars[sample.key] = tar
        for suffix, image in sample.images.items():
            name = f"{sample.key}.{suffix}"
            row = {"image_path": name, **known}
            if len(sample.images) > 1:  # images of one study, which share what is known
                row = {"study_id": sample.key, **row, "image_path": name}
            row = {_plain(column): _plain(text) for column, text in row.items()}
            self.columns |= dict.fromkeys(row)
            self.rows.append(row)
            self.images.append(image)

    def _known(self, sample: Sample) -> dict[str, str]:
        """What the texts of a sample say, by column. Raises ValueError for what cannot be used."""
        if sample.problem:
            raise ValueError(sample.problem)
        texts = {name: content for name, content in sample.texts.items() if not name.startswith("?")}
        if not sample.images:
            raise ValueError(f"has no image, only {', '.join(f'.{name}' for name in texts) or 'other files'}")
        known: dict[str, str] = {}
        for name, content in texts.items():
            kind = name.rpartition(".")[2]
            text = _text(name, content)
            if kind == "json":
                known |= _values(name, text)
            elif kind == "cls":
                known |= self._class(name, text.strip())
            elif name not in REPORTS:
                known[name.removesuffix(".txt")] = text
        if report := next((name for name in REPORTS if name in texts), None):
            known["report_content"] = _text(report, texts[report]).strip()
        return known

    def _class(self, name: str, text: str) -> dict[str, str]:
        column = name.removesuffix("cls").rstrip(".") or "cls"
        if not self.classes:
            return {column: text}
        if not text.isdigit() or int(text) >= len(self.classes):
            raise ValueError(f".{name} is {text[:20]!r}, but the classes are 0 to {len(self.classes) - 1} (--classes)")
        return {cls: str(int(number == int(text))) for number, cls in enumerate(self.classes)}

    def lines(self) -> tuple[list[str], list[tuple[int, list[str]]]]:
        """Header and numbered rows."""
        header = list(self.columns)
        return header, [(n, [row.get(column, "") for column in header]) for n, row in enumerate(self.rows, 1)]

    def warn(self, place: str, problems: int) -> None:
        """Warn of what was left out, and of images without a report where others have one."""
        if problems > 5:
            warnings.warn(f"{place}: left out {problems:,} samples in all, for such reasons", stacklevel=4)
        without = sum(not row.get("report_content") for row in self.rows)
        if 0 < without < len(self.rows):
            warnings.warn(f"{place}: {without:,} of {len(self.rows):,} images have no report (.txt)", stacklevel=4)
        if self.unknown:
            kinds = ", ".join(f".{name[1:]} ({count:,})" for name, count in self.unknown.most_common(5))
            warnings.warn(f"{place}: files of these kinds are not packed: {kinds}", stacklevel=4)


def _plain(text: str) -> str:
    """The text without halves of characters, which no file of text can hold."""
    return text.encode("utf-8", "replace").decode()


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").replace("\0", "")
    except UnicodeDecodeError as error:
        raise ValueError(f".{name} is not UTF-8 ({error.reason} at byte {error.start})") from None


def _values(name: str, text: str) -> dict[str, str]:
    """The values of a JSON object as text: what is neither text nor a number stays JSON."""
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ValueError(f".{name} is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f".{name} is no JSON object, whose keys would be columns")
    return {key: _cell(value) for key, value in values.items() if key}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
