"""Radiographs and reports as a hospital exports them: DICOM files as an archive names them, and a table of its radiology system.

The files lie in PatientID/StudyInstanceUID/SeriesInstanceUID folders and have no suffix; every fourth is MONOCHROME1. The
table `ris.csv` has semicolons, Windows-1252, German column names and words, days first and a decimal comma. It knows an
image by its accession number alone, and as in life some rows have no image and some images no row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from mrm.corpora.phantoms.phantom import FINDINGS, patient_of, phantom
from mrm.system.errors import RecordError
from mrm.system.files import write_whole
from mrm.system.worker_pool import SLOW, each

TABLE = "ris.csv"
FINDING = "Erguss"  # the German word for the phantoms' effusion
WORDS = {1.0: "ja", 0.0: "nein", -1.0: "unklar"}
FIRST_DAY, DAYS, BETWEEN = date(2021, 1, 4), 1400, 120  # of first studies; and days from a patient's study to the next
WITHOUT_ROW, WITHOUT_IMAGE, UNCLEAR = 40, 50, 60  # one phantom in so many
DIGITAL_X_RAY = "1.2.840.10008.5.1.4.1.1.1.1"


@dataclass(frozen=True)
class Study:
    """A study with its only image."""

    patient: str
    accession: str
    day: date
    view: str
    sex: str
    age: int
    report: str
    finding: float  # 1 present, 0 absent, -1 unclear


def write_dicom(root: Path, number: int, study: Study, image_HW: np.ndarray) -> Path:
    """Write an image (H, W) uint8 as an archive does. Returns the file."""
    uids = [generate_uid(entropy_srcs=[kind, study.accession]) for kind in ("study", "series", "image")]
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID, file.SOPInstanceUID = DIGITAL_X_RAY, uids[2]
    file.StudyInstanceUID, file.SeriesInstanceUID = uids[0], uids[1]
    file.PatientID, file.PatientSex, file.PatientAge = study.patient, study.sex, f"{study.age:03}Y"
    file.PatientName, file.AccessionNumber = "Muster^Person", study.accession
    file.StudyDate, file.Modality, file.BodyPartExamined = f"{study.day:%Y%m%d}", "DX", "CHEST"
    file.ViewPosition, file.SamplesPerPixel = study.view, 1
    file.Rows, file.Columns = image_HW.shape
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    inverted = number % 4 == 3
    file.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    pixels = (255 - image_HW if inverted else image_HW).tobytes()
    file.PixelData = pixels + b"\0" * (len(pixels) % 2)
    written = io.BytesIO()
    file.save_as(written, enforce_file_format=True)
    return write_whole(root / study.patient / uids[0] / uids[1] / "IM0001", written.getvalue())


def write_table(root: Path, studies: Iterable[Study], finding: str = FINDING) -> Path:
    """Write the table of these studies, with a column of that name for the finding. Returns the file."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=";", lineterminator="\r\n")
    writer.writerow(["AccessionNumber", finding, "Befund", "Datum", "CRP"])
    for study in studies:
        report = f"Röntgen Thorax {study.view} vom {study.day:%d.%m.%Y}\n{study.report}"
        protein = f"{int(study.accession) % 97 / 10:.1f}".replace(".", ",")
        writer.writerow([study.accession, WORDS[study.finding], report, f"{study.day:%d.%m.%Y}", protein])
    return write_whole(root / TABLE, text.getvalue().encode("cp1252"))


def write(out: Path, count: int, seed: int = 0, size: int = 512, workers: int | None = None) -> Path:
    """Draw `count` phantoms and write them under `out` as a hospital would. Returns the table. Raises RecordError."""
    if count < 1:
        raise RecordError(f"{count} phantoms: at least one can be drawn")
    draw = partial(_write_one, Path(out), seed, size, count)
    studies: Sequence[Study] = list(each(draw, range(count), workers or 0, "drawing phantoms", SLOW))
    return write_table(Path(out), [s for number, s in enumerate(studies, 1) if number % WITHOUT_ROW])


def _write_one(out: Path, seed: int, size: int, count: int, index: int) -> Study:
    """Write one phantom, unless it is one of those whose image the archive has lost. Returns its study."""
    p = phantom(seed, index, size)
    label = p.labels[FINDINGS.index("effusion")]
    study = Study(
        patient=p.patient,
        accession=f"00{4_711_000 + index}",
        day=FIRST_DAY + timedelta(days=index * DAYS // count + patient_of(seed, index)[1] * BETWEEN),
        view=p.view,
        sex=p.sex,
        age=p.age,
        report=p.report,
        finding=-1.0 if (index + 1) % UNCLEAR == 0 else label,
    )
    if (index + 1) % WITHOUT_IMAGE:
        write_dicom(out / "DICOM", index, study, p.image)
    return study
