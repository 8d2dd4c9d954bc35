"""Text in a CSV that a spreadsheet would compute: guarded where it is written, and as it was where it is read back.

A spreadsheet takes a cell that begins with one of `= + - @`, or with a tab or a line break before them, for a formula,
which can send the other cells to a web address. Whoever chose the name of a file or wrote a report could put one there.
An apostrophe in front makes it text. Numbers, such as -0.5, are left as they are. The list is that of OWASP, "CSV Injection".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

GUARD = "'"
_SIGNS = "=+\\-@＝＋－＠"  # also in the full width of East Asian text, which spreadsheets read alike
_FORMULA = re.compile(rf"'*(?:\s*[{_SIGNS}]|[\t\r\n])")  # apostrophes count, so that a cell of apostrophes comes back
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)


def guarded(text: str) -> str:
    """The text as it may stand in a CSV: with an apostrophe in front if a spreadsheet would compute it."""
    if not text or text[0].isalnum():  # most cells, and quicker to tell
        return text
    return GUARD + text if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """The text of which `guarded` made this one; any other text as it is."""
    return text[1:] if text.startswith(GUARD) and _FORMULA.match(text) else text


# How a spreadsheet writes a number that it shortened: 1.23E+05, in a CSV that it saved; it keeps fifteen digits at most
_SHORTENED = re.compile(r"[+-]?\d(?:[.,]\d+)?[eE]\+?\d+", re.ASCII)
_ROUNDED = re.compile(r"\d{15}0+", re.ASCII)
FEWEST = 5  # values from which zeros at the end of all long ones are no chance


def lost_digits(values: Sequence[str]) -> list[int]:
    """Where in a column of ids a spreadsheet has put numbers whose digits are lost: 1.23E+05, or all long ones end in zeros.

    Excel takes an id of digits for a number, shows a long one as 1.23E+05, and sets its digits after the fifteenth to 0.
    """
    shortened = [i for i, text in enumerate(values) if _SHORTENED.fullmatch(text)]
    long = [i for i, text in enumerate(values) if len(text) > 15 and text.isdigit()]
    rounded = [i for i in long if _ROUNDED.fullmatch(values[i])]
    different = len({values[i] for i in rounded})
    return sorted([*shortened, *(rounded if len(rounded) == len(long) and different >= FEWEST else [])])
