"""COVID-19 Image Data Collection: made-up trees in its two layouts, and the real one where it is."""

import csv
import itertools

import cv2
import numpy as np
import pytest

from mrm import runs
from mrm.corpora import prepare
from mrm.corpora.contract import Options
from mrm.corpora.covid import CLASSES, labels_of
from mrm.data.records import Records, read_list
from mrm.system.errors import RecordError
from tests.support.corpora.covid import build, row, write_tree


@pytest.fixture
def source(tmp_path):
    return write_tree(tmp_path / "covid")


@pytest.mark.parametrize(
    ("finding", "covid", "viral"),
    [
        *[("COVID-19", 1, 1), ("COVID-19, ARDS", 1, 1), ("Pneumonia/Viral/COVID-19", 1, 1), ("SARS", 0, 1)],
        *[("Pneumonia/Viral/MERS-CoV", 0, 1), ("Mycoplasma Bacterial Pneumonia", 0, 0), ("E.Coli", 0, 0)],
        *[("Pneumonia/Bacterial/Staphylococcus/MRSA", 0, 0), ("Bacterial", 0, 0), ("ARDS", 0, None)],
        *[("Pneumonia/Fungal/Pneumocystis", 0, None), ("Lipoid", 0, None), ("Pneumonia", 0, None)],
        *[("No Finding", None, None), ("todo", None, None), ("", None, None), ("Unknown", None, None)],
    ],
)
def test_findings_in_both_spellings(finding, covid, viral):
    assert [None if v != v else v for v in labels_of(finding)] == [covid, viral]


def test_the_whole_way(source, tmp_path):
    corpus = prepare("covid", source, tmp_path / "out")
    assert len(corpus.records) == 96
    sets = {
        f"{task}{n}/{part}" for task in ("covid", "viral") for n in range(1, 6) for part in ("train", "val", "test")
    }
    assert set(corpus.splits) == {*sets, "training"}
    for name in sets:
        labelled = Records.load(tmp_path / "out" / f"{name}.csv", classes=None)
        assert labelled.classes == (CLASSES[0] if name.startswith("covid") else CLASSES[1],)
        assert set(labelled.labels_NC.ravel()) == {0, 1}, name
    for task in ("covid1", "viral5"):
        parts = [set(corpus.splits[f"{task}/{part}"].patients) for part in ("train", "val", "test")]
        assert all(a.isdisjoint(b) for a, b in itertools.combinations(parts, 2))
        assert len(set.union(*parts)) == 36
    tests = [frozenset(corpus.splits[f"covid{n}/test"].patients) for n in range(1, 6)]
    assert len(set(tests)) == 5
    listed = read_list(tmp_path / "out" / "covid1" / "train_list.txt", images=source)
    assert len(listed) == len(corpus.splits["covid1/train"])
    training = Records.load(tmp_path / "out" / "training.csv")
    assert len(training) == 96
    assert training[0].report == "Note, of 0"


def test_the_same_seed_gives_the_same_splits(source, tmp_path):
    first, again = (prepare("covid", source, tmp_path / name, Options(seed=3)) for name in "ab")
    other = prepare("covid", source, tmp_path / "c", Options(seed=4))
    names = [[r.name for r in corpus.splits["viral2/test"]] for corpus in (first, again, other)]
    assert names[0] == names[1] != names[2]


def test_one_task_alone(source, tmp_path):
    corpus = prepare("covid", source, tmp_path / "out", Options(classes=("viral",)))
    assert {name.rstrip("12345/trainvlesg") for name in corpus.splits} <= {"vir", ""}


def test_no_validation_and_no_test_set(source, tmp_path):
    corpus = prepare("covid", source, tmp_path / "out", Options(val=0, test=0))
    assert {name.partition("/")[2] for name in corpus.splits} == {"train", ""}
    assert len(corpus.splits["covid1/train"]) == 72


def test_published_lists(source, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    cv2.imwrite(str(source / "images" / "unlisted.jpg"), np.zeros((9, 9), np.uint8))
    (lists / "iscovid_train.txt").write_text("0.jpg 1\n4.jpg 0\n4.jpg 0\ngone.jpg 1\nunlisted.jpg 1\n")
    (lists / "isviral_val.txt").write_text("2.jpg 0\n")
    corpus = prepare("covid", source, tmp_path / "out", Options(splits=lists))
    assert {k: [r.name for r in part] for k, part in corpus.splits.items()} == {
        "iscovid/train": ["images/0.jpg", "images/4.jpg", "images/unlisted.jpg"],
        "isviral/val": ["images/2.jpg"],
    }
    assert corpus.splits["iscovid/train"].classes == ("covid19",)
    assert corpus.facts["excluded"] == {"duplicate row": 1, "image absent": 1}
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="no label lists"):
        prepare("covid", source, tmp_path / "out", Options(splits=tmp_path / "empty"))


def test_the_sets_of_published_lists_are_audited(source, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "iscovid_train.txt").write_text("0.jpg 1\n2.jpg 0\n")
    (lists / "iscovid_val.txt").write_text("1.jpg 1\n2.jpg 0\n")
    verdict = runs.prepare("covid", source, tmp_path / "out", Options(splits=lists))
    assert {(o.first, o.second, o.kind) for o in verdict.overlaps if o.kind in ("patient", "file")} == {
        ("iscovid/train", "iscovid/val", "patient"),
        ("iscovid/train", "iscovid/val", "file"),
    }


def test_an_unknown_task_is_named(source, tmp_path):
    with pytest.raises(RecordError, match="unknown class flu; choose from covid19, viral"):
        prepare("covid", source, tmp_path / "out", Options(classes=("flu",)))


def test_what_is_left_out_and_why(tmp_path):
    rows = [row(n) for n in range(40)]
    rows += [row(0), row(1, patientid="9"), row(50, view="L"), row(51, view="Axial", modality="CT", folder="volumes")]
    rows += [row(52, filename="absent.jpg")]
    names = [f"{n}.jpg" for n in range(40)] + ["50.jpg", "unlisted.jpg"]
    source = build(tmp_path / "covid", rows, names)
    (source / "images" / "3.jpg").write_bytes(b"no image")
    corpus = prepare("covid", source, tmp_path / "out")
    assert corpus.facts["excluded"] == {
        **{"duplicate row": 1, "rows contradict each other": 1, "view not frontal": 1, "not an X-ray": 1},
        **{"image absent": 1, "image without label": 1, "unreadable image": 1},
    }
    lateral = prepare("covid", source, tmp_path / "views", Options(views=("L", "PA")))
    assert lateral.facts["views"] == {"PA": 38, "L": 1}


def test_letters_that_were_lost_before_publication_are_told(source, tmp_path):
    table = source / "metadata.csv"
    table.write_bytes(table.read_bytes().replace(b"Note, of 7", "39\ufffdC, of 7".encode(), 1))
    corpus = prepare("covid", source, tmp_path / "out")
    assert "39\ufffdC, of 7" in {r.report for r in corpus.records}
    assert any("\ufffd" in note for note in corpus.facts["notes"])


def test_another_table_and_a_path_that_leads_out_are_refused(source, tmp_path):
    table = source / "metadata.csv"
    whole = table.read_text()
    table.write_text(whole.replace("finding,view", "diagnosis,view"))
    with pytest.raises(RecordError, match="no column finding"):
        prepare("covid", source, tmp_path / "out")
    table.write_text(whole.replace(",5.jpg", ",../../5.jpg"))
    with pytest.raises(RecordError, match="leads out of the source folder"):
        prepare("covid", source, tmp_path / "out")
    table.unlink()
    with pytest.raises(RecordError, match="no such file"):
        prepare("covid", source, tmp_path / "out")


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    if not (shared_data / "covid-cxr" / "metadata.csv").is_file():
        pytest.skip("no covid-cxr")
    return prepare("covid", shared_data / "covid-cxr", tmp_path_factory.mktemp("covid") / "out")


def test_the_real_collection(real):
    """443 rows: 41 lateral, one file in two contradictory rows; 105 of its 547 images have no row."""
    assert real.facts["found"]["rows"] == 443
    assert real.facts["excluded"] == {
        **{"image without label": 105, "view not frontal": 41, "rows contradict each other": 1}
    }
    assert real.facts["views"] == {"PA": 205, "AP Supine": 131, "AP": 64}
    assert real.facts["classes"]["covid19"] == {"positive": 331, "negative": 52, "uncertain": 0, "not stated": 17}
    assert real.facts["classes"]["viral"] == {"positive": 346, "negative": 12, "uncertain": 0, "not stated": 42}
    assert any("55 rows" in note for note in real.facts["notes"])
    assert len(Records.load(real.out / "training.csv")) == 307
    for n in range(1, 6):
        for task in ("covid", "viral"):
            for part in ("train", "val", "test"):
                assert set(real.splits[f"{task}{n}/{part}"].labels_NC.ravel()) == {0, 1}


def test_the_published_lists_join(shared_data, tmp_path):
    """All images of all four lists are there: 264 and 44, 229 and 32; 61 of them have no row in the table."""
    options = Options(splits=shared_data / "covid-cxr" / "splits", workers=1)
    corpus = prepare("covid", shared_data / "covid-cxr", tmp_path / "out", options)
    sizes = {name: len(part) for name, part in corpus.splits.items()}
    assert sizes == {"iscovid/train": 264, "iscovid/val": 44, "isviral/train": 229, "isviral/val": 32}
    without = {r.name for part in corpus.splits.values() for r in part if not r.patient}
    assert len(without) == 61


def test_the_published_lists_agree_with_our_labels(real, shared_data):
    """All but the two images that the lists call COVID-19 and this release of the table `No Finding`."""
    ours = {r.name.rpartition("/")[2]: r.labels for r in real.records}
    differing, compared = [], 0
    for column, task in enumerate(("iscovid", "isviral")):
        for part in ("train", "val"):
            with (shared_data / "covid-cxr" / "splits" / f"{task}_{part}.txt").open() as stream:
                for name, label in csv.reader(stream, delimiter=" "):
                    if name in ours:
                        compared += 1
                        differing += [name] if ours[name][column] != float(label) else []
    assert compared > 400
    assert set(differing) == {"f6575117.jpg", "ac4f6e4e.jpg"}
