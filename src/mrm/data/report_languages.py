"""Whether reports are in the language that a corpus says: by the share of its most common words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from mrm.data.records import Record

WORDS = {  # that hardly a report of two sentences does without, and that the other languages do not have
    "en": "the of and with is are there no in",
    "es": "de la el los las del se sin con en",
    "pt": "da do das dos com sem em e os ao",
    "de": "der die und mit kein keine ist nicht im des",
    "fr": "le les des du et une avec pas dans sans",
}
NAMES = {"en": "English", "es": "Spanish", "pt": "Portuguese", "de": "German", "fr": "French"}
FEWEST = 3  # such words in a report by which its language is told
_WORD = re.compile(r"[^\W\d_]+")
_OF = {
    word: [code for code, words in WORDS.items() if word in words.split()]
    for words in WORDS.values()
    for word in words.split()
}


def language_of(report: str) -> str:
    """The language of a report, such as `es`; empty if its words do not tell."""
    counts = Counter(code for word in _WORD.findall(report.lower()) for code in _OF.get(word, ()))
    (first, most), (_, second) = [*counts.most_common(2), ("", 0), ("", 0)][:2]
    return first if most >= FEWEST and most > second else ""


def language_notes(records: Iterable[Record], language: str) -> list[str]:
    """A note if reports are in another language than that of the corpus, whose sections and words are then not known."""
    found = Counter(language_of(report) for report in {r.report for r in records if r.report})
    others = {code: n for code, n in found.most_common() if code and code != language}
    if not others:
        return []
    shown = ", ".join(f"{n:,} in {NAMES[code]}" for code, n in others.items())
    return [
        f"of {found.total():,} different reports, {shown}, though the corpus is in {NAMES[language]}: sections and words "
        "of another language are not recognised; leave these reports out, or say `language` in the description"
    ]
