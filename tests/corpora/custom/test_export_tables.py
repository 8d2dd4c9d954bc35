"""Tables of an export in any form: what was found out is said, what was stated is used, what a spreadsheet did is named."""

from pathlib import Path

import pytest

from mrm.corpora import prepare
from mrm.corpora.options import Options
from mrm.corpora.preparing import preview
from mrm.data.records import Records
from mrm.system.errors import RecordError
from tests.support.image_files import write_image
from tests.support.workbooks import Failed, write_xlsx

NONE = {"val": 0, "test": 0}


@pytest.fixture
def scans(tmp_path) -> Path:
    for n in range(30):
        write_image(tmp_path / "scans" / f"{n}.png", n)
    return tmp_path / "scans"


def labels(out: Path) -> list[float]:
    return Records.load(out / "records.csv", classes=["TB"]).labels_NC[:, 0].tolist()


def test_the_encoding_and_the_delimiter_that_were_found_out_are_in_the_first_line_of_the_preview(scans):
    lines = [f"{n}.png;Größe {n};{n % 2}" for n in range(30)]
    (scans / "t.csv").write_text("\n".join(["image_path;Befund;TB", *lines]), encoding="cp1252")
    text, _ = preview("custom", scans, Options(classes=("TB",)))
    assert text.splitlines()[0] == "t.csv: 30 rows, read as Windows-1252, separated by semicolons"


def test_a_table_of_dos_is_read_once_its_encoding_is_named_and_so_is_the_next_export(scans, tmp_path):
    lines = [f"{n}.png#Größe {n}#{n % 2}" for n in range(30)]
    (scans / "t.csv").write_text("\n".join(["image_path#Befund#TB", *lines]), encoding="cp850")
    with pytest.raises(RecordError, match=r"t\.csv: neither UTF-8 nor Windows-1252 .*cp850 \(DOS\): 'Größe'"):
        prepare("custom", scans, tmp_path / "out", Options(classes=("TB",), **NONE))
    options = Options(classes=("TB",), encoding="cp850", delimiter="#", **NONE)
    prepare("custom", scans, tmp_path / "out", options)
    assert Records.load(tmp_path / "out" / "records.csv")[3].report == "Größe 3"
    again = Options(config=tmp_path / "out" / "description.yaml", **NONE)
    prepare("custom", scans, tmp_path / "again", again)
    assert (tmp_path / "again" / "records.csv").read_text() == (tmp_path / "out" / "records.csv").read_text()


def test_a_header_of_two_lines_is_refused_until_its_lines_are_stated(scans, tmp_path):
    lines = [f"{n}.png;{n},5;{n % 2}" for n in range(30)]
    (scans / "t.csv").write_text("\n".join(["image_path;CRP;TB", ";mg/l;", *lines]))
    with pytest.raises(RecordError, match=r"line 1 and line 2 seem to be a header of two lines \('mg/l' in column CRP"):
        prepare("custom", scans, tmp_path / "out", Options(classes=("TB",), **NONE))
    prepare("custom", scans, tmp_path / "out", Options(classes=("TB",), header_lines="1-2", **NONE))
    assert labels(tmp_path / "out") == [0.0, 1.0] * 15


def test_the_error_of_a_formula_is_no_label_and_its_cell_is_named(scans, tmp_path):
    rows = [["image_path", "TB"], *([f"{n}.png", Failed("#REF!") if n == 4 else n % 2] for n in range(30))]
    write_xlsx(scans / "t.xlsx", {"Findings": rows})
    corpus = prepare("custom", scans, tmp_path / "out", Options(classes=("TB",), **NONE))
    assert len(labels(tmp_path / "out")) == 29
    assert "t.xlsx: 1 cells hold the error of a formula (first #REF! in B6)" in corpus.facts["notes"]
    assert "t.xlsx, line 6: '#REF!' in column TB" in (tmp_path / "out" / "excluded.csv").read_text()


def test_ids_that_excel_shortened_are_named_and_decimal_commas_of_ages_are_points(scans, tmp_path):
    lines = [f"{n}.png;{'1,23E+11' if n < 3 else 1000 + n};{50 + n},5;ja" for n in range(30)]
    (scans / "t.csv").write_text("\n".join(["image_path;patient_id;age;TB", *lines]))
    corpus = prepare("custom", scans, tmp_path / "out", Options(classes=("TB",), **NONE))
    lost = "t.csv: 3 values of patient_id have lost digits in a spreadsheet, such as 1,23E+11 (line 2)"
    assert any(note.startswith(lost) for note in corpus.facts["notes"])
    assert [r.extra["age"] for r in Records.load(tmp_path / "out" / "records.csv")][:2] == ["50.5", "51.5"]
