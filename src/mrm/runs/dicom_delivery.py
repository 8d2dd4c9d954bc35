"""Where the DICOM objects of a command go: into a folder, and into the archive that the images come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrm.data.archive import ArchivedImage, connected
from mrm.data.records import Record, Records
from mrm.inference import dicom_objects, dicom_sr
from mrm.inference.decisions import DecisionRules
from mrm.inference.dicom_objects import Origin
from mrm.inference.studies import Views, is_lateral
from mrm.runs.run_folder import output_names
from mrm.runs.work import VIEW
from mrm.system.errors import ImageError, MaskError, RunError, UnreachableError
from mrm.system.files import write_by
from mrm.system.output_folder import writing
from mrm.system.partial_results import Row

if TYPE_CHECKING:
    import pydicom

    from mrm.data.headers import Bytes, StoredImage
    from mrm.data.images import ImageFile


@dataclass(frozen=True)
class Delivery:
    """Where objects go: into a folder, and with `store` into the archive that their images come from. By default nowhere.

    With `deidentified` there is no object of an image that may name a person.
    """

    folder: Path | None = None
    store: bool = False
    deidentified: bool = False

    def __bool__(self) -> bool:
        return self.folder is not None or self.store

    def check(self, records: Records) -> None:
        """Raises RunError where results are to be stored in an archive, and images come from elsewhere; and for no object."""
        if self.deidentified and not self:
            raise RunError("--deidentified is about DICOM objects, and none is asked for; leave it out")
        other = next((r.name for r in records if not isinstance(r.image, ArchivedImage)), None) if self.store else None
        if other:
            raise RunError(
                f"{other}: comes from no archive, so there is nowhere to store results; leave out --store, or name images by "
                "dicomweb://HOST/PATH"
            )

    def refuse_persons(self, image: Path | Bytes | StoredImage | ImageFile, name: str) -> None:
        """Raises MaskError for an image that may name a person, if results are to be de-identified. Raises ImageError.

        An image that is open already is not fetched again.
        """
        if not self.deidentified:
            return
        from mrm.data import images, personal_marks

        if marks := personal_marks.marks(images.open_image(image)):
            raise MaskError(f"{name}: may name a person: {'; '.join(marks)}")

    def send(self, made: pydicom.Dataset, file: str, record: Record) -> None:
        """Write an object as `file`, and store it unless the archive of the record has it. Raises OutputError, ArchiveError."""
        if self.folder:
            with writing(self.folder):
                write_by(self.folder / file, made.save_as)
        if self.store:
            assert isinstance(record.image, ArchivedImage)
            connected(record.image.place).store(made)


class Reports:
    """The structured reports of a command: one for each image, or for each study."""

    def __init__(
        self,
        records: Records,
        rules: DecisionRules,
        origin: Origin,
        settings: Mapping[str, Any],
        delivery: Delivery,
        views: Views = "all",
    ) -> None:
        dicom_objects.require_highdicom("leave out --dicom-sr and --store")
        self.records, self.rules, self.origin, self.delivery, self.views = records, rules, origin, delivery, views
        chosen = {name: value for name, value in settings.items() if value}
        self.settings = ", ".join(name if value is True else f"{name}: {value}" for name, value in chosen.items())
        self.names = output_names([record.name for record in records])

    def of_image(self, row: Row, number: int) -> str:
        """Send the report of an image, unless its view is left out; returns why there is none, or nothing."""
        if self.views == "frontal" and is_lateral(row.get(VIEW) or ""):
            return ""
        return self.of_study(row, [number])

    def of_study(self, row: Row, numbers: Sequence[int]) -> str:
        """Send the report of the images of these numbers, which are one study; returns why there is none, or nothing."""
        try:
            used = [self.records[number] for number in numbers]
            for record in used:
                self.delivery.refuse_persons(record.image, record.name)
            sources = [dicom_source(record) for record in used]
            made = dicom_sr.report(sources, self.rules, row, self.origin, self.settings)
        except UnreachableError:
            raise
        except ImageError as error:  # the findings have been computed, and are worth keeping
            return str(error)
        self.delivery.send(made, f"{self.names[numbers[0]]}.sr.dcm", used[0])
        return ""


def dicom_source(record: Record) -> pydicom.Dataset:
    """What the DICOM file of a record states before its pixels. Raises ImageError, MaskError for another format."""
    from mrm.data import dicom

    header = dicom.header(record.image, record.name)
    return dicom_objects.source_of(header, record.name, dicom_sr.WHAT)
