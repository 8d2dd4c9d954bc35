"""The description of an export: written by one preparation, taken back by the next."""

from pathlib import Path

import pytest

from mrm import runs
from mrm.corpora import Options, prepare
from mrm.corpora.custom import description
from mrm.data import header_index
from mrm.data.records import Records
from mrm.system.errors import ConfigError, RecordError
from tests.support import hospital_export
from tests.support.hospital_export import Form, write_table

COLUMNS = {"accession": "AccessionNumber", "report_content": "Befund"}


@pytest.fixture
def export(tmp_path) -> Path:
    """An archive with a table inside, whose columns no name tells."""
    images = hospital_export.write_archive(tmp_path / "november", studies=4)
    write_table(tmp_path / "november" / "ris.csv", images, Form())
    return tmp_path / "november"


def rows(out: Path) -> list[tuple[object, ...]]:
    records = Records.load(out / "records.csv", classes=("Pleuraerguss",))
    return [(r.name, r.report, r.patient, r.labels) for r in records]


def test_what_is_written_is_taken_back_and_makes_the_same_records(export, tmp_path):
    options = Options(columns={"patient_id": "CRP"}, classes=("Pleuraerguss",), val=0, test=0)
    prepare("custom", export, tmp_path / "a", options)
    file = tmp_path / "a" / "description.yaml"
    assert description.read(file).tables[0].columns == {**COLUMNS, "patient_id": "CRP"}
    prepare("custom", export, tmp_path / "b", Options(config=file, val=0, test=0))
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert (tmp_path / "b" / "description.yaml").read_bytes() == file.read_bytes()


def test_the_next_export_is_one_command_and_options_override_the_file(export, tmp_path):
    prepare("custom", export, tmp_path / "a", Options(classes=("Pleuraerguss",), val=0, test=0))
    file = tmp_path / "a" / "description.yaml"
    images = hospital_export.write_archive(tmp_path / "december", studies=5)
    write_table(tmp_path / "december" / "other.csv", images, Form(delimiter="|"))
    table = tmp_path / "december" / "other.csv"
    with pytest.raises(RecordError, match=r"--table .*december/ris\.csv: no such file"):
        prepare("custom", tmp_path / "december", tmp_path / "b", Options(config=file))
    prepare("custom", tmp_path / "december", tmp_path / "b", Options(config=file, table=(table,), val=0, test=0))
    assert len(rows(tmp_path / "b")) == 7
    written = description.read(tmp_path / "b" / "description.yaml")
    assert (written.tables[0].file, written.tables[0].columns) == ("other.csv", COLUMNS)
    with pytest.raises(RecordError, match="no column Pneumonie"):
        prepare("custom", export, tmp_path / "c", Options(config=file, classes=("Pneumonie",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("join_bye: accession", "unknown setting 'join_bye'; did you mean join_by?"),
        ("tables: [{file: a.csv, colums: {}}]", "unknown setting 'colums'; did you mean columns?"),
        ("tables: [{file: a.csv, columns: {acession: A}}]", "a.csv: unknown name acession; choose from image_path"),
        ("join_by: akzession", "join_by: unknown value 'akzession'; choose from image_path"),
        ("within_days: -1", "within_days -1: give 0 or more"),
        ("labels: {values: {no: 0}}", "the name of a setting must be text; put it in quotes"),
    ],
)
def test_a_slip_in_a_description_is_named(tmp_path, text, message):
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises((ConfigError, RecordError)) as error:
        description.read(tmp_path / "d.yaml")
    assert message in str(error.value)


def test_a_preview_writes_nothing_but_the_description_that_is_asked_for(export, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    text = runs.preview_preparation("custom", export, Options(classes=("Pleuraerguss",)), tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before
    assert text.endswith("nothing was written")
    text = runs.preview_preparation("custom", export, Options(), write_description=tmp_path / "d.yaml")
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "d.yaml"])
    assert f"--config {tmp_path / 'd.yaml'}" in text
    assert description.read(tmp_path / "d.yaml").join_by == "accession"
    (export / "ris.csv").unlink()
    with pytest.raises(RecordError, match="custom without a table has no description"):
        runs.preview_preparation("custom", export, Options(), write_description=tmp_path / "e.yaml")


def test_a_header_is_read_once_and_a_second_start_reads_none(export, tmp_path, monkeypatch):
    read = []
    real = header_index.read_header
    monkeypatch.setattr(header_index, "read_header", lambda file: (read.append(file), real(file))[1])
    options = Options(classes=("Pleuraerguss",), val=0, test=0)
    prepare("custom", export, tmp_path / "out", options)
    assert sorted(read) == sorted(set(read))
    assert len(read) == len(rows(tmp_path / "out")) == 6
    read.clear()
    prepare("custom", export, tmp_path / "out", options)
    assert read == []
