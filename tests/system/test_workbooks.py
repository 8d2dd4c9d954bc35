"""Workbooks of Excel and LibreOffice: ids stay ids, the sheet is named, damaged and locked files are refused in a sentence."""

import zipfile

import pytest

from mrm.data.records import Records
from mrm.system import unpacking
from mrm.system.errors import RecordError
from mrm.system.table_form import TableForm
from mrm.system.tables import open_table, read_rows
from tests.support.workbooks import Computed, Day, EightDigits, Failed, Formula, write_ods, write_xlsx

ROWS = [
    ["image_path", "patient_id", "report_content", "effusion", None],
    ["a.png", 1234567, "Clear & dry.\nNo effusion.", 0, None],
    [None, None, None, None, None],
    ["b.png", "P-2", None, True, None],
]
WRITERS = [("x.xlsx", write_xlsx), ("x.ods", write_ods)]


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_the_first_sheet_is_read_with_whole_numbers_truth_values_and_the_rows_numbers(tmp_path, name, write):
    header, rows = read_rows(write(tmp_path / name, {"Sheet1": ROWS}))
    assert header == ["image_path", "patient_id", "report_content", "effusion"]
    text = "Clear & dry.\nNo effusion."
    first, second = rows
    assert first[0] == 2
    assert first[1][:2] == ["a.png", "1234567"]
    assert first[1][2].split() == text.split()
    assert first[1][3] == "0"
    assert second == (4, ["b.png", "P-2", "", "1"])


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_records_come_from_a_workbook_whatever_its_name(tmp_path, name, write):
    for path in (tmp_path / name, tmp_path / "saved-under-another-name.csv"):
        records = Records.load(write(path, {"Sheet1": ROWS}), classes=["effusion"])
        assert [r.patient for r in records] == ["1234567", "P-2"]
        assert records.labels_NC.tolist() == [[0.0], [1.0]]
        assert records[0].image == tmp_path / "a.png"


def test_another_sheet_is_read_by_its_name_and_unread_sheets_are_named(tmp_path):
    path = write_xlsx(tmp_path / "x.xlsx", {"Empty": [], "Notes": [["hello"]], "Images": ROWS})
    assert read_rows(path, TableForm(sheet="Images"))[0][0] == "image_path"
    with pytest.warns(UserWarning, match="the sheet Notes is read, and not Images"):
        assert read_rows(path)[0] == ["hello"]
    with pytest.raises(RecordError, match="no sheet 'images'; choose from Empty, Notes, Images"):
        read_rows(path, TableForm(sheet="images"))
    with pytest.raises(RecordError, match="the sheet Empty is empty; name another with --sheet"):
        read_rows(path, TableForm(sheet="Empty"))


def test_a_date_is_a_date_and_a_large_number_keeps_its_digits(tmp_path):
    rows = [["day", "accession", "dose"], [Day(45443), 123456789012, 0.25]]
    header, lines = read_rows(write_xlsx(tmp_path / "x.xlsx", {"s": rows}))
    assert header == ["day", "accession", "dose"]
    assert list(lines) == [(2, ["2024-05-31", "123456789012", "0.25"])]  # day 45,443 of Excel is the 31st of May 2024


@pytest.mark.parametrize("content", [b"PK\x03\x04 cut off", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)])
def test_a_damaged_or_locked_workbook_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "x.xlsx").write_bytes(content)
    with pytest.raises(
        RecordError, match=r"x\.xlsx: cannot be read as a workbook .*; save it again without a password"
    ):
        read_rows(tmp_path / "x.xlsx")


def test_a_workbook_that_unpacks_to_more_than_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MRM_MAX_UNPACKED_MB", "1")
    monkeypatch.setattr(unpacking, "MIB", 100)
    monkeypatch.setattr(unpacking, "RATIO", 1)
    with pytest.raises(RecordError, match=r"bytes unpack to more than .* MRM_MAX_UNPACKED_MB"):
        read_rows(write_xlsx(tmp_path / "x.xlsx", {"s": ROWS}))


def test_a_table_without_sheets_refuses_a_sheet(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RecordError, match="has no sheets"):
        read_rows(tmp_path / "t.csv", TableForm(sheet="Sheet1"))


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_a_guarded_csv_that_a_spreadsheet_saved_as_a_workbook_comes_back_as_it_was(tmp_path, name, write):
    """The spreadsheet shows the apostrophe of the CSV as text, and saves it."""
    rows = [["image_path", "'=note"], ["a.png", "'- no effusion"], ["b.png", "'=1+1"]]
    write(tmp_path / name, {"Sheet1": rows})
    header, rows = read_rows(tmp_path / name)
    assert header == ["image_path", "=note"]
    assert [fields for _, fields in rows] == [["a.png", "- no effusion"], ["b.png", "=1+1"]]


@pytest.mark.parametrize(
    ("write", "part", "old", "new"),
    [
        (write_xlsx, "xl/worksheets/sheet1.xml", b'r="B2"', b'r="XFD1048576"'),
        (
            write_ods,
            "content.xml",
            b"<table:table-cell ",
            b'<table:table-cell table:number-columns-repeated="9000000" ',
        ),
        (write_ods, "content.xml", b"<table:table-row>", b'<table:table-row table:number-rows-repeated="9000000">'),
    ],
)
def test_cells_in_far_corners_do_not_fill_the_memory(tmp_path, write, part, old, new):
    plain = write(tmp_path / "plain", {"s": [["image_path", "a"], ["x", 1]]})
    path = tmp_path / "far.xlsx"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            assert info.filename != part or old in content
            target.writestr(info.filename, content.replace(old, new, 1) if info.filename == part else content)
    with pytest.raises(
        RecordError, match=r"far\.xlsx: .* reaches over [\d,]+ rows and [\d,]+ columns, most of them empty"
    ):
        read_rows(path)


# What spreadsheets do to tables ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_the_error_of_a_formula_is_text_and_its_cell_is_named(tmp_path, name, write):
    """calamine alone reads such a cell as empty, as if nothing were stated."""
    rows = [["image_path", "effusion"], ["a.png", 1], ["b.png", Failed("#REF!")], ["c.png", Failed("#DIV/0!")]]
    path = write(tmp_path / name, {"s": rows})
    with pytest.warns(UserWarning, match=r"2 cells hold the error of a formula \(first #REF! in B3\)"):
        _, lines = read_rows(path)
    assert [fields[1] for _, fields in lines] == ["1", "#REF!", "#DIV/0!"]


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_a_formula_that_was_never_computed_is_refused_and_its_cell_named(tmp_path, name, write):
    rows = [["image_path", "effusion"], ["a.png", Formula("1+1")]]
    with pytest.raises(
        RecordError, match=r"the formula in B2 has no value, as it was never computed .*; open the workbook"
    ):
        read_rows(write(tmp_path / name, {"s": rows}))


def test_a_formula_has_the_value_that_the_spreadsheet_saved(tmp_path):
    rows = [["image_path", "effusion"], ["a.png", Computed(1)]]
    assert list(read_rows(write_xlsx(tmp_path / "x.xlsx", {"s": rows}))[1]) == [(2, ["a.png", "1"])]


def test_numbers_keep_the_leading_zeros_that_their_format_shows(tmp_path):
    rows = [["patient_id", "age"], [EightDigits(1234), 1234]]
    assert list(read_rows(write_xlsx(tmp_path / "x.xlsx", {"s": rows}))[1]) == [(2, ["00001234", "1234"])]


GROUPS = [["Patient", None, "Finding"], ["ID", "Age", "TB"], ["p1", 50, 1]]


def test_merged_cells_of_a_header_are_refused_and_named_until_the_lines_of_the_header_are_stated(tmp_path):
    path = write_xlsx(tmp_path / "x.xlsx", {"s": GROUPS}, merged=["A1:B1"])
    with pytest.raises(
        RecordError, match=r"x\.xlsx: the header cells A1:B1 are merged \('Patient'\).*--header-lines 1-2"
    ):
        read_rows(path)
    header, rows = read_rows(path, TableForm(header_lines="1-2"))
    assert header == ["Patient ID", "Patient Age", "Finding TB"]
    assert list(rows) == [(3, ["p1", "50", "1"])]
    assert read_rows(path, TableForm(header_lines="2"))[0] == ["ID", "Age", "TB"]


def test_merged_cells_of_a_header_of_libreoffice_are_refused_and_named(tmp_path):
    path = write_ods(tmp_path / "x.ods", {"s": [["merged: patient", "TB"], ["p1", 50, 1]]})
    with pytest.raises(RecordError, match=r"x\.ods: the header cells A1:B1 are merged"):
        read_rows(path)


def test_rows_that_share_a_merged_cell_are_refused_as_only_the_first_has_the_value(tmp_path):
    rows = [["patient_id", "image_path"], ["p1", "a.png"], [None, "b.png"]]
    with pytest.raises(RecordError, match=r"the cells A2:A3 are merged, so that only the first row has 'p1'; unmerge"):
        read_rows(write_xlsx(tmp_path / "x.xlsx", {"s": rows}, merged=["A2:A3"]))


def test_a_workbook_with_a_password_is_refused_with_what_to_do(tmp_path):
    ooxml = pytest.importorskip("msoffcrypto.format.ooxml")
    plain, locked = write_xlsx(tmp_path / "plain.xlsx", {"s": ROWS}), tmp_path / "locked.xlsx"
    with open(plain, "rb") as source, open(locked, "wb") as target:
        ooxml.OOXMLFile(source).encrypt("secret", target)
    with pytest.raises(RecordError, match=r"locked\.xlsx: protected by a password; open it with the password, remove"):
        read_rows(locked)


def test_a_table_of_libreoffice_with_a_password_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "locked.ods"
    with (
        zipfile.ZipFile(write_ods(tmp_path / "plain.ods", {"s": ROWS})) as source,
        zipfile.ZipFile(path, "w") as target,
    ):
        for info in source.infolist():
            content = source.read(info)
            if info.filename == "content.xml":
                content = bytes(255 - byte for byte in content)
            if info.filename.endswith("manifest.xml"):
                content = content.replace(b"/></", b"><manifest:encryption-data/></manifest:file-entry></")
            target.writestr(info.filename, content)
    with pytest.raises(RecordError, match=r"locked\.ods: protected by a password"):
        read_rows(path)


def test_how_a_workbook_was_read_is_said(tmp_path):
    table = open_table(write_xlsx(tmp_path / "x.xlsx", {"Images": ROWS}))
    assert (table.how, table.form) == ("sheet Images", TableForm(sheet="Images"))
    with pytest.raises(RecordError, match=r"x\.xlsx: a workbook has no encoding to state; leave out --encoding"):
        open_table(tmp_path / "x.xlsx", TableForm(encoding="utf-8"))
