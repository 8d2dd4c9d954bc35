"""Phantoms as a hospital exports them: the form of the table and the files, and what has no partner."""

import csv

import numpy as np
import pydicom
import pytest

from mrm import cli
from mrm.corpora.phantoms import hospital_export
from mrm.corpora.phantoms.phantom import FINDINGS, phantom
from mrm.data import images
from mrm.system.errors import RecordError
from tests.support.commands import run_cli


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Sixty phantoms of 48 pixels."""
    out = tmp_path_factory.mktemp("hospital") / "export"
    hospital_export.write(out, 60, seed=3, size=48, workers=1)
    return out


def rows(export) -> list[dict[str, str]]:
    text = (export / "ris.csv").read_bytes().decode("cp1252")
    return list(csv.DictReader(text.splitlines(keepends=True), delimiter=";"))


def test_the_table_is_in_windows_1252_with_semicolons_german_words_and_decimal_commas(export):
    table = rows(export)
    with pytest.raises(UnicodeDecodeError):
        (export / "ris.csv").read_bytes().decode()
    assert list(table[0]) == ["AccessionNumber", "Erguss", "Befund", "Datum", "CRP"]
    assert len(table) == 59  # the fortieth study is not in it
    assert {row["Erguss"] for row in table} == {"ja", "nein", "unklar"}
    assert all(row["Befund"].startswith("Röntgen Thorax ") for row in table)
    assert all("," in row["CRP"] and row["Datum"][2] == row["Datum"][5] == "." for row in table)
    for row in table[:5]:
        p = phantom(3, int(row["AccessionNumber"]) - 4_711_000, 48)
        assert row["Erguss"] == ("ja" if p.labels[FINDINGS.index("effusion")] else "nein")
        assert p.report in row["Befund"]


def test_the_files_have_no_suffix_and_show_the_phantoms(export):
    files = sorted((export / "DICOM").rglob("IM*"))
    assert len(files) == 59  # the image of the fiftieth study is lost
    assert {file.suffix for file in files} == {""}
    kinds = set()
    for file in files[:12]:
        header = pydicom.dcmread(file)
        kinds.add(header.PhotometricInterpretation)
        assert file.parts[-4:-1] == (header.PatientID, header.StudyInstanceUID, header.SeriesInstanceUID)
        p = phantom(3, int(header.AccessionNumber) - 4_711_000, 48)
        assert (header.PatientID, header.ViewPosition, header.PatientSex) == (p.patient, p.view, p.sex)
        np.testing.assert_allclose(images.read(file), p.image, atol=2)
    assert kinds == {"MONOCHROME1", "MONOCHROME2"}


def test_a_patient_comes_again_months_later(export):
    days = {}
    for file in (export / "DICOM").rglob("IM*"):
        header = pydicom.dcmread(file, stop_before_pixels=True)
        days.setdefault(header.PatientID, []).append(int(header.StudyDate))
    assert any(len(known) > 1 and max(known) - min(known) > 300 for known in days.values())


def test_nothing_and_masks_cannot_be_exported(tmp_path, capsys):
    with pytest.raises(RecordError, match="0 phantoms: at least one"):
        hospital_export.write(tmp_path, 0)
    code, _, err = run_cli(capsys, "phantoms", "--out", str(tmp_path / "a"), "--export", "--masks", "lungs")
    assert (code, "--export writes no masks" in err) == (2, True)


@pytest.mark.filterwarnings("ignore")
def test_from_an_export_to_a_page_and_a_table_by_commands_alone(tmp_path, capsys):
    """The story of docs/hospital.md, too short to learn anything: what the commands hand to each other is right."""
    from tests.support.models import save_encoder

    place = {name: str(tmp_path / name) for name in ("export", "prepared", "run", "test", "p.csv")}
    encoder = str(save_encoder(tmp_path / "encoder"))
    cli.main(["phantoms", "--out", place["export"], "--count", "80", "--size", "48", "--export"])
    dated = ["--split-by", "date", "--test-from", "2024-01-01", "--val", "0.3"]
    cli.main(
        ["prepare", "custom", "--source", place["export"], "--out", place["prepared"], "--classes", "Erguss", *dated]
    )
    said = capsys.readouterr().out
    assert "77 of 78 rows have an image" in said
    assert "77 of 79 images have a row" in said
    sets = [f"{place['prepared']}/{name}.csv" for name in ("train", "val", "test")]
    tuning = ["--train", sets[0], "--val", sets[1], "--init", encoder, "--out", place["run"], "--max-steps", "2"]
    cli.main(["finetune", "tiny", *tuning, "--classes", "Erguss", "--training.workers", "0"])
    cli.main(["calibrate", place["run"], "--val", sets[1], "--no-outliers", "--workers", "0"])
    cli.main(
        ["evaluate", place["run"], "--records", sets[2], "--out", place["test"], "--draws", "20", "--workers", "0"]
    )
    assert "is uncertain, since it was chosen on" in (tmp_path / "test" / "index.html").read_text()
    cli.main(["predict", place["run"], place["export"] + "/DICOM", "--out", place["p.csv"], "--workers", "0"])
    with open(place["p.csv"], newline="") as text:
        predicted = list(csv.DictReader(text))
    assert len(predicted) == 79
    known = {row["AccessionNumber"]: row["Datum"] for row in rows(tmp_path / "export")}
    for row in predicted:
        if row["accession"] in known:
            year, month, day = row["date"].split("-")
            assert known[row["accession"]] == f"{day}.{month}.{year}"
        assert row["patient_id"] in row["path"]
