"""Joining prepared sets: one folder of records for several corpora, with where each record is from.

Sets of the same name are joined, so that what was held out stays held out. A class that a corpus does not state is not stated for
its records. With `harmonize`, classes that mean the same finding get one name (`mrm.data.vocabulary`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mrm.audit.hash_keeping import HashKeeper
from mrm.audit.kept_hashes import KeptHashes
from mrm.audit.overlaps import AuditReport
from mrm.corpora.writing import AUDIT, class_counts
from mrm.data.patients import origin_of
from mrm.data.records import Record, Records
from mrm.data.table_records import SITE
from mrm.data.vocabulary import finding_of, plain, read_table, table
from mrm.runs.output_lock import alone_in
from mrm.runs.preparing import audit_splits
from mrm.system.errors import RecordError
from mrm.system.files import parse_json, write_json, write_whole
from mrm.system.output_folder import writing

FACTS = "merged.json"
NAN = float("nan")


class Prepared(NamedTuple):
    """A prepared folder: its corpus, and its sets by name."""

    corpus: str
    sets: Mapping[str, Records]


@alone_in("out")
def merge(folders: Sequence[Path], out: Path, harmonize: bool = False, vocabulary: Path | None = None) -> AuditReport:
    """Join the sets of prepared folders, write them to `out` and audit them against each other. Returns the audit.

    Each record keeps its corpus in the column `site`. `vocabulary` is a table of findings in place of the package's own.
    Raises RecordError for fewer than two folders, and for one that is not prepared.
    """
    if len(folders) < 2:
        raise RecordError("merge: name two prepared folders or more")
    if vocabulary and not harmonize:
        raise RecordError("--vocabulary needs --harmonize")
    prepared = [_read(folder) for folder in folders]
    if repeated := sorted({p.corpus for p in prepared if [q.corpus for q in prepared].count(p.corpus) > 1}):
        raise RecordError(f"merge: {', '.join(repeated)} is named twice; name each corpus once")
    rows = read_table(vocabulary) if vocabulary else table()
    names = finding_of(rows) if harmonize else {}
    names_of_sets = dict.fromkeys(name for p in prepared for name in p.sets)
    sets = {name: _joined(name, prepared, names) for name in names_of_sets}
    with writing(out):
        for name, records in sets.items():
            records.to_csv(out / f"{name}.csv")
        report = audit_splits(sets, HashKeeper(KeptHashes(out), beside=False, also=folders))
        write_whole(out / AUDIT, report.to_json().encode())
        write_json(out / FACTS, _facts(prepared, sets, names))
    print("\n".join(_line(name, records) for name, records in sets.items()))
    print(report.table())
    return report


def _read(folder: Path) -> Prepared:
    """The sets of a prepared folder. Raises RecordError if it is none."""
    file = folder / "corpus.json"
    if not file.is_file():
        raise RecordError(f"{folder}: has no corpus.json; name a folder that mrm prepare has finished")
    try:
        facts = parse_json(file.read_bytes())
        classes = {name: tuple(part["classes"]) for name, part in facts["splits"].items() if "/" not in name}
        corpus = str(facts["corpus"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{file}: is damaged ({error!r}); run mrm prepare again") from error
    sets = {}
    for name, own in classes.items():
        stem = "training" if name == "train" and (folder / "training.csv").is_file() else name
        sets[name] = Records.load(folder / f"{stem}.csv", own)
    return Prepared(corpus, sets)


def _joined(name: str, prepared: Sequence[Prepared], names: Mapping[str, str]) -> Records:
    """The set of that name of all corpora, with the classes of all of them."""
    parts = [(p.corpus, _renamed(p.sets[name], names)) for p in prepared if name in p.sets]
    classes = tuple(dict.fromkeys(c for _, part in parts for c in part.classes))
    rows = [_of(corpus, record, part.classes, classes) for corpus, part in parts for record in part]
    return Records(rows, classes, name)


def _renamed(records: Records, names: Mapping[str, str]) -> Records:
    """The records with the names of the table for classes that it has. Raises RecordError if two become one."""
    classes = tuple(names.get(plain(c), c) for c in records.classes)
    if len(set(classes)) < len(classes):
        twice = [c for c, new in zip(records.classes, classes, strict=True) if classes.count(new) > 1]
        raise RecordError(
            f"{records.source}: the classes {', '.join(twice)} would become one; give them rows of their own in a table of "
            "findings (--vocabulary FILE)"
        )
    return replace(records, classes=classes)


def _of(corpus: str, record: Record, own: Sequence[str], classes: Sequence[str]) -> Record:
    """The record with the labels of all classes. Its patient gets the corpus before the id, unless its file name tells it."""
    stated = dict(zip(own, record.labels, strict=True))
    scoped = not record.patient or origin_of(record.name, record.extra) is not None
    return replace(
        record,
        labels=tuple(stated.get(c, NAN) for c in classes),
        patient=record.patient if scoped else f"{corpus}:{record.patient}",
        study=record.study if scoped or not record.study else f"{corpus}:{record.study}",
        extra={**record.extra, SITE: corpus},
    )


def _facts(prepared: Sequence[Prepared], sets: Mapping[str, Records], names: Mapping[str, str]) -> dict[str, Any]:
    renamed = {
        p.corpus: {c: names[plain(c)] for part in p.sets.values() for c in part.classes if plain(c) in names}
        for p in prepared
    }
    return {
        "corpora": {p.corpus: {name: len(part) for name, part in p.sets.items()} for p in prepared},
        "renamed": renamed,
        "sets": {name: {"images": len(part), "classes": class_counts(part)} for name, part in sets.items()},
    }


def _line(name: str, records: Records) -> str:
    corpora = dict.fromkeys(r.extra[SITE] for r in records)
    counts = ", ".join(f"{c} {sum(r.extra[SITE] == c for r in records):,}" for c in corpora)
    return f"{name}: {len(records):,} images ({counts}), {len(records.classes)} classes"
