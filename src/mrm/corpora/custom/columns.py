"""What each column of a table is taken for, and why: as asked, by its name, or by its values.

Names are compared in English, German, French and Spanish, without case, accents and signs. Values are compared with
what the headers and the file names hold. A column that nothing speaks for is not used.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from mrm.corpora.custom.description import COLUMNS
from mrm.corpora.custom.values import SIGNS, SPLITS, value_of
from mrm.data.dates import looks_like_date
from mrm.data.folders import IMAGES

SAMPLE = 500  # different values of a column that are looked at
FEWEST = 5  # different values that a key column has; numbers such as 0 and 1 may be ids of patients by chance
MOST = 0.5  # share of the values of a key column that headers must hold
NEARLY_ALL = 0.9  # share of the values of any other column that must be of a kind
LONG_TEXT = 40  # characters, on average, from which values are reports
NAMES = {
    "image_path": """imagepath image imagefile imagename filename file filepath path dicomfile dicompath bild bilddatei
        datei dateiname dateipfad pfad bildname fichier nomfichier nomdufichier chemin imagen archivo nombrearchivo
        nombredearchivo ruta fichero""",
    "image_uid": "imageuid sopinstanceuid sopuid instanceuid",
    "series_uid": "seriesuid seriesinstanceuid serieninstanzuid uidserie",
    "study_uid": "studyuid studyinstanceuid studieninstanzuid studienuid uidetude uiddeletude uidestudio uiddelestudio",
    "accession": """accession accessionnumber accessionno accessionnr accessionnum accessionid acc accno accnr accnum
        zugangsnummer zugangsnr anforderungsnummer anforderungsnr auftragsnummer auftragsnr untersuchungsnummer
        untersuchungsnr numeroaccession numerodaccession numeroacces numerodacces numerodemande numerodedemande
        nodaccession numeroacceso numerodeacceso numeroaccesion numerodeaccesion numerosolicitud ordernumber
        requestnumber examnumber""",
    "study_id": """studyid study examid exam untersuchung untersuchungsid studie studienid etude idetude examen idexamen
        estudio idestudio""",
    "patient_id": """patientid patient patid patno patnr patientno patientnr patientnumber mrn subjectid subject pid
        medicalrecordnumber patientenid patientennummer patientennr patientenkennung idpatient numeropatient ipp nip
        idpaciente paciente numeropaciente nhc numerohistoria historiaclinica numerohistoriaclinica""",
    "report_content": """reportcontent report reporttext radiologyreport text findings befund befundtext befundung
        bericht compterendu rapport texterapport texte informe textoinforme hallazgos texto""",
    "date": """date studydate examdate examinationdate acquisitiondate datum untersuchungsdatum aufnahmedatum
        studiendatum dateexamen datedexamen datedelexamen dateetude datedeletude fecha fechaestudio fechadelestudio
        fechaexamen fechadeexamen""",
    "sex": "sex gender patientsex patientgender geschlecht sexe genre sexo genero",
    "age": "age patientage ageyears alter patientenalter agepatient agedupatient edad edadpaciente",
    "view": """view viewposition projection strahlengang projektion aufnahmerichtung incidence vue proyeccion vista""",
    "split": "split set subset partition dataset aufteilung",
}
BY_NAME = {synonym: name for name, synonyms in NAMES.items() for synonym in synonyms.split()}
SEXES = frozenset(
    [
        "m",
        "f",
        "w",
        "d",
        "o",
        "u",
        "male",
        "female",
        "man",
        "woman",
        "männlich",
        "weiblich",
        "maennlich",
        "homme",
        "femme",
        "hombre",
        "mujer",
        "h",
    ]
)
VIEWS = frozenset(["pa", "ap", "ll", "lat", "lateral", "rl", "l", "r", "lateralview", "pa/lat", "seitlich", "profil"])


@dataclass(frozen=True)
class Taken:
    """What a column is taken for: one of our names, "label", or "" if it is not used, and why."""

    column: str
    name: str
    reason: str


def take(
    header: Sequence[str],
    values: Mapping[str, Sequence[str]],
    asked: Mapping[str, str],
    classes: Sequence[str],
    known: Mapping[str, Set[str]],
) -> list[Taken]:
    """What each column of a table is taken for. `known` are the values of the headers and file names, by our names.

    `values` are the stated values of each column; `asked` maps our names to columns, and takes precedence.
    """
    samples = {column: list(dict.fromkeys(filter(None, values[column])))[:SAMPLE] for column in header}
    taken: dict[str, Taken] = {column: Taken(column, name, "as asked") for name, column in asked.items()}
    taken |= {column: Taken(column, "label", "as asked") for column in classes}
    for column, name, reason in [*_by_name(header), *_by_values(samples, known)]:
        used = {t.name for t in taken.values()}
        if column not in taken and name not in used:
            taken[column] = Taken(column, name, reason)
    return [taken.get(column) or Taken(column, "", _unused(samples[column], taken)) for column in header]


def _by_name(header: Sequence[str]) -> Iterable[tuple[str, str, str]]:
    """Columns whose name says what they are: our own names first."""
    yield from ((column, column, "by its name") for column in header if column in COLUMNS)
    for column in header:
        if name := BY_NAME.get(_plain(column)):
            yield column, name, "by its name"


def _plain(column: str) -> str:
    """`Numéro d'accès` -> numerodacces."""
    letters = unicodedata.normalize("NFKD", column.casefold())
    return "".join(letter for letter in letters if letter.isalnum() and not unicodedata.combining(letter))


def _by_values(samples: Mapping[str, Sequence[str]], known: Mapping[str, Set[str]]) -> Iterable[tuple[str, str, str]]:
    """Columns whose values say what they are: keys of headers, file names, reports, sex, view, date, split."""
    for name, those in known.items():
        many = {column: sample for column, sample in samples.items() if len(sample) >= FEWEST}
        shares = {column: sum(v in those for v in sample) for column, sample in many.items()}
        for column in sorted(shares, key=lambda c: -shares[c]):
            if shares[column] >= MOST * len(samples[column]):
                place = "names of images" if name == "image_path" else "in the headers"
                yield column, name, f"{shares[column]:,} of {len(samples[column]):,} values are {place}"
    for column, sample in samples.items():
        if kind := _kind(sample):
            yield column, *kind


def _kind(sample: Sequence[str]) -> tuple[str, str] | None:
    """What values are by themselves: our name and the reason."""
    if not sample:
        return None
    words = [value.casefold() for value in sample]

    def most(test: Iterable[bool]) -> bool:
        return sum(test) >= NEARLY_ALL * len(sample)

    if most(word.endswith(IMAGES) for word in words):
        return "image_path", "its values are names of image files"
    if sum(map(len, sample)) >= LONG_TEXT * len(sample) and most(" " in value for value in sample):
        return "report_content", "its values are long texts"
    if most(word in VIEWS for word in words):
        return "view", f"its values are {_some(sample)}"
    if len(words) > 1 and most(word in SEXES for word in words):
        return "sex", f"its values are {_some(sample)}"
    if len(words) > 1 and most(word in SPLITS for word in words):
        return "split", f"its values are {_some(sample)}"
    if most(looks_like_date(value) for value in sample):
        return "date", f"its values are dates, such as {sample[0]}"
    return None


def _unused(sample: Sequence[str], taken: Mapping[str, Taken]) -> str:
    """Why a column is not used; one that looks like labels says how to use it."""
    if not sample:
        return "empty"
    if len(sample) <= 5 and all(value_of(value, SIGNS) is not None for value in sample):
        return f"values {_some(sample)} look like labels; if so, name it with --classes"
    if (kind := _kind(sample)) and kind[0] in {t.name for t in taken.values()}:
        other = next(t.column for t in taken.values() if t.name == kind[0])
        return f"looks like {kind[0]} too, but {other} is taken for it"
    return "not used"


def _some(sample: Sequence[str]) -> str:
    return ", ".join(sample[:4]) + (", ..." if len(sample) > 4 else "")
