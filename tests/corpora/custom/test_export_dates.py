"""Dates of an export: read in any form, kept with the record, and used to split by time."""

import csv
import json
from pathlib import Path

import pytest

from mrm import cli
from mrm.corpora import prepare
from mrm.corpora.contract import Options
from mrm.system.errors import RecordError
from tests.support.commands import run_cli
from tests.support.dicom_files import write_dicom

DAYS = {"A1": "31.01.2022", "A2": "03.04.2022", "A3": "15.06.2023", "A4": "02.02.2024", "A5": "30.03.2024"}
PATIENTS = {"A1": "p1", "A2": "p2", "A3": "p3", "A4": "p1", "A5": "p4"}  # p1 comes again
ISO = ["2022-01-31", "2022-04-03", "2023-06-15", "2024-02-02", "2024-03-30"]


def export(folder: Path, days: dict[str, str] = DAYS, studied: str = "") -> Path:
    """Five studies of four patients: DICOM files whose headers have no date unless `studied`, and a table that has them."""
    for seed, (accession, patient) in enumerate(PATIENTS.items()):
        tags = {"StudyDate": studied} if studied else {}
        write_dicom(folder / accession / "1", seed, AccessionNumber=accession, PatientID=patient, **tags)
    lines = [f"{accession};{'ja' if n % 2 else 'nein'};{day}" for n, (accession, day) in enumerate(days.items())]
    (folder / "ris.csv").write_text("\n".join(["AccessionNumber;TB;Datum", *lines]) + "\n")
    return folder


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as text:
        return list(csv.DictReader(text))


def test_dates_of_a_table_are_kept_as_days(tmp_path, capsys):
    prepare("custom", export(tmp_path / "in"), tmp_path / "out", Options(workers=1))
    assert [row["date"] for row in rows(tmp_path / "out" / "records.csv")] == ISO
    said = capsys.readouterr().out
    assert "by its name; day first" in said
    assert "dates: 2022-01-31 to 2024-03-30, 0 not stated" in said
    facts = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert facts["dates"] == {"first": "2022-01-31", "last": "2024-03-30", "not stated": 0}


def test_a_split_by_date_is_one_command(tmp_path, capsys):
    source = export(tmp_path / "in")
    arguments = ["--source", str(source), "--out", str(tmp_path / "out"), "--workers", "1", "--split-by", "date"]
    code, out, err = run_cli(
        capsys, "prepare", "custom", *arguments, "--test-from", "2024-01-01", "--val-from", "2023-01-01"
    )
    assert code == 0, err
    kept = {s: [row["accession"] for row in rows(tmp_path / "out" / f"{s}.csv")] for s in ("training", "val", "test")}
    assert kept == {"training": ["A1", "A2", "A4"], "val": ["A3"], "test": ["A5"]}
    assert "test is from 2024-01-01 on, without 1 patients who have images before that day too" in out
    assert "share no" in out or "clean" in out


def test_dates_of_headers_split_where_no_table_has_them(tmp_path):
    for n, day in enumerate(ISO):
        write_dicom(tmp_path / "in" / f"{n}.dcm", n, PatientID=f"p{n}", StudyDate=day.replace("-", ""))
    options = Options(workers=1, split_by="date", test_from="2024-01-01", val_from="2023-01-01")
    corpus = prepare("custom", tmp_path / "in", tmp_path / "out", options)
    assert {name: len(part) for name, part in corpus.splits.items()} == {"train": 2, "val": 1, "test": 2}


@pytest.mark.parametrize("day", ["31.02.2024", "unbekannt ca. Mai"])
def test_a_date_that_is_not_understood_is_named_and_the_header_speaks(tmp_path, day):
    source = export(tmp_path / "in", {**DAYS, "A3": day}, studied="20200101")
    corpus = prepare("custom", source, tmp_path / "out", Options(workers=1))
    assert [r.extra["date"] for r in corpus.records] == [*ISO[:2], "2020-01-01", *ISO[3:]]
    assert any(f"ris.csv, column Datum: 1 dates are not understood (line 4: {day})" in n for n in corpus.facts["notes"])


def test_dates_in_the_future_are_named_and_in_no_set(tmp_path):
    source = export(tmp_path / "in", {**DAYS, "A5": "30.03.2924"})
    options = Options(workers=1, split_by="date", test_from="2023-01-01", val=0.0)
    corpus = prepare("custom", source, tmp_path / "out", options)
    assert [r.extra["accession"] for r in corpus.splits["test"]] == ["A3"]
    notes = "\n".join(corpus.facts["notes"])
    assert "1 dates are in the future, and count as not stated (line 6: 30.03.2924)" in notes
    assert "1 images have no date, so they are in no set" in notes
    assert [row["name"] for row in rows(tmp_path / "out" / "excluded.csv")] == ["A5/1"]


def test_ambiguous_dates_are_refused_until_the_order_is_given(tmp_path, capsys):
    source = export(tmp_path / "in", dict.fromkeys(DAYS, "03/04/2024"))
    arguments = ["prepare", "custom", "--source", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    code, _, err = run_cli(capsys, *arguments)
    assert code == 2
    assert err.splitlines()[-1].startswith("mrm: error: ")
    assert "ris.csv, column Datum: 5 dates such as 03/04/2024 (line 2) may have the day or the month first" in err
    cli.main([*arguments, "--date-order", "month-first"])
    assert {row["date"] for row in rows(tmp_path / "out" / "records.csv")} == {"2024-03-04"}
    assert "date_order: month-first" in (tmp_path / "out" / "description.yaml").read_text()


def test_dates_that_contradict_each_other_are_named(tmp_path):
    source = export(tmp_path / "in", {**DAYS, "A1": "31/01/2022", "A2": "04/13/2022"})
    with pytest.raises(RecordError, match=r"31/01/2022 \(line 2\) has the day first, 04/13/2022 \(line 3\) the month"):
        prepare("custom", source, tmp_path / "out", Options(workers=1))


def test_a_split_by_date_of_an_export_without_dates_is_refused_and_writes_nothing(tmp_path):
    write_dicom(tmp_path / "in" / "a.dcm", 1, PatientID="a")
    with pytest.raises(RecordError, match=r"no image of .*in has a date"):
        prepare(
            "custom", tmp_path / "in", tmp_path / "out", Options(workers=1, split_by="date", test_from="2024-01-01")
        )
    assert not list((tmp_path / "out").glob("*.csv"))


def test_columns_of_dates_are_known_by_their_values(tmp_path, capsys):
    source = export(tmp_path / "in", dict.fromkeys(DAYS, "31 Jan 2024"))
    table = source / "ris.csv"
    table.write_text(table.read_text().replace("Datum", "Wann"))
    prepare("custom", source, tmp_path / "out", Options(workers=1))
    assert "its values are dates, such as 31 Jan 2024; months by name" in capsys.readouterr().out
