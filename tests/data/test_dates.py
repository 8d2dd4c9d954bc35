"""Dates in the forms of people and systems become days; a form that leaves two days open is refused."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrm.data.dates import EXCEL_START, day_of, problems, read_dates
from mrm.system.errors import RecordError

TODAY = date(2026, 6, 30)
THE_31ST = date(2024, 1, 31)


def read(*cells: str, **options):
    return read_dates(cells, "labels.csv, column Datum", today=TODAY, **options)


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-31", "2024/1/31", "2024.01.31", "2024-01-31T14:05:00", "2024-01-31 14:05:00.123", "2024-01-31T14:05Z",
        "2024-01-31T14:05:00+01:00", "20240131", "20240131140500", "20240131140500.123456+0100", "31.01.2024", "31.1.2024",
        "31.01.24", "31/01/2024", "31-01-2024", "01/31/2024", "1/31/24", "01/31/2024 2:05 PM", "31.01.2024 14:05 Uhr",
        "31.01.2024, 14:05", "31 Jan 2024", "31-Jan-2024", "31JAN2024", "31 January 2024", "January 31, 2024", "Jan 31 2024",
        "31. Januar 2024", "31 janvier 2024", "31 janv. 2024", "31 de enero de 2024", "31st of January 2024", "45322", "45322.58",
        " 2024-01-31 ",
    ],
)  # fmt: skip
def test_common_forms_of_a_day_are_read(text):
    assert read(text).days == (THE_31ST,)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("5. März 2024", date(2024, 3, 5)),
        ("5 Mar 2024", date(2024, 3, 5)),
        ("5 févr. 2024", date(2024, 2, 5)),
        ("14 août 2023", date(2023, 8, 14)),
        ("1er mai 2023", date(2023, 5, 1)),
        ("24. Dez. 2023", date(2023, 12, 24)),
        ("3 de setiembre de 2023", date(2023, 9, 3)),
        ("7 juin 2023", date(2023, 6, 7)),
        ("7 juil. 2023", date(2023, 7, 7)),
    ],
)
def test_months_have_their_names_in_four_languages(text, day):
    assert read(text).days == (day,)


@pytest.mark.parametrize(
    "text",
    ["2024-02-30", "31.04.2024", "20241301", "jui 2024", "7 jui 2023", "soon", "4532", "123456", "1899-12-31", "12"],
)
def test_what_is_no_day_is_not_understood(text):
    column = read(text, "2024-01-31")
    assert column.days == (None, THE_31ST)
    assert column.not_understood == (0,)


def test_empty_cells_are_no_dates_and_no_errors():
    column = read("", "n/a", "2024-01-31")
    assert (column.days, column.not_understood) == ((None, None, THE_31ST), ())
    assert column.iso() == ["", "", "2024-01-31"]


def test_one_row_decides_for_all_others():
    assert read("03/04/2024", "31/01/2024").days[0] == date(2024, 4, 3)
    assert read("03/04/2024", "01/31/2024").days[0] == date(2024, 3, 4)
    assert "day first" in read("03/04/2024", "31/01/2024").form


def test_dots_mean_that_the_day_comes_first_unless_a_row_has_it_otherwise():
    assert read("03.04.2024").days == (date(2024, 4, 3),)
    assert read("03.04.2024", "01.31.2024").days[0] == date(2024, 3, 4)


def test_a_date_that_is_the_same_in_both_orders_needs_none():
    assert read("05/05/2024").days == (date(2024, 5, 5),)


@pytest.mark.parametrize("cells", [("03/04/2024", "05/06/2024"), ("03-04-2024",), ("3/4/24", "")])
def test_a_column_in_which_no_row_decides_is_refused_until_the_order_is_given(cells):
    message = (
        rf"labels\.csv, column Datum: {sum(map(bool, cells))} dates such as {cells[0]} \(line 1\) may have the day or the month "
        "first, and no other date tells; give --date-order day-first or month-first"
    )
    with pytest.raises(RecordError, match=message):
        read(*cells)
    assert read(*cells, order="day-first").days[0] == date(2024, 4, 3)
    assert read(*cells, order="month-first").days[0] == date(2024, 3, 4)


def test_rows_that_contradict_each_other_are_named_with_their_lines():
    cells = ("31/01/2024", "03/04/2024", "01/31/2024")
    with pytest.raises(RecordError, match=r"31/01/2024 \(line 2\) has the day first, 01/31/2024 \(line 9\) the month"):
        read(*cells, lines=(2, 5, 9))
    column = read(*cells, order="month-first")
    assert (column.days[1:], column.not_understood) == ((date(2024, 3, 4), THE_31ST), (0,))


def test_dates_in_the_future_are_not_taken_and_are_named():
    cells = ("2026-07-01", "2026-07-02", "2027-01-01", "n/a", "nonsense")
    column = read(*cells)
    assert column.days == (date(2026, 7, 1), None, None, None, None)  # it may be tomorrow in another time zone
    assert problems(column, cells, "labels.csv, column Datum", range(2, 7)) == [
        "labels.csv, column Datum: 1 dates are not understood (line 6: nonsense)",
        "labels.csv, column Datum: 2 dates are in the future, and count as not stated (line 3: 2026-07-02, line 4: 2027-01-01)",
    ]


def test_a_year_of_two_digits_is_the_latest_that_is_not_in_the_future():
    assert read("31.01.26", "31.01.27").days == (date(2026, 1, 31), date(1927, 1, 31))


def test_numbers_of_excel_are_said_to_be_read_as_such():
    assert read("45322", "45323").form == "Excel's day numbers"


@given(st.dates(date(1930, 1, 1), date(2026, 6, 30)))
def test_every_day_survives_every_form(day):
    """Formats written by the standard library; the number of Excel counts from 30 December 1899."""
    forms = ("%Y-%m-%d", "%Y%m%d", "%Y%m%d%H%M%S", "%d.%m.%Y", "%d %b %Y", "%B %d, %Y")
    for text in [day.strftime(form) for form in forms] + [str((day - EXCEL_START).days)]:
        assert read(text).days == (day,), text
    for form, order in (("%d/%m/%Y", "day-first"), ("%m/%d/%Y", "month-first"), ("%d-%m-%Y", "day-first")):
        assert read(day.strftime(form), order=order).days == (day,)


@given(st.text(max_size=30))
def test_no_text_ends_the_reading(text):
    column = read(text, order="day-first")
    assert len(column.days) == 1
    assert column.days[0] is None or column.days[0] <= TODAY + timedelta(days=1)


def test_only_forms_without_order_are_read_alone():
    assert [day_of(t) for t in ("20240131", "2024-01-31", "20240131140500.0+0100", "31.01.2024", "", "2024-13-01")] == [
        THE_31ST, THE_31ST, THE_31ST, None, None, None,
    ]  # fmt: skip
