"""The reports of MIMIC-CXR, from `mimic-cxr-reports.zip` as it is or unpacked.

Each study's report is `files/p10/p10000032/s50414267.txt` in the archive. All 227,835 are read in one pass,
in the order in which they lie, and nothing is unpacked to disk.
"""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from mrm.corpora.contract import Exclusion, list_pictures
from mrm.records import RecordError

DAMAGED = "report unreadable"
SECOND = "second report of one study"
_REPORT = re.compile(r"(?:^|/)p\d+/s(\d+)\.txt$")
_FOLDERS = ("mimic-cxr-reports", "files", "reports")


@dataclass
class Reports:
    """The text of each study that has one, and what was found on the way."""

    texts: dict[str, str] = field(default_factory=dict)
    inputs: list[Path] = field(default_factory=list)
    unreadable: list[Exclusion] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_reports(source: Path, given: Path | None, studies: set[str]) -> Reports:
    """The reports of `studies`, from the archive or the folder `given`, else sought in the source."""
    found = Reports()
    place = given or next((p for p in _places(source) if p.exists()), None)
    if place is None:
        found.notes.append("no reports: give the archive mimic-cxr-reports.zip of MIMIC-CXR with --reports FILE")
        return found
    if place.is_file():
        found.inputs.append(place)
    replaced = 0
    for study, name, content in _report_files(place, studies):
        if content is None:
            found.unreadable.append(Exclusion(name, DAMAGED))
        elif study in found.texts:
            found.unreadable.append(Exclusion(name, SECOND))
        else:
            text = content.decode("utf-8", errors="replace")
            replaced += "\ufffd" in text
            found.texts[study] = text.strip()
    if replaced:
        warnings.warn(f"{place}: {replaced} reports hold bytes that are not UTF-8; shown as \ufffd", stacklevel=2)
    if not found.texts:
        raise RecordError(f"{place}: no report of these studies in it; files/p10/p10000032/s50414267.txt is expected")
    return found


def _places(source: Path) -> Iterator[Path]:
    yield source / "mimic-cxr-reports.zip"
    for folder in _FOLDERS:
        for layout in ("p1*/p1*", "files/p1*/p1*"):
            patients = islice((source / folder).glob(layout), 100)  # all 65,379 would take long
            if any(next(patient.glob("s*.txt"), None) for patient in patients):
                yield source / folder


def _report_files(place: Path, studies: set[str]) -> Iterator[tuple[str, str, bytes | None]]:
    """(study, file, content) of the wanted reports, as they lie; the content is None where it is damaged."""
    if place.is_dir():
        for name, file in list_pictures(place, suffixes=(".txt",)).items():
            if (match := _REPORT.search(f"/{name}")) and match[1] in studies:
                yield match[1], name, file.read_bytes()
        return
    try:
        archive = zipfile.ZipFile(place)
    except (zipfile.BadZipFile, OSError) as error:
        raise RecordError(f"{place}: not a whole ZIP archive ({error}); get it again, or unpack it") from error
    with archive:
        for member in archive.infolist():
            if (match := _REPORT.search(member.filename)) and match[1] in studies:
                try:
                    yield match[1], member.filename, archive.read(member)
                except (zipfile.BadZipFile, zlib.error, EOFError):
                    yield match[1], member.filename, None
