"""The preview: what a researcher reads before anything is used."""

import pytest

from mrm import runs
from mrm.corpora import Options
from mrm.data.records import Records
from tests.support import hospital_export
from tests.support.dicom_files import write_dicom
from tests.support.hospital_export import Form, write_table


@pytest.fixture
def export(tmp_path):
    images = hospital_export.write_archive(tmp_path / "archive", studies=6)
    write_table(tmp_path / "archive" / "ris.csv", images, Form())
    return tmp_path / "archive", images


def test_it_shows_columns_matches_examples_values_and_the_sets_to_come(export, capsys):
    source, images = export
    table = source / "ris.csv"
    text = table.read_text(encoding="utf-8")
    keys = [i.accession for i in images]
    table.write_text(text.replace(keys[0], keys[0][2:]).replace(";0;", ";vielleicht;", 1), encoding="utf-8")
    write_dicom(source / "other.dcm", 1, AccessionNumber="9")
    shown = runs.preview_preparation("custom", source, Options(classes=("Pleuraerguss",), val=0.2, test=0.2))
    lines = [line.rstrip() for line in shown.splitlines()]
    assert "  AccessionNumber  accession       by its name" in lines
    assert "  Pleuraerguss     label           as asked" in lines
    assert "  CRP              -               not used" in lines
    assert "rows find their images by accession (AccessionNumber)" in lines
    assert "  5 of 6 rows have an image" in lines
    assert f"  {len(images) - 2} of {len(images) + 1} images have a row" in lines
    assert "vielleicht = NOT UNDERSTOOD (1)" in shown
    patients = {i.patient_id for i in images if i.accession != keys[0]}
    assert f"patients {len(patients):,}, studies " in shown
    assert "dates 2023-" in shown
    assert next(line for line in lines if line.startswith("sets to come")).split()[3:] == [
        "images",
        "patients",
        "Pleuraerguss",
        "+",
    ]
    assert "  left out: 1 no image has this AccessionNumber" in lines
    assert "  left out: 3 image without row" in lines
    assert lines[-1] == "nothing was written"
    assert max(map(len, lines)) <= 100


def test_five_joined_examples_are_cut_to_the_width(export):
    source, images = export
    shown = runs.preview_preparation("custom", source, Options(classes=("Pleuraerguss",)))
    start = shown.splitlines().index("examples")
    examples = shown.splitlines()[start + 2 : start + 7]
    for line in examples:
        accession, image, patient, view, label, report = line.split(maxsplit=5)
        (row,) = [i for i in images if i.accession == accession and i.name.endswith(image.removeprefix("..."))]
        assert (patient, view, float(label)) == (row.patient_id, row.view, row.label)
        assert row.report.startswith(report.removesuffix("..."))
    assert all(len(line) <= 100 for line in shown.splitlines())


def test_the_real_run_begins_with_the_same_lines(export, tmp_path, capsys):
    source, _ = export
    options = Options(classes=("Pleuraerguss",), val=0, test=0)
    shown = runs.preview_preparation("custom", source, options)
    capsys.readouterr()
    runs.prepare("custom", source, tmp_path / "out", options)
    assert capsys.readouterr().out.startswith(shown.partition("\n\nsets to come")[0] + "\n")


def test_a_public_corpus_and_a_folder_without_table_have_a_preview_too(tmp_path):
    for number in range(6):
        write_dicom(tmp_path / "a" / f"{number}", number, PatientID=f"P{number}")
    shown = runs.preview_preparation("custom", tmp_path / "a", Options(val=0, test=0))
    assert shown.startswith("custom (by folders): 6 images")
    assert ["train", "6", "6"] in [line.split() for line in shown.splitlines()]


def test_the_sets_to_come_are_those_of_the_run(export, tmp_path):
    source, images = export
    options = Options(classes=("Pleuraerguss",), views=("LL",), split_by="file", val=0, test=0.5)
    shown = runs.preview_preparation("custom", source, options)
    runs.prepare("custom", source, tmp_path / "out", options)
    for split in ("train", "test"):
        written = len(Records.load(tmp_path / "out" / f"{split}.csv", classes=("Pleuraerguss",)))
        assert [split, str(written)] in [line.split()[:2] for line in shown.splitlines()]
    assert f"left out: {sum(i.view != 'LL' for i in images)} another view" in shown
    assert "note: split by file, as asked" in shown
