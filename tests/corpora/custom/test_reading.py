"""A hospital's own files: tables with any column names, folders with classes and texts beside the images."""

import os
from pathlib import Path

import numpy as np
import pytest

from mrm.corpora import prepare
from mrm.corpora.contract import Options
from mrm.data.records import Records
from mrm.system.errors import RecordError
from tests.support.corpora.custom import COLUMNS, write_image, write_tree
from tests.support.dicom_files import dataset, saved, write_dicom
from tests.support.workbooks import write_ods, write_xlsx


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "export")


def rewrite(source: Path, change) -> None:
    table = source / "export.csv"
    table.write_text(change(table.read_text(encoding="utf-8")), encoding="utf-8")


def test_a_table_with_its_own_names(source, tmp_path):
    corpus = prepare("custom", source, tmp_path / "out", Options(columns=COLUMNS, sections=("findings",)))
    assert len(corpus.records) == 40
    assert corpus.facts["excluded"] == {}
    training = Records.load(tmp_path / "out" / "training.csv")
    first = training[0]
    assert first.image.is_file()
    assert first.report.startswith("clear, ")
    parts = [set(part.patients) for part in corpus.splits.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 20


def test_label_columns(source, tmp_path):
    rewrite(source, lambda t: t.replace(",A0,0,", ",A0,No,").replace(",A1,1,", ",A1,-1,"))
    corpus = prepare("custom", source, tmp_path / "out", Options(columns=COLUMNS, classes=("Nodule", "Effusion")))
    assert corpus.records.classes == ("Nodule", "Effusion")
    assert corpus.facts["classes"]["Nodule"] == {"positive": 8, "negative": 0, "uncertain": 0, "not stated": 32}
    assert corpus.facts["classes"]["Effusion"] == {"positive": 19, "negative": 20, "uncertain": 1, "not stated": 0}
    train = Records.load(tmp_path / "out" / "train.csv", classes=("Effusion",))
    assert train[0].report


def test_the_splits_of_a_table(source, tmp_path):
    def with_split(text: str) -> str:
        lines, n = [], 0
        for line in text.split("\n"):
            if line.startswith("IMPRESSION"):
                line, n = f"{line},{['Train', 'validation', 'test', '', 'train'][n // 8]}", n + 1
            lines.append(f"{line},Set" if line.startswith("Path") else line)
        return "\n".join(lines)

    rewrite(source, with_split)
    corpus = prepare("custom", source, tmp_path / "out", Options(columns={**COLUMNS, "split": "Set"}))
    assert {name: len(part) for name, part in corpus.splits.items()} == {"train": 16, "val": 8, "test": 8}
    assert any("8 images belong to no split" in note for note in corpus.facts["notes"])


def test_a_folder_with_class_folders_splits_and_texts_beside(tmp_path):
    root = tmp_path / "chest_xray"
    for part, kind, n in [
        ("train", "NORMAL", 4),
        ("train", "PNEUMONIA", 6),
        ("test", "NORMAL", 3),
        ("test", "PNEUMONIA", 2),
    ]:
        for i in range(n):
            write_image(root / part / kind / f"{kind}-{part}-{i}.jpeg")
    (root / "train" / "PNEUMONIA" / "PNEUMONIA-train-0.txt").write_text("Impression: pneumonia.")
    corpus = prepare("custom", root, tmp_path / "out", Options(classes=("Pneumonia",), val=0))
    assert {name: len(part) for name, part in corpus.splits.items() if "_" not in name} == {"train": 10, "test": 5}
    assert corpus.facts["classes"]["Pneumonia"]["positive"] == 8
    assert [r.report for r in corpus.records if r.report] == ["Impression: pneumonia."]
    assert any("15 images have no patient" in note for note in corpus.facts["notes"])
    with pytest.raises(RecordError, match="no folder Covid with images; the folders with images are NORMAL, PNEUMONIA"):
        prepare("custom", root, tmp_path / "other", Options(classes=("Covid",)))


def test_a_folder_of_images_and_texts_is_enough(tmp_path):
    for n in range(12):
        write_image(tmp_path / "scans" / f"{n}.png")
        (tmp_path / "scans" / f"{n}.txt").write_bytes(f"IMPRESSION: {n} caf".encode() + (b"\xe9" if n == 3 else b"e"))
    with pytest.warns(UserWarning, match="1 report files are read as Windows-1252"):
        corpus = prepare("custom", tmp_path / "scans", tmp_path / "out", Options(val=0, test=0))
    assert len(Records.load(tmp_path / "out" / "training.csv")) == 12
    assert corpus.facts["found"]["images with report"] == 12


def test_what_is_left_out_and_why(source, tmp_path):
    rows = [
        "gone.png,,1,A,0,",
        ",,1,A,0,",
        "scan 1.png,other text,1,A,0,",
        "scan 2.png,x,1,A,perhaps,",
        "twice.png,x,1,A,0,",
    ]
    rewrite(
        source,
        lambda t: t + "\n" + "\n".join(rows) + "\n" + '"scan 3.png","FINDINGS: clear, 3.\nIMPRESSION: normal.",1,A3,1,',
    )
    rewrite(source, lambda t: t.replace(",A5,1,", ",A5,perhaps,"))
    for folder in "ab":
        write_image(source / folder / "twice.png")
    write_image(source / "unlisted.png")
    (source / "images" / "2024-01" / "scan 4.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    corpus = prepare("custom", source, tmp_path / "out", Options(columns=COLUMNS, classes=("Effusion",)))
    assert corpus.facts["excluded"] == {
        **{"image absent": 1, "row without image name": 1, "rows contradict each other": 2},
        **{"label not understood": 1, "duplicate row": 1, "name fits several images": 1},
        **{"image without row": 3, "unreadable image": 1},
    }


def test_paths_from_the_table_or_the_source_with_or_without_suffix(tmp_path):
    root = tmp_path / "export"
    for name in ("a/one.png", "a/two.jpg", "b/one.png"):
        write_image(root / name)
    (root / "a" / "labels.csv").write_text(f"image_path\none.png\n{root}/b/one.png\ntwo\n")
    corpus = prepare("custom", root, tmp_path / "out", Options(table=(root / "a" / "labels.csv",), val=0, test=0))
    assert [r.name for r in corpus.records] == ["a/one.png", "b/one.png", "a/two.jpg"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "C:\\scans\\1.png"])
def test_a_path_that_leads_out_is_refused(source, tmp_path, name):
    rewrite(source, lambda t: t.replace("scan 7.png", name))
    with pytest.raises(RecordError, match="leads out of the source folder"):
        prepare("custom", source, tmp_path / "out", Options(columns=COLUMNS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(columns={"image_path": "File"}), "no column File"),
        (Options(columns={**COLUMNS, "doctor": "MRN"}), "unknown name doctor; choose from image_path"),
        (Options(columns=COLUMNS, classes=("Oedema",)), "no column Oedema"),
    ],
)
def test_columns_that_are_not_there_are_named(source, tmp_path, options, message):
    with pytest.raises(RecordError, match=message):
        prepare("custom", source, tmp_path / "out", options)


def test_boxes_beside_the_records_are_no_second_table(source, tmp_path):
    (source / "boxes.csv").write_text("image_path,class,x,y,width,height,reader,text\nnothing 1,mass,1,1,2,2,,\n")
    corpus = prepare("custom", source, tmp_path / "out")
    (source / "boxes.csv").unlink()
    without = prepare("custom", source, tmp_path / "without").records
    assert [(r.name, r.patient, r.report) for r in corpus.records] == [(r.name, r.patient, r.report) for r in without]
    assert len(without) == 40


def test_a_table_of_another_kind_is_named(source, tmp_path):
    (source / "second.csv").write_text("a\n")
    with pytest.raises(RecordError, match=r"several tables \(export\.csv, second\.csv\)"):
        prepare("custom", source, tmp_path / "out")
    (source / "second.csv").unlink()
    rewrite(source, lambda t: "A;Text\nnothing 1;x\n")
    with pytest.raises(RecordError, match=r"The columns: export\.csv has A, Text"):
        prepare("custom", source, tmp_path / "out")
    rewrite(source, lambda t: "Path,Text\n")
    with pytest.raises(RecordError, match="no rows"):
        prepare("custom", source, tmp_path / "out", Options(columns=COLUMNS))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="has no images; expected"):
        prepare("custom", tmp_path / "empty", tmp_path / "out")


# Files as a PACS, a CD, a share or a spreadsheet leaves them ------------------------------------------------


def test_dicom_without_a_suffix_or_with_a_number_or_ima_is_taken_by_its_content(tmp_path):
    names = ["a.dcm", "IM000001", "DIR1/1.2.840.113619.2.0", "b.IMA", "c.MR.1"]
    for number, name in enumerate(names):
        write_dicom(tmp_path / "cd" / name, number, PatientID=f"P{number}", ViewPosition="PA")
    corpus = prepare("custom", tmp_path / "cd", tmp_path / "out", Options(val=0, test=0))
    assert {r.name: r.patient for r in corpus.records} == {name: f"P{i}" for i, name in enumerate(names)}


def test_a_table_names_dicom_with_or_without_the_suffix(tmp_path):
    for number, name in enumerate(["IM1", "1.2.3", "c.IMA"]):
        write_dicom(tmp_path / "cd" / name, number)
    (tmp_path / "cd" / "t.csv").write_text("image_path,report_content\nIM1,one\n1.2.3.dcm,two\nc,three\n")
    corpus = prepare("custom", tmp_path / "cd", tmp_path / "out", Options(val=0, test=0))
    assert [(r.name, r.report) for r in corpus.records] == [("IM1", "one"), ("1.2.3", "two"), ("c.IMA", "three")]
    assert corpus.facts["excluded"] == {}


def test_other_files_and_those_of_systems_are_counted_in_notes(source, tmp_path):
    for name in (
        "Thumbs.db",
        ".DS_Store",
        "DICOMDIR",
        "images/._scan 1.png",
        "@eaDir/thumb.png",
        "LIESMICH",
        "viewer.exe",
    ):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"no image")
    corpus = prepare("custom", source, tmp_path / "out", Options(columns=COLUMNS))
    assert len(corpus.records) == 40
    assert corpus.facts["excluded"] == {}
    assert corpus.facts["notes"][0].startswith("5 system files are left out (")
    assert corpus.facts["notes"][1] == "1 files that are no images by name or content are left out (LIESMICH)"


def test_a_file_name_that_is_not_utf8_is_left_out_with_what_to_do_and_the_others_stay(source, tmp_path):
    (source / "export.csv").unlink()
    folder = os.fsencode(source / "images" / "2024-00")
    os.rename(os.path.join(folder, b"scan 3.png"), os.path.join(folder, b"scan \xfc.png"))
    corpus = prepare("custom", source, tmp_path / "out", Options())
    assert len(corpus.records) == 39
    assert corpus.facts["excluded"] == {"file name is not UTF-8": 1}
    assert r"scan \xfc.png,file name is not UTF-8," in ((tmp_path / "out" / "excluded.csv").read_text())


ROWS = [["Datei", "Befund", "MRN", "Pneu"], ["scan 1.png", "Clear.", 17, "yes"], ["scan 2.png", "Mass.", None, 0]]


@pytest.mark.parametrize(("name", "write"), [("x.xlsx", write_xlsx), ("x.ods", write_ods)])
def test_a_workbook_is_a_table_and_its_sheet_can_be_named(source, tmp_path, name, write):
    (source / "export.csv").unlink()
    write(source / name, {"Info": [["made by"]], "Bilder": ROWS})
    columns = {"image_path": "Datei", "report_content": "Befund", "patient_id": "MRN"}
    options = Options(columns=columns, sheet="Bilder", classes=("Pneu",), val=0, test=0)
    corpus = prepare("custom", source, tmp_path / "out", options)
    assert [(r.report, r.patient, r.labels) for r in corpus.records] == [
        ("Clear.", "17", (1.0,)),
        ("Mass.", "", (0.0,)),
    ]


def test_words_for_missing_in_a_table_are_no_patient_sex_or_report(source, tmp_path):
    (source / "export.csv").write_text(
        "image_path,report_content,patient_id,sex,Nodule\n"
        "scan 1.png,nan,NaN,None,NA\nscan 2.png,Clear.,-,F,1\nscan 3.png,N/A,P3,?,0\n"
    )
    corpus = prepare("custom", source, tmp_path / "out", Options(classes=("Nodule",), val=0, test=0))
    assert [(r.report, r.patient, r.extra) for r in corpus.records] == [
        ("", "", {}),
        ("Clear.", "", {"sex": "F"}),
        ("", "P3", {}),
    ]
    assert corpus.facts["classes"]["Nodule"] == {"positive": 1, "negative": 1, "uncertain": 0, "not stated": 1}


# One id for everybody ------------------------------------------------------------------------------------


def dicom_folder(folder: Path, ids) -> Path:
    """Synthetic radiographs as DICOM with these patient ids in their headers, "" for none."""
    folder.mkdir()
    for i, patient in enumerate(ids):
        (folder / f"{i:03d}.dcm").write_bytes(saved(dataset(np.full((8, 8), i, np.uint16), PatientID=patient)))
    return folder


@pytest.mark.parametrize("shared", ["ANONYMOUS", "0", "anonymized", "P-17"])
def test_one_patient_id_for_everybody_is_refused_and_split_by_file_if_asked(tmp_path, shared):
    source = dicom_folder(tmp_path / "source", [shared] * 30)
    with pytest.raises(RecordError, match=rf"30 of 30 images have the patient '{shared}'.*--split-by file"):
        prepare("custom", source, tmp_path / "out", Options(workers=1))
    corpus = prepare("custom", source, tmp_path / "out", Options(workers=1, split_by="file"))
    sizes = {name: len(part) for name, part in corpus.splits.items()}
    assert sizes == {"train": 21, "val": 3, "test": 6}
    assert any("seems to stand for everybody" in note for note in corpus.facts["notes"])
    assert any("split by file, as asked" in note for note in corpus.facts["notes"])
    assert corpus.facts["found"].get("patients") is None


def test_a_word_of_deidentification_is_refused_though_others_have_ids(tmp_path):
    source = dicom_folder(tmp_path / "source", ["ANONYMOUS"] * 8 + [f"P{i}" for i in range(22)])
    with pytest.raises(RecordError, match="8 of 30 images have the patient 'ANONYMOUS'"):
        prepare("custom", source, tmp_path / "out", Options(workers=1))


def test_patients_in_headers_are_not_said_to_be_missing(tmp_path):
    source = dicom_folder(tmp_path / "source", [f"P{i // 2}" for i in range(28)] + ["", ""])
    corpus = prepare("custom", source, tmp_path / "out", Options(workers=1))
    assert corpus.facts["found"]["patients"] == 14
    assert [note for note in corpus.facts["notes"] if "no patient" in note] == [
        "2 images have no patient, so splits may share patients; give a table that has them"
    ]
    parts = [set(part.patients) - {""} for part in corpus.splits.values()]
    assert not parts[0] & parts[1] | parts[1] & parts[2] | parts[0] & parts[2]


def test_published_names_keep_the_images_of_a_patient_together(tmp_path):
    for i in range(40):
        write_image(tmp_path / "source" / f"000000{i // 4:02d}_{i % 4:03d}.png", i)
    corpus = prepare("custom", tmp_path / "source", tmp_path / "out", Options(workers=1))
    parts = [set(part.patients) for part in corpus.splits.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10
    assert any("40 images are taken from their published file names" in note for note in corpus.facts["notes"])
