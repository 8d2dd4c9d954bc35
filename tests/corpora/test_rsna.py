"""RSNA Pneumonia: stage 2 tables and DICOM end to end, boxes of a patient joined, the real table, bad downloads."""

import json

import cv2
import numpy as np
import pytest

from mrm.audit.overlaps import audit
from mrm.corpora import inspection, prepare, splits
from mrm.corpora.contract import Release
from mrm.corpora.options import Options
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError
from mrm.system.table_rows import read_table
from tests.support.corpora.downloads import write_download
from tests.support.corpora.official import read_with_images
from tests.support.corpora.rsna import write_tree
from tests.support.corpora.siim import write_tree as write_siim
from tests.support.image_files import contents, write_image


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "rsna")


def test_the_download_becomes_records_sets_and_lists(source, tmp_path):
    before = contents(source)
    corpus = prepare("rsna", source, tmp_path / "out", Options(fractions=(50,)))
    assert contents(source) == before
    assert {k: len(v) for k, v in corpus.splits.items()} == {"train": 14, "val": 2, "test": 4, "train_50": 7}
    first = next(r for r in corpus.records if r.patient == "p00")
    assert (first.labels, first.view, first.extra["sex"], first.extra["age"]) == ((1,), "AP", "F", "51")
    assert first.extra["detail"] == "Lung Opacity"
    boxes = [line.rpartition("/")[2] for line in (tmp_path / "out/boxes.csv").read_text().splitlines()]
    assert boxes[1:3] == ["p00.dcm,Pneumonia,2,3,5,6,,", "p00.dcm,Pneumonia,9,8,6,12,,"]
    assert len(boxes) == 1 + 5 * 2
    assert corpus.facts["classes"]["Pneumonia"] == {
        "positive": 5,
        "negative": 15,
        "uncertain": 0,
        "not stated": 3,
    }
    assert corpus.facts["views"] == {"AP": 20, "PA": 3}
    read = Records.load(tmp_path / "out/train.csv", None)
    assert read.classes == ("Pneumonia",)
    assert len(Records.load(tmp_path / "out/train_50.txt", ("Pneumonia",), images=source)) == 7


def test_published_lists_give_labels_to_the_test_images(source, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train_list.txt").write_text("stage_2_train_images/p00.dcm 1 \nstage_2_train_images/p01.dcm 0 \n")
    (lists / "test_list.txt").write_text("stage_2_test_images/t0.dcm 1 \nstage_2_test_images/t1.dcm 0 \n")
    corpus = prepare("rsna", source, tmp_path / "out", Options(splits=lists))
    assert [r.labels for r in corpus.splits["test"]] == [(1,), (0,)]
    assert not [n for n in corpus.facts["notes"] if "differ" in n]


def test_published_lists_of_names_alone_take_the_labels_of_the_publisher(source, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("p00\np01\np02\n")
    (lists / "train_1.txt").write_text("p01\n")
    (lists / "val.txt").write_text("p04\n")
    (lists / "test.txt").write_text("p08\np09\nabsent\n")
    corpus = prepare("rsna", source, tmp_path / "out", Options(splits=lists))
    labels = {name: [(r.patient, r.labels) for r in part] for name, part in corpus.splits.items()}
    assert labels == {
        "train": [("p00", (1,)), ("p01", (0,)), ("p02", (0,))],
        "val": [("p04", (1,))],
        "test": [("p08", (1,)), ("p09", (0,))],
        "train_1": [("p01", (0,))],
    }
    assert corpus.facts["excluded"] == {"image absent": 1}


def test_published_lists_without_one_for_validation_give_up_a_share_of_the_training_list(source, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("".join(f"p{n:02}\n" for n in range(16)))
    (lists / "test.txt").write_text("p18\np19\n")
    corpus = prepare("rsna", source, tmp_path / "out", Options(splits=lists, val=0.25))
    sets = {name: {r.patient for r in part} for name, part in corpus.splits.items()}
    assert {name: len(part) for name, part in sets.items()} == {"train": 12, "val": 4, "test": 2}
    assert sets["train"] | sets["val"] == {f"p{n:02}" for n in range(16)}
    assert "the lists have no validation set: val is 4 of the 16 images of the training list" in corpus.facts["notes"]


def test_box_masks_are_1_in_the_pixels_whose_centres_lie_in_a_box(source, tmp_path):
    table = source / "stage_2_train_labels.csv"
    table.write_text(table.read_text().replace("p00,9.0,8.0,6.0,12.0,1", "p00,9.4,8.5,6.0,3.5,1"))
    out = tmp_path / "out"
    prepare("rsna", source, out, Options(box_masks=True, workers=1))
    by_name = {file.stem: file for file in out.glob("annotations/*/*.png")}
    assert set(by_name) == {f"p{n:02}" for n in range(20)} == {file.stem for file in out.glob("images/*/*.png")}
    expected = np.zeros((24, 20), np.uint8)
    expected[3:9, 2:7] = 1  # x 2, y 3, 5 wide, 6 high
    expected[8:12, 9:15] = 1  # x 9.4 to 15.4: columns 9 to 14; y 8.5 to 12: rows 8 to 11
    assert (cv2.imread(str(by_name["p00"]), cv2.IMREAD_UNCHANGED) == expected).all()
    assert not cv2.imread(str(by_name["p01"]), cv2.IMREAD_UNCHANGED).any()
    sets = {split: len(list((out / "images" / split).iterdir())) for split in ("training", "validation", "test")}
    assert sets == {"training": 14, "validation": 2, "test": 4}


def test_box_masks_need_boxes(tmp_path):
    source = write_download("covidx-cxr4", tmp_path / "source")
    with pytest.raises(RecordError, match=r"--box-masks: covidx-cxr4 has no boxes; leave it out"):
        prepare("covidx-cxr4", source, tmp_path / "out", Options(box_masks=True))


def test_box_masks_are_refused_where_the_corpus_has_masks(tmp_path):
    source = write_siim(tmp_path / "siim")
    with pytest.raises(RecordError, match=r"--box-masks: siim has masks of its own; leave it out"):
        prepare("siim", source, tmp_path / "out", Options(box_masks=True))


@pytest.mark.parametrize("cut", [0, 60, 200, -100])
def test_a_dicom_that_is_cut_off_is_left_out_and_counted(source, tmp_path, cut):
    file = source / "stage_2_train_images/p03.dcm"
    file.write_bytes(file.read_bytes()[:cut])
    corpus = prepare("rsna", source, tmp_path / "out")
    assert corpus.facts["excluded"] == {"unreadable image": 1}
    assert "p03.dcm" in (tmp_path / "out/excluded.csv").read_text()
    assert "p03" not in (tmp_path / "out/records.csv").read_text()


def test_repeated_and_contradictory_rows_are_counted(source, tmp_path):
    table = source / "stage_2_train_labels.csv"
    table.write_text(table.read_text() + "p01,,,,,0\np00,2.0,3.0,5.0,6.0,1\np04,,,,,0\n")
    corpus = prepare("rsna", source, tmp_path / "out")
    assert corpus.facts["excluded"] == {"duplicate row": 2, "rows contradict each other": 1}
    assert corpus.facts["found"]["boxes"] == 8
    assert "p04" not in {r.patient for r in corpus.records}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("p09,,,,,2", r"line 27: label '2' in column Target is none of"),
        ("p00,1.0,,3.0,4.0,1", r"line 27: the box has no y; it needs four numbers"),
        ("../../p09,,,,,0", r"line 27: the path .* leads out of the source folder"),
        ("p09,0", r"line 27 has 2 fields, but the header has 6"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(source, tmp_path, line, message):
    table = source / "stage_2_train_labels.csv"
    table.write_text(table.read_text() + f"{line}\n")
    with pytest.raises(RecordError, match=message):
        prepare("rsna", source, tmp_path / "out")


def test_an_interrupted_look_at_the_images_goes_on_where_it_stopped(source, tmp_path, monkeypatch):
    looked = []
    look = inspection._facts_of

    def interrupted(check, image):
        if len(looked) == 9:
            raise KeyboardInterrupt
        looked.append(image)
        return look(check, image)

    monkeypatch.setattr(inspection, "_facts_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("rsna", source, tmp_path / "out")
    journal = tmp_path / "out/.inspected.jsonl"
    journal.write_text(journal.read_text() + '["cut off')
    first, looked[:] = list(looked), ["one more"] * 10
    prepare("rsna", source, tmp_path / "out")
    assert len(set(first) | set(looked[10:])) == 23
    assert not set(first) & set(looked[10:])
    assert not journal.exists()


# ---- the real table and lists ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory) -> Release:
    """The real table, as if every image, also of the test set, were there."""
    folder = tmp_path_factory.mktemp("rsna")
    table = folder / "stage_2_train_labels.csv.zip"
    table.write_bytes((shared_data / "official/kaggle_stage_2_train_labels.csv.zip").read_bytes())
    train = {f"stage_2_train_images/{r['patientId']}.dcm" for r in read_table(table, ("Target",))}
    listed = (shared_data / "reference-splits/RSNA_Pneumonia/test_list.txt").read_text().split()[::2]
    return read_with_images("rsna", folder, [*sorted(train), *listed])


def test_the_real_table_has_the_publishers_counts(real):
    assert real.counts["rows of stage_2_train_labels.csv"] == 30_227
    assert sum(map(len, real.boxes.values())) == 9_555
    labels = real.records.labels_NC
    assert ((labels == 1).sum(), (labels == 0).sum(), len(labels)) == (6_012, 20_672, 29_684)
    assert real.excluded == []


def test_the_published_lists_join(real, shared_data):
    found = splits.published(real, shared_data / "reference-splits/RSNA_Pneumonia")
    sizes = {k: len(v) for k, v in found.splits.items()}
    assert sizes == {"train": 25_184, "val": 1_500, "test": 3_000, "train_1": 251, "train_10": 2_518}
    assert found.excluded == found.notes == []
    assert found.splits["test"].labels_NC.sum() == 1_094


def test_images_may_be_png_or_have_a_suffix_in_capitals(source, tmp_path):
    """As mirrors of the challenge serve them, and as some tools save them."""
    for number, file in enumerate(sorted(source.rglob("*.dcm"))):
        if number % 2:
            file.rename(file.with_suffix(".DCM"))
        else:
            file.unlink()
            write_image(file.with_suffix(".png"), number)
    corpus = prepare("rsna", source, tmp_path / "out")
    assert len(corpus.records) == 23
    assert corpus.facts["excluded"] == {}
    assert corpus.facts["classes"]["Pneumonia"]["positive"] == 5


@pytest.mark.parametrize(
    ("stated", "age"), [("000Y", "0"), ("000M", "0M"), ("006M", "6M"), ("051Y", "51"), ("NaN", "")]
)
def test_the_age_in_a_header_keeps_its_unit(source, stated, age):
    from tests.support.dicom_files import write_dicom

    write_dicom(source / "one.dcm", 1, PatientAge=stated, PatientID="nan", ViewPosition="-")
    facts = inspection._facts_of("header", (source / "one.dcm", None))
    assert facts.get("age", "") == age
    assert not {"patient", "view"} & set(facts)


def test_the_publishers_list_tells_which_images_of_nih_these_are(source, tmp_path, capsys):
    """A patient of NIH has two images here; the list tells it, and the audit finds image and patient in NIH by their names."""
    named = {"p00": "00000013_005.png", "p01": "00000013_011.png", "t0": "00030805_000.png"}
    rows = [{"subset_img_id": k, "img_id": v, "orig_labels": ["Mass", "Nodule"]} for k, v in named.items()]
    (source / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(rows))
    corpus = prepare("rsna", source, tmp_path / "out")
    known = {r.name.rpartition("/")[2].removesuffix(".dcm"): r for r in corpus.records}
    assert [known[name].extra.get("original_image") for name in ("p00", "p01", "p02", "t0")] == [
        "00000013_005.png", "00000013_011.png", None, "00030805_000.png",
    ]  # fmt: skip
    assert [known[name].patient for name in ("p00", "p01", "p02", "t0")] == ["13", "13", "p02", "30805"]
    assert known["p00"].labels == (1,)
    nih = [Record("images/00000013_005.png", patient="13", name="images/00000013_005.png")]
    nih += [Record("images/00000014_000.png", patient="14", name="images/00000014_000.png")]
    report = audit({"nih": Records(nih, (), "nih"), "rsna": corpus.records}, images=False)
    assert {o.kind: (o.count, o.records) for o in report.overlaps if o.first != o.second} == {
        "patient": (1, (1, 2)),
        "file": (1, (1, 1)),
    }
    merged = Records.load(tmp_path / "out/records.csv", None)
    assert {r.extra["original_image"] for r in merged if r.extra.get("original_image")} == set(named.values())
