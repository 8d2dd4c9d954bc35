"""Patient, study, accession and date of each image in the tables of results: as the records state them, else the header."""

import numpy as np
import pyarrow.parquet
import pytest

from mrm import runs
from mrm.data.finding_files import records_at
from mrm.data.images import encode_png
from tests.support.dicom_files import write_dicom
from tests.support.predictions import IN_PROCESS, predicted_rows
from tests.support.run_files import table

WHOSE = ("patient_id", "study_id", "accession", "date")
HEADER = {"PatientID": "007", "StudyInstanceUID": "1.2.3", "AccessionNumber": "A0012", "StudyDate": "20240131"}


@pytest.fixture
def folder(tmp_path):
    """A DICOM file with a header, one that says nothing, one whose pixels are cut off, and an image without header."""
    out = tmp_path / "images"
    write_dicom(out / "1-whole.dcm", 1, **HEADER)
    write_dicom(out / "2-bare", 2, PatientID="unknown", ContentDate="20240215")
    write_dicom(out / "3-cut.dcm", 3, **HEADER)
    cut = out / "3-cut.dcm"
    cut.write_bytes(cut.read_bytes()[:-40])
    (out / "4.png").write_bytes(encode_png(np.full((20, 20), 7, np.uint8)))
    return out


def whose(rows) -> list[tuple[str, ...]]:
    return [tuple(row[name] or "" for name in WHOSE) for row in rows]


def test_predictions_name_patient_study_accession_and_date_of_the_header(model, folder, tmp_path):
    rows = predicted_rows(model, [folder], tmp_path / "p.csv")
    known = ("007", "1.2.3", "A0012", "2024-01-31")
    assert whose(rows) == [known, ("", "", "", "2024-02-15"), known, ("", "", "", "")]
    assert [bool(row["error"]) for row in rows] == [False, False, True, False]


def test_what_a_table_of_records_states_takes_precedence(model, folder, tmp_path):
    lines = ["image_path,patient_id,study_id,date,accession", "1-whole.dcm,P1,,2023-05-05,", "4.png,P2,S2,,A9"]
    (folder / "records.csv").write_text("\n".join(lines) + "\n")
    rows = predicted_rows(model, [folder / "records.csv"], tmp_path / "p.csv")
    assert whose(rows) == [("P1", "1.2.3", "A0012", "2023-05-05"), ("P2", "S2", "A9", "")]
    assert [r.report for r in records_at([folder / "records.csv"])] == ["", ""]


def test_features_and_neighbours_name_them_too(pretrained, folder, tmp_path):
    runs.embed(pretrained, [folder], tmp_path / "f.parquet", reading=IN_PROCESS)
    rows = pyarrow.parquet.read_table(tmp_path / "f.parquet").to_pylist()
    assert whose(rows)[0] == ("007", "1.2.3", "A0012", "2024-01-31")
    nearest = runs.similar([folder / "4.png"], tmp_path / "f.parquet", pretrained, 4, IN_PROCESS)
    assert ("007", "1.2.3", "A0012", "2024-01-31") in whose(nearest)


def test_masks_name_them_too(disc_segmenter, folder, tmp_path):
    runs.outline(disc_segmenter, [folder / "1-whole.dcm", folder / "4.png"], tmp_path / "out", dicom=False)
    assert whose(table(tmp_path / "out" / "masks.csv")) == [("007", "1.2.3", "A0012", "2024-01-31"), ("", "", "", "")]


def test_a_table_with_patients_is_for_its_user_alone(model, folder, tmp_path):
    predicted_rows(model, [folder], tmp_path / "p.csv")
    assert (tmp_path / "p.csv").stat().st_mode & 0o077 == 0
