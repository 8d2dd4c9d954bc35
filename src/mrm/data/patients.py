"""Whose images are these: patients as records state them, or as published file names tell them.

Intervals, splits and the audit all take patients from here, so an image has the same patient in each of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mrm.system.errors import RecordError
from mrm.system.tables import read_rows, stated

# How published file names encode the patient and, in some corpora, the study. The names of RSNA and SIIM identify
# radiographs, not patients. `file` is the part that names the file, where the last part of the path alone does not.
# NIH numbers its patients from 1 to 30,805; other names of that form, such as a date and a counter, name no patient.
PUBLISHED_NAMES = {
    "nih": re.compile(r"(?:^|/)(?P<patient>000[0-3]\d{4})_\d{3}(?:\.|$)"),
    "chexpert": re.compile(r"(?:^|/)(?P<file>patient(?P<patient>\d{5})/study(?P<study>\d+)/.*)$"),
    "mimic": re.compile(r"(?:^|/)p(?P<patient>\d{8})/s(?P<study>\d{8})(?:/|$)"),
    "openi": re.compile(r"(?:^|/)CXR(?P<patient>\d+)(?:_\d+)?_IM-\d+-\d+"),
}

# What de-identification writes in place of a patient's id; one of these is not one person
PLACEHOLDER = re.compile(
    r"anon[a-z]*|de-?identif[a-z]*|pseudonym[a-z]*|unknown|unbekannt|redacted|removed|deleted|none|null|no[ _-]?name|x{3,}|\*+|\?+"
)
ORIGINAL = "original_image"  # column: the published name of an image in the corpus that it was taken from
PATIENTS = "patients.csv"  # in a segmentation folder, beside images/ and annotations/: image_path, patient_id
COMMON_ID = 20  # an id that so many images and most of a set share is taken for a placeholder, whatever it is


class Origin(NamedTuple):
    """What a published file name says about its image."""

    corpus: str
    patient: str
    study: str = ""
    file: str = ""


def infer_origin(name: str) -> Origin | None:
    """Corpus, patient, study and file of a published name, "" where it has none; None for any other name."""
    for corpus, pattern in PUBLISHED_NAMES.items():
        if match := pattern.search(name.replace("\\", "/")):
            return Origin(corpus, **match.groupdict())
    return None


def origin_of(name: str, facts: Mapping[str, str]) -> Origin | None:
    """What is known of the origin of an image: by the name in the corpus that it was taken from, else by its own."""
    return infer_origin(facts.get(ORIGINAL) or name)


def normalized_id(text: str, prefix: str = "patient|p") -> str:
    """An id as it is compared: "00000001", "patient1" and "1" are the same, as tables and file names write it differently."""
    text = text.strip().casefold()
    number = re.fullmatch(rf"(?:{prefix})?[-_ ]?0*(\d+)(?:\.0)?", text)
    return number[1] if number else text


@dataclass(frozen=True)
class Patients:
    """The patient of each of N records: as stated, else as its published file name says, else "" (unknown)."""

    names: list[str]
    inferred: int = 0  # records whose patient was taken from the file name

    @property
    def count(self) -> int | None:
        """The number of known patients; None if no patient is known."""
        return len(set(self.names) - {""}) or None

    @property
    def unknown(self) -> int:
        """The number of records of unknown patient."""
        return self.names.count("")

    def facts(self) -> dict[str, int | None]:
        """How many patients there are, and how they are known, for results and model cards."""
        return {"patients": self.count, "patients_inferred": self.inferred, "patients_unknown": self.unknown}

    def placeholder(self) -> tuple[str, int] | None:
        """An id that seems to stand for everybody, such as ANONYMOUS, and how many records have it; None without one.

        It is a word that de-identification writes, whatever id all records share, or one that 20 or more and most do.
        """
        common = Counter(name for name in self.names if name).most_common()
        for name, count in common:
            most = count == len(self.names) or (count > len(self.names) / 2 and count >= COMMON_ID)
            if count > 1 and (most or PLACEHOLDER.fullmatch(name.casefold())):
                return name, count
        return None


def patients_of(names: Sequence[str], ids: Sequence[str]) -> Patients:
    """The patients of records by their names and by the ids that they state, "" where they state none.

    Ids that the audit takes for the same ("00000013" of a file name, "13" of a table) are one patient, under the id that
    is met first. Only records that need it are compared so: without a patient to infer, ids stay as they are stated.
    """
    origins = [None if patient else infer_origin(name) for name, patient in zip(names, ids, strict=True)]
    inferred = sum(origin is not None for origin in origins)
    if not inferred:
        return Patients(list(ids))
    first: dict[tuple[str, str], str] = {}
    patients = []
    for name, patient, origin in zip(names, ids, origins, strict=True):
        found = origin or infer_origin(name)
        text = patient or (found.patient if found else "")
        identity = (found.corpus if found else "", normalized_id(text))
        patients.append(first.setdefault(identity, text) if text else "")
    return Patients(patients, inferred)


def read_patients(table: Path) -> dict[str, str]:
    """The patient of each image that a table names. Raises RecordError for another table."""
    header, lines = read_rows(table)
    if missing := [name for name in ("image_path", "patient_id") if name not in header]:
        raise RecordError(f"{table}: no column {', '.join(missing)}; the columns found are {', '.join(header)}")
    image, patient = header.index("image_path"), header.index("patient_id")
    patients = {}
    for number, fields in lines:
        if len(fields) != len(header):
            raise RecordError(f"{table}: line {number}: {len(fields)} fields, but the header has {len(header)}")
        patients[fields[image].strip()] = stated(fields[patient])
    return patients
