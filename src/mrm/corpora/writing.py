"""A prepared corpus on disk: the files that are written, in which order, and the summary that is printed.

Every file exists whole or not at all, and `corpus.json` is written last: where it exists, all others do.
"""

# Shapes: N records, C classes
from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom

from mrm.corpora.contract import Exclusion, Release
from mrm.corpora.options import Options
from mrm.corpora.splits import LISTS, as_listed
from mrm.data import boxes
from mrm.data.dates import day_of, span
from mrm.data.label_values import UNCERTAIN
from mrm.data.record_tables import header_of, row_maker
from mrm.data.records import Records
from mrm.system.collection import no_collection
from mrm.system.files import csv_line_maker, write_csv, write_json, write_lines, write_whole
from mrm.system.output_folder import writing
from mrm.system.table_files import write_parquet
from mrm.system.text_table import text_table, wrapped

AUDIT = "audit.json"  # the audit of the sets, which `mrm.runs.prepare` adds
MOST_CLASSES, LONGEST_CLASS = 4, 14  # classes that a preview counts, and characters of their names
EXCLUDED, EXCLUDED_NOW = "excluded.csv", "excluded-now.csv"
PLANNED = ".planned.json"  # the files of a preparation that is not complete yet


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: its records, its sets, and the content of `corpus.json`."""

    name: str
    out: Path
    records: Records
    splits: Mapping[str, Records]
    excluded: Sequence[Exclusion]
    facts: Mapping[str, Any]

    def table(self) -> str:
        """A short summary for the terminal: what was expected and what was found."""
        return table(self.name, self.facts)


def write(
    name: str, source: Path, out: Path, options: Options, release: Release, splits: Mapping[str, Records]
) -> Corpus:
    """Write records, sets, label lists, `excluded.csv` and `corpus.json`. Raises OutputError."""
    tables = {"records": release.records, **_file_names(splits, release)}
    lists = {} if release.purpose == "reports" else {_list_name(split): split for split in splits}
    files = [EXCLUDED, *(f"{stem}{suffix}" for stem in tables for suffix in (".csv", ".parquet"))]
    with writing(out):
        _remove_previous(out)
        if any(release.boxes.values()):
            files.append(boxes.FILE)
        write_json(out / PLANNED, {"files": [*files, *release.files, *lists]})
        write_tables({out / stem: records for stem, records in tables.items()})
        if boxes.FILE in files:
            write_csv(out / boxes.FILE, boxes.HEADER, boxes.rows(release.boxes, release.records, out))
        for file, text in release.files.items():
            write_whole(out / file, text.encode())
        notes = list(release.notes)
        for file, split in lists.items():
            if _write_list(out / file, split, splits[split], release, options, notes):
                files.append(file)
        _write_excluded(out / EXCLUDED, release.excluded)
        facts = _facts(name, source, options, release, splits)
        facts |= {"notes": notes, "files": {f: digest(out / f) for f in sorted([*files, *release.files])}}
        write_json(out / "corpus.json", facts)
        (out / PLANNED).unlink()
    return Corpus(name, out, release.records, splits, release.excluded, facts)


@no_collection()
def write_tables(tables: Mapping[Path, Records]) -> None:
    """Write each of these records as `PATH.csv` and as `PATH.parquet`.

    Sets are parts of the same records, so a record that several tables of a folder have becomes text only once.
    """
    known: dict[tuple[Path, int, tuple[str, ...]], dict[int, tuple[list[str], str]]] = {}
    line_of = csv_line_maker()
    for path, records in tables.items():
        header, classes = header_of(records.rows, records.classes), len(records.classes)
        made = known.setdefault((path.parent, classes, tuple(header)), {})
        row_of = row_maker(header, classes, path.parent)
        for record in records.rows:
            if id(record) not in made:
                made[id(record)] = (row := row_of(record), line_of(row))
        texts = [made[id(record)] for record in records.rows]
        write_lines(path.with_name(f"{path.name}.csv"), [line_of(header), *(line for _, line in texts)])
        write_parquet(path.with_name(f"{path.name}.parquet"), dict.fromkeys(header, str), (row for row, _ in texts))


def write_excluded(out: Path, excluded: Sequence[Exclusion]) -> Path:
    """Write `excluded.csv` where no record is left. A preparation that is there stays whole: beside it the file has
    another name. Returns the file."""
    file = out / (EXCLUDED_NOW if (out / "corpus.json").exists() else EXCLUDED)
    with writing(out):
        return _write_excluded(file, excluded)


def _write_excluded(file: Path, excluded: Sequence[Exclusion]) -> Path:
    return write_csv(file, ["name", "reason", "detail"], [[e.name, e.reason, e.detail] for e in excluded])


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_names(splits: Mapping[str, Records], release: Release) -> dict[str, Records]:
    """Names of the set files; `train` becomes `training.csv`, which `mrm pretrain` takes, where the corpus has reports."""
    rename = {"train": "training"} if release.purpose == "reports" else {}
    return {rename.get(split, split): records for split, records in splits.items()}


def _remove_previous(out: Path) -> None:
    """Remove the files of an earlier preparation, complete or interrupted.

    A file that was made with other options, or an audit of other sets, must not be mistaken for part of this one.
    """
    (out / AUDIT).unlink(missing_ok=True)
    for file in (out / "corpus.json", out / PLANNED):
        try:
            earlier = json.loads(file.read_bytes())["files"]
        except (FileNotFoundError, ValueError, KeyError):
            continue
        for name in earlier:
            if ".." not in Path(name).parts:
                (out / name).unlink(missing_ok=True)
        file.unlink()


def _list_name(split: str) -> str:
    """`covid1/val` -> `covid1/val_list.txt`, `train_10` -> `train_10.txt`."""
    folder, slash, last = split.rpartition("/")
    return f"{folder}{slash}{LISTS.get(last, last)}.txt"


def _write_list(path: Path, split: str, records: Records, release: Release, options: Options, notes: list[str]) -> bool:
    """Write a label list in the published format: `name 0 1 ...`, or for segmentation the name alone.

    Only records with all labels stated can be listed. Returns False, and writes nothing, if there are none.
    """
    if release.purpose == "masks":
        bare = [replace(r, labels=(), name=release.key(r.name)) for r in records]
        Records(bare).to_list(path)
        return True
    listed = as_listed(records, release, options.uncertain)
    complete = listed.where(lambda r: all(v in (0, 1) for v in r.labels) and not any(map(str.isspace, r.name)))
    if len(complete) < len(listed):
        notes.append(
            f"{_list_name(split)}: {len(listed) - len(complete):,} of {len(listed):,} records are in {split}.csv only, because "
            "they have a label that is uncertain or not stated, or a name with spaces"
        )
    if not complete or not complete.classes:
        return False
    complete.to_list(path)
    return True


# ---- facts -------------------------------------------------------------------------------------------------


def _facts(
    name: str, source: Path, options: Options, release: Release, splits: Mapping[str, Records]
) -> dict[str, Any]:
    records = release.records
    counts = {**summary(records), **release.counts, **{n: len(part) for n, part in splits.items()}}
    of_classes = class_counts(records)
    counts |= {f"positive {c}": numbers["positive"] for c, numbers in of_classes.items()}
    images = release.expected.get("images", 0)
    return {
        "corpus": name,
        "release": release.version,
        "versions": {"mrm": _own_version(), "python": platform.python_version(), **_VERSIONS},
        "source": str(source.resolve()),
        "purpose": release.purpose,
        "options": {k: dict(v) if isinstance(v, Mapping) else v for k, v in vars(options).items()},
        "inputs": [_input(p, source) for p in release.inputs],
        "complete": len(records) >= images if images else None,
        "expected": dict(release.expected),
        "found": {k: v for k, v in counts.items() if isinstance(v, int)},
        "classes": of_classes,
        "dates": _dates(records),
        "views": dict(Counter(r.view or "not stated" for r in records).most_common()),
        "splits": {
            n: {**summary(part), "classes": class_counts(part), "fingerprint": part.fingerprint()}
            for n, part in splits.items()
        },
        "excluded": dict(Counter(e.reason for e in release.excluded).most_common()),
    }


# of the libraries that read images: another version may decode a pixel differently, which changes the audit's hashes
_VERSIONS = {"opencv": cv2.__version__, "pydicom": pydicom.__version__, "numpy": np.__version__}


def _own_version() -> str:
    try:
        return version("mrm-radiograph")
    except PackageNotFoundError:
        return "not installed"


def _input(path: Path, source: Path) -> dict[str, Any]:
    name = path.relative_to(source).as_posix() if path.is_relative_to(source) else path.name
    return {"file": name, "bytes": path.stat().st_size, "sha256": digest(path)}


def summary(records: Records) -> dict[str, int | None]:
    """Numbers of images, of known patients (None without any), and of images with a report."""
    return {
        "images": len(records),
        "patients": records.known_patients.count,
        "reports": sum(bool(r.report) for r in records),
    }


def _dates(records: Records) -> dict[str, Any] | None:
    """The first and the last day, and how many images state none; None if none does."""
    days = [day_of(r.extra.get("date", "")) for r in records]
    whole = span(days)
    return {"first": str(whole[0]), "last": str(whole[1]), "not stated": days.count(None)} if whole else None


def class_counts(records: Records) -> dict[str, dict[str, int]]:
    """For each class the number of images that are positive, negative, uncertain and not stated."""
    labels_CN = np.ascontiguousarray(records.labels_NC.T)
    return {
        c: {
            "positive": int((labels_N == 1).sum()),
            "negative": int((labels_N == 0).sum()),
            "uncertain": int((labels_N == UNCERTAIN).sum()),
            "not stated": int(np.isnan(labels_N).sum()),
        }
        for c, labels_N in zip(records.classes, labels_CN, strict=True)
    }


def preview(name: str, release: Release, sets: Mapping[str, Records]) -> str:
    """How the tables were understood, the sets to come, and what would be left out."""
    understood = release.understood or f"{name} ({release.version}): {len(release.records):,} images"
    lines = [""]
    if sets:
        classes = next(iter(sets.values())).classes[:MOST_CLASSES]
        positives = [f"{c[:LONGEST_CLASS]} +" for c in classes]
        rows = [_set(split, part, len(classes)) for split, part in sets.items()]
        lines += text_table(["sets to come", "images", "patients", *positives], rows).splitlines()
    counts = Counter(e.reason for e in release.excluded).most_common()
    lines += [f"  left out: {n:,} {reason}" for reason, n in counts]
    if not release.records:
        lines.append(f"no record is left. {release.advice}")
    empty = [f"{split}: would have no images, so it would not be written" for split, part in sets.items() if not part]
    return f"{understood}\n{wrapped([*lines, *(f'  note: {note}' for note in [*release.notes, *empty])])}"


def _set(split: str, part: Records, classes: int) -> list[str]:
    """Images, patients and positives of a set, as the cells of a row."""
    facts = summary(part)
    positives = [f"{int(n):,}" for n in (part.labels_NC == 1).sum(0)[:classes]]
    return [f"  {split}", _number(facts["images"]), _number(facts["patients"]), *positives]


def table(name: str, facts: Mapping[str, Any]) -> str:
    """A summary of `corpus.json`: expected and found numbers, classes, views, sets, and what was left out."""
    expected, found = facts["expected"], facts["found"]
    lines = [f"{name} ({facts['release']})", f"{'':32}{'expected':>10}{'found':>10}"]
    names = [k for k in found if k in expected or k in ("images", "patients")]
    names += [k for k in expected if k not in found]
    lines += [f"  {k:30}{_number(expected.get(k)):>10}{_number(found.get(k)):>10}" for k in names]
    if facts["complete"] is False:
        lines.append(
            "  a partial download: excluded.csv lists what is missing; run the command again once more is downloaded"
        )
    if facts["classes"]:
        lines.append(f"{'':32}{'positive':>10}{'negative':>10}{'uncertain':>11}{'not stated':>12}")
        for c, n in facts["classes"].items():
            cells = (f"{v:>{w},}" for v, w in zip(n.values(), (10, 10, 11, 12), strict=True))
            lines.append(f"  {c:30}{''.join(cells)}")
    lines.append("  views: " + ", ".join(f"{v} {n:,}" for v, n in facts["views"].items()))
    if dates := facts["dates"]:
        lines.append(f"  dates: {dates['first']} to {dates['last']}, {dates['not stated']:,} not stated")
    lines.append(f"{'':32}{'images':>10}{'patients':>10}")
    sets = facts["splits"].items()
    lines += [f"  {k:30}{part['images']:>10,}{_number(part['patients']):>10}" for k, part in sets]
    lines += [f"  left out: {n:,} {reason}" for reason, n in facts["excluded"].items()]
    return "\n".join([*lines, *(f"  note: {note}" for note in facts["notes"])])


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
