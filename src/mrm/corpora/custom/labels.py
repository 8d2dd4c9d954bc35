"""Labels of the rows of an export: a column for each class, or one column that names the findings.

Both are read by a `LabelReader`, which knows the words of its columns and says what it took them for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mrm.corpora.custom import values
from mrm.corpora.custom.findings import FindingNames
from mrm.corpora.custom.joining import Entry
from mrm.corpora.custom.values import EMPTY, value_of
from mrm.system.tables import stated

LINES = 3  # of a word that is not understood, that are shown
WORDS = 12  # of a column, that are shown
MEANINGS = {1.0: "1", 0.0: "0", -1.0: "-1 (uncertain)"}


@dataclass(frozen=True)
class Word:
    """A word of a label column: what it means, how often it occurs, and where first."""

    text: str
    meaning: str  # "" if it is not understood
    count: int
    lines: tuple[str, ...]


class NotUnderstood(NamedTuple):
    """A cell whose text means none of 1, 0, -1 and nothing."""

    column: str
    text: str


@dataclass
class LabelReader:
    """Reads the labels of rows; see `label_reader`. `said` is what a user should know of how the columns are read."""

    classes: tuple[str, ...]
    by_column: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # column: its own words
    names: FindingNames | None = None  # in place of columns
    words: Mapping[str, Sequence[Word]] = field(default_factory=dict)  # of each column, the most common first
    said: Sequence[str] = ()

    def __call__(self, cells: Mapping[str, str]) -> tuple[float, ...] | NotUnderstood:
        """The labels of a row in the order of the classes, or the cell that is not understood."""
        if self.names:
            text = cells.get(self.names.column, "")
            return self.names.labels(text) or NotUnderstood(self.names.column, text)
        labels = []
        for column in self.classes:
            value = value_of(cells.get(column, ""), self.by_column.get(column, {}))
            if value is None:
                return NotUnderstood(column, cells[column])
            labels.append(value)
        return tuple(labels)

    @property
    def advice(self) -> str:
        """Which words are not understood, how often and where, and how to say what they mean; empty if there are none."""
        unread = {column: [w for w in words if not w.meaning] for column, words in self.words.items()}
        parts = [
            f"{column}: {', '.join(_counted(word) for word in words[:5])}{_more(words[5:])}"
            for column, words in unread.items()
            if words
        ]
        if not parts:
            return ""
        example = next(words[0].text for words in unread.values() if words)
        how = (
            f'Say what a word means with --values, such as --values "{example}=1" (1 present, 0 absent, -1 uncertain, nothing '
            "not stated)"
        )
        if self.names:
            how = "Correct these cells; a row that names a finding cannot be normal too"
        return f"Labels that are not understood: {'; '.join(parts)}. {how}"

    def lines(self) -> list[str]:
        """How the words of each column were read, for the terminal."""
        shown = []
        for column, words in self.words.items():
            meanings = [f"{w.text or 'empty'} = {w.meaning or 'NOT UNDERSTOOD'} ({w.count:,})" for w in words[:WORDS]]
            shown.append(f"label {column}: {', '.join(meanings)}{_more(words[WORDS:])}")
        return [*shown, *self.said]


def label_reader(
    entries: Sequence[Entry],
    classes: Sequence[str],
    column: str = "",
    separator: str = "",
    words: Mapping[str, str] | None = None,
) -> LabelReader:
    """The reader for the rows of an export: of the columns `classes`, or of one `column` that names findings.

    `words` are those that the user has explained. Raises RecordError for a column that names no finding, or far too many.
    """
    explained = values.declared(words or {})
    if not column:
        return _by_columns(entries, classes, explained)
    texts = Counter(entry.labels.get(column, "") for entry in entries)
    names = FindingNames.of(column, texts, classes, separator, explained)
    reader = LabelReader(names.classes, names=names, said=names.said)
    reader.words = {column: _words(entries, column, names.meaning)}
    return reader


def _by_columns(entries: Sequence[Entry], classes: Sequence[str], explained: Mapping[str, float]) -> LabelReader:
    by_column, shown, said = {}, {}, []
    for column in classes:
        texts = {values.plain(entry.labels.get(column, "")) for entry in entries}
        by_column[column], note = _own_words(texts, explained)
        said += [f"{column}: {note}"] if note else []

        def meaning(text: str, own: Mapping[str, float] = by_column[column]) -> str:
            value = value_of(text, own)
            return "" if value is None else MEANINGS.get(value, "not stated")

        shown[column] = _words(entries, column, meaning)
    return LabelReader(tuple(classes), by_column, words=shown, said=said)


def _own_words(texts: set[str], explained: Mapping[str, float]) -> tuple[dict[str, float], str]:
    """The meaning of words in a column that has no others: + and -, or x. A word that the user has explained is that."""
    used = {text for text in texts if stated(text)}
    if "+" in used and used | {"-"} == set(values.SIGNS):
        return {**values.SIGNS, **explained}, "has only + and -, which are read as 1 and 0"
    if used == set(values.CROSS):
        note = (
            ""
            if EMPTY in explained
            else (
                "has only x and empty cells; x is read as 1, and an empty cell as not stated. If it means absent, say so "
                'with --values "x=1,empty=0"'
            )
        )
        return {**values.CROSS, **explained}, note
    return dict(explained), ""


def _words(entries: Sequence[Entry], column: str, meaning: Callable[[str], str]) -> list[Word]:
    """The words of a column with their meaning, the most common first; cells that state nothing count as one."""
    counts: Counter[str] = Counter()
    lines: dict[str, list[str]] = {}
    for entry in entries:
        text = entry.labels.get(column, "")
        counts[text] += 1
        if len(places := lines.setdefault(text, [])) < LINES:
            places.append(entry.where)
    return [Word(text, meaning(text), count, tuple(lines[text])) for text, count in counts.most_common()]


def _counted(word: Word) -> str:
    return f"{word.text[:60]!r} {word.count:,} times ({'; '.join(word.lines)}{'; ...' if word.count > LINES else ''})"


def _more(rest: Sequence[object]) -> str:
    return f" and {len(rest):,} more" if rest else ""
