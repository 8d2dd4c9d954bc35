"""Rows find their images by every key, in every form of a table; what has no partner is named with the nearest value."""

import csv
from pathlib import Path

import numpy as np
import pytest

from mrm.corpora import Options, custom, prepare
from mrm.corpora.contract import Release
from mrm.data.header_index import HeaderIndex
from mrm.system.errors import RecordError
from tests.support import hospital_export
from tests.support.corpora.custom import write_image
from tests.support.dicom_files import dataset, saved, write_dicom
from tests.support.hospital_export import DELIMITERS, ENCODINGS, KEYS, Form, Image, write_table

CSV = [Form(key, delimiter=d, encoding=e) for key in KEYS for d in DELIMITERS for e in ENCODINGS]
OTHERS = [Form(key, suffix) for key in KEYS for suffix in (".xlsx", ".ods", ".parquet")]


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> tuple[Path, list[Image]]:
    """Twelve studies in sixteen DICOM files."""
    root = tmp_path_factory.mktemp("archive")
    return root, hospital_export.write_archive(root)


@pytest.fixture(scope="session")
def kept(archive, tmp_path_factory) -> Path:
    """A folder with the headers of the archive."""
    folder = tmp_path_factory.mktemp("kept")
    root, images = archive
    HeaderIndex(folder).read([root / image.name for image in images])
    return folder


def joined(archive, kept: Path, *tables: Path, **options) -> Release:
    return custom.read(archive[0], Options(table=tables, **options), HeaderIndex(kept))


def table_of(folder: Path, header: str, *lines: str) -> Path:
    file = folder / "table.csv"
    file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("form", [*CSV, *OTHERS], ids=str)
def test_the_records_equal_those_known_beforehand_cell_by_cell(archive, kept, tmp_path, form):
    known = write_table(tmp_path / f"ris{form.suffix}", archive[1], form)
    release = joined(archive, kept, tmp_path / f"ris{form.suffix}", classes=("Pleuraerguss",), join_by=form.key)
    assert release.excluded == []
    cells = [
        (r.name, r.patient, r.study, r.view, r.report, r.labels, dict(r.extra))
        for r in sorted(release.records, key=lambda r: r.name)
    ]
    assert cells == [
        (
            *(i.name, i.patient_id, i.study_uid, i.view, i.report, (i.label,)),
            {"sex": i.sex, "age": i.age, "date": i.date, "accession": i.accession},
        )
        for i in sorted(known, key=lambda i: i.name)
    ]


@pytest.mark.parametrize("key", KEYS)
def test_the_key_is_chosen_by_itself(archive, kept, tmp_path, key):
    write_table(tmp_path / "ris.csv", archive[1], Form(key))
    release = joined(archive, kept, tmp_path / "ris.csv")
    assert f"join_by: {key}\n" in release.files["description.yaml"]
    assert len(release.records) == len(archive[1])


def test_the_most_specific_of_several_keys_that_fit_is_taken_and_the_others_are_shown(archive, kept, tmp_path):
    rows = {i.accession: f"{i.accession},{i.patient_id},wrong-{n}.png" for n, i in enumerate(archive[1])}
    table = table_of(tmp_path, "Accession,Patient ID,File", *rows.values())
    release = joined(archive, kept, table)
    assert "rows find their images by accession (AccessionNumber)" in release.understood
    assert "12 of 12 rows have an image" in release.understood
    assert "rows that other columns would match: patient_id (PatientID) 12" in release.understood
    by_patient = joined(archive, kept, table, join_by="patient_id")
    assert {e.reason for e in by_patient.excluded} == {"rows contradict each other"}  # several studies a patient


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda key: key.lstrip("0"), "leading zeros"),
        (lambda key: f"{key[:4]} {key[4:]}", "blanks"),
        (lambda key: f"{key[:4]}-{key[4:]}", "signs between letters and numbers"),
    ],
)
def test_a_row_without_image_and_an_image_without_row_name_their_nearest(archive, kept, tmp_path, change, difference):
    keys = list(dict.fromkeys(i.accession for i in archive[1]))
    table = table_of(tmp_path, "Accession,Text", f"{change(keys[0])},x", *[f"{key},x" for key in keys[1:]])
    release = joined(archive, kept, table)
    row = next(e for e in release.excluded if e.reason == "no image has this AccessionNumber")
    assert row.name == change(keys[0])
    assert row.detail == f"table.csv, line 2; nearest is {keys[0]!r} (differs in {difference})"
    images = [e for e in release.excluded if e.reason == "image without row"]
    assert {e.name for e in images} == {i.name for i in archive[1] if i.accession == keys[0]}
    assert all(f"nearest is {change(keys[0])!r} (differs in {difference})" in e.detail for e in images)


def test_keys_that_a_spreadsheet_has_changed_match_loosely_if_asked(archive, kept, tmp_path):
    keys = list(dict.fromkeys(i.accession for i in archive[1]))
    table = table_of(tmp_path, "Accession,Text", *[f"{key.lstrip('0')},of {key}" for key in keys])
    release = joined(archive, kept, table)
    assert not release.records
    assert any(n.startswith("12 rows have no image, but differ from one in blanks, case or") for n in release.notes)
    release = joined(archive, kept, table, loose_keys=True)
    assert {r.extra["accession"]: r.report for r in release.records}[keys[3]] == f"of {keys[3]}"
    assert "12 rows find their images by keys that differ in blanks, case or leading zeros, as asked" in release.notes
    assert "loose_keys: true\n" in release.files["description.yaml"]


def test_a_loose_key_that_fits_two_values_matches_neither(tmp_path):
    for number, accession in enumerate(["07", "007", "A8"]):
        write_dicom(tmp_path / "a" / str(number), number, AccessionNumber=accession)
    table = table_of(tmp_path, "Accession", "7", "07", "a 8")
    release = custom.read(tmp_path / "a", Options(table=(table,), loose_keys=True), HeaderIndex())
    assert [r.name for r in release.records] == ["0", "2"]


def test_the_patient_alone_joins_only_where_nothing_else_does(archive, kept, tmp_path):
    """Most files of the table may be on another disk; all rows of a patient would fit all of the patient's images."""
    rows = [f"{i.name if n < 3 else 'gone.dcm'},{i.patient_id}" for n, i in enumerate(archive[1])]
    release = joined(archive, kept, table_of(tmp_path, "File,Patient ID", *rows))
    assert "rows find their images by image_path (path or file name)" in release.understood
    assert [r.name for r in release.records] == [i.name for i in archive[1][:3]]


def test_upper_and_lower_case_in_a_file_name_is_the_difference(tmp_path):
    write_dicom(tmp_path / "scans" / "Chest-A.dcm", 1)
    write_dicom(tmp_path / "scans" / "Chest-B.dcm", 2)
    table = table_of(tmp_path / "scans", "image_path", "chest-a.dcm", "Chest-B.dcm")
    release = custom.read(tmp_path / "scans", Options(table=(table,)), HeaderIndex())
    row = next(e for e in release.excluded if e.reason == "image absent")
    assert row.detail == "table.csv, line 2; nearest is 'Chest-A' (differs in upper and lower case)"


def test_images_of_other_formats_are_known_by_the_names_of_files_and_folders(tmp_path):
    for name in ("A17.png", "A18/1.png", "A18/2.png"):
        write_image(tmp_path / "scans" / name)
    table = table_of(tmp_path, "Accession Number,Report", "A17,clear", "A19,gone")
    release = custom.read(tmp_path / "scans", Options(table=(table,)), HeaderIndex())
    assert [(r.name, r.report) for r in release.records] == [("A17.png", "clear")]
    table = table_of(tmp_path, "Accession Number,Report", "A18,mass", "A20,gone")
    release = custom.read(tmp_path / "scans", Options(table=(table,)), HeaderIndex())
    assert [(r.name, r.report) for r in release.records] == [("A18/1.png", "mass"), ("A18/2.png", "mass")]


# Patient and date -------------------------------------------------------------------------------------------


def studies(folder: Path, *dates: str) -> Path:
    """An image for each date, all of the patient P1."""
    for number, date in enumerate(dates):
        write_dicom(folder / f"{number}.dcm", number, PatientID="P1", StudyDate=date, StudyInstanceUID=f"1.2.{number}")
    return folder


def by_date(source: Path, within_days: int, *rows: str) -> Release:
    table = table_of(source.parent, "patient_id,date,report_content", *rows)
    return custom.read(source, Options(table=(table,), within_days=within_days), HeaderIndex())


def test_the_nearest_study_within_the_days_is_taken(tmp_path):
    source = studies(tmp_path / "a", "20240101", "20240110")
    release = by_date(source, 3, "P1,2024-01-08,near", "P1,2024-01-05,far")
    assert [(r.name, r.report) for r in release.records] == [("1.dcm", "near")]
    (far,) = [e for e in release.excluded if e.reason == "no study of the patient on that date"]
    assert far.detail == "table.csv, line 3: 2024-01-05: the nearest is of 2024-01-01, 4 days away"


def test_studies_that_are_equally_near_are_named(tmp_path):
    source = studies(tmp_path / "a", "20240101", "20240105")
    release = by_date(source, 3, "P1,2024-01-03,between", "P1,2024-01-05,same")
    (tie,) = [e for e in release.excluded if e.reason == "two studies of the patient are equally near"]
    assert tie.detail == "table.csv, line 2: 2024-01-03: 1.2.0, 1.2.1, 2 days away"
    assert [r.report for r in release.records] == ["same"]


def test_of_two_rows_near_a_study_the_nearer_one_is_taken(tmp_path):
    source = studies(tmp_path / "a", "20240101")
    release = by_date(source, 3, "P1,2024-01-03,later", "P1,2024-01-02,next day")
    assert [r.report for r in release.records] == ["next day"]
    assert [(e.reason, e.detail) for e in release.excluded] == [
        ("another row is nearer to the study", "table.csv, line 2: 2 days away")
    ]


# Several tables ---------------------------------------------------------------------------------------------


def test_tables_are_joined_by_the_key_that_both_have(archive, kept, tmp_path):
    by_study = {i.accession: i for i in archive[1]}
    keys = list(by_study)
    reports, labels = tmp_path / "reports.csv", tmp_path / "labels.csv"
    reports.write_text("AccessionNumber;Befund\n" + "".join(f"{key};Text {key}\n" for key in keys[:-1]))
    labels.write_text("Acc No,TB\n" + "".join(f"{key},{n % 2}\n" for n, key in enumerate(keys) if n))
    release = joined(archive, kept, reports, labels, classes=("TB",))
    rows = {r.extra["accession"]: (r.report, r.labels) for r in release.records}
    assert rows[keys[1]] == (f"Text {keys[1]}", (1.0,))
    assert rows[keys[-1]] == ("", (float((len(keys) - 1) % 2),))
    assert rows[keys[0]][0] == f"Text {keys[0]}"
    assert rows[keys[0]][1][0] != rows[keys[0]][1][0]  # NaN: not stated
    assert list(csv.reader(release.files["unmatched.csv"].splitlines()))[1:] == [
        ["reports.csv, line 2", keys[0], "labels.csv", keys[1]],
        [f"labels.csv, line {len(keys)}", keys[-1], "reports.csv", keys[1]],
    ]
    assert any("1 rows of reports.csv and 1 of labels.csv have none (unmatched.csv)" in n for n in release.notes)


def test_a_table_of_images_and_a_table_of_studies_share_the_study(archive, kept, tmp_path):
    files, texts = tmp_path / "files.csv", tmp_path / "texts.csv"
    files.write_text("File,Accession\n" + "".join(f"{i.name},{i.accession}\n" for i in archive[1]))
    texts.write_text("Accession,Report\n" + "".join(f"{a},of {a}\n" for a in {i.accession: 0 for i in archive[1]}))
    release = joined(archive, kept, texts, files)
    assert {r.name: r.report for r in release.records} == {i.name: f"of {i.accession}" for i in archive[1]}
    assert release.excluded == []


def test_tables_that_contradict_each_other_or_have_no_common_key_are_named(archive, kept, tmp_path):
    key, patient = archive[1][0].accession, archive[1][0].patient_id
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text(f"Accession,Sex\n{key},F\n")
    two.write_text(f"Accession,Sex\n{key},M\n")
    release = joined(archive, kept, one, two)
    assert ("tables contradict each other", "one.csv, line 2 and two.csv, line 2: sex is 'F' and 'M'") in [
        (e.reason, e.detail) for e in release.excluded
    ]
    two.write_text(f"MRN,Report\n{patient},text\n")
    with pytest.raises(RecordError, match=r"have no key in common; the first has accession, the second patient_id"):
        joined(archive, kept, one, two)


# What cannot be joined --------------------------------------------------------------------------------------


def test_a_key_twice_with_different_labels_is_left_out_with_both_lines(archive, kept, tmp_path):
    keys = list(dict.fromkeys(i.accession for i in archive[1]))
    rows = [f"{key},0" for key in keys]
    table = table_of(tmp_path, "Accession,TB", *rows, f"{keys[1]},1", f"{keys[2]},0")
    release = joined(archive, kept, table, classes=("TB",))
    (contrary,) = [e for e in release.excluded if e.reason == "rows contradict each other"]
    assert contrary.detail == "table.csv, line 3 and table.csv, line 14: TB is '0' and '1'"
    (copy,) = [e for e in release.excluded if e.reason == "duplicate row"]
    assert copy.detail == "table.csv, line 15"
    assert keys[1] not in {r.extra["accession"] for r in release.records}


def test_an_accession_of_two_patients_needs_the_patient(tmp_path):
    for number, patient in enumerate(["P1", "P2"]):
        write_dicom(tmp_path / "a" / f"{number}.dcm", number, PatientID=patient, AccessionNumber="A1")
    write_dicom(tmp_path / "a" / "2.dcm", 2, PatientID="P3", AccessionNumber="A2")
    table = table_of(tmp_path, "accession,report_content", "A1,x", "A2,y")
    release = custom.read(tmp_path / "a", Options(table=(table,)), HeaderIndex())
    (two,) = [e for e in release.excluded if e.reason == "AccessionNumber fits two patients"]
    assert two.detail == "table.csv, line 2: A1: patients P1, P2"
    table = table_of(tmp_path, "accession,patient_id,report_content", "A1,P2,x", "A2,P3,y")
    release = custom.read(tmp_path / "a", Options(table=(table,)), HeaderIndex())
    assert [(r.name, r.report) for r in release.records] == [("1.dcm", "x"), ("2.dcm", "y")]


def test_a_row_of_another_patient_than_its_image_is_left_out_unless_all_ids_were_replaced(archive, kept, tmp_path):
    studies = list({i.accession: i for i in archive[1]}.values())
    rows = [f"{i.accession},{i.patient_id if n else 'P99'}" for n, i in enumerate(studies)]
    release = joined(archive, kept, table_of(tmp_path, "accession,patient_id", *rows))
    assert {e.reason for e in release.excluded} == {"patient of the row is not that of the image"}
    rows = [f"{i.accession},X{n}" for n, i in enumerate(studies)]
    release = joined(archive, kept, table_of(tmp_path, "accession,patient_id", *rows))
    assert release.excluded == []
    assert {r.patient for r in release.records} == {f"X{n}" for n in range(12)}
    assert "16 of 16 patients differ between table and headers; those of the table are used" in release.notes


def test_a_table_without_key_says_how_to_name_one(archive, kept, tmp_path):
    table = table_of(tmp_path, "Sex,CRP", "F,1", "M,2")
    with pytest.raises(
        RecordError, match=r"no column says which image a row belongs to; name one with --columns KEY=COLUMN"
    ):
        joined(archive, kept, table)


def test_a_key_that_matches_nothing_shows_the_most_similar_values_and_lists_every_row(archive, tmp_path):
    keys = list(dict.fromkeys(i.accession for i in archive[1]))
    table = table_of(tmp_path, "Accession", *[f"X{key[1:]}" for key in keys])
    with pytest.raises(RecordError, match="no record is left") as error:
        prepare("custom", archive[0], tmp_path / "out", Options(table=(table,)))
    pairs = [f"'X{key[1:]}' in the table, {key!r} of the images" for key in keys[:3]]
    assert "; ".join(pairs) in str(error.value)
    assert "for 12 of 12: no image has this AccessionNumber" in str(error.value)
    with (tmp_path / "out" / "excluded.csv").open() as file:
        reasons = [row["reason"] for row in csv.DictReader(file)]
    assert reasons.count("no image has this AccessionNumber") == 12
    assert reasons.count("image without row") == 16


def test_where_labels_are_the_reason_the_message_says_labels(archive, tmp_path):
    keys = list(dict.fromkeys(i.accession for i in archive[1]))
    table = table_of(tmp_path, "Accession,TB", *[f"{key},vielleicht" for key in keys])
    with pytest.raises(RecordError, match=r"16 of 16: label not understood \(.*'vielleicht' in column TB") as error:
        prepare("custom", archive[0], tmp_path / "out", Options(table=(table,), classes=("TB",)))
    assert "npack" not in str(error.value)
    assert (tmp_path / "out" / "excluded.csv").is_file()


def test_an_earlier_result_stays_whole_where_nothing_is_left(archive, tmp_path):
    keys = list(dict.fromkeys(i.accession for i in archive[1]))
    table = table_of(tmp_path, "Accession", *keys)
    prepare("custom", archive[0], tmp_path / "out", Options(table=(table,)))
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    table = table_of(tmp_path, "Accession", "none")
    with pytest.raises(RecordError, match=r"excluded-now\.csv lists all of them"):
        prepare("custom", archive[0], tmp_path / "out", Options(table=(table,)))
    after = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert after.pop("excluded-now.csv").startswith(b"name,reason,detail\n")
    assert after == before


def test_contrary_labels_of_two_images_of_a_study_are_said(archive, kept, tmp_path):
    pair = [i for i in archive[1] if i.accession == archive[1][0].accession]
    assert len(pair) == 2
    rows = [f"{i.name},{int(i is pair[0])}" for i in archive[1]]
    release = joined(archive, kept, table_of(tmp_path, "File,TB", *rows), classes=("TB",))
    assert len(release.records) == 16
    assert any(
        n.startswith(f"1 studies have images with contrary labels, such as {pair[0].name} and {pair[1].name} for TB")
        for n in release.notes
    )


def test_dicom_without_study_uid_is_named(tmp_path):
    write_dicom(tmp_path / "a" / "1.dcm", 1, StudyInstanceUID="1.2.3")
    write_dicom(tmp_path / "a" / "2.dcm", 2)
    table = table_of(tmp_path, "study_uid", "1.2.3")
    release = custom.read(tmp_path / "a", Options(table=(table,)), HeaderIndex())
    assert [(e.name, e.reason) for e in release.excluded] == [("2.dcm", "image without StudyInstanceUID")]
    assert any(n.startswith("1 DICOM files have no StudyInstanceUID, such as 2.dcm") for n in release.notes)


def test_a_key_that_no_column_is_taken_for_cannot_join(archive, kept, tmp_path):
    table = table_of(tmp_path, "Accession", archive[1][0].accession)
    with pytest.raises(
        RecordError, match=r"join_by study_uid: no column is taken for it; name one with --columns study"
    ):
        joined(archive, kept, table, join_by="study_uid")
    with pytest.raises(RecordError, match="join_by: unknown value 'acession'; choose from image_path, "):
        Options(join_by="acession")


def test_objects_without_pixels_are_left_out_and_other_modalities_are_said(tmp_path):
    for number, modality in enumerate(["CR", "CT", "DX"]):
        write_dicom(tmp_path / "a" / str(number), number, AccessionNumber=f"A{number}", Modality=modality)
    report = dataset(np.zeros((2, 2), np.uint8), Modality="SR", AccessionNumber="A0", Rows=None, Columns=None)
    del report.PixelData
    (tmp_path / "a" / "sr").write_bytes(saved(report))
    table = table_of(tmp_path, "Accession", "A0", "A1", "A2")
    release = custom.read(tmp_path / "a", Options(table=(table,)), HeaderIndex())
    assert [r.name for r in release.records] == ["0", "1", "2"]
    assert [(e.name, e.reason, e.detail) for e in release.excluded] == [
        ("sr", "image without pixels, such as a structured report", "modality SR")
    ]
    assert any(n.startswith("1 images are no radiographs (CR, DX, RG) by their headers: CT 1") for n in release.notes)
    assert "modalities CR 1, CT 1, DX 1\nbody parts CHEST 3" in release.understood
