"""One column that names findings: several in a cell (`Pneumonia|Effusion`), or one name of a class.

Each finding becomes a class: 1 where a row names it, 0 where a row names others or none (`No Finding`), not stated where
the cell is empty.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mrm.corpora.custom.values import NORMAL, NOT_STATED, plain
from mrm.data.record import RESERVED
from mrm.system.errors import RecordError
from mrm.system.table_form import DELIMITERS, sign_of
from mrm.system.tables import stated

SURE = ("|", ";")  # signs that names of findings do not hold
POSSIBLE = ("\n", ",", "/", "+")  # signs that names may hold, in the order in which they are tried
NONE = "none"  # one name in a cell
NAMES = {"newline": "\n", "slash": "/", "plus": "+"}
MOST_CLASSES = 50  # a column with more different names is taken for text
SHOWN = 8  # names in a message


@dataclass(frozen=True)
class FindingNames:
    """How the cells of a column name findings."""

    column: str
    classes: tuple[str, ...]
    separator: str  # "" where a cell holds one name
    normal: frozenset[str]  # words for no finding, as they are compared
    unstated: frozenset[str]  # words that state nothing
    said: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        column: str,
        texts: Mapping[str, int],
        classes: Sequence[str],
        separator: str,
        explained: Mapping[str, float],
    ) -> FindingNames:
        """Find out how a column names findings, from its texts and how often each occurs.

        `classes` are the findings to use, by default all. `separator` is a sign or its name, "none", or empty to find it
        out. `explained` are words of the user: 0 means no finding, NaN nothing. Raises RecordError.
        """
        sign = _sign(separator) if separator else _separator(texts)
        wanted = {plain(name) for name in classes}
        normal = (NORMAL | {word for word, value in explained.items() if value == 0}) - wanted
        unstated = frozenset(word for word, value in explained.items() if value != value) - wanted
        counts: Counter[str] = Counter()
        for text, count in texts.items():
            for name in dict.fromkeys(_names(text, sign)):
                counts[name] += count
        spelled: dict[str, str] = {}
        for name, _ in counts.most_common():  # the most common spelling of a name
            if plain(name) not in normal | unstated:
                spelled.setdefault(plain(name), name)
        return cls(
            column,
            _classes(column, list(classes), spelled),
            sign,
            frozenset(normal),
            unstated,
            tuple(_said(column, sign, separator, classes, counts, normal | unstated)),
        )

    def labels(self, text: str) -> tuple[float, ...] | None:
        """The labels of a cell, in the order of the classes; None if it names a finding and says that there is none."""
        names = {plain(name) for name in _names(text, self.separator)}
        if not names - self.unstated:
            return tuple(NOT_STATED for _ in self.classes)
        findings = names - self.normal - self.unstated
        if findings and names & self.normal:
            return None
        return tuple(float(plain(name) in findings) for name in self.classes)

    def meaning(self, text: str) -> str:
        """What a cell was read as, for the terminal; empty if it is not understood."""
        labels = self.labels(text)
        if labels is None:
            return ""
        if any(value != value for value in labels):
            return "not stated"
        return (
            " and ".join(name for name, value in zip(self.classes, labels, strict=True) if value)
            or "none of the classes"
        )


def _names(text: str, sign: str) -> list[str]:
    """The names in a cell, without those that state nothing."""
    parts = text.split(sign) if sign else [text]
    return [re.sub(r"\s+", " ", part).strip() for part in parts if stated(part)]


def _sign(separator: str) -> str:
    if separator == NONE:
        return ""
    return NAMES.get(separator.lower()) or sign_of(separator)


def _separator(texts: Mapping[str, int]) -> str:
    """The sign that separates findings; empty if each cell seems to hold one.

    A sign that a name may hold counts only if splitting by it leaves fewer different names than there are cells.
    """
    cells = {plain(text) for text in texts if stated(text)}
    for sign in (*SURE, *POSSIBLE):
        holding = [text for text in texts if sign in text]
        parts = {plain(name) for text in texts for name in _names(text, sign)}
        if holding and (sign in SURE or len(parts) < len(cells)):
            return sign
    return ""


def _classes(column: str, wanted: Sequence[str], spelled: Mapping[str, str]) -> tuple[str, ...]:
    """The classes: as asked for, else all names in alphabetical order."""
    shown = ", ".join(list(spelled.values())[:SHOWN]) + (", ..." if len(spelled) > SHOWN else "")
    if missing := [name for name in wanted if plain(name) not in spelled]:
        raise RecordError(f"column {column}: no row names {', '.join(missing)}; the names are {shown or 'none'}")
    if wanted:
        return tuple(wanted)
    if not spelled:
        raise RecordError(f"column {column}: names no finding; name another with --label-column")
    if len(spelled) > MOST_CLASSES:
        raise RecordError(
            f"column {column}: has {len(spelled):,} different names ({shown}), which is more than {MOST_CLASSES}; name those "
            "to use with --classes, or what separates the names with --label-separator"
        )
    if reserved := [name for name in spelled.values() if name in RESERVED]:
        raise RecordError(f"column {column}: {reserved[0]} cannot be the name of a class; rename it in the table")
    return tuple(sorted(spelled.values(), key=str.casefold))


def _said(
    column: str, sign: str, separator: str, classes: Sequence[str], counts: Mapping[str, int], words: frozenset[str]
) -> list[str]:
    """What a user should know: a separator that was guessed, and names that are no class."""
    said = []
    if not separator:
        how = f"findings are separated by {DELIMITERS.get(sign, repr(sign))}" if sign else "each cell is one name"
        said.append(f"{column}: {how}; --label-separator says otherwise")
    wanted = {plain(name) for name in classes}
    others = {name: n for name, n in counts.items() if classes and plain(name) not in wanted | words}
    if others:
        shown = ", ".join(f"{name} {n:,}" for name, n in list(others.items())[:SHOWN])
        said.append(
            f"{column}: names that are not among the classes are no label: {shown}{', ...' * (len(others) > SHOWN)}"
        )
    return said
