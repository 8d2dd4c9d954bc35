"""The value of another list that a key without partner was most likely meant to be, and what tells them apart."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

NEIGHBOURS = 3  # values on each side, in alphabetical order, that are compared letter by letter
ALIKE = 0.7  # ratio of difflib from which two values are called similar
MOST_SEARCHES = 5_000  # keys that are compared letter by letter; after them only the three differences below are tried

Form = Callable[[str], str]


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def loosened(text: str) -> str:
    """A key without blanks, upper case and leading zeros, which spreadsheets and people change."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", _without_blanks(text).casefold())


FORMS: Sequence[tuple[str, Form]] = (
    ("blanks", _without_blanks),
    ("upper and lower case", lambda text: _without_blanks(text).casefold()),
    ("leading zeros", loosened),
    ("signs between letters and numbers", lambda text: re.sub(r"[\W_]+", "", loosened(text))),
)


class Nearest:
    """Finds, for a value that is not among `values`, the nearest one that is."""

    def __init__(self, values: Iterable[str]) -> None:
        self.sorted = sorted(set(values))
        self.backwards = sorted(value[::-1] for value in self.sorted)
        self.searches = 0
        self.loose = 0  # values that differ from the nearest in blanks, case or leading zeros alone
        self.by_form = [{form(value): value for value in self.sorted} for _, form in FORMS]

    def find(self, text: str) -> tuple[str, str]:
        """The nearest value and what it differs in, such as ("007", "leading zeros"); empty if none is similar."""
        for (difference, form), values in zip(FORMS, self.by_form, strict=True):
            if nearest := values.get(form(text)):
                self.loose += loosened(nearest) == loosened(text)
                return nearest, f"differs in {difference}"
        self.searches += 1
        if self.searches > MOST_SEARCHES:
            return "", ""
        similar = self.similar(text, 1, ALIKE)
        return (similar[0], "similar") if similar else ("", "")

    def similar(self, text: str, count: int, at_least: float = 0.0) -> list[str]:
        """The `count` most similar of the values that stand next to the text, read forwards or backwards."""
        near = {*_around(self.sorted, text), *(value[::-1] for value in _around(self.backwards, text[::-1]))}
        scores = [(difflib.SequenceMatcher(None, text, value).ratio(), value) for value in near]
        return [value for score, value in sorted(scores, key=lambda s: (-s[0], s[1])) if score >= at_least][:count]

    def detail(self, text: str) -> str:
        """The nearest value as an addition to a message; empty without one."""
        nearest, difference = self.find(text)
        return f"; nearest is {nearest!r} ({difference})" if nearest else ""


def most_similar(ours: Sequence[str], theirs: Nearest, count: int) -> list[tuple[str, str]]:
    """The `count` pairs of a value of ours and one of theirs that are most alike, of some hundred of ours."""
    pairs = []
    for text in list(dict.fromkeys(ours))[:300]:
        scores = [(difflib.SequenceMatcher(None, text, value).ratio(), value) for value in theirs.similar(text, 1)]
        pairs += [(score, text, value) for score, value in scores]
    chosen: list[tuple[str, str]] = []
    for _, text, value in sorted(pairs, key=lambda pair: (-pair[0], pair[1])):
        if all(value != other for _, other in chosen):
            chosen.append((text, value))
    return chosen[:count]


def _around(values: Sequence[str], text: str) -> Sequence[str]:
    at = bisect_left(values, text)
    return values[max(0, at - NEIGHBOURS) : at + NEIGHBOURS]
