"""Sentences of a report, whose lines may be wrapped, numbered or without full stops."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator

WRAPPED = 50  # characters of a line that may continue on the next one
LONGEST = 2000  # characters of a sentence; text without any full stop is cut here
_MARK = re.compile(r"(?:[-*•–>]+|\(?\d{1,2}[.)])\s+")  # of a list, at the beginning of a line or a sentence
_STOP = re.compile(r"[.!?]+(?=\s|$)|(?<=[^\W\d_]{2})[.!?](?=[^\W\d_]{2})")  # the second: a blank was forgotten
_WORD = re.compile(r"[^\s(]+$")


def sentences(text: str, abbreviations: Collection[str] = ()) -> list[str]:
    """The sentences of a text in order, with single blanks, and without numbers and bullets of lists.

    `abbreviations` are words in small letters whose full stop ends no sentence ("z.b", "approx"); nor does that of a single
    letter. The end of a line ends a sentence, unless the line is long enough to have been wrapped.
    """
    parts = []
    for paragraph in _paragraphs(text):
        for sentence in _split(paragraph, abbreviations):
            sentence = _MARK.sub("", sentence.strip(), count=1).strip()
            if any(map(str.isalnum, sentence)):
                parts += [sentence[at : at + LONGEST] for at in range(0, len(sentence), LONGEST)]
    return parts


def _paragraphs(text: str) -> Iterator[str]:
    """Lines, those joined that continue the one before."""
    joined, length = "", 0  # the text so far, and the length of its last line
    for line in unicodedata.normalize("NFC", text).splitlines():
        line = " ".join(line.split())
        continues = line and length >= WRAPPED and joined[-1] not in ".:;!?" and not _MARK.match(line)
        if joined and not continues:
            yield joined
            joined = ""
        joined, length = f"{joined} {line}".strip(), len(line)
    if joined:
        yield joined


def _split(paragraph: str, abbreviations: Collection[str]) -> Iterator[str]:
    start = 0
    for stop in _STOP.finditer(paragraph):
        word = _WORD.search(paragraph, max(start, stop.start() - 40), stop.start())
        before = word[0].lower() if word else ""
        if not paragraph[start : stop.start()].strip().isdigit() and not _is_abbreviation(before, abbreviations):
            yield paragraph[start : stop.end()]
            start = stop.end()
    yield paragraph[start:]


def _is_abbreviation(word: str, abbreviations: Collection[str]) -> bool:
    return word in abbreviations or (len(word) == 1 and word.isalpha())
