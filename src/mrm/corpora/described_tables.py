"""The tables of a described corpus: found, read, completed with the columns that patterns and other tables add, and checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

from mrm.corpora.contract import Exclusion, file_stem, inside, unique_rows
from mrm.corpora.description import CorpusDescription, Labels, Table, alternatives, columns_of, reader
from mrm.system.errors import RecordError
from mrm.system.json_tables import read_json_rows
from mrm.system.table_form import Rows
from mrm.system.table_rows import Row, find_table, rows_of
from mrm.system.tables import read_rows
from mrm.system.text_files import read_text

OTHER_KIND = "row of another kind"
_GROUP = re.compile(r"\(\?P<(\w+)>")


@dataclass(frozen=True)
class Opened:
    """A table that was read: its file, the names of its columns, and its rows, of which some may be left out."""

    table: Table
    path: Path
    header: tuple[str, ...]
    rows: Sequence[Row]
    total: int = 0
    joined: tuple[Path, ...] = ()  # tables of facts


ImagesOf = Callable[[str], Iterable[str]]


def folder_of(corpus: CorpusDescription, source: Path) -> Path:
    """The folder of the corpus: the source, or one below it, that has a table of records. Raises RecordError."""
    names = [name for table in corpus.tables if table.holds == "records" for name in alternatives(table.file)]
    for folder in corpus.folders:
        if any(_files(source / folder, name) for name in names):
            return source / folder
    below = ", ".join(folder for folder in corpus.folders if folder != ".")
    raise RecordError(
        f"{source}: has no {' or '.join(dict.fromkeys(names))}{f', nor have {below} below it' if below else ''}; "
        "check that this is the folder of the download"
    )


def open_tables(
    corpus: CorpusDescription, root: Path, excluded: list[Exclusion], images: ImagesOf
) -> tuple[CorpusDescription, list[Opened], list[str]]:
    """Every table of a corpus that is there, with the facts joined to the records. `images` lists those of a folder below `root`.

    Labels that are in an optional table that is not there are taken out of the description, and a note says so. Raises
    RecordError for a column that the description needs and the table lacks: it is another release's, or damaged.
    """
    opened = [one for table in corpus.tables for one in _open(root, table, images)]
    facts = [one for one in opened if one.table.holds == "facts"]
    opened = [_with_facts(corpus, one, facts, excluded) if one.table.holds == "records" else one for one in opened]
    corpus, notes = _without_missing_labels(corpus, opened)
    for one in opened:
        _require_columns(corpus, one)
    chosen = [replace(one, rows=list(_chosen(one, excluded)), total=len(one.rows)) for one in opened]
    return corpus, chosen, notes


def _without_missing_labels(corpus: CorpusDescription, opened: Iterable[Opened]) -> tuple[CorpusDescription, list[str]]:
    there = {one.table.name for one in opened}
    missing = [t.name for t in corpus.tables if t.holds == "facts" and t.optional and t.name not in there]
    header = {column for one in opened if one.table.holds == "records" for column in one.header}
    if not missing or all(_has(header, rule) for rule in corpus.labels.needed):
        return corpus, []
    return replace(corpus, labels=Labels()), [f"{', '.join(missing)} not in the source: no labels"]


def _has(header: Collection[str], rule: str) -> bool:
    """Whether a table has what an alternative of a rule needs."""
    return any(parts.issubset(header) for parts in columns_of(rule))


def _open(root: Path, table: Table, images: ImagesOf) -> Iterator[Opened]:
    """The table's file, or each file that its name stands for; nothing for an optional table that is not there."""
    names = alternatives(table.file)
    name = names[0] if names[0].endswith("*") else next((name for name in names if _files(root, name)), "")
    listed = _named(images, name) if name.endswith("*") else []
    if listed:
        rows = [Row(root / name, n, {"file": file, "stem": file_stem(file)}) for n, file in enumerate(listed, 1)]
        yield _completed(root, Opened(table, root, ("file", "stem"), rows))
    if name.endswith("*"):
        return
    if not name and not table.optional:
        find_table(root, *names)  # raises
    for path in _files(root, name) if name else []:
        header, lines = read_json_rows(path) if path.suffix == ".json" else read_rows(path, table.form)
        if table.header:
            header, lines = list(table.header), chain([(1, header)], lines)
        while header and not header[-1]:
            header.pop()
        rows = rows_of(path, header, _without_empty(lines, len(header)))
        yield _completed(root, Opened(table, path, tuple(header), rows))


def _without_empty(lines: Rows, width: int) -> Rows:
    """The lines without the empty cells of columns without a name, after the last that has one."""
    for number, cells in lines:
        yield number, cells if any(cells[width:]) else cells[:width]


def _files(root: Path, name: str) -> list[Path]:
    """The files that a name stands for, plain, `.gz` or `.zip`."""
    if "*" in name:
        return sorted(root.glob(name))
    return [file for suffix in ("", ".gz", ".zip") if (file := root / f"{name}{suffix}").is_file()][:1]


def _named(images: ImagesOf, pattern: str) -> list[str]:
    """The images of a pattern such as `scans/*`, whatever their format."""
    folder = pattern.partition("*")[0].rpartition("/")[0]
    return [name for name in images(folder) if fnmatch(name, pattern)]


def _completed(root: Path, opened: Opened) -> Opened:
    """The table, to whose rows the text of their files and the groups of its patterns are added as columns."""
    table, header = opened.table, opened.header
    if not (table.match or "text_file" in table.columns):
        return opened
    if "text_file" in table.columns:
        header = (*header, "text")
    if lacking := [rule for rule in table.match if not _has(header, rule)]:
        raise RecordError(_lacking(opened, lacking))
    patterns = [(rule, reader(rule), re.compile(pattern)) for rule, pattern in table.match.items()]
    for row in opened.rows:
        cells = row.cells
        if "text_file" in table.columns:
            cells["text"] = _text(root, inside(root, table.states("text_file", cells), row.where))
        for rule, read, pattern in patterns:
            if not (match := pattern.search(text := read(cells))):
                raise RecordError(f"{row.where}: {rule} {text[:80]!r} is not of the form {pattern.pattern}")
            cells |= match.groupdict("")
    groups = [name for pattern in table.match.values() for name in _GROUP.findall(pattern)]
    return replace(opened, header=(*header, *groups))


def _chosen(opened: Opened, excluded: list[Exclusion]) -> Iterator[Row]:
    """The rows of the kind that the description wants."""
    only = {column: re.compile(pattern) for column, pattern in opened.table.only.items()}
    for row in opened.rows:
        if only and (wrong := next((c for c, pattern in only.items() if not pattern.search(row[c])), None)):
            excluded.append(Exclusion(row.where, OTHER_KIND, f"{wrong}: {row[wrong][:60]!r}"))
        else:
            yield row


def _text(root: Path, name: str) -> str:
    return read_text(root / name).strip() if (root / name).is_file() else ""


def _with_facts(
    corpus: CorpusDescription, records: Opened, facts: Iterable[Opened], excluded: list[Exclusion]
) -> Opened:
    """The records with the columns of each table of facts that a rule names, empty where it has no row for them."""
    needed, own_columns = corpus.needed if facts else set(), records.header
    for one in facts:
        rule, read = one.table.key, reader(one.table.key)
        known_columns = {*own_columns, *chain.from_iterable(columns_of(rule))}
        own = [column for column in one.header if column in needed and column not in known_columns]
        reduced = {(read(row.cells), *(row[c] for c in own)): row for row in reversed(one.rows)}
        stated = [Row(row.path, row.line, dict(zip(["", *own], cells, strict=True))) for cells, row in reduced.items()]
        known = dict(unique_rows(stated, lambda row: row[""], excluded))
        rows = []
        for row in records.rows:
            fact = known.get(read(row.cells))
            added = {c: fact[c] if fact else row.cells.get(c, "") for c in own}
            rows.append(Row(row.path, row.line, {**row.cells, **added}))
        header = tuple(dict.fromkeys([*records.header, *own]))
        records = replace(records, header=header, rows=rows, joined=(*records.joined, one.path))
    return records


def _require_columns(corpus: CorpusDescription, opened: Opened) -> None:
    """Raises RecordError for a table without a column that its rules need."""
    rules = [*opened.table.columns.values(), *opened.table.only, *([opened.table.key] if opened.table.key else [])]
    if opened.table.holds == "records":
        rules += [*corpus.report.values(), *(corpus.labels.needed if not opened.table.file.endswith("*") else [])]
    lacking = [rule for rule in rules if not _has(opened.header, rule)]
    if lacking:
        raise RecordError(f"{_lacking(opened, lacking)} ({corpus.corpus}, {corpus.version})")


def _lacking(opened: Opened, rules: Iterable[str]) -> str:
    def missing(rule: str) -> str:
        return " or ".join(", ".join(sorted(parts.difference(opened.header))) for parts in columns_of(rule))

    columns = ", ".join(dict.fromkeys(map(missing, rules)))
    joined = f" (with {', '.join(path.name for path in opened.joined)})" if opened.joined else ""
    return (
        f"{opened.path}{joined}: no column {columns}; the columns found are "
        f"{', '.join(filter(None, opened.header))}. Check that this is the publisher's file, and of a release that is known"
    )
