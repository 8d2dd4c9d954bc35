"""How an export was understood, for people: columns, matches, joined examples, values, and what is in the archive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from mrm.corpora.custom.archive import Archive
from mrm.corpora.custom.export_tables import ExportTable
from mrm.corpora.custom.joining import SAID, Joined
from mrm.corpora.custom.labels import LabelReader
from mrm.data.records import Record, Records
from mrm.system.text_table import WIDTH, text_table, wrapped

EXAMPLES = 5
MOST_CLASSES = 3  # that an example shows
LONGEST_NAME, LONGEST_TEXT = 20, 40  # characters of a path or an id, and of a report, in an example


def understood(
    tables: Sequence[ExportTable], joined: Joined, labels: LabelReader, records: Records, archive: Archive
) -> str:
    """The whole answer as lines for the terminal."""
    lines: list[str] = []
    for table in tables:
        lines += [f"{table.file.name}: {len(table.rows.entries):,} rows, {table.how}", *_columns(table), ""]
    lines += _matches(joined, archive)
    lines += ["", *_examples(joined, records)]
    lines += ["", *labels.lines()]
    return wrapped([*lines, *_archive(records, archive)])


def _columns(table: ExportTable) -> list[str]:
    rows = [[t.column, t.name or "-", t.reason] for t in table.taken]
    return _indented(["column", "taken for", "why"], rows)


def _indented(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of texts below a line that says what it is."""
    return [f"  {line}" for line in text_table(head, rows, len(head), WIDTH - 2).splitlines()]


def _matches(joined: Joined, archive: Archive) -> Iterator[str]:
    images = len({image for _, image in joined.pairs})
    yield f"rows find their images by {joined.way}"
    yield f"  {joined.matched:,} of {joined.rows:,} rows have an image"
    yield f"  {images:,} of {len(archive.images):,} images have a row"
    others = [f"{way} {count:,}" for way, count in joined.matches.items() if way != joined.way and count]
    if others:
        yield f"  rows that other columns would match: {', '.join(others)}; choose with --join-by"


def _examples(joined: Joined, records: Records) -> list[str]:
    """Some records with the key that joined them, from all parts of the tables."""
    if not records:
        return ["no record is left"]
    keys = joined.way.key.split("+")
    rows = {image: [entry.cells.get(key, "") for key in keys] for entry, image in joined.pairs}
    chosen = [records[i * len(records) // EXAMPLES] for i in range(min(EXAMPLES, len(records)))]
    head = [*keys, "image", "patient", "view", *records.classes[:MOST_CLASSES], "report"]
    cells = [[*(_end(cell) for cell in rows[record.name]), *_example(record)] for record in chosen]
    return ["examples", *_indented(head, cells)]


def _example(record: Record) -> list[str]:
    report = " ".join(record.report.split())
    labels = ["" if v != v else f"{v:g}" for v in record.labels[:MOST_CLASSES]]
    return [_end(record.name), _end(record.patient), record.view, *labels, report[:LONGEST_TEXT] or "-"]


def _end(text: str) -> str:
    """A path or an id by its end, which tells it from others."""
    return text if len(text) <= LONGEST_NAME else f"...{text[3 - LONGEST_NAME :]}"


def _archive(records: Records, archive: Archive) -> Iterator[str]:
    """Patients, studies, views, modalities, body parts and dates of the records."""
    views = Counter(record.view or "not stated" for record in records)
    studies = {record.study for record in records} - {""}
    if not records:
        return
    yield f"patients {records.known_patients.count or 0:,}, studies {len(studies):,}, images {len(records):,}"
    yield "views " + ", ".join(f"{view} {count:,}" for view, count in views.most_common(6))
    for name, what in (("modalities", "modality"), ("body parts", "body_part")):
        if counts := archive.count((record.name for record in records), what):
            yield f"{name} " + ", ".join(f"{value} {count:,}" for value, count in counts.most_common(6))
    days = sorted(day for record in records if (day := record.extra.get("date", "")))
    if days:
        yield f"dates {days[0]} to {days[-1]} ({len(days):,} of {len(records):,} records)"


def advice(joined: Joined) -> str:
    """What to do where no row finds an image: the values of both sides that are most alike."""
    if joined.matched:
        return ""
    pairs = "; ".join(f"{ours!r} in the table, {theirs!r} of the images" for ours, theirs in joined.similar)
    known_by = SAID.get(joined.way.by, joined.way.by)
    advice = f"No {joined.way.key} of a row is the {known_by} of an image; the most similar are: {pairs or 'none'}"
    return ". ".join([advice, *joined.notes])
