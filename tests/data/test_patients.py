"""Whose images these are: ids as stated, ids in published names, and ids that stand for everybody."""

import pytest

from mrm.data.patients import ORIGINAL, infer_origin, origin_of, patients_of, read_patients
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError


def test_stated_ids_stay_as_they_are():
    stated = patients_of(["a.png", "b.png", "c.png"], ["P1", "p1", "01"])
    assert stated.names == ["P1", "p1", "01"]
    assert stated.facts() == {"patients": 3, "patients_inferred": 0, "patients_unknown": 0}


def test_patients_are_taken_from_published_names_and_join_those_that_are_stated():
    names = [
        "images/00000013_026.png", "00000013_027.png", "00030805_000.png", "train/patient00013/study1/view1.jpg",
        "files/p10/p10000032/s50414267/02aa.jpg", "CXR7_1_IM-0001-3001.png", "scan.png", "00000013_028.png",
    ]  # fmt: skip
    found = patients_of(names, ["", "13", "", "", "", "", "", "patient 13"])
    nih, same, other, chexpert, mimic, openi, unknown, joined = found.names
    assert nih == same == joined
    assert len({nih, other, chexpert, mimic, openi}) == 5 - (openi == "7" and nih == "7")
    assert unknown == ""
    assert (found.inferred, found.unknown, found.count) == (5, 1, 5)
    assert found.facts() == {"patients": 5, "patients_inferred": 5, "patients_unknown": 1}


@pytest.mark.parametrize("name", ["20240131_001.png", "12345678_002.png", "scan_00000013_01.png", "00000013.png"])
def test_other_numbers_in_a_name_are_no_patient(name):
    assert infer_origin(name) is None
    assert patients_of([name, name], ["", ""]).count is None


@pytest.mark.parametrize(
    ("stated", "placeholder"),
    [
        (["ANONYMOUS"] * 30, ("ANONYMOUS", 30)),
        (["0"] * 25, ("0", 25)),
        (["anonymized", "a", "anonymized", "b"], ("anonymized", 2)),
        (["XXXX", "XXXX", "c"], ("XXXX", 2)),
        (["7"] * 20 + [str(i) for i in range(100, 119)], ("7", 20)),  # most of the set
        (["7"] * 19 + [str(i) for i in range(100, 118)], None),  # most of it, but few
        (["7"] * 20 + [str(i) for i in range(100, 120)], None),  # half of it
        (["7"] * 30 + [str(i) for i in range(100, 170)], None),
        (["P7", "P7"], ("P7", 2)),
        (["0", "0", "1", "2"], None),  # a patient called 0
        (["ANON0001", "ANON0001", "ANON0002"], None),  # pseudonyms
        (["De-Identified", "x"], None),  # one image only
        (["", ""], None),
        ([], None),
    ],
)
def test_an_id_that_stands_for_everybody_is_seen(stated, placeholder):
    assert patients_of([f"{i}.png" for i in range(len(stated))], stated).placeholder() == placeholder


def test_records_know_their_patients_and_split_by_them():
    rows = [Record(b"", name=f"000000{i // 5:02d}_{i % 5:03d}.png") for i in range(200)]
    rows += [Record(b"", patient=str(i), name=f"extra{i}.png") for i in range(40)]
    records = Records(rows)
    assert records.known_patients.count == 80
    parts = records.split({"train": 0.7, "test": 0.3})
    assert not {*parts["train"].patients} & {*parts["test"].patients}
    assert sum(map(len, parts.values())) == 240


def test_the_name_in_the_corpus_that_an_image_was_taken_from_comes_first():
    assert origin_of("00000013_026.png", {}).patient == "00000013"
    assert origin_of("00000013_026.png", {ORIGINAL: ""}).patient == "00000013"
    taken = origin_of("00000013_026.png", {ORIGINAL: "train/patient00007/study3/view1_frontal.jpg"})
    assert (taken.corpus, taken.patient, taken.study) == ("chexpert", "00007", "3")
    assert origin_of("scan.png", {}) is None


def test_a_table_of_patients_has_as_many_fields_in_each_line_as_in_its_header(tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("image_path,site,patient_id\na.png,x,P1\nb.png,x,\n")
    assert read_patients(table) == {"a.png": "P1", "b.png": ""}
    for line, fields in (("a.png,P1", 2), ("a.png,x,P1,y", 4)):
        table.write_text(f"image_path,site,patient_id\n{line}\n")
        with pytest.raises(RecordError, match=f"line 2: {fields} fields, but the header has 3"):
            read_patients(table)
