"""The reports of an export: in a column of a table, in files beside the images, or in files named by an accession.

`scan.txt`, `scan.docx` or `scan.hl7` beside `scan.png` is its report. Files in the folder that `--reports` names belong to
the images whose accession number, study or file name is the name of the file, or stands in the order of the HL7 message.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from mrm.corpora.contract import Exclusion, file_stem
from mrm.corpora.custom.description import Reports
from mrm.corpora.custom.nearest import Nearest
from mrm.data import report_files
from mrm.data.folders import every_file, list_images
from mrm.data.hl7 import Report
from mrm.data.patients import normalized_id
from mrm.data.records import Records
from mrm.data.report_text import plain_text, shared_lines
from mrm.data.sections import select_sections
from mrm.system.errors import RecordError, ReportError

UNREADABLE = "report not readable"
NO_IMAGE = "report without image"
CONTRADICTORY = "two reports for one key"
DOUBTS = {
    "guessed": "{} report files are read as Windows-1252",
    "replaced": "{} report files have bytes that are not UTF-8, replaced by \ufffd",
}
FACTS = {
    "replaced by a later message": "{} reports were replaced by a later message about the same order",
    "of another patient": "{} reports state another patient than their image; check that they belong together",
}
KEYS = ("accession", "study_uid", "study_id", "image_uid")  # our names, in the order in which reports are looked up


@dataclass
class ReportTexts:
    """Finds the report of each image, and gathers what is to be said of them. See `open_reports`."""

    beside: Mapping[str, Path]  # name relative to the source -> file
    settings: Reports
    by_key: dict[str, Report] = field(default_factory=dict)  # of the filler's number, or the name of the file
    by_other_key: dict[str, Report | None] = field(default_factory=dict)  # None where it stands for several
    excluded: list[Exclusion] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    contrary: set[str] = field(default_factory=set)  # keys of reports that contradict each other
    said: list[str] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    known: set[str] = field(default_factory=set)  # values that images are looked up by

    def find(self, image: str, cells: Mapping[str, str], where: str = "") -> str:
        """The whole text of an image's report: of its row, else of a file with its key, else of the file beside it.

        `cells` are what the row and the header state, by our names.
        """
        if text := cells.get("report_content", ""):
            try:
                return plain_text(text)
            except ReportError as error:
                self.excluded.append(Exclusion(image, UNREADABLE, f"{where}: {error}"))
                return ""
        return self._keyed(image, cells) or self._beside(image)

    def _keyed(self, image: str, cells: Mapping[str, str]) -> str:
        if not self.by_key and not self.by_other_key:
            return ""
        keys = [*(cells.get(name, "") for name in KEYS), file_stem(image)]
        keys = [key for key in keys if key and key not in self.contrary]
        self.known.update(keys)
        report = next((found for key in keys if (found := self.by_key.get(key) or self.by_other_key.get(key))), None)
        if report is None:
            return ""
        self.used.add(id(report))
        patient = cells.get("patient_id", "")
        if patient and report.patient and normalized_id(patient) != normalized_id(report.patient):
            self.counts["of another patient"] += 1
        return report.text

    def _beside(self, image: str) -> str:
        plain = PurePosixPath(image).with_suffix("").as_posix()
        names = (f"{stem}{suffix}" for suffix in report_files.SUFFIXES for stem in (plain, image))
        file = next((self.beside[name] for name in names if name in self.beside), None)
        return "\n".join(report.text for report in self._read(file)) if file else ""

    def _read(self, file: Path) -> list[Report]:
        """The reports in a file; none if it cannot be read, which is listed."""
        try:
            content = report_files.read_report_file(file, self.settings.encoding)
        except (ReportError, OSError) as error:
            self.excluded.append(Exclusion(file.name, UNREADABLE, str(error)))
            return []
        self.counts["guessed"] += content.guessed
        self.counts["replaced"] += content.replaced
        for reason in content.left_out:
            self.counts[f"left out: {reason}"] += 1
        return content.reports

    def add(self, file: Path) -> None:
        """Read a file of the folder of reports. Of two messages about one order, the later one counts."""
        for report in self._read(file):
            key, *others = report.keys
            if earlier := self.by_key.get(key):
                if earlier.text == report.text:
                    continue
                if not (earlier.time and report.time):
                    self.excluded.append(Exclusion(file.name, CONTRADICTORY, key))
                    self.contrary.add(key)
                    continue
                self.counts["replaced by a later message"] += 1
                if report.time < earlier.time:
                    continue
            self.by_key[key] = report
            for other in others:
                known = self.by_other_key.get(other, report)
                same = known is not None and known.keys[0] == key
                self.by_other_key[other] = report if same else None

    def finish(self, records: Records) -> Records:
        """The records with the sections of their reports that are kept, without shared lines if that was asked for."""
        shared = shared_lines(list(dict.fromkeys(record.report for record in records if record.report)))
        if shared and not self.settings.remove_shared_lines:
            self.said.append(
                f"at least half of the reports share lines: {shared.said()}; --remove-shared-lines removes them"
            )
        elif shared:
            self.said.append(f"removed from the reports, as at least half of them have these lines: {shared.said()}")
        remove = shared.remove if self.settings.remove_shared_lines else str
        rows = [replace(r, report=select_sections(remove(r.report), self.settings.sections)) for r in records]
        nearest = Nearest(self.known)
        for key, report in self.by_key.items():
            if id(report) not in self.used and key not in self.contrary:
                self.excluded.append(Exclusion(key, NO_IMAGE, nearest.detail(key).removeprefix("; ")))
        return replace(records, rows=rows)

    def notes(self) -> list[str]:
        """What a user should know of the reports. Warns of bytes that were guessed or lost."""
        doubts = list(self._counted(DOUBTS))
        for doubt in doubts:
            warnings.warn(doubt, stacklevel=3)
        left_out = [f"{count:,} times {name}" for name, count in self.counts.items() if name.startswith("left out: ")]
        return [*doubts, *self._counted(FACTS), *left_out, *self.said]

    def _counted(self, sentences: Mapping[str, str]) -> Iterator[str]:
        yield from (text.format(f"{self.counts[name]:,}") for name, text in sentences.items() if self.counts[name])


def open_reports(source: Path, settings: Reports) -> ReportTexts:
    """The reports beside the images below `source`, and those in the folder or file that the settings name.

    Raises RecordError for a folder that does not exist or holds no report.
    """
    texts = ReportTexts(list_images(source, suffixes=report_files.SUFFIXES), settings)
    if not settings.folder:
        return texts
    place = source / settings.folder
    if not place.exists():
        raise RecordError(f"--reports {place}: no such folder or file")
    files = _files(place) if place.is_dir() else [place]
    for file in files:
        texts.add(file)
    if not texts.by_key:
        reason = f"; the first reason: {texts.excluded[0].detail}" if texts.excluded else ""
        raise RecordError(
            f"--reports {place}: none of its {len(files):,} files holds a report{reason}. Expected files that end in "
            f"{', '.join(report_files.SUFFIXES)}, or HL7 messages"
        )
    return texts


def _files(folder: Path) -> Sequence[Path]:
    """The files of a folder that may hold reports: by their suffix, or without one."""
    return [
        file
        for name, file in every_file(folder).items()
        if not PurePosixPath(name).name.startswith(".") and file.suffix.lower() in (*report_files.SUFFIXES, "")
    ]
