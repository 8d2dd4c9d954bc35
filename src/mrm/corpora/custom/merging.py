"""Rows of several tables that belong together: reports in one, labels in another, joined by a key that both have."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mrm.corpora.contract import CONTRADICTORY, DUPLICATE, Exclusion
from mrm.corpora.custom.joining import Entry, differs_in
from mrm.corpora.custom.nearest import Nearest
from mrm.corpora.options import KEYS
from mrm.system.errors import RecordError
from mrm.system.spreadsheet_cells import guarded

UNMATCHED = "unmatched.csv"  # rows that have no partner in another table
BETWEEN = "tables contradict each other"


@dataclass
class Merged:
    """The joined rows, and what has no partner. `unmatched`: table, row, key and the nearest key of the other table."""

    entries: list[Entry]
    excluded: list[Exclusion] = field(default_factory=list)
    unmatched: list[tuple[str, str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def unmatched_csv(self) -> str:
        """The text of `unmatched.csv`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", "key", "missing in", "nearest"])
        writer.writerows([guarded(cell) for cell in row] for row in self.unmatched)
        return text.getvalue()


@dataclass(frozen=True)
class Rows:
    """The rows of one table, and our names for its columns."""

    name: str
    columns: frozenset[str]
    entries: Sequence[Entry]


def merge(tables: Sequence[Rows]) -> Merged:
    """Join the rows of tables by their most specific common key; rows without partner stay, with what they say.

    The table with the most specific key comes first, so that several of its rows may share one of another table. Raises
    RecordError for tables without a common key.
    """
    first, *others = sorted(tables, key=_specificity)
    merged, known = Merged(list(first.entries)), first
    for table in others:
        keys = _common_key(known, table)
        _add(merged, known.name, table, keys)
        known = Rows(f"{known.name} and {table.name}", known.columns | table.columns, merged.entries)
    return merged


def _specificity(table: Rows) -> int:
    return min((KEYS.index(name) for name in table.columns if name in KEYS), default=len(KEYS))


def _common_key(first: Rows, second: Rows) -> tuple[str, ...]:
    common = first.columns & second.columns
    key = next((key for key in KEYS if key in common), "")
    if not key:
        raise RecordError(
            f"{first.name} and {second.name} have no key in common; the first has {_keys(first)}, the second {_keys(second)}. "
            "Name the columns with --columns accession=COLUMN or the like"
        )
    return ("patient_id", "date") if key == "patient_id" and "date" in common else (key,)


def _keys(table: Rows) -> str:
    return ", ".join(key for key in KEYS if key in table.columns) or "none"


def _add(merged: Merged, name: str, table: Rows, keys: tuple[str, ...]) -> None:
    """Join the rows of one more table to those that are there."""
    partners = _unique(merged, table, keys)
    used: set[str] = set()
    rows = []
    lone = Nearest(partners)
    for entry in merged.entries:
        key = _key(entry, keys)
        partner = partners.get(key) if key else None
        if partner is None:
            merged.unmatched.append((entry.where, key, table.name, lone.find(key)[0] if key else ""))
            rows.append(entry)
            continue
        used.add(key)
        if conflict := _conflict(entry, partner):
            merged.excluded.append(Exclusion(key, BETWEEN, f"{entry.where} and {partner.where}: {conflict}"))
            continue
        cells = {**partner.cells, **{k: v for k, v in entry.cells.items() if v}}
        where = f"{entry.where} and {partner.where}"
        rows.append(replace(entry, where=where, cells=cells, labels={**entry.labels, **partner.labels}))
    ours = Nearest(_key(entry, keys) for entry in merged.entries)
    for key, partner in partners.items():
        if key not in used:
            merged.unmatched.append((partner.where, key, name, ours.find(key)[0]))
            rows.append(partner)
    merged.entries = rows
    _note(merged, name, table, keys, len(used))


def _unique(merged: Merged, table: Rows, keys: tuple[str, ...]) -> dict[str, Entry]:
    """One row for each key. Copies, and keys whose rows differ, become exclusions."""
    groups: dict[str, list[Entry]] = {}
    for entry in table.entries:
        groups.setdefault(_key(entry, keys) or f"\0{entry.where}", []).append(entry)
    unique = {}
    for key, (first, *others) in groups.items():
        if differing := [other for other in others if other.content != first.content]:
            places = f"{first.where} and {differing[0].where}"
            merged.excluded.append(Exclusion(key, CONTRADICTORY, f"{places}: {differs_in(first, differing[0])}"))
            continue
        merged.excluded += [Exclusion(key, DUPLICATE, other.where) for other in others]
        unique[key] = first
    return unique


def _key(entry: Entry, keys: tuple[str, ...]) -> str:
    """The text of a row's key; empty if a part of it is not stated."""
    parts = [entry.cells.get(key, "") for key in keys]
    return " ".join(parts) if all(parts) else ""


def _conflict(ours: Entry, theirs: Entry) -> str:
    """The first fact that two rows state differently: `sex is 'F' and 'M'`; empty if they agree."""
    a, b = {**ours.labels, **ours.cells}, {**theirs.labels, **theirs.cells}
    differing = (c for c in a if a[c] and b.get(c) and a[c] != b[c])
    column = next(differing, None)
    return "" if column is None else f"{column} is {a[column][:40]!r} and {b[column][:40]!r}"


def _note(merged: Merged, name: str, table: Rows, keys: tuple[str, ...], used: int) -> None:
    """Say how many rows of each side have a partner."""
    alone = sum(other == table.name for _, _, other, _ in merged.unmatched)
    theirs = sum(other == name for _, _, other, _ in merged.unmatched)
    said = " and ".join(keys)
    note = f"{table.name} is joined to {name} by {said}: {used:,} rows of {table.name} have a partner"
    if alone or theirs:
        note += f"; {alone:,} rows of {name} and {theirs:,} of {table.name} have none (unmatched.csv)"
    merged.notes.append(note)
