"""The records of an export: `read` tells the whole story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mrm.corpora.contract import UNNAMED, Exclusion, Release
from mrm.corpora.custom import checks, preview
from mrm.corpora.custom.archive import Archive, extra_of, read_archive
from mrm.corpora.custom.description import FILE, Description
from mrm.corpora.custom.export_tables import ExportTable, find_tables, read_tables, take_columns
from mrm.corpora.custom.folder import read_folder
from mrm.corpora.custom.joining import Entry, Joined, Keys, join
from mrm.corpora.custom.labels import LabelReader, NotUnderstood, label_reader
from mrm.corpora.custom.merging import UNMATCHED, merge
from mrm.corpora.custom.reports import ReportTexts, open_reports
from mrm.corpora.custom.values import SPLITS
from mrm.corpora.options import Options
from mrm.data.dates import day_of
from mrm.data.header_index import HeaderIndex
from mrm.data.records import Record, Records

BAD_LABEL = "label not understood"
BAD_SPLIT = "split not understood"


def read(source: Path, options: Options, headers: HeaderIndex) -> Release:
    """Records of tables and images, or of a folder if there is no table. Headers are read through the index.

    Raises RecordError for tables and columns that cannot be used.
    """
    files, description = find_tables(source, options)
    tables = read_tables(files, description, options)
    with_headers = bool(tables) or options.check != "none"
    archive, objects, notes = read_archive(source, headers, options.workers, with_headers)
    texts = open_reports(source, description.reports)
    if not tables:
        records = texts.finish(Records(read_folder(archive, texts, options), options.classes, str(source)))
        export = Export(records, description)
    else:
        export = _from_tables(take_columns(tables, archive, description.date_order), description, archive, texts)
        records = export.records
    return Release(
        records=records,
        inputs=files,
        version="by a table" if tables else "by folders",
        splits=_splits(records),
        excluded=[*objects, *export.excluded, *texts.excluded],
        counts={"images with report": sum(bool(r.report) for r in records)},
        purpose="labels" if records.classes else "reports",
        notes=[*notes, *texts.notes(), *export.notes, *_notes(records)],
        patient_advice="name their column with --columns patient_id=COLUMN" if tables else "give a table that has them",
        headers=headers,
        understood=export.understood,
        files=export.files,
        advice=export.advice,
    )


@dataclass(frozen=True)
class Export:
    """What was read: the records, how it was understood, and what was left out."""

    records: Records
    description: Description
    excluded: Sequence[Exclusion] = ()
    notes: Sequence[str] = ()
    understood: str = ""  # for people
    files: Mapping[str, str] = field(default_factory=dict)  # further files of the output folder: name -> text
    advice: str = ""  # what to do where nothing is left


# Tables -----------------------------------------------------------------------------------------------------


def _from_tables(
    tables: Sequence[ExportTable], description: Description, archive: Archive, texts: ReportTexts
) -> Export:
    """Join the rows of the tables with each other and with the images, and make a record of each image."""
    merged = merge([table.rows for table in tables])
    keys = Keys(description.join_by, description.within_days, description.loose_keys)
    joined = join(merged.entries, archive, keys)
    description = replace(description, tables=tuple(table.description for table in tables), join_by=joined.way.key)
    excluded = [*merged.excluded, *joined.excluded]
    pairs, mismatched, notes = checks.patients(joined.pairs, archive)
    excluded += mismatched
    labels = description.labels
    reader = label_reader(merged.entries, labels.classes, labels.column, labels.separator, labels.values)
    description = replace(description, labels=replace(labels, classes=reader.classes))
    rows = []
    for entry, image in pairs:
        record = _record(entry, image, archive, texts, reader)
        if isinstance(record, Exclusion):
            excluded.append(record)
        else:
            rows.append(record)
    records = texts.finish(Records(rows, reader.classes, ", ".join(str(table.file) for table in tables)))
    doubts = [doubt for table in tables for doubt in table.doubts]
    notes = [
        *doubts,
        *merged.notes,
        *joined.notes,
        *notes,
        *checks.contrary_labels(records),
        *checks.without_study(archive),
        *checks.no_radiographs(records, archive),
    ]
    notes += [reader.advice] if reader.advice else []
    files = {FILE: description.to_yaml()}
    if merged.unmatched:
        files[UNMATCHED] = merged.unmatched_csv()
    understood = preview.understood(tables, joined, reader, records, archive)
    return Export(records, description, excluded, notes, understood, files, _advice(joined, excluded, reader))


def _advice(joined: Joined, excluded: Sequence[Exclusion], reader: LabelReader) -> str:
    """What to do if no record is left: about the labels, if most rows were left out for them."""
    reasons = Counter(e.reason for e in excluded if not e.reason.startswith(UNNAMED)).most_common(1)
    return reader.advice if reasons and reasons[0][0] == BAD_LABEL else preview.advice(joined)


def _record(entry: Entry, image: str, archive: Archive, texts: ReportTexts, reader: LabelReader) -> Record | Exclusion:
    """The record of an image and its row, completed from the header, or the reason why there is none."""
    labels = reader(entry.labels)
    if isinstance(labels, NotUnderstood):
        return Exclusion(image, BAD_LABEL, f"{entry.where}: {labels.text!r} in column {labels.column}")
    split = entry.cells.get("split", "").lower()
    if split and split not in SPLITS:
        return Exclusion(image, BAD_SPLIT, f"{entry.where}: {split!r}")
    cells = {name: text for name, text in entry.cells.items() if text and (name != "date" or day_of(text))}
    facts = {**archive.facts(image), **cells}
    return Record(
        image=archive.images[image],
        report=texts.find(image, facts, entry.where),
        patient=facts.get("patient_id", ""),
        study=facts.get("study_id", ""),
        view=facts.get("view", ""),
        labels=labels,
        extra=extra_of(SPLITS.get(split, ""), facts),
        name=image,
    )


def _splits(records: Records) -> dict[str, Records]:
    named = {r.extra.get("split", "") for r in records} - {""}
    return {name: records.where(partial(_is_in, name)) for name in SPLITS.values() if name in named}


def _is_in(split: str, record: Record) -> bool:
    return record.extra.get("split") == split


def _notes(records: Records) -> list[str]:
    split = sum("split" in r.extra for r in records)
    if 0 < split < len(records):
        return [f"{len(records) - split:,} images belong to no split and are in records.csv only"]
    return []
