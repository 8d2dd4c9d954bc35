"""A hospital's export, made of phantoms: a DICOM tree as an archive writes it, and tables as people export them.

`write_archive` writes PatientID/StudyInstanceUID/SeriesInstanceUID folders with files with and without suffix, compressed
and not, MONOCHROME2 and MONOCHROME1, several studies a patient and several images a study, and returns what is known about
each image. `write_table` writes a table in one of many forms, and returns what each image's record must be.
"""

from __future__ import annotations

import csv
import datetime
import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from mrm.corpora.phantoms.phantom import FINDINGS, phantom
from tests.support.dicom_files import dicom_bytes
from tests.support.workbooks import write_ods, write_xlsx

SIZE = 32  # pixels of a side
FINDING = "effusion"
NAMES = {  # our name of a key -> the column of a German export
    "image_path": "Datei",
    "image_uid": "SOPInstanceUID",
    "series_uid": "SeriesInstanceUID",
    "study_uid": "StudyInstanceUID",
    "accession": "AccessionNumber",
    "patient_id": "Patientennummer",
    "patient_id+date": "Patientennummer",
}
KEYS = tuple(NAMES)
OF_IMAGES = ("image_path", "image_uid", "series_uid")  # keys of which each image has its own
DELIMITERS = (",", ";", "\t", "|")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1")
LATERAL, DASH = "LL", "\u2013"


@dataclass(frozen=True)
class Image:
    """What is known beforehand about an image of the archive."""

    name: str  # path from the archive
    patient_id: str
    study_uid: str
    series_uid: str
    image_uid: str
    accession: str
    date: str  # 2024-01-31
    view: str
    sex: str
    age: str
    report: str = ""  # of its study
    label: float = 0.0  # of its study: whether FINDING is present

    @property
    def image_path(self) -> str:
        """As a table names it."""
        return self.name


@dataclass(frozen=True)
class Form:
    """How a table is written."""

    key: str = "accession"
    suffix: str = ".csv"  # .csv, .xlsx, .ods or .parquet
    delimiter: str = ";"
    encoding: str = "utf-8"
    decimal: str = ","
    words: tuple[str, str] = ("0", "1")  # of absent and present
    dates: str = "%Y-%m-%d"

    def __str__(self) -> str:
        delimiter = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}[self.delimiter]
        text = f"-{delimiter}-{self.encoding}" if self.suffix == ".csv" else ""
        return f"{self.key}{self.suffix}{text}"


# Archive ----------------------------------------------------------------------------------------------------


@functools.cache
def _drawn(index: int) -> tuple[np.ndarray, Mapping[str, object]]:
    """Pixels and facts of a phantom; drawn once for all tests of a process."""
    p = phantom(21, index, SIZE)
    facts = {"patient": p.patient, "sex": p.sex, "age": p.age, "view": p.view, "report": p.report}
    return p.image, {**facts, "label": p.labels[FINDINGS.index(FINDING)]}


def write_archive(root: Path, studies: int = 12) -> list[Image]:
    """Write the images of so many studies below `root`; every third study has a lateral view too."""
    images: list[Image] = []
    for index in range(studies):
        pixels, facts = _drawn(index)
        study = _study(index, facts)
        for number in range(1 + (index % 3 == 0)):
            image = _image(study, index, number)
            tags = _tags(image)
            file = root / image.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_encoded(np.roll(pixels, number, 1), len(images), tags))
            images.append(image)
    return images


def _study(index: int, facts: Mapping[str, object]) -> Image:
    """What the images of a study share. Accession numbers begin with zeros, and differ in one digit."""
    day = datetime.date(2023, 11, 20) + datetime.timedelta(days=9 * index)
    return Image(
        name="",
        patient_id=str(facts["patient"]),
        study_uid=_uid("study", index),
        series_uid="",
        image_uid="",
        accession=f"00{4711000 + index}",
        date=day.isoformat(),
        view=str(facts["view"]),
        sex=str(facts["sex"]),
        age=str(facts["age"]),
        report=f"Größe des Herzens am {day:%d.%m.} {DASH} {facts['report']}",
        label=float(facts["label"]),  # type: ignore[arg-type]
    )


def _image(study: Image, index: int, number: int) -> Image:
    series, instance = _uid("series", index, number), _uid("image", index, number)
    name = f"{study.patient_id}/{study.study_uid}/{series}/IM{number:04}{'.dcm' if index % 2 else ''}"
    return replace(study, name=name, series_uid=series, image_uid=instance, view=LATERAL if number else study.view)


def _uid(*parts: object) -> str:
    return str(generate_uid(entropy_srcs=["hospital", *map(str, parts)]))


def _tags(image: Image) -> dict[str, str]:
    return {
        "PatientID": image.patient_id,
        "StudyInstanceUID": image.study_uid,
        "SeriesInstanceUID": image.series_uid,
        "SOPInstanceUID": image.image_uid,
        "AccessionNumber": image.accession,
        "StudyDate": image.date.replace("-", ""),
        "ViewPosition": image.view,
        "PatientSex": image.sex,
        "PatientAge": f"{int(image.age):03}Y",
        "PatientName": "Muster^Person",
    }


def _encoded(pixels: np.ndarray, number: int, tags: Mapping[str, str]) -> bytes:
    """A DICOM file: explicit, implicit or JPEG, and every fourth one MONOCHROME1."""
    if number % 4 == 3:
        return dicom_bytes(255 - pixels, PhotometricInterpretation="MONOCHROME1", **tags)
    if number % 4 == 2:
        _, frame = cv2.imencode(".jpg", pixels)
        return dicom_bytes(pixels, JPEGBaseline8Bit, frame.tobytes(), **tags)
    return dicom_bytes(pixels, ImplicitVRLittleEndian if number % 4 else ExplicitVRLittleEndian, **tags)


# Tables -----------------------------------------------------------------------------------------------------


def write_table(file: Path, images: Sequence[Image], form: Form) -> list[Image]:
    """Write a table with a row for each image, study or patient, as its key demands. Returns the records to come.

    By patient alone, all images of a patient share the row of the first study.
    """
    if form.encoding == "latin-1":  # which has no dash
        images = [replace(image, report=image.report.replace(DASH, "-")) for image in images]
    rows = rows_of(images, form.key)
    if form.suffix == ".csv":
        file.write_bytes(csv_text([header(form), *[_cells(row, form) for row in rows]], form).encode(form.encoding))
    elif form.suffix == ".parquet":
        _write_parquet(file, form, rows)
    else:
        write = {".xlsx": write_xlsx, ".ods": write_ods}[form.suffix]
        cells = [_cells(row, replace(form, decimal=".")) for row in rows]
        write(file, {"Tabelle1": [header(form), *[[*c[:-1], float(c[-1])] for c in cells]]})
    return expected(images, form.key)


def rows_of(images: Sequence[Image], key: str) -> list[Image]:
    """The first image of each value of the key, for which a table has a row."""
    rows: dict[object, Image] = {}
    for image in images:
        rows.setdefault(key_of(image, key), image)
    return list(rows.values())


def expected(images: Sequence[Image], key: str) -> list[Image]:
    """The records of a table: report and label are those of the row."""
    rows = {key_of(row, key): row for row in rows_of(images, key)}
    return [
        replace(image, report=rows[key_of(image, key)].report, label=rows[key_of(image, key)].label) for image in images
    ]


def key_of(image: Image, key: str) -> tuple[str, ...]:
    """The values of a key; that of patient_id+date has two."""
    return tuple(getattr(image, part) for part in key.split("+"))


def header(form: Form) -> list[str]:
    """The columns of a table."""
    date = ["Datum"] if form.key == "patient_id+date" else []
    return [NAMES[form.key], *date, "Pleuraerguss", "Befund", "CRP"]


def _cells(image: Image, form: Form) -> list[str]:
    """The cells of a row as text; the last one is a number."""
    day = [datetime.date.fromisoformat(image.date).strftime(form.dates)] if form.key == "patient_id+date" else []
    crp = f"{int(image.accession) % 97 / 10}".replace(".", form.decimal)
    return [key_of(image, form.key)[0], *day, form.words[int(image.label)], image.report, crp]


def csv_text(rows: Sequence[Sequence[str]], form: Form) -> str:
    """Rows as CSV."""
    text = io.StringIO()
    csv.writer(text, delimiter=form.delimiter, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


def _write_parquet(file: Path, form: Form, rows: Sequence[Image]) -> None:
    import pyarrow
    import pyarrow.parquet

    cells = [_cells(row, replace(form, decimal=".")) for row in rows]
    columns = {name: [c[i] for c in cells] for i, name in enumerate(header(form))}
    table = pyarrow.table({**columns, "CRP": [float(v) for v in columns["CRP"]]})
    pyarrow.parquet.write_table(table, file)
