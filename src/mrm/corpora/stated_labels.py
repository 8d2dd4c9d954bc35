"""Labels of the rows of a described corpus: a column for each class, or one that names the findings; several rows or readers."""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from mrm.corpora.custom.values import declared, plain
from mrm.corpora.description import Labels, reader_of_all
from mrm.data.label_values import UNCERTAIN
from mrm.system.errors import RecordError
from mrm.system.table_rows import Row

NAN = float("nan")
WORDS = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": UNCERTAIN, "-1.0": UNCERTAIN, "": NAN}


class StatedLabels:
    """Reads the labels of rows as a corpus's description says. `classes` are found in the rows where it names none."""

    def __init__(self, labels: Labels, rows: Iterable[Row]) -> None:
        self.labels = labels
        self.words: Mapping[str, float] = WORDS | declared(labels.values)
        self.words_of = reader_of_all(labels.needed)  # the cells of a row: its words, of each class or of all findings
        self.normal = frozenset(plain(name) for name in labels.normal)
        self.classes = labels.classes
        if labels.column and not labels.classes:
            self.classes = tuple(sorted(self._occurring(rows), key=str.casefold))
        self.empty = tuple(0.0 if c in labels.absent else self.words[""] for c in self.classes)
        self.places = {plain(c): i for i, c in enumerate(self.classes)}
        self.known: dict[tuple[str, ...], tuple[float, ...]] = {}  # the words of a row: its labels

    def __call__(self, rows: Sequence[Row], readers: Sequence[str]) -> tuple[float, ...] | None:
        """The labels of an image, from its rows and the reader of each; None where rows of a reader contradict each other.

        Raises RecordError for a cell of another kind.
        """
        if len(rows) == 1:
            return self._of_row(rows[0])
        stated: dict[str, list[tuple[float, ...]]] = {}
        for row, name in zip(rows, readers, strict=True):
            stated.setdefault(name, []).append(self._of_row(row))
        if not self.labels.column and any(
            {0.0, 1.0} <= set(of_class) for v in stated.values() for of_class in zip(*v, strict=True)
        ):
            return None
        votes = [tuple(map(_any, zip(*labels, strict=True))) for labels in stated.values()]
        return votes[0] if len(votes) == 1 else tuple(map(_majority, zip(*votes, strict=True)))

    def _occurring(self, rows: Iterable[Row]) -> set[str]:
        """The findings that any row names."""
        names: dict[str, list[str]] = {}
        for row in rows:
            (text,) = self.words_of(row.cells)
            if text not in names:
                names[text] = self._names(row, text)
        return set(chain.from_iterable(names.values()))

    def _of_row(self, row: Row) -> tuple[float, ...]:
        """The labels of a row; rows of the same words share them, as there are few such and many rows."""
        words = self.words_of(row.cells)
        labels = self.known.get(words)
        if labels is None:
            labels = self.known[words] = (self._of_names if self.labels.column else self._of_words)(row, words)
        return labels

    def _of_words(self, row: Row, words: Sequence[str]) -> tuple[float, ...]:
        labels = []
        for column, word, empty in zip(self.labels.needed, words, self.empty, strict=True):
            meaning = self.words.get(word) if word else empty
            if meaning is None and (meaning := self.words.get(plain(word), self.words.get("*"))) is None:
                known = ", ".join(repr(w) for w in self.words if w)
                raise RecordError(f"{row.where}: label {word!r} in column {column} is none of {known}, nor empty")
            labels.append(meaning)
        return tuple(labels)

    def _of_names(self, row: Row, words: Sequence[str]) -> tuple[float, ...]:
        (text,) = words
        if not text:
            return self.empty
        places = {name: self.places.get(plain(name)) for name in self._names(row, text)}
        if stray := sorted(name for name, place in places.items() if place is None):
            raise RecordError(
                f"{row.where}: {stray} is none of the {len(self.classes)} findings of this release"
                f"{', nor ' + repr(self.labels.normal[0]) if self.labels.normal else ''}"
            )
        found = set(places.values())
        return tuple(float(i in found) for i in range(len(self.classes)))

    def _names(self, row: Row, text: str) -> list[str]:
        """The findings that a row names in `text`, under the names of the classes."""
        renamed = (self.labels.names.get(name, name) for name in self._parts(row, text))
        return [name for name in renamed if name and plain(name) not in self.normal]

    def _parts(self, row: Row, text: str) -> list[str]:
        separator = self.labels.separator
        if separator == "list":
            try:
                parts = ast.literal_eval(text or "[]")
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                parts = None
            if not isinstance(parts, list):
                raise RecordError(
                    f"{row.where}: {text[:60]!r} in column {self.labels.column} is not a list in brackets"
                )
        else:
            parts = text.split(separator) if separator else [text]
        return [" ".join(str(part).split()) for part in parts if str(part).strip()]


def _any(values: Sequence[float]) -> float:
    """Of several rows about one image: present if one says so, then uncertain, then absent."""
    return next((v for v in (1.0, UNCERTAIN, 0.0) if v in values), NAN)


def _majority(votes: Sequence[float]) -> float:
    """What more than half of the readers who state it say; uncertain where none is."""
    stated = [v for v in votes if not math.isnan(v)]
    if not stated:
        return NAN
    most, count = Counter(stated).most_common(1)[0]
    return most if 2 * count > len(stated) else UNCERTAIN
