"""What the headers of DICOM files say: accession, study, series, patient, date, view and size of each, read once.

Only the beginning of a file is read, up to the last of these elements, never its pixels. An index in a folder keeps
what was read under each file's path, size and modification time, so that a second start reads nothing again.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_partial
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from mrm.data import dicom_limits
from mrm.data.dates import day_of
from mrm.data.headers import StoredImage, kind_of, load
from mrm.system.errors import ImageError, UnreachableError, first_line
from mrm.system.journal import Journal, file_state
from mrm.system.output_folder import writing
from mrm.system.tables import stated
from mrm.system.worker_pool import each

Header = Mapping[str, str]  # what is stated, by our names; empty for a file that is no DICOM or cannot be read
TAGS = {
    "accession": "AccessionNumber",
    "study_uid": "StudyInstanceUID",
    "series_uid": "SeriesInstanceUID",
    "image_uid": "SOPInstanceUID",
    "patient_id": "PatientID",
    "date": "StudyDate",
    "content_date": "ContentDate",
    "view": "ViewPosition",
    "modality": "Modality",
    "body_part": "BodyPartExamined",
    "sex": "PatientSex",
    "age": "PatientAge",
    "height": "Rows",
    "width": "Columns",
}
WHOSE = ("patient_id", "study_uid", "accession", "date", "content_date")  # what `identity` needs
UIDS = ("study_uid", "series_uid", "image_uid")
FILE = "headers.jsonl"  # of an output folder
VERSION = "mrm headers 1"  # another set of TAGS is another version
_NUMBERS: dict[str, Any] = {name: Tag(keyword) for name, keyword in TAGS.items()}
_WHOLE_NUMBERS = (_NUMBERS["height"], _NUMBERS["width"])
_LAST = max(_NUMBERS.values())
BUFFER = 1 << 14  # bytes that are read at a time; a header takes one to four thousand
MOST_ELEMENTS = 10_000  # before the last of TAGS; a radiograph has some hundred


def read_header(file: Path | StoredImage) -> dict[str, str]:
    """What a DICOM file states of TAGS; empty for a file of another format.

    Raises `UnreachableError` where the file is absent or its disk does not answer, and `ImageError` for damaged DICOM.
    """
    head = bytes(load(file, BUFFER)[:BUFFER])
    if not head or kind_of(head, str(file)) != "dicom":
        return {}
    try:
        dataset = _dataset(file, head)
        header = stated_in(dataset)
    except (ImageError, OSError, MemoryError):
        raise
    except Exception as error:  # damaged DICOM makes pydicom raise a dozen kinds
        raise ImageError(f"{file}: damaged DICOM ({first_line(error)}); download or copy the file again") from error
    if not header:
        raise ImageError(f"{file}: damaged DICOM (its header states nothing); download or copy the file again")
    return header


def stated_in(dataset: pydicom.Dataset, names: Sequence[str] = tuple(TAGS)) -> dict[str, str]:
    """What the elements of these names state. A damaged value raises one of pydicom's dozen kinds of exceptions."""
    return {name: text for name in names if (text := _text(dataset, _NUMBERS[name]))}


def identity(header: Header) -> dict[str, str]:
    """Whose image it is and of which study, as far as it is stated: patient_id, study_id, accession, and date as 2024-01-31."""
    day = day_of(header.get("date", "")) or day_of(header.get("content_date", ""))
    names = {"patient_id": "patient_id", "study_id": "study_uid", "accession": "accession"}
    known = {ours: header.get(theirs, "") for ours, theirs in names.items()}
    known["date"] = day.isoformat() if day else ""
    return {name: text for name, text in known.items() if text}


def _dataset(file: Path | StoredImage, head: bytes) -> pydicom.Dataset:
    """The elements of TAGS. A deflated file has to be inflated whole; of any other the beginning is enough."""
    if DeflatedExplicitVRLittleEndian.encode() + b"\0" in head:
        return dicom_limits.read(load(file), str(file), stop_before_pixels=True, specific_tags=list(TAGS.values()))
    seen = 0

    def is_past(tag: int, *_: object) -> bool:
        nonlocal seen
        seen += 1
        if seen > MOST_ELEMENTS:
            raise ImageError(f"{file}: has far more data elements than a radiograph; save the image alone")
        return tag > _LAST

    prefix = head[128:132] == b"DICM"
    with open(file, "rb", buffering=BUFFER) if isinstance(file, Path) else io.BytesIO(load(file)) as opened:
        return read_partial(opened, stop_when=is_past, specific_tags=list(_NUMBERS.values()), force=not prefix)


def _text(dataset: pydicom.Dataset, number: Any) -> str:
    """The value of an element as text. pydicom's conversion, which takes longest, is left to texts beyond ASCII."""
    element = dataset.get_item(number)
    if element is None or element.value is None:
        return ""
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
        if number in _WHOLE_NUMBERS and len(element.value) == 2:
            return str(int.from_bytes(element.value, "little" if element.is_little_endian else "big"))
        if number not in _WHOLE_NUMBERS and element.value.isascii():
            return stated(element.value.decode("ascii").strip("\0 "))
    value = dataset[number].value
    return "" if value is None else stated(str(value).strip("\0 "))


# An index of many files -------------------------------------------------------------------------------------


class HeaderIndex:
    """The headers of files. What an earlier command kept in `folder` is known; what is read is kept there, if `keeps`."""

    def __init__(self, folder: Path | None = None, keeps: bool = True) -> None:
        self.folder, self.keeps = folder, keeps and folder is not None
        self.headers: dict[Path, Header] = {}
        self.errors: dict[Path, str] = {}  # files whose header cannot be read, and why
        self.read_now = 0  # files that were opened; the others were known

    def read(self, files: Sequence[Path], workers: int = 0) -> None:
        """Read the headers of the files that are not known, with `workers` processes (0: one per core).

        Raises UnreachableError where files cannot be reached, after the headers of all others were kept.
        """
        journal = _opened(self.folder / FILE) if self.folder else None
        known: dict[str, dict[str, str]] = journal.known if journal else {}
        states = {file: file_state(file) for file in files}
        todo = [file for file, state in states.items() if state not in known]
        self.read_now, lost = len(todo), list[str]()
        with self._keeping(journal, known) as keep:
            for file, header in zip(todo, each(facts_of, todo, workers, "reading headers"), strict=True):
                if "again" in header:  # not kept, so that it is tried again
                    lost.append(header["again"])
                else:
                    keep(states[file], header)
        if lost:
            raise UnreachableError(
                f"{len(lost):,} files could not be reached; first error: {lost[0]}. Is a disk or a share gone? "
                "Run the same command again"
            )
        for file, state in states.items():
            header = dict(known[state])
            if error := header.pop("error", ""):
                self.errors[file] = error
            self.headers[file] = header

    @contextmanager
    def _keeping(
        self, journal: Journal | None, known: dict[str, dict[str, str]]
    ) -> Iterator[Callable[[str, dict[str, str]], None]]:
        """A function that keeps a header under the state of its file: in the journal, or in memory alone."""
        if journal is None or not self.keeps or not self.read_now:
            yield known.__setitem__
            return
        with writing(journal.path), journal:
            journal.add(VERSION, {})
            yield journal.add

    def get(self, file: Path) -> Header:
        """The header of a file; empty if it is no DICOM or was not read."""
        return self.headers.get(file, {})


def facts_of(file: Path) -> dict[str, str]:
    """The header of a file, or why it cannot be read (`error`) or reached (`again`). Runs in any process."""
    try:
        return read_header(file)
    except (UnreachableError, OSError) as error:
        return {"again": str(error)}
    except ImageError as error:
        return {"error": str(error)}


def _opened(file: Path) -> Journal:
    """The journal of an index; one that is of another version or no index is begun anew, and that is said."""
    journal = Journal(file)
    if not file.is_file() or not file.stat().st_size:
        return journal
    foreign = journal.known.pop(VERSION, None) is None
    if foreign or not all(isinstance(header, dict) for header in journal.known.values()):
        warnings.warn(f"{file}: is no index of headers of this version; the headers are read again", stacklevel=4)
        journal.forget()
        return Journal(file)
    if journal.damaged:
        warnings.warn(f"{file}: {journal.damaged:,} lines are damaged; these headers are read again", stacklevel=4)
    return journal
