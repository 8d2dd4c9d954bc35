"""What every DICOM object that a model makes of a radiograph shares: its origin, its identifiers, the patient and the study.

Reports (`dicom_sr`), segmentations (`dicom_seg`) and heat maps (`dicom_capture`) are separate objects of the study of the
radiograph. Their identifiers follow from the radiograph and the model, so that the same command makes the same object, and an
archive never holds it twice. Extra `seg`.
"""

from __future__ import annotations

import importlib.util
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mrm
from mrm.models import model_folder
from mrm.models.card import Card
from mrm.system.errors import MaskError

if TYPE_CHECKING:
    import pydicom

NOTICE = "Research software, not for clinical use"
MANUFACTURER = "mrm"
NAMESPACE = uuid.UUID("7f3f64a4-7e0e-5d0c-9c11-6a1f7f4c0b5e")  # of the identifiers made here; any fixed one does
LONG_STRING = 64  # characters of the value representation LO

# Elements of the patient and the study that an object repeats, which must be present but may be empty
TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


@dataclass(frozen=True)
class Origin:
    """The model that makes an object: its name, and a digest of its weights and of what its results depend on."""

    model: str
    digest: str
    calibrated_on: str = ""  # the file of records that thresholds and temperatures were chosen on
    temperatures: tuple[str, ...] = ()  # the classes that have one

    @classmethod
    def of(cls, path: Path, card: Card, weights: str = "") -> Origin:
        """That of the model in a folder or a run, whose weights are read unless their digest is given. Raises CheckpointError."""
        digest = f"{weights or model_folder.weights_digest(path)}-{card.digest()}"
        calibrated_on = Path(card.calibration.get("records", "")).name
        return cls(Path(path).resolve().name, digest, calibrated_on, tuple(card.temperatures))

    @property
    def version(self) -> str:
        """What identifies the model, for a field of 64 characters."""
        return f"{self.digest}, mrm {mrm.__version__}"[:LONG_STRING]

    def uid(self, *parts: str) -> str:
        """An identifier that follows from this model and `parts` (PS3.5, B.2: a UUID under 2.25)."""
        return f"2.25.{uuid.uuid5(NAMESPACE, json.dumps([self.digest, *parts])).int}"

    def equipment(self, what: str) -> dict[str, Any]:
        """The arguments by which highdicom notes what made an object."""
        return {
            "manufacturer": MANUFACTURER,
            "manufacturer_model_name": f"mrm {what}",
            "software_versions": self.version,
            "device_serial_number": self.digest,
        }


def require_highdicom(instead: str) -> None:
    """Raises MaskError where highdicom is missing, with how to install it and what to do `instead`."""
    if importlib.util.find_spec("highdicom") is None:
        raise MaskError(
            "DICOM Segmentations, reports and captures need highdicom, which is not installed: "
            f"pip install 'mrm-radiograph[seg]', or {instead}"
        )


def source_of(dataset: pydicom.Dataset | None, name: str, what: str) -> pydicom.Dataset:
    """The radiograph that an object, called `what`, refers to: empty values for what de-identification has removed.

    The standard wants type 2 elements present, if empty (PS3.5, 7.4.3). Raises MaskError for an image that is not DICOM, or
    that has no identifiers.
    """
    from pydicom.valuerep import DA, TM

    from mrm.data import dicom

    if dataset is None:
        raise MaskError(f"{name}: not DICOM, so no {what} can refer to it")
    dicom.transfer_syntax(dataset)
    if missing := [keyword for keyword in UIDS if not dataset.get(keyword)]:
        raise MaskError(f"{name}: no {what} can refer to it, because it has no {missing[0]}")
    for keyword in TYPE_2:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(dataset[keyword].value or None)
        except ValueError:
            setattr(dataset, keyword, "")
    return dataset


@contextmanager
def named_failures(name: str, what: str) -> Iterator[None]:
    """Turn what highdicom raises for a radiograph that it cannot refer to into a MaskError."""
    try:
        yield
    except MaskError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MaskError(f"{name}: no {what} can refer to it ({error})") from error


def finish(made: Any, description: str) -> Any:
    """An object with the name of its series, which viewers list; private and unverified as all that is made here."""
    made.SeriesDescription = f"{description}: {NOTICE}"[:LONG_STRING]
    return made
