"""Which row belongs to which image: by path, accession, study, series, image or patient, or patient and date.

A row may belong to several images of a study. What finds no partner is an exclusion with its reason and the nearest
value on the other side.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from mrm.corpora.contract import ABSENT, CONTRADICTORY, DUPLICATE, UNNAMED, Exclusion, file_stem
from mrm.corpora.custom.archive import BY_FILE, BY_FOLDER, Archive, path_finder
from mrm.corpora.custom.nearest import Nearest, loosened, most_similar
from mrm.corpora.options import KEYS
from mrm.data.dates import day_of
from mrm.data.header_index import identity
from mrm.system.errors import RecordError

SEVERAL = "name fits several images"
NO_KEY = "row without {}"
NO_NAME = "row without image name"
NO_IMAGE = "no image has this {}"
NO_ROW = f"{UNNAMED}row"
UNSTATED = UNNAMED + "{}"
TWO_PATIENTS = "{} fits two patients"
FAR = "no study of the patient on that date"
EQUALLY_NEAR = "two studies of the patient are equally near"
NEARER = "another row is nearer to the study"
NO_DATE = "date not understood"
WHERE = {  # our name of a column -> what an image is known by, in the order in which they are tried
    "image_path": ("path",),
    "image_uid": ("image_uid",),
    "series_uid": ("series_uid",),
    "study_uid": ("study_uid",),
    "accession": ("accession", BY_FILE, BY_FOLDER),
    "study_id": ("study_uid", "accession", BY_FILE, BY_FOLDER),
    "patient_id": ("patient_id", BY_FOLDER),
}
SAID = {
    "path": "path or file name",
    "image_uid": "SOPInstanceUID",
    "series_uid": "SeriesInstanceUID",
    "study_uid": "StudyInstanceUID",
    "accession": "AccessionNumber",
    "patient_id": "PatientID",
    "patient_id+date": "PatientID and StudyDate",
}


@dataclass(frozen=True)
class Entry:
    """What a row says, or the joined rows of several tables: cells by our names, label cells by column."""

    where: str  # "labels.csv, line 3"
    cells: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    beside: str = ""  # the folder of the table, relative to the source

    @property
    def content(self) -> tuple[object, ...]:
        """What makes two rows of one image the same."""
        return tuple(sorted(self.cells.items())), tuple(sorted(self.labels.items()))


@dataclass(frozen=True)
class Way:
    """One way to find the images of a row: the column, and what the images are known by."""

    key: str  # our name of the column, or patient_id+date
    by: str  # what an image is known by

    def __str__(self) -> str:
        return f"{self.key} ({SAID.get(self.by, self.by)})"


@dataclass
class Joined:
    """Rows with their images, and what has no partner."""

    way: Way
    pairs: list[tuple[Entry, str]] = field(default_factory=list)  # of a row and an image
    excluded: list[Exclusion] = field(default_factory=list)
    matches: Mapping[Way, int] = field(default_factory=dict)  # rows that each way would find an image for
    rows: int = 0
    matched: int = 0  # rows with an image
    notes: list[str] = field(default_factory=list)
    similar: Sequence[tuple[str, str]] = ()  # where nothing matches: values of rows and images that are most alike


Found = tuple[list[str], str, str]  # images of a row; without any the reason and its detail


def ways(columns: Iterable[str], join_by: str) -> list[Way]:
    """The ways in which rows with these columns can find images, the most specific first."""
    stated, found = set(columns), []
    for key in KEYS:
        if key == "patient_id" and {"patient_id", "date"} <= stated and join_by in ("", "patient_id+date"):
            found.append(Way("patient_id+date", "patient_id+date"))
        if key in stated and join_by in ("", key):
            found += [Way(key, by) for by in WHERE[key]]
    return found


@dataclass(frozen=True)
class Keys:
    """How rows are to be joined to images."""

    join_by: str = ""
    within_days: int = 0
    loose: bool = False  # without regard to blanks, upper case and leading zeros


def join(entries: Sequence[Entry], archive: Archive, keys: Keys = Keys()) -> Joined:
    """Find the images of each row by the most specific column that fits, or by `keys.join_by`.

    A column fits if it finds images for at least half as many rows as the best one; the patient alone only if nothing else
    finds any. Raises RecordError if no column is taken for `join_by`.
    """
    join_by = keys.join_by
    columns = {name for entry in entries for name in entry.cells}
    tried = ways(columns, join_by)
    if entries and not tried:
        raise RecordError(
            f"join_by {join_by}: no column is taken for it; name one with --columns {join_by.partition('+')[0]}=COLUMN, or choose "
            f"from {', '.join(key for key in KEYS if key in columns)}"
        )
    found = {way: _found(way, entries, archive, keys) for way in tried}
    matches = {way: sum(bool(images) for images, _, _ in results) for way, results in found.items()}
    way = _best(matches)
    joined = Joined(way, matches=matches, rows=len(entries), matched=matches.get(way, 0))
    if keys.loose:
        joined.notes += _loose_notes(way, entries, archive)
    named = _distribute(joined, entries, found.get(way, []), archive)
    joined.excluded += _without_row(joined, archive, entries, named)
    if keys.loose:
        joined.pairs = [(_as_known(entry, image, way, archive), image) for entry, image in joined.pairs]
    if not joined.matched:
        joined.similar = most_similar(_row_values(way, entries), Nearest(_image_values(way, archive)), 3)
    return joined


def _best(matches: Mapping[Way, int]) -> Way:
    """The most specific way that finds at least half as many rows as the best one."""
    specific = {way: count for way, count in matches.items() if way.key != "patient_id"}
    if any(specific.values()) or not any(matches.values()):
        matches = specific or matches
    most = max(matches.values(), default=0)
    return next((way for way, count in matches.items() if count >= most / 2), Way(KEYS[0], WHERE[KEYS[0]][0]))


def _loose_notes(way: Way, entries: Sequence[Entry], archive: Archive) -> list[str]:
    """A note that counts the rows whose key is not exactly that of their images."""
    if way.by == "path" or "+" in way.key:
        return []
    known = archive.by(way.by)
    others = _loose_values(known)
    count = sum(value not in known and bool(others.get(loosened(value))) for value in _row_values(way, entries))
    return (
        [f"{count:,} rows find their images by keys that differ in blanks, case or leading zeros, as asked"]
        if count
        else []
    )


def _as_known(entry: Entry, image: str, way: Way, archive: Archive) -> Entry:
    """The row with the key as its image has it."""
    value = archive.header(image).get(way.key)
    return replace(entry, cells={**entry.cells, way.key: value}) if value else entry


def _loose_values(values: Iterable[str]) -> dict[str, str]:
    """Loosened value -> value, empty where several have the same form."""
    forms: dict[str, str] = {}
    for value in values:
        form = loosened(value)
        forms[form] = "" if form in forms else value
    return forms


# Rows -> images ---------------------------------------------------------------------------------------------


def _found(way: Way, entries: Sequence[Entry], archive: Archive, keys: Keys) -> list[Found]:
    """The images of each row, found in one way."""
    if way.by == "path":
        finders = {beside: path_finder(archive, beside) for beside in {entry.beside for entry in entries}}
        return [_by_path(entry, finders[entry.beside]) for entry in entries]
    if way.by == "patient_id+date":
        studies = Studies(archive, keys.within_days)
        return [studies.find(entry) for entry in entries]
    loose = _loose_values(archive.by(way.by)) if keys.loose else {}
    return [_by_value(entry, way, archive, loose) for entry in entries]


def _by_path(entry: Entry, find: Callable[[str, str], list[str]]) -> Found:
    name = entry.cells.get("image_path", "")
    if not name:
        return [], NO_NAME, ""
    images = find(name, entry.where)
    return (images, "", "") if len(images) == 1 else ([], SEVERAL if images else ABSENT, "")


def _by_value(entry: Entry, way: Way, archive: Archive, loose: Mapping[str, str]) -> Found:
    value, said = entry.cells.get(way.key, ""), SAID.get(way.by, way.by)
    if not value:
        return [], NO_KEY.format(way.key), ""
    known = archive.by(way.by)
    images = known.get(value) or known.get(loose.get(loosened(value), ""), [])
    if not images:
        return [], NO_IMAGE.format(said), ""
    patients = sorted({archive.header(image).get("patient_id", "") for image in images} - {""})
    if len(patients) > 1 and way.by not in ("patient_id", BY_FOLDER):
        own = entry.cells.get("patient_id", "")
        if own not in patients:
            return [], TWO_PATIENTS.format(said), f"{value}: patients {', '.join(patients[:3])}"
        images = [image for image in images if archive.header(image).get("patient_id") == own]
    return images, "", ""


class Studies:
    """The studies of each patient by their date, to find the nearest one of a row."""

    def __init__(self, archive: Archive, within_days: int) -> None:
        self.within = within_days
        self.by_patient: dict[str, dict[str, tuple[datetime.date, list[str]]]] = {}
        for image in archive.images:
            header = archive.header(image)
            patient, day = header.get("patient_id", ""), day_of(identity(header).get("date", ""))
            if patient and day:
                studies = self.by_patient.setdefault(patient, {})
                study = header.get("study_uid") or header.get("accession") or str(day)
                studies.setdefault(study, (day, []))[1].append(image)

    def find(self, entry: Entry) -> Found:
        """The images of the nearest study of the row's patient."""
        patient, text = entry.cells.get("patient_id", ""), entry.cells.get("date", "")
        if not patient or not text:
            return [], NO_KEY.format("patient_id" if not patient else "date"), ""
        day = day_of(text)
        if day is None:
            return [], NO_DATE, repr(text)
        studies = self.by_patient.get(patient)
        if studies is None:
            return [], NO_IMAGE.format(SAID["patient_id"]), ""
        distances = sorted((abs((when - day).days), study) for study, (when, _) in studies.items())
        (days, nearest), *others = distances
        if days > self.within:
            return [], FAR, f"{text}: the nearest is of {studies[nearest][0]}, {days:,} days away"
        tied = [study for distance, study in others if distance == days]
        if tied:
            return [], EQUALLY_NEAR, f"{text}: {', '.join([nearest, *tied][:3])}, {days} days away"
        return studies[nearest][1], "", ""


def _distribute(joined: Joined, entries: Sequence[Entry], found: Sequence[Found], archive: Archive) -> Set[str]:
    """One row for each image. Rows that are left out, or that differ, become exclusions. Returns all images of rows."""
    by_image: dict[str, list[Entry]] = {}
    lost = []
    for entry, (images, reason, detail) in zip(entries, found, strict=True):
        if not images:
            lost.append((entry, reason, detail))
        for image in images:
            by_image.setdefault(image, []).append(entry)
    _leave_out(joined, lost, archive)
    repeated: set[str] = set()  # rows that repeat another, each said once though it may have several images
    for image, rows in by_image.items():
        if joined.way.by == "patient_id+date":
            rows = _nearest_rows(image, rows, archive, joined.excluded, repeated)
        first, *others = rows
        if differing := [row for row in others if row.content != first.content]:
            joined.excluded.append(Exclusion(image, CONTRADICTORY, _difference(first, differing)))
            continue
        new = [row.where for row in others if row.where not in repeated]
        repeated.update(new)
        joined.excluded += [Exclusion(image, DUPLICATE, where) for where in new]
        joined.pairs.append((first, image))
    return by_image.keys()


def _nearest_rows(
    image: str, rows: Sequence[Entry], archive: Archive, excluded: list[Exclusion], repeated: set[str]
) -> list[Entry]:
    """Those of the rows of a study whose date is nearest to it; the others become exclusions."""
    day = day_of(identity(archive.header(image)).get("date", ""))
    distances = [_days_between(row, day) for row in rows]
    for row, days in zip(rows, distances, strict=True):
        if days > min(distances) and row.where not in repeated:
            repeated.add(row.where)
            excluded.append(Exclusion(row.cells["patient_id"], NEARER, f"{row.where}: {days:,} days away"))
    return [row for row, days in zip(rows, distances, strict=True) if days == min(distances)]


def _days_between(row: Entry, day: datetime.date | None) -> int:
    own = day_of(row.cells.get("date", ""))
    return abs((own - day).days) if own and day else 0


def _difference(first: Entry, others: Sequence[Entry]) -> str:
    """Which rows differ, and in what: `t.csv, line 2 and t.csv, line 5: TB is 'ja' and 'nein'`."""
    more = f" (and {len(others) - 1:,} more rows)" if len(others) > 1 else ""
    return f"{first.where} and {others[0].where}: {differs_in(first, others[0])}{more}"


def differs_in(first: Entry, other: Entry) -> str:
    """The first cell in which two rows differ, labels before others: `TB is 'ja' and 'nein'`."""
    ours, theirs = {**first.labels, **first.cells}, {**other.labels, **other.cells}
    column = next(c for c in {**ours, **theirs} if ours.get(c) != theirs.get(c))
    return f"{column} is {ours.get(column, '')[:40]!r} and {theirs.get(column, '')[:40]!r}"


def _leave_out(joined: Joined, lost: Sequence[tuple[Entry, str, str]], archive: Archive) -> None:
    """Exclude the rows without image, with the nearest value of the images where no image has theirs."""
    way = joined.way
    key = way.key.partition("+")[0]
    without = {ABSENT, *(NO_IMAGE.format(said) for said in [*SAID.values(), BY_FILE, BY_FOLDER])}
    nearest = Nearest(_image_values(way, archive) if any(reason in without for _, reason, _ in lost) else ())
    for entry, reason, detail in lost:
        value = entry.cells.get(key, "")
        detail = f"{entry.where}: {detail}" if detail else entry.where
        if reason in without:
            detail += nearest.detail(file_stem(value) if way.by == "path" else value)
        joined.excluded.append(Exclusion(value or entry.where, reason, detail))
    if nearest.loose and way.by != "path" and "+" not in way.key:
        joined.notes.append(
            f"{nearest.loose:,} rows have no image, but differ from one in blanks, case or leading zeros alone; "
            "--loose-keys matches them"
        )


def _image_values(way: Way, archive: Archive) -> Iterable[str]:
    """What the images are known by, in this way."""
    by = {"path": BY_FILE, "patient_id+date": "patient_id"}.get(way.by, way.by)
    return archive.by(by)


def _row_values(way: Way, entries: Sequence[Entry]) -> list[str]:
    values = [entry.cells.get(way.key.partition("+")[0], "") for entry in entries]
    return [file_stem(value) if way.by == "path" else value for value in values if value]


def _without_row(joined: Joined, archive: Archive, entries: Sequence[Entry], named: Set[str]) -> Iterator[Exclusion]:
    """The images that no row names, with the nearest value of the rows."""
    lost = [image for image in archive.images if image not in named]
    by = {"path": BY_FILE, "patient_id+date": "patient_id"}.get(joined.way.by, joined.way.by)
    nearest = Nearest(_row_values(joined.way, entries) if lost else ())
    for image in lost:
        value = next(iter(archive.values(image, by)), "")
        if value:
            yield Exclusion(image, NO_ROW, f"{SAID.get(by, by)} {value!r}{nearest.detail(value)}")
        else:
            yield Exclusion(image, UNSTATED.format(SAID.get(by, by)), archive.why_unstated(image))
