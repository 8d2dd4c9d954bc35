"""Text in a CSV that a spreadsheet would compute: guarded where it is written, and as it was where it is read back.

A spreadsheet takes a cell that begins with one of `= + - @`, or with a tab or a line break before them, for a formula,
which can send the other cells to a web address. Whoever chose the name of a file or wrote a report could put one there.
An apostrophe in front makes it text. Numbers, such as -0.5, are left as they are. The list is that of OWASP, "CSV Injection".
"""

from __future__ import annotations

import re

GUARD = "'"
_SIGNS = "=+\\-@＝＋－＠"  # also in the full width of East Asian text, which spreadsheets read alike
_FORMULA = re.compile(rf"'*(?:\s*[{_SIGNS}]|[\t\r\n])")  # apostrophes count, so that a cell of apostrophes comes back
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)


def guarded(text: str) -> str:
    """The text as it may stand in a CSV: with an apostrophe in front if a spreadsheet would compute it."""
    return GUARD + text if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """The text of which `guarded` made this one; any other text as it is."""
    return text[1:] if text.startswith(GUARD) and _FORMULA.match(text) else text
