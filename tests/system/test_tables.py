"""Tables come back as they were written; what is packed is unpacked; what is damaged is named."""

import gzip
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mrm.system import csv_tables
from mrm.system.errors import RecordError
from mrm.system.files import write_csv, write_whole
from mrm.system.table_files import write_parquet
from mrm.system.table_form import TableForm, check_header
from mrm.system.tables import open_table, read_csv_rows, read_parquet_rows, read_rows, stated
from mrm.system.text_files import read_text

CELL = st.text(max_size=20).map(str.strip)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELL.filter(bool), CELL), max_size=5))
@pytest.mark.parametrize(("write", "read"), [(write_csv, read_csv_rows), (write_parquet, read_parquet_rows)])
def test_a_table_comes_back_as_it_was_written(tmp_path, write, read, rows):
    header, again = read(write(tmp_path / "table", {"name": str, "a, b": str}, rows))
    assert header == ["name", "a, b"]
    assert [tuple(fields) for _, fields in again] == rows


def test_lines_are_numbered_where_they_begin(tmp_path):
    path = write_whole(tmp_path / "t.csv", b'a,b\n1,"two\nlines"\n\n3,4\n')
    assert list(read_csv_rows(path)[1]) == [(2, ["1", "two\nlines"]), (5, ["3", "4"])]


def zipped(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_packed_table_is_read_as_a_plain_one(tmp_path):
    text = b"a,b\n1,2\n"
    for path in (
        write_whole(tmp_path / "t.csv", text),
        write_whole(tmp_path / "t.csv.gz", gzip.compress(text)),
        zipped(tmp_path / "t.zip", table=text),
    ):
        header, rows = read_csv_rows(path)
        assert (header, list(rows)) == (["a", "b"], [(2, ["1", "2"])])


def test_an_archive_that_is_damaged_or_holds_several_files_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"t\.csv\.gz: damaged archive .*; download it again"):
        read_csv_rows(write_whole(tmp_path / "t.csv.gz", gzip.compress(b"a,b\n1,2\n")[:-9]))
    with pytest.raises(RecordError, match=r"t\.zip: damaged archive"):
        read_csv_rows(write_whole(tmp_path / "t.zip", b"PK but not really"))
    with pytest.raises(RecordError, match=r"two\.zip: expected one table, found 2 files; unpack"):
        read_csv_rows(zipped(tmp_path / "two.zip", a=b"a\n", b=b"b\n"))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "new" / "labels.csv", b"old")

    def full(self, content):
        self.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert [p.name for p in path.parent.iterdir()] == ["labels.csv"]
    assert path.read_bytes() == b"old"


def test_rows_that_end_with_an_error_leave_the_old_table_and_nothing_else(tmp_path):
    path = write_whole(tmp_path / "new" / "labels.csv", b"old")

    def rows():
        yield ["a"]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_csv(path, ["name"], rows())
    assert [p.name for p in path.parent.iterdir()] == ["labels.csv"]
    assert path.read_bytes() == b"old"


# Forms of text --------------------------------------------------------------------------------------------

TEXT = "name,Größe\nä,1\n"
ROWS = (["name", "Größe"], [(2, ["ä", "1"])])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_table_is_read_in_every_form_of_unicode(tmp_path, encoding):
    path = write_whole(tmp_path / "t.csv", TEXT.encode(encoding))
    header, rows = read_rows(path)
    assert (header, list(rows)) == ROWS
    assert read_text(path).removeprefix("\ufeff") == TEXT


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_columns_may_be_separated_by_other_marks_as_the_header_shows(tmp_path, mark):
    text = f'image_path{mark}note{mark}dose\na.png{mark}"one{mark} two, three"{mark}0,5\n'
    header, rows = read_csv_rows(write_whole(tmp_path / "t.csv", text.encode()))
    assert header == ["image_path", "note", "dose"]
    assert list(rows) == [(2, ["a.png", f"one{mark} two, three", "0,5"])]


def test_excels_line_that_names_the_separator_is_no_header_and_lines_keep_their_numbers(tmp_path):
    header, rows = read_csv_rows(write_whole(tmp_path / "t.csv", b"\xef\xbb\xbfsep=;\r\na;b\r\n1;2\r\n"))
    assert (header, list(rows)) == (["a", "b"], [(3, ["1", "2"])])


def test_a_semicolon_in_a_table_with_commas_separates_nothing(tmp_path):
    header, rows = read_csv_rows(write_whole(tmp_path / "t.csv", b'name,"a;b;c"\nx,"1;2"\n'))
    assert (header, list(rows)) == (["name", "a;b;c"], [(2, ["x", "1;2"])])


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize(
    ("mark", "marks"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs"), ("|", "upright bars")]
)
def test_windows_1252_is_found_out_and_said_with_what_separates_the_columns(tmp_path, encoding, mark, marks):
    text = (
        mark.join(["Größe", "Befund"])
        + "\n"
        + mark.join(["5", "l'œdème, à 39°C" if encoding == "cp1252" else "fièvre, 39°C"])
    )
    path = write_whole(tmp_path / "labels.csv", text.replace(", ", " " if mark == "," else ", ").encode(encoding))
    with pytest.warns(UserWarning, match=rf"labels\.csv: read as Windows-1252, separated by {marks}$"):
        header, rows = read_rows(path)
    assert header == ["Größe", "Befund"]
    assert [(number, mark.join(fields)) for number, fields in rows] == [
        (2, text.partition("\n")[2].replace(", ", " " if mark == "," else ", "))
    ]


def test_a_form_that_was_found_out_reads_the_same_again_without_a_warning(tmp_path, recwarn):
    path = write_whole(tmp_path / "t.csv", "Größe;Befund\n5;ja\n".encode("cp1252"))
    table = open_table(path)
    assert table.form == TableForm("windows-1252", "semicolon")
    again = open_table(path, table.form)
    assert (again.header, list(again.rows), again.doubts) == (["Größe", "Befund"], [(2, ["5", "ja"])], ())


@pytest.mark.parametrize(
    ("text", "encoding", "proposed"),
    [
        ("Größe;Befund\nÖdem;Überwässerung\n", "cp850", r"cp850 \(DOS\): 'Größe'"),
        ("Größe;Befund\nÖdem;Überwässerung\n", "mac-roman", r"mac-roman \(Mac\): 'Größe'"),
        ("Płuca;Opłucna\nwysięk;cień\n", "cp1250", r"cp1250 \(Central Europe\): 'Płuca'"),
        ("Пневмония;выпот\nда;нет\n", "cp1251", r"cp1251 \(Cyrillic\): 'Пневмония'"),
        ("肺炎;结果\n是;否\n", "gb18030", r"gb18030 \(China\): '肺炎'"),
    ],
)
def test_an_encoding_that_fits_no_guess_is_refused_with_what_the_first_word_would_be(
    tmp_path, text, encoding, proposed
):
    path = write_whole(tmp_path / "t.csv", text.encode(encoding))
    with pytest.raises(
        RecordError, match=rf"t\.csv: neither UTF-8 nor Windows-1252 \(first on line 1\).*{proposed}.*--encoding"
    ):
        read_rows(path)
    assert open_table(path, TableForm(encoding=encoding)).header == text.partition("\n")[0].split(";")


def test_a_stated_encoding_that_does_not_exist_or_does_not_fit_is_refused(tmp_path):
    for name in ("utf-9", "base64", "\0"):
        with pytest.raises(RecordError, match=r"unknown encoding .*; choose one such as utf-8"):
            TableForm(encoding=name)
    path = write_whole(tmp_path / "t.csv", b"a;b\n1;\x812\n")
    with pytest.raises(
        RecordError, match=r"has bytes that are not Windows-1252 \(first on line 2\), though --encoding"
    ):
        read_rows(path, TableForm(encoding="windows-1252"))


def test_some_damaged_bytes_do_not_turn_utf8_into_another_encoding(tmp_path):
    path = write_whole(tmp_path / "t.csv", "name\nGröße\nÖdem\nübe".encode() + b"\xc3\n")
    with pytest.warns(UserWarning, match=r"1 bytes are not UTF-8 \(first on line 4\); they are shown as \ufffd"):
        assert [fields for _, fields in read_rows(path)[1]] == [["Größe"], ["Ödem"], ["übe\ufffd"]]


def test_a_stated_delimiter_is_used_and_one_that_the_header_lacks_is_refused(tmp_path):
    path = write_whole(tmp_path / "t.csv", b"a;b,c\n1;2,3\n")
    assert read_rows(path, TableForm(delimiter="semicolon"))[0] == ["a", "b,c"]
    assert read_rows(path, TableForm(delimiter=";"))[0] == ["a", "b,c"]
    assert read_rows(path, TableForm(delimiter="comma"))[0] == ["a;b", "c"]
    with pytest.raises(
        RecordError, match="its first line has no tab, though --delimiter names it; the line has comma and semi"
    ):
        read_rows(path, TableForm(delimiter="tab"))
    with pytest.raises(RecordError, match="unknown delimiter 'ab'; choose from comma, semicolon, tab, bar"):
        TableForm(delimiter="ab")


def test_a_comma_within_the_names_of_a_table_with_semicolons_separates_nothing(tmp_path):
    text = "Name, first name;Born;TB\nMüller, Eva;1950;1\nSanz;1960;0,5, or 1\n"
    assert read_rows(write_whole(tmp_path / "t.csv", text.encode()))[0] == ["Name, first name", "Born", "TB"]


def test_empty_rows_and_columns_at_the_end_are_left_out(tmp_path):
    path = write_whole(tmp_path / "t.csv", b"a;b\n1;2;;;\n3;4\n;;;;\n;\n\n")
    assert list(read_rows(path)[1]) == [(2, ["1", "2"]), (3, ["3", "4"])]


# Headers of several lines ---------------------------------------------------------------------------------


def test_the_lines_of_a_header_may_be_stated(tmp_path):
    path = write_whole(tmp_path / "t.csv", b"Export of 2024\nPatient;;CRP\nID;Age;mg/l\np1;50;1,5\n")
    header, rows = read_rows(path, TableForm(delimiter=";", header_lines="2-3"))
    assert header == ["Patient ID", "Age", "CRP mg/l"]
    assert list(rows) == [(4, ["p1", "50", "1,5"])]
    assert read_rows(path, TableForm(delimiter=";", header_lines="3"))[0] == ["ID", "Age", "mg/l"]
    with pytest.raises(RecordError, match="--header-lines 9: there is no text; the table ends before"):
        read_rows(path, TableForm(header_lines="9"))
    with pytest.raises(RecordError, match="header lines '2-1': give the line with the names of the columns"):
        TableForm(header_lines="2-1")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["id;CRP;report", ";mg/l;", "1;0,5;clear", "2;12;clear", "3;1,2;clear"], "'mg/l' in column CRP, where other"),
        (["Patient;;", "ID;TB;report", "a;ja;clear", "b;nein;clear", "c;nein;"], "column 2 has no name in the first"),
    ],
)
def test_a_header_of_two_lines_is_recognised_and_how_to_state_it_is_said(tmp_path, lines, reason):
    header, rows = read_rows(write_whole(tmp_path / "t.csv", "\n".join(lines).encode()))
    with pytest.raises(RecordError, match=rf"seem to be a header of two lines \({reason}.*--header-lines 1-2 if both"):
        check_header(tmp_path / "t.csv", header, list(rows))


def test_a_header_of_one_line_is_left_alone(tmp_path):
    for lines in (
        ["id;CRP;report", "1;;clear", "2;12;clear", "3;1,2;clear"],
        ["id;CRP;report", "1;not measured;clear", "2;12;clear", "3;1,2;clear"],
        [";TB;report", "a;ja;clear", "b;nein;clear", "a;ja;clear"],
    ):
        header, rows = read_rows(write_whole(tmp_path / "t.csv", "\n".join(lines).encode()))
        check_header(tmp_path / "t.csv", header, list(rows))


# Files that are no tables ---------------------------------------------------------------------------------

SIZE = 200_000_000


@pytest.mark.parametrize(("head", "most"), [(b"", 20e6), pytest.param(b"a,b\n", 2.5 * SIZE, marks=pytest.mark.slow)])
def test_200_megabytes_of_one_line_are_refused_in_bounded_time_and_memory(tmp_path, head, most):
    path = tmp_path / "t.csv"
    with open(path, "wb") as file:
        file.write(head)
        for _ in range(SIZE // 1_000_000):
            file.write(b"1," * 500_000)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(
        RecordError, match=r"t\.csv: (its first line has more than 4,000,000 bytes|line 2 has 200,000,000 char)"
    ):
        list(read_rows(path)[1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < most
    assert time.perf_counter() - start < 60


def test_a_cell_of_more_characters_than_any_report_has_is_refused_with_its_line(tmp_path):
    path = write_whole(tmp_path / "t.csv", b'a,b\n1,2\n3,"' + b"word\n" * 2_100_000 + b'"\n')
    with pytest.raises(
        RecordError, match=r"t\.csv: line 3: a cell has more than 10,000,000 characters; is a quote opened"
    ):
        list(read_rows(path)[1])


# Words for missing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    [
        *("", "  ", "nan", "NaN", "None", "NA", "-", "n/a", "N/A", "<NA>", "NaT", "null", "NULL", "#N/A", "\\N"),
        *("--", "–", "?", ".", "unknown", " Unknown ", "\xa0", "\u200b", "\ufeffnan"),
    ],
)
def test_a_word_for_missing_is_an_empty_cell(word):
    assert stated(word) == ""


@pytest.mark.parametrize("text", ["0", "Nana", "P-1", "none seen", "NAD", "-1", "No Finding", "a.b", "U"])
def test_other_words_are_what_they_say(text):
    assert stated(f" {text} ") == text


def test_an_encrypted_archive_is_named(tmp_path):
    path = zipped(tmp_path / "t.zip", table=b"image_path\nx\n")
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(signature) + at] |= 1  # the flag of encryption in both headers (APPNOTE 4.4.4)
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"t\.zip: encrypted; unpack it with its password"):
        read_csv_rows(path)


def test_an_archive_packed_by_an_unknown_method_is_named(tmp_path):
    path = zipped(tmp_path / "t.zip", table=b"image_path\nx\n")
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.find(signature) + at] = 99
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"t\.zip: damaged archive .*; download it again"):
        read_csv_rows(path)


def test_parquet_with_bytes_that_are_not_utf8_is_named(tmp_path):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "t.parquet"
    raw = pyarrow.array([b"x.png", b"\xff\xfe.png"])
    text = pyarrow.Array.from_buffers(pyarrow.string(), 2, raw.buffers())  # says that it is UTF-8, and is not
    pyarrow.parquet.write_table(pyarrow.table({"image_path": text}), path)
    header, rows = read_parquet_rows(path)
    assert header == ["image_path"]
    with pytest.raises(RecordError, match=r"t\.parquet: .*text that is not UTF-8 .*; write it again"):
        list(rows)


def test_parquet_of_every_type_is_read_as_text(tmp_path):
    import datetime

    import pyarrow
    import pyarrow.parquet

    columns = {
        "text": ["a", None],
        "whole": [1, None],
        "number": [0.5, float("nan")],
        "truth": [True, False],
        "day": [datetime.date(2024, 5, 31), None],
        "category": pyarrow.array(["x", "y"]).dictionary_encode(),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    header, rows = read_parquet_rows(tmp_path / "t.parquet")
    assert header == list(columns)
    assert list(rows) == [
        (1, ["a", "1", "0.5", "True", "2024-05-31", "x"]),
        (2, ["", "", "", "False", "", "y"]),
    ]


def test_a_limit_that_is_raised_lets_a_table_through(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "t.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 700_000))
    monkeypatch.setenv("MRM_MAX_UNPACKED_MB", "1")
    with pytest.raises(RecordError, match=r"t\.csv\.gz: .* bytes unpack to more than 1 MiB; .* MRM_MAX_UNPACKED_MB"):
        read_csv_rows(path)
    monkeypatch.setenv("MRM_MAX_UNPACKED_MB", "3")
    assert sum(1 for _ in read_csv_rows(path)[1]) == 700_000


def test_a_column_of_lists_is_named(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"image_path": ["x"], "boxes": [[1, 2]]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(RecordError, match=r"t\.parquet: .*the column boxes holds lists; write them as text"):
        read_parquet_rows(tmp_path / "t.parquet")


def test_a_first_line_that_is_no_header_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"t\.csv: its first line has 1,000,002 characters; a table with a header"):
        read_csv_rows(write_whole(tmp_path / "t.csv", b"a" * 1_000_001 + b"\n1\n"))


# Large files --------------------------------------------------------------------------------------------


def outcome(path: Path, form: TableForm) -> object:
    """All that reading a table gives, or the error."""
    try:
        table = open_table(path, form)
        return table.header, list(table.rows), table.form, table.how, table.doubts
    except RecordError as error:
        return str(error)


PIECES = st.sampled_from(
    [",", ";", '"', '""', "\n", "\r\n", "\r", " ", "a", "7", "é", "心", "\ufeff", "\x00", "'=1", "sep=;\n"]
)
FORMS = [TableForm(), TableForm(delimiter="comma"), TableForm(header_lines="2"), TableForm(encoding="utf-8")]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(text="a,b\r1,2\r\n3,4", form=FORMS[0], raw=b"")
@example(text="\ufeffa,b\n1,2\n", form=FORMS[3], raw=b"")
@example(text="a,b\n1,2\n", form=FORMS[0], raw=b"\xe9\n")
@example(text="\n\nsep=;\na;b\n1;2\n", form=FORMS[0], raw=b"")
@given(
    text=st.lists(PIECES, max_size=25).map("".join), form=st.sampled_from(FORMS), raw=st.sampled_from([b"", b"\xe9"])
)
def test_a_file_that_is_read_a_part_at_a_time_is_the_table_that_it_is_as_a_whole(tmp_path, text, form, raw):
    path = write_whole(tmp_path / "t.csv", text.encode() + raw)
    with pytest.MonkeyPatch.context() as patch:
        whole = outcome(path, form)
        patch.setattr(csv_tables, "STREAMED", 0)
        patch.setattr(csv_tables, "BEGINNING", 1000)
        assert outcome(path, form) == whole


def test_a_large_file_takes_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_tables, "STREAMED", 1 << 20)
    monkeypatch.setattr(csv_tables, "BEGINNING", 1 << 16)
    path = write_whole(
        tmp_path / "t.csv", b"image_path,report_content\n" + b'a.png,"no\n%s"\n' % (b"finding " * 20) * 40_000
    )
    tracemalloc.start()
    count = sum(1 for _ in read_rows(path)[1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 40_000
    assert peak < 1e6 < path.stat().st_size / 5


def test_a_line_of_a_large_file_that_is_too_long_is_named_with_its_length(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_tables, "LONGEST_LINE", 50)
    path = write_whole(tmp_path / "t.csv", b"a,b\n1,2\n" + b"3" * 130 + b"\n4,5\n")
    whole = outcome(path, TableForm())
    monkeypatch.setattr(csv_tables, "STREAMED", 0)
    assert outcome(path, TableForm()) == whole == f"{path}: line 3 has 131 characters; a line of a table has at most 50"
