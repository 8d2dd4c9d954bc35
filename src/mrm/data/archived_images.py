"""The radiographs that an address of an archive means, as records: searched for at once, read when they are needed."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from mrm.data import archive_address
from mrm.data.archive import MODALITIES, STUDY_COUNT, STUDY_UID, Archive, ArchivedImage, Found, value_of, values_of
from mrm.data.archive_address import IMAGE_FILTERS, UID, Address
from mrm.data.chest_tags import RADIOGRAPHS
from mrm.data.records import Record
from mrm.system.errors import ArchiveError, ImageError, UnreachableError

TAGS = {
    "Modality": "00080060",
    "BodyPartExamined": "00180015",
    "ViewPosition": "00185101",
    "SeriesDescription": "0008103E",
    "SeriesInstanceUID": "0020000E",
    "SOPInstanceUID": "00080018",
    "PatientID": "00100020",
}
FIELDS = ["Modality", "BodyPartExamined", "ViewPosition", "SeriesDescription", "Rows"]


def records_of(place: Path | str) -> list[Record]:
    """The radiographs at an address, in the order of the archive's answers, each instance once.

    Without a filter by Modality these are CR, DX and RG. Raises ArchiveError where the archive cannot be searched, or has
    none.
    """
    address = archive_address.parse(place)
    archive = Search(address)
    records = list(archive.records())
    if archive.repeated:
        warnings.warn(
            f"{address}: {archive.repeated:,} instances are listed more than once, and are taken once", stacklevel=3
        )
    if not records:
        left_out = ", ".join(f"{n:,} by {why}" for why, n in archive.left_out.most_common()) or "no instances"
        raise ArchiveError(
            f"{address}: none of {archive.seen:,} instances of {archive.studies:,} studies is a radiograph that the filters "
            f"mean ({left_out}); change the filters"
        )
    return records


class Search:
    """One search of an archive, and what it counts."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.archive = Archive(address)
        self.wanted = {name: value.split(",") for name, value in address.filters_of(IMAGE_FILTERS).items()}
        self.wanted.setdefault("Modality", sorted(RADIOGRAPHS))
        self.studies = self.seen = self.repeated = 0
        self.left_out: Counter[str] = Counter()
        self.known: set[str] = set()

    def records(self) -> Iterator[Record]:
        """The radiographs, study by study."""
        for study in self.archive.studies():
            self.studies += 1
            modalities = values_of(study, MODALITIES)
            if modalities and not any(self._matches("Modality", modality) for modality in modalities):
                self.left_out["Modality"] += 1
                continue
            yield from self.of_study(study)

    def of_study(self, study: Found) -> Iterator[Record]:
        """The radiographs of a study. One that was deleted since the search has none."""
        uid, count = value_of(study, STUDY_UID), value_of(study, STUDY_COUNT)
        if not UID.fullmatch(uid):
            self.left_out["its StudyInstanceUID"] += 1
            return
        try:
            for found in self.archive.instances(uid, FIELDS, int(count) if count.isdigit() else 0):
                if record := self._record(study, uid, found):
                    yield record
        except UnreachableError:
            raise
        except ImageError:
            self.left_out["deletion since the search"] += 1

    def _record(self, study: Found, uid: str, found: Found) -> Record | None:
        series, instance = (value_of(found, TAGS[name]) for name in ("SeriesInstanceUID", "SOPInstanceUID"))
        if not (UID.fullmatch(series) and UID.fullmatch(instance)):
            self.left_out["their identifiers"] += 1
            return None
        self.seen += 1
        if instance in self.known:
            self.repeated += 1
            return None
        self.known.add(instance)
        place = self.address.at(uid, series, instance)
        if reason := self._reason_against(found, place):
            self.left_out[reason] += 1
            return None
        image = ArchivedImage(place)
        patient = value_of(study, TAGS["PatientID"]) or value_of(found, TAGS["PatientID"])
        view = value_of(found, TAGS["ViewPosition"])
        return Record(image, patient=patient, study=uid, view=view, name=str(place))

    def _reason_against(self, found: Found, place: Address) -> str:
        """The filter that an instance does not pass; nothing if it passes all."""
        for level in ("series", "instance"):
            if (wanted := getattr(self.address, level)) and wanted != getattr(place, level):
                return f"the {level} of the address"
        unanswered = [name for name in self.wanted if TAGS[name] not in found]  # an archive is free to leave them out
        answered = [name for name in self.wanted if name not in unanswered]
        against = self._first_against(found, answered)
        if against or not unanswered:
            return against
        return self._first_against(_header(self.archive, place, unanswered), unanswered)

    def _first_against(self, found: Found, names: list[str]) -> str:
        return next((name for name in names if not self._matches(name, value_of(found, TAGS[name]))), "")

    def _matches(self, name: str, value: str) -> bool:
        return any(fnmatchcase(value.strip().upper(), wanted.strip().upper()) for wanted in self.wanted[name])


def _header(archive: Archive, place: Address, names: list[str]) -> Found:
    """Elements that an answer to a search lacks, from the header of the instance."""
    dataset = archive.header(place)
    return {TAGS[name]: {"Value": [str(dataset.get(name) or "")]} for name in names}
