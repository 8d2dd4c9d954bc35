"""A corpus as a description: its tables, columns, labels, sets and counts, in a YAML file (`descriptions/`, or a user's own).

The words are those of the description of an export (`mrm.corpora.custom.description`): `tables` with `columns` by our names,
`labels`. What a file says is exact, nothing is found out: another release's columns are refused.

A column is named by a rule: `PatientID`; several separated by ` | `, of which the first that is stated counts; a
template such as `{ImageDir}/{ImageID}`; a text such as `=Nodule`; a name in parentheses may be missing. `match` takes columns out of a column: the
named groups of a pattern.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from mrm.corpora.catalogue import DESCRIPTIONS
from mrm.corpora.contract import Purpose
from mrm.corpora.custom import description as exports
from mrm.corpora.custom.values import declared
from mrm.data.box_cells import Form
from mrm.data.record import RESERVED
from mrm.system.errors import RecordError
from mrm.system.yaml_files import read_yaml

FACTS = (*RESERVED, "split", "reader", "text_file")  # columns of a record with a meaning
BOX = ("class", "x", "y", "width", "height", "x2", "y2", "box", "text")  # columns of a box
WITH_MEANING = frozenset((*FACTS, *BOX))  # other columns are kept with the record
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
          "dev": "val", "test": "test"}  # fmt: skip
_PART = re.compile(r"\{([^{}]+)\}")
Reader = Callable[[Mapping[str, str]], str]  # from the cells of a row to a text, empty if nothing is stated


@dataclass(frozen=True)
class Table(exports.Table):
    """A table: `file` names it, with other releases' names after ` | `; `scans/*` are images, with the columns `file` and `stem`.

    Rows are records, or boxes of their images, or facts whose columns are joined to the records by a `key` of both.
    """

    holds: Literal["records", "boxes", "facts"] = "records"
    header: tuple[str, ...] = ()  # names of the columns, where the file has none
    match: dict[str, str] = field(default_factory=dict)  # column: a pattern whose named groups are columns
    only: dict[str, str] = field(default_factory=dict)  # column, also of facts: a pattern; rows without it are left out
    key: str = ""  # of facts
    split: str = ""  # train, val or test, of all rows
    optional: bool = False

    @property
    def name(self) -> str:
        """The first name of its file, without folders."""
        return Path(self.file.split(" | ")[0]).name

    @cached_property
    def readers(self) -> dict[str, Reader]:
        """What reads each of our names from the cells of a row."""
        return {name: reader(rule) for name, rule in self.columns.items()}

    @cached_property
    def attributes(self) -> dict[str, Reader]:
        """The readers of the columns without a meaning, which are kept with the record."""
        return {name: read for name, read in self.readers.items() if name not in WITH_MEANING}

    @cached_property
    def states_boxes(self) -> bool:
        """Whether its rows have the place of a finding."""
        return not {"box", "x"}.isdisjoint(self.columns)

    def states(self, name: str, cells: Mapping[str, str]) -> str:
        """What a row states of one of our names; empty if nothing."""
        read = self.readers.get(name)
        return read(cells) if read else ""


@dataclass(frozen=True)
class Labels:
    """How labels are stated: in a column for each class, or in one `column` that names the findings of a row.

    `values` adds words to 1, 0, -1 and nothing; `*` is any other word. A row is that of an `image`, or one `finding` of several, or what one
    `reader` says of an image. Of several readers the majority counts, and a tie is uncertain.
    """

    classes: tuple[str, ...] = ()  # in their order; of one column, by default the names that occur
    columns: dict[str, str] = field(default_factory=dict)  # class: its column, if of another name
    values: dict[str, str] = field(default_factory=dict)  # word: 1 present, 0 absent, -1 uncertain, empty not stated
    column: str = ""  # the column that names the findings
    separator: str = ""  # between findings in one cell; `list` for a list in brackets
    rows: Literal["image", "finding", "reader"] = "image"
    normal: tuple[str, ...] = ()  # names that are no finding
    names: dict[str, str] = field(default_factory=dict)  # as written: the class, or nothing for a name that is left out
    listed: tuple[str, ...] = ()  # the classes of the sets and label lists, by default all
    uncertain: dict[str, str] = field(default_factory=dict)  # class: ones, zeros or ignore, in label lists
    absent: tuple[str, ...] = ()  # classes of which an empty cell means 0, in the records too
    unstated_absent: bool = False  # an empty cell is 0 in label lists

    def __post_init__(self) -> None:
        declared(self.values)

    @property
    def needed(self) -> list[str]:
        """The rules of the columns that hold labels: of each class, or of the one that names findings."""
        return [self.column] if self.column else [self.columns.get(c, c) for c in self.classes]


@dataclass(frozen=True)
class Images:
    """How rows find their images: by the path below the corpus's folder, or by a name that is unique in it."""

    by: Literal["path", "name"] = "path"
    folders: tuple[str, ...] = ()  # where they are sought, by default everywhere
    first: str = ".png"  # the format that is taken where an image is there in two
    any_suffix: bool = False  # also files without the suffix of an image


@dataclass(frozen=True)
class CorpusDescription:
    """A corpus, see the top of this file."""

    corpus: str  # its title
    tables: tuple[Table, ...]
    version: str
    folders: tuple[str, ...] = (".",)  # the corpus's folder below the source, the first that has a table
    images: Images = field(default_factory=Images)
    labels: Labels = field(default_factory=Labels)
    report: dict[str, str] = field(default_factory=dict)  # title of a section: its column
    language: str = "en"  # of the reports
    box: Form = "xywh"  # what the column `box` states
    masks: str = ""  # the column of run lengths, from which segmentation folders are written
    sets: dict[str, str] = field(default_factory=dict)  # train, val or test: a list of image names
    lists_by: Literal["path", "name"] = "path"  # how published lists name the images
    purpose: Purpose = "labels"
    expected: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not any(table.holds == "records" for table in self.tables):
            raise RecordError("tables: none holds records")
        for table in self.tables:
            _check(table)
        if bool(self.masks) != (self.purpose == "masks"):
            raise RecordError("purpose: masks needs the column of run lengths (masks), and the other way round")
        named = [*self.sets, *(table.split for table in self.tables if table.split)]
        if unknown := sorted(set(named) - set(SPLITS.values())):
            raise RecordError(f"unknown set {', '.join(unknown)}; choose from train, val, test")

    @property
    def needed(self) -> set[str]:
        """The columns that any rule names."""
        tables = [rule for t in self.tables for rule in (*t.columns.values(), *t.match, *t.only, t.key)]
        rules = [*tables, *self.report.values(), *self.labels.needed]
        return {r.strip("()") for rule in rules for part in alternatives(rule) for r in (_parts(part) or [part])}


def _check(table: Table) -> None:
    """Raises RecordError for a table whose columns say too little, and for a pattern that is none."""
    needed = {"records": ["image_path"], "boxes": ["image_path"], "facts": []}[table.holds]
    needed += ["class"] if table.holds == "boxes" or table.states_boxes else []
    if missing := [name for name in needed if name not in table.columns]:
        raise RecordError(f"table {table.name}: columns: no {', '.join(missing)}")
    if bool(table.key) != (table.holds == "facts"):
        raise RecordError(f"table {table.name}: `key` is needed for facts, and for nothing else")
    for column, pattern in [*table.match.items(), *table.only.items()]:
        try:
            re.compile(pattern)
        except re.error as error:
            raise RecordError(f"table {table.name}: {column}: {pattern!r} is not a pattern ({error})") from error


def load(name: str) -> CorpusDescription | None:
    """The description of a corpus of that name or in that YAML file; None if a file describes an export, as for `custom`.

    Raises ConfigError that names the setting that is wrong.
    """
    if not name.endswith(DESCRIPTIONS):
        with resources.as_file(resources.files("mrm.corpora") / "descriptions" / f"{name}.yaml") as file:
            return read_yaml(CorpusDescription, file, f"the description of {name}")
    if "corpus" not in read_yaml(dict[str, Any], Path(name)):
        return None
    return read_yaml(CorpusDescription, Path(name))


# Rules ------------------------------------------------------------------------------------------------------


@cache
def alternatives(rule: str) -> tuple[str, ...]:
    """The rules of which the first that is stated counts."""
    return tuple(part.strip() for part in rule.split(" | "))


@cache
def _parts(rule: str) -> tuple[str, ...]:
    """The columns of a template; none for the name of a column."""
    return tuple(_PART.findall(rule))


@cache
def _is_column(rule: str) -> bool:
    """Whether a rule is the name of a column, as most are."""
    return alternatives(rule) == (rule,) and not rule.startswith(("=", "(")) and not _parts(rule)


def columns_of(rule: str) -> list[set[str]]:
    """For each alternative of a rule, the columns that a table must have for it."""
    return [set() if r[0] in "(=" else set(_parts(r) or [r]) for r in alternatives(rule)]


@cache
def readers(rule: str) -> tuple[Reader, ...]:
    """What reads each alternative of a rule."""
    return tuple(_reader(r) for r in alternatives(rule))


@cache
def reader(rule: str) -> Reader:
    """What reads a rule: the first of its alternatives that is stated, or the column of that very name."""
    if _is_column(rule):
        return lambda cells: cells.get(rule, "")
    every = readers(rule)

    def read(cells: Mapping[str, str]) -> str:
        if text := cells.get(rule, ""):
            return text
        for of_alternative in every:
            if text := of_alternative(cells):
                return text
        return ""

    return read


def reader_of_all(rules: Sequence[str]) -> Callable[[Mapping[str, str]], tuple[str, ...]]:
    """What reads several rules together; of columns, as most are, it is several times as fast as their readers."""
    if all(map(_is_column, rules)):
        return lambda cells: tuple(map(cells.get, rules, repeat("")))
    every = [reader(rule) for rule in rules]
    return lambda cells: tuple([read(cells) for read in every])


def _reader(rule: str) -> Reader:
    if rule.startswith("="):
        return lambda _: rule[1:]
    if names := _parts(rule):
        template = "%s".join(text.replace("%", "%%") for text in _PART.split(rule)[::2])

        def read(cells: Mapping[str, str]) -> str:
            parts = tuple([cells.get(name, "") for name in names])
            return template % parts if all(parts) else ""

        return read
    column = rule.strip("()")
    return lambda cells: cells.get(column, "")
