"""Rows of publishers' tables: plain and packed, with the lines they stand in; damaged ones are named."""

import gzip
import zipfile

import pytest

from mrm.system.errors import RecordError
from mrm.system.table_rows import find_table, read_table


def test_tables_are_read_plain_and_packed(tmp_path):
    text = b'\xef\xbb\xbfname, label\na, 1 \n"b, c",0\n'
    (tmp_path / "a.csv").write_bytes(text)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "c.csv.zip", "w") as archive:
        archive.writestr("c.csv", text)
    for name in ("a.csv", "b.csv", "c.csv"):
        rows = read_table(find_table(tmp_path, name), ("name", "label"))
        assert [(r["name"], r["label"], r.line) for r in rows] == [("a", "1", 2), ("b, c", "0", 3)]


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"\x1f\x8b" + b[5:], lambda b: b"text"])
def test_a_damaged_archive_is_named(tmp_path, damage):
    (tmp_path / "a.csv.gz").write_bytes(damage(gzip.compress(b"name,label\n" * 99)))
    (tmp_path / "a.csv.zip").write_bytes(b"PK")
    for name in ("a.csv.gz", "a.csv.zip"):
        with pytest.raises(RecordError, match=r"damaged archive"):
            read_table(tmp_path / name, ("name",))


def test_bytes_that_are_not_utf8_are_read_as_windows_1252(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"name,label\nM\xe9xico,1\n")
    with pytest.warns(UserWarning, match=r"a\.csv: read as Windows-1252, separated by commas"):
        assert read_table(tmp_path / "a.csv", ("name",))[0]["name"] == "México"


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("Path,Effusion,Effusion,,\na,1,0,,\n")
    with pytest.raises(RecordError, match="several columns are called Effusion"):
        read_table(tmp_path / "t.csv", ("Path",))
