"""Sections of a radiology report: FINDINGS, IMPRESSION, INDICATION and so on, in all the spellings that occur.

A title is one or more words before a colon. Whether words are a title depends on how they are written:

* in capitals, anywhere: `Shortness of breath FINDINGS: The heart ...`;
* with a capital letter, at the start of a line or a sentence: `No effusion. Impression: normal.`;
* in small letters only if the report has no capitals at all, so that words of prose do not start a section;
* in capitals without a colon, if it has a line to itself or a dash follows.

The vocabulary is that of MIMIC-CXR (Johnson et al. 2019, doi:10.1038/s41597-019-0322-0; its publisher counts
the spellings in the `txt` folder of github.com/MIT-LCP/mimic-cxr) and of Open-i (Demner-Fushman et al. 2016); and titles of
German reports.
Misspelled single words (IMPRESSON, FINDNGS, NDICATION) are matched by similarity. Other words before a colon (`Knee:`)
remain text. Text between `FINAL REPORT` and the first title is preamble again.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import NamedTuple

from mrm.system.errors import ReportError

TITLES = {
    "findings": ("findings", "finding", "report", "observations", "description", "narrative",
                 "reference findings", "befund", "befunde"),
    "impression": ("impression", "impressions", "conclusion", "conclusions", "opinion", "summary",
                   "assessment", "interpretation", "impression and recommendation",
                   "impression and recommendations", "beurteilung", "zusammenfassung"),
    "findings and impression": ("findings and impression", "findings and impressions",
                                "finding and impression", "impression and findings"),
    "indication": ("indication", "indications", "clinical indication", "clinical indications",
                   "indication for study", "indication for exam", "indication for examination", "reason",
                   "indikation", "rechtfertigende indikation", "fragestellung", "klinische fragestellung"),
    "history": ("history", "clinical history", "patient history", "medical history", "clinical information",
                "clinical data", "clinical details", "clinical context", "relevant history",
                "history and indication", "indication and history", "klinische angaben", "klinik", "anamnese"),
    "comparison": ("comparison", "comparisons", "comparison exam", "comparison exams",
                   "comparison examination", "comparison study", "comparison studies", "comparison radiograph",
                   "comparison radiographs", "compared to", "reference exam", "reference study", "prior", "priors",
                   "prior study", "prior studies", "prior exam", "prior exams", "previous studies", "vergleich", "voraufnahme",
                   "voraufnahmen", "voruntersuchung", "voruntersuchungen"),
    "technique": ("technique", "techniques", "procedure", "view", "views", "protocol", "technik"),
    "examination": ("examination", "examinations", "exam", "exams", "study", "studies", "type of examination",
                    "type of exam", "exam type", "procedure name", "name of exam", "untersuchung"),
    "recommendation": ("recommendation", "recommendations", "empfehlung"),
    "notification": ("notification", "notifications", "communication"),
    "wet read": ("wet read", "wetread", "wet reading", "preliminary read", "preliminary report"),
    "addendum": ("addendum", "addenda", "final addendum"),
    "comment": ("comment", "comments", "note", "notes", "pfi"),
    "preamble": ("final report",),
}  # fmt: skip
_NAME_OF = {title: name for name, titles in TITLES.items() for title in titles}
# Too common in prose to start a section within a line, unless in capitals.
_WEAK = {"report", "description", "narrative", "summary", "reason", "prior", "priors", "view", "views",
         "exam", "exams", "study", "studies", "procedure", "protocol", "comment", "comments", "note", "notes",
         "pfi", "assessment", "observations", "communication", "compared to", "finding"}  # fmt: skip
_LINE_ALONE = {t for t in _NAME_OF if t not in _WEAK} - {"final report", "final addendum", "compared to"}
_QUALIFIERS = {
    "additional",
    "other",
    "incidental",
    "final",
    "preliminary",
    "chest",
    "significant",
    "radiographic",
}
_LIKE = [t for t in _NAME_OF if len(t) >= 8 and " " not in t]
# A title that names the radiographs (`CHEST, PA AND LATERAL:`) stands for the examination; findings follow it.
_RADIOGRAPHS = re.compile(r"\b(CHEST|PORTABLE|FRONTAL|LATERAL|PA|AP|(ONE|TWO|THREE) VIEWS?|BONE WINDOWS?|RIBS|CXR)\b")

_STOP = re.compile(r"(?P<colon>[ \t]*:)|(?P<dash>[ \t]+--?[ \t])|(?P<end>[ \t]*$)", re.MULTILINE)
_TOKEN = re.compile(r"[A-Za-z]+(?:\([sS]\))?")
_HEADER = re.compile(  # the lines without a colon that separate the parts of one report in MIMIC-CXR
    r"^[ \t]*(?:_{10,}[ \t]*\n[ \t]*)?"
    r"(?P<title>FINAL[ ]+(?:REPORT|ADDENDUM)|WET[ ]READ(?:[ ]VERSION[ ]\#\d+)?)\b:?",
    re.MULTILINE,
)


class Part(NamedTuple):
    """A part of a report: its section's name, the title as written (empty before the first title), the text."""

    name: str
    title: str
    text: str


def split_report(report: str) -> list[Part]:
    """The report split at its titles. Nothing is lost: its titles and texts joined are the whole report."""
    marks = _marks(report)
    if not marks or marks[0][0] > 0:
        marks.insert(0, (0, 0, "preamble"))
    ends = [start for start, _, _ in marks[1:]] + [len(report)]
    return [
        Part(name, report[start:begin], report[begin:end])
        for (start, begin, name), end in zip(marks, ends, strict=True)
    ]


def sections(report: str) -> dict[str, str]:
    """The report's texts by section name, in order; the text before the first title is `preamble`.

    The parts of a section that occurs twice are joined. A title that names the radiographs (`CHEST, PA AND LATERAL:`)
    becomes the text of `examination`, and the lines under it `findings`.
    """
    parts: dict[str, str] = {}
    for name, title, text in split_report(report):
        text = text.strip()
        if name == "radiographs":
            _add(parts, "examination", title.strip(" \t\n:"))
            name = "findings"
            if not text:
                continue
        if name != "preamble" or text:
            _add(parts, name, text)
    return parts


def select_sections(report: str, names: Sequence[str]) -> str:
    """The named sections joined; the whole report if it has none of them (it may have no titles at all).

    FINDINGS AND IMPRESSION under one title counts as `findings` and as `impression`, and is included once.
    """
    if not names:
        return report
    if unknown := set(names) - set(TITLES):
        raise ReportError(f"unknown section {', '.join(sorted(unknown))}; choose from {', '.join(TITLES)}")
    parts = sections(report)
    chosen: dict[str, str] = {}
    for name in names:
        both = parts.get("findings and impression") if name in ("findings", "impression") else None
        if text := parts.get(name):
            chosen[name] = text
        if both:
            chosen["findings and impression"] = both
    return " ".join(chosen.values()) or report


def _add(parts: dict[str, str], name: str, text: str) -> None:
    parts[name] = f"{parts[name]} {text}".strip() if name in parts else text


def _marks(report: str) -> list[tuple[int, int, str]]:
    """(start of the title, start of its text, section name) of every title, in order."""
    marks = [(m.start(), m.end(), _NAME_OF[_plain(m["title"])]) for m in _HEADER.finditer(report)]
    headers = [(start, end) for start, end, _ in marks]
    small_letters = report.islower()
    for stop in _STOP.finditer(report):
        if any(start <= stop.start() <= end for start, end in headers):
            continue
        title = _title_before(report, stop, small_letters)
        if title:
            start, name = title
            marks.append((start, stop.end(), name))
    marks.sort()
    impression = next((start for start, _, name in marks if "impression" in name), len(report))
    # From the impression on, such a title belongs to the text, as in `CHEST: clear`.
    return [(start, end, name) for start, end, name in marks if name != "radiographs" or start < impression]


def _title_before(report: str, stop: re.Match, small_letters: bool) -> tuple[int, str] | None:
    """Where the title that ends at `stop` begins, and its section; None if the words there are not a title."""
    line = report.rfind("\n", 0, stop.start()) + 1
    begin = max(line, *(report.rfind(mark, line, stop.start()) + 1 for mark in ".;:!?"))
    words = report[begin : stop.start()]
    if not words.strip():
        return None
    at_line = not report[line:begin].strip()
    if stop["colon"] is None:  # without a colon, only capitals at the beginning of a line
        plain = _plain(words)
        return (begin, _NAME_OF[plain]) if at_line and words.isupper() and plain in _LINE_ALONE else None
    tokens = list(_TOKEN.finditer(words))[-6:]
    if not tokens or tokens[-1].end() != len(words.rstrip()):
        return None
    for token in tokens:  # the longest run of words that ends at the colon and is a title
        title = words[token.start() :]
        leading = not words[: token.start()].strip(" \t-*#_")
        if name := _name(title, leading, at_line, small_letters):
            return begin + (0 if leading else token.start()), name
    return None


def _name(title: str, leading: bool, at_line: bool, small_letters: bool) -> str | None:
    plain, capitals = _plain(title), title.isupper()
    if not capitals and not (leading and (title[0].isupper() or small_letters)):
        return None
    if capitals and plain.partition(" ")[0] in _QUALIFIERS and plain not in _NAME_OF:
        plain = plain.partition(" ")[2]
    if plain in _NAME_OF:
        strong = plain not in _WEAK or (leading and at_line) or (capitals and plain not in ("view", "views"))
        return _NAME_OF[plain] if strong else None
    if not (leading and at_line):
        return None
    if plain.startswith("reason for "):
        return "indication"
    if capitals and _RADIOGRAPHS.search(title) and not _ends_in_title(plain):
        return "radiographs"
    return _misspelled(plain)


def _ends_in_title(plain: str) -> bool:
    last = plain.rpartition(" ")[2]
    return last in _NAME_OF and last not in _WEAK


def _plain(title: str) -> str:
    """`FINDINGS/ IMPRESSION` and `Findings & Impression` to `findings and impression`."""
    title = re.sub(r"[/&+]", " and ", title.lower().replace("(s)", "s"))
    title = re.sub(r"version #\d+", "", title)
    return " ".join(re.findall(r"[a-z]+", title))


@lru_cache(maxsize=4096)
def _misspelled(plain: str) -> str | None:
    """The section whose title this misspells, if it is a single word."""
    if " " in plain or len(plain) < 7:
        return None
    close = get_close_matches(plain, _LIKE, n=1, cutoff=0.82)
    return _NAME_OF[close[0]] if close else None
