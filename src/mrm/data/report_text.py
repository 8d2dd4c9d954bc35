"""The text of a report as a cell or a file holds it: without the remains of RTF and HTML, its lines kept.

Also the lines that most reports share, such as a letterhead and a signature.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html.entities import html5

from mrm.system.errors import ReportError

LONGEST = 1_000_000  # characters of a report with markup
RTF = "{\\rtf"
MOST_FIELDS = 100  # of RTF, such as links, whose search takes the square of their number
_BLOCKS = frozenset(
    (
        *("html", "body", "p", "br", "div", "pre", "table", "tbody", "thead", "tr", "ul", "ol", "li", "hr", "center"),
        *("blockquote", "h1", "h2", "h3", "h4", "h5", "h6"),
    )
)
_CELLS = frozenset(("td", "th"))
_HIDDEN = frozenset(("head", "script", "style", "title"))
_INLINE = frozenset(
    ("a", "b", "big", "em", "font", "i", "img", "meta", "s", "small", "span", "strong", "sub", "sup", "u")
)
_TAG = re.compile(  # the tags of reports, so that `<5 mm` and `<name>` stay text
    rf"<(?P<end>/?)(?P<name>{'|'.join(sorted(_BLOCKS | _CELLS | _HIDDEN | _INLINE))})\b(?P<rest>[^<>]{{0,2000}})>"
    r"|<![A-Za-z][^<>]{0,500}>|(?P<comment><!--)|(?P<close>-->)",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z]{2,8}\d{0,2});")
_EXCEL_ESCAPE = re.compile(r"_x00(0D|0A|09)_", re.IGNORECASE)  # of control characters in cells of .xlsx


def plain_text(text: str) -> str:
    """A report without markup: RTF and HTML become the text that a reader sees, line ends become `\\n`.

    Text without markup keeps its words. Raises ReportError for RTF that cannot be read, and for markup of more than a
    million characters.
    """
    text = _EXCEL_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    start = text.lstrip("\ufeff \t\r\n")
    markup = start.startswith(RTF) or any(match["close"] is None for match in _TAG.finditer(text))
    if markup and len(text) > LONGEST:
        raise ReportError(f"a report with markup of {len(text):,} characters; at most {LONGEST:,} are read")
    if start.startswith(RTF):
        return tidy(_from_rtf(start))
    if markup:
        return tidy(_from_html(text))
    if "&" in text:
        text = _ENTITY.sub(_character, text)
    return re.sub(r"\r\n?|\v|\f|\u2028|\u2029", "\n", text)


def tidy(text: str) -> str:
    """The lines of a text without blanks at their ends, and no more than one empty line between two."""
    lines = [re.sub(r"[ \t\xa0]+", " ", line).strip() for line in re.split(r"\r\n?|[\n\v\f\u2028\u2029]", text)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _character(match: re.Match[str]) -> str:
    known = match[0][1:] in html5 or match[0][1] == "#"
    return html.unescape(match[0]) if known else match[0]


def _from_rtf(text: str) -> str:
    from striprtf.striprtf import rtf_to_text

    if text.count("\\fldinst") > MOST_FIELDS:
        raise ReportError(f"RTF with more than {MOST_FIELDS} fields, such as links, which no report has")
    try:
        plain = rtf_to_text(text, errors="replace")
    except Exception as error:  # the library raises what Python raises for the words that are damaged
        raise ReportError(f"RTF that cannot be read ({type(error).__name__}: {error})") from None
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # joins the halves of a character


def _from_html(text: str) -> str:
    """The text that a browser shows, found in time that grows with its length, which HTML parsers do not promise."""
    parts: list[str] = []
    hidden = at = 0
    comment = False
    for match in _TAG.finditer(text):
        if not hidden and not comment:
            parts.append(_shown(text[at : match.start()]))
        at = match.end()
        name = (match["name"] or "").lower()
        if match["close"] and not comment:  # an arrow
            at = match.start()
        elif match["comment"] or match["close"]:
            comment = bool(match["comment"])
        elif name in _HIDDEN and not match["rest"].endswith("/"):
            hidden = max(0, hidden + (-1 if match["end"] else 1))
        elif name in _BLOCKS:
            parts.append("\n")
        elif name in _CELLS:
            parts.append(" ")
    parts.append("" if hidden or comment else _shown(text[at:]))
    return re.sub(r" *\n[ \n]*", "\n", "".join(parts))


def _shown(text: str) -> str:
    return _ENTITY.sub(_character, re.sub(r"\s+", " ", text))


# Lines that most reports share -----------------------------------------------------------------------------

REGION = 12  # lines at the beginning and at the end of a report that may be a letterhead and a signature
SHARE = 0.5  # of the reports that have a line, from which it is shared
FEWEST = 10  # reports of at least three lines, below which nothing is said to be shared


@dataclass(frozen=True)
class SharedLines:
    """Lines at the beginning or at the end of most reports, as `_alike` compares them, with an example and their share."""

    first: dict[str, tuple[str, float]]
    last: dict[str, tuple[str, float]]

    def __bool__(self) -> bool:
        return bool(self.first or self.last)

    def said(self) -> str:
        """The lines and their shares, for a message."""
        lines = [*self.first.values(), *(pair for line, pair in self.last.items() if line not in self.first)]
        return ", ".join(f"{text[:60]!r} ({share:.0%})" for text, share in sorted(lines, key=lambda pair: -pair[1]))

    def remove(self, report: str) -> str:
        """The report without these lines where they stand at its beginning or end."""
        lines = report.split("\n")
        filled = [i for i, line in enumerate(lines) if line.strip()]
        if len(filled) < 3:
            return report
        drop = {i for i in filled[:REGION] if _alike(lines[i]) in self.first}
        drop |= {i for i in filled[-REGION:] if _alike(lines[i]) in self.last}
        return tidy("\n".join(line for i, line in enumerate(lines) if i not in drop)) if drop else report


def shared_lines(reports: Sequence[str]) -> SharedLines:
    """The lines that at least half of the reports have among their first or last dozen; digits may differ, as in a date.

    Lines that end with a colon are titles of sections, and stay. Reports of one or two lines do not count.
    """
    first: Counter[str] = Counter()
    last: Counter[str] = Counter()
    examples: dict[str, str] = {}
    count = 0
    for report in reports:
        lines = [line.strip() for line in report.split("\n") if line.strip()]
        if len(lines) < 3:
            continue
        count += 1
        half = (len(lines) + 1) // 2
        first.update(list(dict.fromkeys(_alike(line) for line in lines[: min(REGION, half)])))
        last.update(list(dict.fromkeys(_alike(line) for line in lines[-min(REGION, len(lines) - half) :])))
        for line in (*lines[:REGION], *lines[-REGION:]):
            examples.setdefault(_alike(line), line)

    def most(counts: Counter[str]) -> dict[str, tuple[str, float]]:
        shared = {line: n for line, n in counts.items() if n >= SHARE * count and not line.endswith(":")}
        return {line: (examples[line], n / count) for line, n in shared.items()}

    return SharedLines(most(first), most(last)) if count >= FEWEST else SharedLines({}, {})


def _alike(line: str) -> str:
    """A line as it is compared: without case, with one kind of blank, and with 0 for each digit."""
    return re.sub(r"\d", "0", re.sub(r"\s+", " ", line)).strip().casefold()
