"""How an export was understood, for people: columns, matches, joined examples, values, and what is in the archive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from mrm.corpora.custom.archive import Archive
from mrm.corpora.custom.export_tables import ExportTable
from mrm.corpora.custom.joining import Joined
from mrm.corpora.custom.labels import LabelReader
from mrm.data.records import Record, Records
from mrm.system.text_table import text_table

EXAMPLES = 5


def understood(
    tables: Sequence[ExportTable], joined: Joined, labels: LabelReader, records: Records, archive: Archive
) -> str:
    """The whole answer as lines for the terminal."""
    lines: list[str] = []
    for table in tables:
        lines += [f"{table.file.name}: {len(table.rows.entries):,} rows, {table.how}", *_columns(table), ""]
    lines += _matches(joined, archive)
    lines += ["", *_examples(records)]
    lines += ["", *labels.lines()]
    return "\n".join([*lines, *_archive(records)])


def _columns(table: ExportTable) -> list[str]:
    rows = [[t.column, t.name or "-", t.reason] for t in table.taken]
    return _indented(text_table(["column", "taken for", "why"], rows, 3))


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _matches(joined: Joined, archive: Archive) -> Iterator[str]:
    images = len({image for _, image in joined.pairs})
    yield f"rows find their images by {joined.way}"
    yield f"  {joined.matched:,} of {joined.rows:,} rows have an image"
    yield f"  {images:,} of {len(archive.images):,} images have a row"
    others = [f"{way} {count:,}" for way, count in joined.matches.items() if way != joined.way and count]
    if others:
        yield f"  rows that other columns would match: {', '.join(others)}; choose with --join-by"


def _examples(records: Records) -> list[str]:
    if not records:
        return ["no record is left"]
    chosen = [records[i * len(records) // EXAMPLES] for i in range(min(EXAMPLES, len(records)))]
    head = ["image", "patient", "view", "report", *records.classes]
    return ["examples", *_indented(text_table(head, [_example(record) for record in chosen], 4))]


def _example(record: Record) -> list[str]:
    report = " ".join(record.report.split())
    labels = ["" if v != v else f"{v:g}" for v in record.labels]
    return [record.name, record.patient, record.view, report[:60], *labels]


def _archive(records: Records) -> Iterator[str]:
    """Patients, studies, views and dates of the records."""
    views = Counter(record.view or "not stated" for record in records)
    studies = {record.study for record in records} - {""}
    yield f"patients {records.known_patients.count or 0:,}, studies {len(studies):,}, images {len(records):,}"
    yield "views " + ", ".join(f"{view} {count:,}" for view, count in views.most_common(6))
    days = sorted(day for record in records if (day := record.extra.get("date", "")))
    if days:
        yield f"dates {days[0]} to {days[-1]} ({len(days):,} of {len(records):,} records)"


def advice(joined: Joined) -> str:
    """What to do where no row finds an image: the values of both sides that are most alike."""
    if joined.matched:
        return ""
    pairs = "; ".join(f"{ours!r} in the table, {theirs!r} of the images" for ours, theirs in joined.similar)
    return f"No value of the column {joined.way.key} is one of the images; the most similar are: {pairs or 'none'}"
