"""Labels from a report: which findings it states, denies or doubts, each with the sentence that says so.

A report is read sentence by sentence. Where the words of a finding occur, the nearest cue in the same clause decides: words
that deny or doubt it, before or after it, or words that speak of an earlier image or a question (as in NegEx and ConText:
Chapman et al. 2001, doi:10.1006/jbin.2001.1029; Harkema et al. 2009, doi:10.1016/j.jbi.2009.05.002). Without a cue the finding
is present. Over the sentences of a report, present outweighs uncertain, and uncertain outweighs absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from mrm.data.finding_rules import Rules
from mrm.data.label_values import UNCERTAIN
from mrm.data.sections import split_report
from mrm.data.sentences import sentences

PRESENT, ABSENT, NOT_MENTIONED = 1.0, 0.0, math.nan
# Sections that speak of other things than what this image shows
UNREAD = frozenset(
    ("indication", "history", "comparison", "technique", "examination", "recommendation", "notification")
)
VALUES = {"denied": ABSENT, "doubtful": UNCERTAIN}
FEWEST_WORDS = 5  # of a report, below which its language is not doubted
KNOWN = 0.2  # share of a report's words that are common in its language, from which it counts as written in it
DAMAGED = ("\ufffd", "Ã¤", "Ã¶", "Ã¼", "Ã\u009f", "ÃŸ", "Ã©", "Ã¨", "â€")  # of text decoded as what it is not
UNREADABLE = ("damaged characters", "another language")  # how the doubts begin that speak of language and encoding

Span = tuple[int, int]


class Decision(NamedTuple):
    """The label of a finding, the sentence that decided it, and in that the words of the finding and of the cue."""

    value: float
    sentence: str = ""
    words: str = ""
    cue: str = ""


class _Cue(NamedTuple):
    kind: str
    side: str
    start: int
    end: int


SILENT = Decision(NOT_MENTIONED)
_RANK = {PRESENT: 3, UNCERTAIN: 2, ABSENT: 1}


class ReportLabeller:
    """Reads labels from reports by the rules of a finding file. Sentences that recur are read once."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._known: dict[str, Mapping[str, Decision]] = {}

    def labels(self, report: str) -> dict[str, Decision]:
        """The decision on each class of the rules. Raises ConfigError for a pattern that takes too long."""
        decisions = dict.fromkeys(self.rules.file.findings, SILENT)
        for sentence in self.sentences(report):
            if sentence not in self._known:
                self._known[sentence] = self.decisions(sentence)
            for finding, decision in self._known[sentence].items():
                decisions[finding] = weightier(decisions[finding], decision)
        if self.rules.file.no_finding:
            decisions[self.rules.file.no_finding.name] = _no_finding(self.rules, decisions)
        return decisions

    def decisions(self, sentence: str) -> dict[str, Decision]:
        """The decisions that a sentence makes, by finding."""
        return _sentence(self.rules, sentence)

    def sentences(self, report: str) -> list[str]:
        """The sentences that are read: those of sections that speak of what the image shows."""
        parts = [part.text for part in split_report(report) if part.name not in UNREAD]
        return [s for part in parts for s in sentences(part, self.rules.file.abbreviations)]

    def doubt(self, report: str) -> str:
        """Why a report cannot be labelled: it is empty, has no section on the image, damaged characters, or another language.

        Empty if it can.
        """
        if not any(map(str.isalpha, report)):
            return "empty report"
        if not self.sentences(report):
            return "no sentence about what the image shows"
        if mark := next((mark for mark in DAMAGED if mark in report), ""):
            return f"damaged characters ({mark!r}): read with another encoding than it was written with"
        share, words = self.rules.known_share(report)
        if self.rules.common and words >= FEWEST_WORDS and share < KNOWN:
            return f"another language: {share:.0%} of {words} words are known"
        return ""


def weightier(one: Decision, other: Decision) -> Decision:
    """Of two decisions on a finding the one that counts in its report: present, then uncertain, then absent."""
    return other if _RANK.get(other.value, 0) > _RANK.get(one.value, 0) else one


def _no_finding(rules: Rules, decisions: Mapping[str, Decision]) -> Decision:
    """Present where no finding is present or uncertain, absent where one is present, not stated where one is uncertain."""
    besides = rules.file.no_finding.besides if rules.file.no_finding else ()
    counted = [decision for finding, decision in decisions.items() if finding not in besides]
    if contrary := next((d for d in counted if d.value == PRESENT), None):
        return contrary._replace(value=ABSENT)
    if any(d.value == UNCERTAIN for d in counted):
        return SILENT
    return next((d._replace(value=PRESENT) for d in counted if d.value == ABSENT), Decision(PRESENT))


# One sentence -------------------------------------------------------------------------------------------


def _sentence(rules: Rules, sentence: str) -> dict[str, Decision]:
    """The decisions that a sentence makes, by finding."""
    named = {finding: mentions(rules, finding, sentence) for finding in rules.file.findings}
    if not any(named.values()):
        return {}
    taken = [span for spans in named.values() for span, _ in spans]
    cues = _cues(rules, sentence, taken)
    ends = _ends(rules, sentence, cues)
    decisions: dict[str, Decision] = {}
    for finding, spans in named.items():
        for span, normal in spans:
            decision = _decision(sentence, span, normal, cues, ends)
            if decision:
                decisions[finding] = weightier(decisions.get(finding, SILENT), decision)
    return decisions


def mentions(rules: Rules, finding: str, sentence: str) -> list[tuple[Span, bool]]:
    """Where a finding is named (False) or denied by itself (True); of two that overlap the longer."""
    named = [(span, False) for span in rules.words[finding].spans(sentence)]
    normal = [(span, True) for span in rules.normal[finding].spans(sentence)]
    kept: list[tuple[Span, bool]] = []
    for span, is_normal in sorted(named + normal, key=lambda pair: pair[0][0] - pair[0][1]):
        if not any(_overlap(span, other) for other, _ in kept):
            kept.append((span, is_normal))
    return sorted(kept)


def _cues(rules: Rules, sentence: str, taken: list[Span]) -> list[_Cue]:
    """The cues of a sentence; of two that overlap the longer. Those within the words of a finding are none."""
    every = [
        _Cue(kind, side, *span) for (kind, side), patterns in rules.cues.items() for span in patterns.spans(sentence)
    ]
    every += [_Cue("neutral", "", *span) for span in rules.neutral.spans(sentence)]
    kept: list[_Cue] = []
    for cue in sorted(every, key=lambda c: c.start - c.end):
        inside = any(start <= cue.start and cue.end <= end for start, end in taken)
        if not inside and not any(_overlap(cue[2:], other[2:]) and _rivals(cue, other) for other in kept):
            kept.append(cue)
    return [cue for cue in kept if cue.kind != "neutral"]


def _rivals(cue: _Cue, longer: _Cue) -> bool:
    """Whether of two cues at one place only the longer counts; `is suspected` may doubt what follows `suspected` too."""
    return cue.kind != longer.kind or cue.side == longer.side


def _ends(rules: Rules, sentence: str, cues: list[_Cue]) -> list[int]:
    """The places that no cue reaches across; `due to` within the cue `possibly due to` is none."""
    ends = [span for span in rules.ends.spans(sentence) if not any(_overlap(span, cue[2:]) for cue in cues)]
    return [i for i, character in enumerate(sentence) if character == ";"] + [start for start, _ in ends]


def _decision(sentence: str, span: Span, normal: bool, cues: list[_Cue], ends: list[int]) -> Decision | None:
    """What a sentence says of the finding named at a span; None if it says nothing of this image."""
    words = sentence[slice(*span)]
    if normal:
        return Decision(ABSENT, sentence, words)
    reaching = [(distance, cue) for cue in cues if (distance := _distance(cue, span, cues, ends)) is not None]
    if not reaching:
        return Decision(PRESENT, sentence, words)
    cue = min(reaching)[1]
    if cue.kind == "other":
        return None
    return Decision(VALUES[cue.kind], sentence, words, sentence[cue.start : cue.end])


def _distance(cue: _Cue, span: Span, cues: list[_Cue], ends: list[int]) -> int | None:
    """How far a cue is from a finding; None if it does not reach it.

    A cue that follows findings reaches back no further than to one that precedes some: in `opacity concerning for atelectasis
    versus scar` the opacity is certain.
    """
    first, second = (cue[2:], span) if cue.side == "before" else (span, cue[2:])
    if first[0] >= second[0] or any(first[1] <= end < second[0] for end in ends):
        return None
    if cue.side == "after" and any(c.side == "before" and span[1] <= c.start < c.end <= cue.start for c in cues):
        return None
    return max(0, second[0] - first[1])  # `no focal` before `focal consolidation` overlaps it


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]
