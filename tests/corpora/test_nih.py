"""NIH ChestX-ray14: the publisher's layout end to end, the real table, the published lists, bad downloads."""

import json

import pytest

from mrm.corpora import prepare, splits
from mrm.corpora.class_names import NIH as CLASSES
from mrm.corpora.contract import Options, Release
from mrm.data.records import Records
from mrm.system.errors import RecordError
from tests.support.corpora.nih import row, write_tree
from tests.support.corpora.official import read_as_if_complete
from tests.support.image_files import contents, write_image


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "ChestX-ray14")


def test_the_download_becomes_records_sets_and_lists(source, tmp_path, capsys):
    before = contents(source)
    corpus = prepare("nih", source, tmp_path / "out", Options(val=0.2, fractions=(10, 50)))
    assert contents(source) == before
    assert {k: len(v) for k, v in corpus.splits.items() if k != "train_10"} == {
        "train": 52,
        "val": 12,
        "test": 16,
        "train_50": 26,
    }
    read = Records.load(tmp_path / "out/train.csv", None)  # as fine-tuning does
    assert read.classes == CLASSES
    assert [r.labels for r in read] == [r.labels for r in corpus.splits["train"]]
    assert all(r.image.is_file() for r in read)
    assert read[0].extra["age"] == "58"
    assert "112,120        80" in capsys.readouterr().out


def test_lists_are_read_back_with_the_source_as_their_images(source, tmp_path):
    corpus = prepare("nih", source, tmp_path / "out")
    for file, split in (("train_list.txt", "train"), ("test_list.txt", "test"), ("train_10.txt", "train_10")):
        listed = Records.load(tmp_path / "out" / file, CLASSES, images=source)
        assert [(r.image, r.labels) for r in listed] == [(r.image, r.labels) for r in corpus.splits[split]]


def test_sets_share_no_patient_and_smaller_ones_lie_in_larger_ones(source, tmp_path):
    corpus = prepare("nih", source, tmp_path / "out", Options(fractions=(10, 30)))
    people = {k: set(v.patients) for k, v in corpus.splits.items()}
    assert not people["train"] & people["val"] | people["train"] & people["test"] | people["val"] & people["test"]
    assert people["train_10"] < people["train_30"] < people["train"]


def test_corpus_json_has_counts_hashes_and_reasons(source, tmp_path):
    (source / "images_001/images/00000000_001.png").unlink()
    write_image(source / "images_001/images/00000099_000.png", 1)
    write_image(source / "images_002/images/00000000_000.png", 1)
    table = source / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text() + f"{row(3)}\n{row(4).replace('Effusion|Hernia', 'Mass')}\n")
    prepare("nih", source, tmp_path / "out")
    facts = json.loads((tmp_path / "out/corpus.json").read_text())
    assert facts["excluded"] == {
        "image absent": 1,
        "image without label": 1,
        "duplicate row": 1,
        "rows contradict each other": 1,
        "same file name in two folders, or in two formats": 1,
    }
    assert facts["found"]["rows"] == 82
    assert facts["expected"]["images"] == 112_120
    assert facts["complete"] is False
    assert set(facts["versions"]) == {"mrm", "python", "opencv", "pydicom", "numpy"}
    assert facts["options"]["seed"] == 0
    assert {i["file"] for i in facts["inputs"]} == {table.name, "train_val_list.txt", "test_list.txt"}


def test_without_the_official_lists_the_test_set_is_our_own(source, tmp_path):
    (source / "test_list.txt").unlink()
    corpus = prepare("nih", source, tmp_path / "out")
    assert 10 <= len(corpus.splits["test"]) <= 20
    assert "official test set is unknown" in corpus.facts["notes"][0]


def test_published_lists_take_the_place_of_our_splits(source, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    zeros = " ".join("0" * 14)
    (lists / "train_list.txt").write_text(f"00000001_000.png {zeros}\n00000004_001.png {zeros}")
    (lists / "val_list.txt").write_text(f"00000000_000.png {zeros}\n00000777_000.png {zeros}\n")
    corpus = prepare("nih", source, tmp_path / "out", Options(splits=lists))
    assert {k: len(v) for k, v in corpus.splits.items()} == {"train": 2, "val": 1}
    assert corpus.splits["train"][0].labels == (0.0,) * 14
    assert "train_list.txt: 4 of 28 labels differ from the publisher's table" in corpus.facts["notes"]
    assert corpus.facts["expected"]["val"] == 2
    assert corpus.facts["excluded"] == {"image absent": 1}


def test_another_table_under_this_name_is_refused(source, tmp_path):
    (source / "Data_Entry_2017_v2020.csv").write_text("file,label\na.png,1\n")
    with pytest.raises(RecordError, match=r"no column Image Index, .*the columns found are file, label"):
        prepare("nih", source, tmp_path / "out")


@pytest.mark.parametrize("name", ["../../elsewhere/a.png", "/etc/a.png"])
def test_a_path_that_leads_out_is_refused_with_its_line(source, tmp_path, name):
    table = source / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("00000001_000.png", name))
    with pytest.raises(RecordError, match=r"Data_Entry_2017_v2020.csv, line 4: .* leads out of the source folder"):
        prepare("nih", source, tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0\0", b"<html>"])
def test_an_official_list_that_names_nothing_is_refused(source, tmp_path, content):
    (source / "test_list.txt").write_bytes(content)
    with pytest.raises(RecordError, match=r"test_list.txt: has no image names"):
        prepare("nih", source, tmp_path / "out")


def test_an_unknown_finding_is_refused_with_its_line(source, tmp_path):
    table = source / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("Effusion|Hernia", "Effusion|Goitre", 1))
    with pytest.raises(RecordError, match=r"Data_Entry_2017_v2020.csv, line 4: \['Goitre'\]"):
        prepare("nih", source, tmp_path / "out")


# ---- the real table and lists ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory) -> Release:
    """The real table, as if every image were there."""
    folder, file = tmp_path_factory.mktemp("nih"), "Data_Entry_2017_v2020.csv.gz"
    return read_as_if_complete("nih", folder, file, shared_data / "official" / file, lambda row: row["Image Index"])


def test_the_real_table_has_the_publishers_counts(real):
    assert real.counts["rows"] == len(real.records) == 112_120
    assert len(set(real.records.patients)) == 30_805
    assert len(real.records.classes) == 14
    assert real.excluded == []
    positives = dict(zip(CLASSES, real.records.labels_NC.sum(axis=0).astype(int), strict=True))
    assert positives == {
        **{"Atelectasis": 11559, "Cardiomegaly": 2776, "Effusion": 13317, "Infiltration": 19894, "Mass": 5782},
        **{"Nodule": 6331, "Pneumonia": 1431, "Pneumothorax": 5302, "Consolidation": 4667, "Edema": 2303},
        **{"Emphysema": 2516, "Fibrosis": 1686, "Pleural_Thickening": 3385, "Hernia": 227},
    }


@pytest.mark.slow
def test_the_published_lists_join_and_their_columns_are_in_our_order(real, shared_data):
    found = splits.published(real, shared_data / "reference-splits/NIH_ChestX-ray")
    sizes = {k: len(v) for k, v in found.splits.items()}
    assert sizes == {"train": 78_468, "val": 11_219, "test": 22_433, "train_1": 785, "train_10": 7_847}
    assert found.excluded == []
    place = {r.name: i for i, r in enumerate(real.records)}
    listed = found.splits["train"]
    table_NC = real.records.labels_NC[[place[r.name] for r in listed]]
    differ_CC = (listed.labels_NC[:, :, None] != table_NC[:, None, :]).sum(axis=0)  # listed column, our class
    assert (differ_CC.argmin(axis=1) == range(14)).all()
    assert differ_CC.diagonal().max() < 60  # the lists were made from the table of 2017; some labels changed since
    assert differ_CC.diagonal().sum() == 132


def test_rare_classes_are_in_one_per_cent_of_the_real_labels(real):
    sets = splits.cut(real, Options())
    assert len(sets["train_1"]) == pytest.approx(len(sets["train"]) / 100, rel=0.02)
    assert len(sets["train_10"]) == pytest.approx(len(sets["train"]) / 10, rel=0.01)
    assert (sets["train_1"].labels_NC.sum(axis=0) > 0).all()
    assert set(sets["train_1"].patients) <= set(sets["train_10"].patients) <= set(sets["train"].patients)


# Files as they are served now, and as they get saved ----------------------------------------------------------


def change(source, old: str, new: str) -> None:
    table = source / "Data_Entry_2017_v2020.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))


def test_the_table_with_patient_sex_is_the_same_as_with_patient_gender(source, tmp_path):
    before = prepare("nih", source, tmp_path / "a").records
    change(source, "Patient Gender", "Patient Sex")
    after = prepare("nih", source, tmp_path / "b").records
    assert [r.extra for r in after] == [r.extra for r in before]
    assert after[0].extra["sex"] == "M"
    change(source, "Patient Sex", "Geschlecht")
    with pytest.raises(RecordError, match="no column Patient Gender or Patient Sex; the columns found are Image Index"):
        prepare("nih", source, tmp_path / "c")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_official_lists_with_a_byte_order_mark_keep_their_first_image(source, tmp_path, encoding):
    for name in ("train_val_list.txt", "test_list.txt"):
        (source / name).write_text((source / name).read_text(), encoding=encoding)
    corpus = prepare("nih", source, tmp_path / "out", Options(val=0.2))
    assert {k: len(v) for k, v in corpus.splits.items() if k in ("train", "val", "test")} == {
        "train": 52,
        "val": 12,
        "test": 16,
    }


@pytest.mark.parametrize(
    ("stated", "age"), [("058Y", "58"), ("000Y", "0"), ("0", "0"), ("58", "58"), ("006M", "6M"), ("010D", "10D")]
)
def test_an_age_is_kept_in_its_unit_and_a_newborn_is_zero(source, tmp_path, stated, age):
    change(source, ",058Y,", f",{stated},")
    assert {r.extra["age"] for r in prepare("nih", source, tmp_path / "out").records} == {age}


def test_images_converted_to_jpeg_are_those_of_the_table_and_the_lists(source, tmp_path):
    for number, file in enumerate(sorted(source.rglob("*.png"))):
        write_image(file.with_suffix(".JPG" if number % 2 else ".jpeg"), number)
        if number:  # the first is there twice: the publisher's PNG is taken
            file.unlink()
    corpus = prepare("nih", source, tmp_path / "out", Options(val=0.2))
    assert len(corpus.records) == 80
    assert len(corpus.splits["test"]) == 16
    assert corpus.facts["excluded"] == {"same file name in two folders, or in two formats": 1}
    assert corpus.records[0].name.endswith("00000000_000.png")
