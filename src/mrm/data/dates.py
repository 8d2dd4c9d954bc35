"""Dates as people and systems write them, to days: a whole column at a time, because one row may decide for the others.

Understood are ISO 8601 (2024-01-31, also with / or . and with a time), DICOM (20240131, 20240131140500.000000+0100), day,
month and year in either order (31.01.2024, 01/31/2024, 31-01-24), months by name in English, German, French and Spanish
(31 Jan 2024, January 31, 2024, 31. Januar 2024, 31JAN2024), and Excel's day numbers (45322).

03/04/2024 may be 3 April or 4 March. The other rows of its column decide; if none does, the order must be given. With
dots the day comes first, unless a row of the column has it otherwise. A year of two digits is the latest that is not in
the future.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

from mrm.system.errors import RecordError
from mrm.system.tables import stated

DateOrder = Literal["day-first", "month-first"]
ORDERS: tuple[DateOrder, ...] = ("day-first", "month-first")
EXCEL_START = date(1899, 12, 30)  # day 0 of the workbooks that count from 1900, as nearly all do
EXCEL_DAYS = (10_000, 80_000)  # 1927 to 2119; other numbers are no dates
SHOWN = 3  # cells that a message names

_MONTHS = (  # English, German, French, Spanish, without accents
    "january januar janner jaenner janvier enero",
    "february februar feber fevrier febrero",
    "march marz maerz mrz mars marzo",
    "april avril abril",
    "may mai mayo",
    "june juni juin junio",
    "july juli juillet julio",
    "august aout agosto",
    "september septembre septiembre setiembre",
    "october oktober octobre octubre",
    "november novembre noviembre",
    "december dezember decembre diciembre",
)
_TIME = re.compile(
    r"(?:[T,]\s*|\s+)\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?\s*(?:[ap]\.?m\.?|uhr|h)?\s*(?:Z|UTC|[+-]\d{2}:?\d{2})?$", re.I
)
_ISO = re.compile(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})")
_DICOM = re.compile(r"(\d{4})(\d{2})(\d{2})(?:\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?(?:[+-]\d{4})?")
_NUMBERS = re.compile(r"(\d{1,2})\s*([-/. ])\s*(\d{1,2})\s*\2\s*(\d{4}|\d{2})")
_DAY_MONTH_NAME = re.compile(
    r"(\d{1,2})(?:st|nd|rd|th|er|\.)?[-/. ]*(?:de |of )?([a-z]+)\.?,?[-/. ]*(?:de |del )?(\d{4})"
)
_MONTH_NAME_DAY = re.compile(r"([a-z]+)\.?[-/. ]*(\d{1,2})(?:st|nd|rd|th)?,?[-/ ]+(\d{4})")
_EXCEL = re.compile(r"\d{5}(?:[.,]\d+)?")


@dataclass(frozen=True)
class DateColumn:
    """The days of a column, `None` where a cell is empty or was not understood, or is in the future."""

    days: tuple[date | None, ...]
    form: str  # how the column was read, in words; empty if it holds no date
    not_understood: tuple[int, ...] = ()  # the places of these cells
    future: tuple[int, ...] = ()  # and of dates that have not come yet

    def iso(self) -> list[str]:
        """The days as 2024-01-31, empty where there is none."""
        return [day.isoformat() if day else "" for day in self.days]


def day_of(text: str) -> date | None:
    """The day of a date in ISO 8601 or as DICOM writes it, which no order of day and month can change; else None."""
    plain = _TIME.sub("", stated(text))
    if match := _ISO.fullmatch(plain):
        return _day(match[1], match[3], match[4])
    if match := _DICOM.fullmatch(plain):
        return _day(match[1], match[2], match[3])
    return None


def looks_like_date(text: str) -> bool:
    """Whether a text is a date in some order. A bare number of days, as of Excel, does not look like one."""
    plain = _TIME.sub("", stated(text))
    numbers = _NUMBERS.fullmatch(plain)
    if numbers:
        return any(_by_order(numbers, date.today()).values())
    return not _EXCEL.fullmatch(plain) and _other_form(plain)[0] is not None


def read_dates(
    cells: Sequence[str],
    where: str,
    lines: Sequence[int] = (),
    order: DateOrder | None = None,
    today: date | None = None,
) -> DateColumn:
    """The days of a column of a table, which `where` names ("labels.csv, column Datum") and whose lines are numbered.

    Without `order` the column itself tells whether the day or the month comes first. Raises RecordError where no cell
    tells, or where two cells contradict each other.
    """
    today = today or date.today()
    lines = lines or range(1, len(cells) + 1)
    texts = [_TIME.sub("", stated(cell)) for cell in cells]
    numbers = {i: match for i, text in enumerate(texts) if (match := _NUMBERS.fullmatch(text))}
    chosen = order or _order_of(numbers, today, where, lines)
    days: list[date | None] = []
    forms = dict[str, None]()
    for i, text in enumerate(texts):
        if i in numbers:
            day, form = _by_order(numbers[i], today)[chosen], f"{chosen.replace('-', ' ')}, as {text}"
        else:
            day, form = _other_form(text)
        days.append(day)
        if day:
            forms.setdefault(form.split(",")[0], None)
    bad = tuple(i for i, text in enumerate(texts) if text and days[i] is None)
    late = today + timedelta(days=1)  # it may be tomorrow already where the images were taken
    future = tuple(i for i, day in enumerate(days) if day and day > late)
    kept = tuple(None if day and day > late else day for day in days)
    return DateColumn(kept, " and ".join(forms), bad, future)


def problems(column: DateColumn, cells: Sequence[str], where: str, lines: Sequence[int]) -> list[str]:
    """A sentence for the dates of a column that were not understood, and one for those in the future."""
    sentences = []
    for places, what in (
        (column.not_understood, "dates are not understood"),
        (column.future, "dates are in the future, and count as not stated"),
    ):
        if places:
            sentences.append(f"{where}: {len(places):,} {what} ({_some(places, cells, lines)})")
    return sentences


def _some(places: Sequence[int], cells: Sequence[str], lines: Sequence[int]) -> str:
    """`line 3: 31.02.2024, line 9: unknown, ...`"""
    some = [f"line {lines[i]}: {cells[i].strip()}" for i in places[:SHOWN]]
    return ", ".join(some) + (", ..." if len(places) > SHOWN else "")


# The order of day and month ---------------------------------------------------------------------------------


def _order_of(numbers: dict[int, re.Match[str]], today: date, where: str, lines: Sequence[int]) -> DateOrder:
    """Whether the day or the month comes first in the dates of a column. Raises RecordError if they do not tell."""
    deciding: dict[DateOrder, tuple[int, str]] = {}
    open_ones: list[tuple[int, str]] = []
    for i, match in numbers.items():
        by_order = _by_order(match, today)
        possible = [order for order in ORDERS if by_order[order]]
        if len(possible) == 1:
            deciding.setdefault(possible[0], (i, match[0]))
        elif len(possible) == 2 and by_order["day-first"] != by_order["month-first"]:
            open_ones.append((i, match[0]))
    if len(deciding) == 2:
        (day, day_text), (month, month_text) = deciding["day-first"], deciding["month-first"]
        raise RecordError(
            f"{where}: the dates contradict each other: {day_text} (line {lines[day]}) has the day first, {month_text} "
            f"(line {lines[month]}) the month; correct the table, or give --date-order {' or '.join(ORDERS)}, by which dates "
            "of the other order are not understood"
        )
    if deciding:
        return next(iter(deciding))
    dotted = all(numbers[i][2] == "." for i, _ in open_ones)
    if open_ones and not dotted:
        place, text = open_ones[0]
        raise RecordError(
            f"{where}: {len(open_ones):,} dates such as {text} (line {lines[place]}) may have the day or the month first, "
            f"and no other date tells; give --date-order {' or '.join(ORDERS)}"
        )
    return "day-first"


def _by_order(match: re.Match[str], today: date) -> dict[DateOrder, date | None]:
    """The day that numbers such as 03/04/2024 stand for, in both orders; None where there is no such day."""
    first, second, year = match[1], match[3], match[4]
    if len(year) == 2:
        century = today.year // 100 * 100
        year = str(century + int(year) - (100 if int(year) > today.year % 100 else 0))
    return {"day-first": _day(year, second, first), "month-first": _day(year, first, second)}


# Single cells -----------------------------------------------------------------------------------------------


def _other_form(text: str) -> tuple[date | None, str]:
    """The day of a text whose form leaves no doubt about the order, and the name of the form."""
    if day := day_of(text):
        return day, "year first"
    plain = _without_accents(text)
    if match := _DAY_MONTH_NAME.fullmatch(plain):
        return _named(match[3], match[2], match[1])
    if match := _MONTH_NAME_DAY.fullmatch(plain):
        return _named(match[3], match[1], match[2])
    if _EXCEL.fullmatch(text) and EXCEL_DAYS[0] <= (number := int(text[:5])) <= EXCEL_DAYS[1]:
        return EXCEL_START + timedelta(days=number), "Excel's day numbers"
    return None, ""


def _named(year: str, month: str, day: str) -> tuple[date | None, str]:
    number = _month(month)
    return (_day(year, str(number), day) if number else None), "months by name"


def _month(name: str) -> int:
    """The number of a month by its name or the beginning of it; 0 if it is none, or more than one."""
    fitting = {n for n, names in enumerate(_MONTHS, 1) if any(whole.startswith(name) for whole in names.split())}
    return fitting.pop() if len(fitting) == 1 and len(name) >= 3 else 0


def _without_accents(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _day(year: str, month: str, day: str) -> date | None:
    try:
        found = date(int(year), int(month), int(day))
    except ValueError:
        return None
    return found if found.year >= 1900 else None


def span(days: Iterable[date | None]) -> tuple[date, date] | None:
    """The first and the last day; None if there is none."""
    known = [day for day in days if day]
    return (min(known), max(known)) if known else None
