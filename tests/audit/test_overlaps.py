"""The audit finds every kind of overlap, says what it could not compare, and keeps nothing in clear."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrm.audit import site_key
from mrm.audit.fingerprints import Fingerprints, comparable, fingerprint, read_names
from mrm.audit.overlaps import KINDS, AuditReport, Coverage, Overlap, audit, audit_fingerprints, compare, repeats
from mrm.data import images
from mrm.data.patients import infer_origin
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError, UnreachableError
from tests.support.image_files import radiograph


def saved(folder, name: str, image: np.ndarray, **known) -> Record:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(images.encode_jpeg(image) if name.endswith(".jpg") else images.encode_png(image))
    return Record(path, name=name, **known)


def listed(*names: str, **known) -> Records:
    return Records([Record(name.encode(), name=name, **known) for name in names])


def kinds(overlaps) -> dict[str, int]:
    return {o.kind: o.count for o in overlaps}


def by_name(first: Records, second: Records) -> dict[str, int]:
    return kinds(audit({"a": first, "b": second}, images=False).overlaps)


# ---- kinds of overlap --------------------------------------------------------------------------------------


def test_every_kind_is_found(tmp_path):
    train = Records(
        [
            saved(tmp_path, "a/one.png", radiograph(1), patient="7", study="s3"),
            saved(tmp_path, "a/two.png", radiograph(2), patient="8"),
            saved(tmp_path, "a/three.png", radiograph(3), patient="9"),
        ]
    )
    test = Records(
        [
            saved(tmp_path, "b/one.png", radiograph(11), patient="007", study="3"),
            saved(tmp_path, "b/other.tif.png", radiograph(2), patient="18"),
            saved(tmp_path, "b/small.jpg", 255 - images.resize(radiograph(3), 90, 90), patient="19"),
        ]
    )
    verdict = audit({"train": train, "test": test})
    assert kinds(verdict.overlaps) == dict.fromkeys(KINDS, 1)
    assert not verdict.clean
    assert [o.examples for o in verdict.overlaps][-2:] == [
        (("a/two.png", "b/other.tif.png"),),
        (("a/three.png", "b/small.jpg"),),
    ]


def test_no_examples_have_no_heading(tmp_path):
    one = Records([saved(tmp_path, "a/one.png", radiograph(1), patient="7")])
    assert "examples" in audit({"a": one, "b": one}).table()
    assert "examples" not in audit({"a": one, "b": one}, examples=0).table()


def test_sets_apart_are_clean(tmp_path):
    a = Records([saved(tmp_path, f"a/{i}.png", radiograph(i), patient=f"a{i}") for i in range(4)])
    b = Records([saved(tmp_path, f"b/{i + 50}.png", radiograph(i + 50), patient=f"b{i}") for i in range(4)])
    verdict = audit({"a": a, "b": b}, within=True)
    assert verdict.clean
    assert verdict.notes == []
    assert "clean: nothing" in verdict.table()


def test_counts_are_distinct_things_and_the_records_they_concern():
    train = listed("x1", "x2", "x3", patient="p1")
    test = listed("y1", "y2", patient="p1")
    (overlap,) = audit({"train": train, "test": test}, images=False).overlaps
    assert (overlap.kind, overlap.count, overlap.records) == ("patient", 1, (3, 2))
    assert str(overlap) == "2 records of test share a patient with train"


def test_a_study_is_the_same_only_with_its_patient():
    a, b = listed("x", patient="1", study="study1"), listed("y", patient="2", study="study1")
    assert by_name(a, b) == {}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("00000001_000.png", "images_001/images/00000001_000.png", True),
        ("1.2.276.0.7230010.3.1.4", "images/training/1.2.276.0.7230010.3.1.4.jpg", True),
        ("a\\b\\Scan7.DCM", "elsewhere/scan7.png", True),
        ("v1/patient00001/study1/view1_frontal.jpg", "small/patient00001/study1/view1_frontal.png", True),
        ("v1/patient00001/study1/view1_frontal.jpg", "v1/patient00002/study1/view1_frontal.jpg", False),
    ],
)
def test_what_counts_as_one_file_name(first, second, same):
    assert ("file" in by_name(listed(first), listed(second))) == same


def test_names_that_say_nothing_are_compared_with_their_folders():
    a = listed("p1/image1.png", "p2/image1.png")
    assert by_name(a, listed("x/p3/image1.png", "x/p4/image1.png")) == {}
    assert by_name(a, listed("x/p2/image1.png", "x/p4/image1.png")) == {"file": 1}


def test_up_to_three_folders_tell_files_apart():
    a = listed("p1/study/view/image1.png", "p2/study/view/image1.png")
    assert by_name(a, listed("x/p3/study/view/image1.png")) == {}
    assert by_name(a, listed("x/p2/study/view/image1.png")) == {"file": 1}
    assert by_name(a, a) == {"file": 2}  # counted as what they are told apart by


# ---- published names ---------------------------------------------------------------------------------------


def test_patients_of_published_names():
    assert infer_origin("00000013_026.png")[:3] == ("nih", "00000013", "")
    assert infer_origin("CheXpert-v1.0-small/train/patient09193/study2/v.jpg")[:3] == (
        "chexpert",
        "09193",
        "2",
    )
    assert infer_origin("files/p10/p10000032/s50414267/02aa.jpg")[:3] == ("mimic", "10000032", "50414267")
    assert infer_origin("CXR1_1_IM-0001-3001.png")[:2] == ("openi", "1")
    assert infer_origin("stage_2_train_images/f1d1ceac-9e6d-4ca8-b0da-f918df585511.dcm") is None


def test_ids_of_tables_and_of_file_names_agree_and_corpora_stay_apart():
    assert by_name(listed("00000013_026.png"), listed("00000013_001.png", patient="13")) == {"patient": 1}
    assert by_name(listed("00000013_026.png"), listed("t/patient00013/study1/v.jpg")) == {}
    assert fingerprint(listed("00000013_026.png"), images=False).inferred == 1


# ---- within one set ----------------------------------------------------------------------------------------


def test_repeats_within_one_set(tmp_path):
    a = saved(tmp_path, "a.png", radiograph(1), patient="1")
    twin = saved(tmp_path, "twin.png", radiograph(1), patient="2")
    small = saved(tmp_path, "small.png", images.resize(radiograph(1), 99, 99), patient="3")
    other = saved(tmp_path, "other.png", radiograph(5), patient="4")
    verdict = audit({"set": Records([a, twin, small, other, other])}, within=True)
    assert kinds(verdict.overlaps) == {"patient": 1, "file": 1, "image": 2, "similar image": 1}
    assert not verdict.clean
    assert "share a similar image with another record" in str(verdict.overlaps[-1])


def test_a_series_of_one_patient_is_listed_and_is_no_fault():
    verdict = audit({"set": listed("x1", "x2", "x3", patient="p")}, images=False, within=True)
    assert verdict.overlaps[0].examples == (("x1", "x2"), ("x2", "x3"))
    assert verdict.clean


# ---- what could not be compared ----------------------------------------------------------------------------


def test_unreadable_and_blank_images_are_listed_not_fatal(tmp_path):
    good = saved(tmp_path, "good.png", radiograph(1), patient="1")
    cut = saved(tmp_path, "cut.png", radiograph(2), patient="2")
    cut.image.write_bytes(cut.image.read_bytes()[:200])
    blank = saved(tmp_path, "blank.png", np.zeros((40, 40), np.uint8), patient="3")
    gone = Record(tmp_path / "gone.png", patient="4")
    verdict = audit({"set": Records([good, cut, blank, gone])})
    coverage = verdict.sets["set"]
    assert (coverage.images, coverage.blank, len(coverage.unreadable)) == (2, 1, 2)
    assert any("cut.png" in line for line in verdict.notes)
    assert "unreadable images, not compared: set (2)" in verdict.table()


def test_absent_images_and_unknown_patients_are_said(tmp_path):
    (tmp_path / "list.txt").write_text("name1\nname2\n")
    records = read_names(tmp_path / "list.txt")
    verdict = audit({"list.txt": records, "again": records})
    assert kinds(verdict.overlaps) == {"file": 2}
    assert verdict.notes == [
        "patients not compared, because none is known: list.txt, again",
        "images not compared, only names and ids: list.txt, again",
    ]
    mixed = Records([Record(b"", name="x", patient="1"), Record(b"", name="y")])
    assert audit({"m": mixed}, images=False).notes[0] == "records of unknown patient: m (1)"


def test_unknown_is_not_the_same_as_unknown():
    nameless = Records([Record(b"no image")])
    verdict = audit({"a": nameless, "b": nameless})
    assert verdict.clean
    assert verdict.sets["a"].unreadable


def test_empty_sets():
    empty = Records([])
    verdict = audit({"empty": empty, "other": listed("x")}, within=True, images=False)
    assert verdict.clean
    assert verdict.table()
    assert audit({}).clean


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="patient, study, file"):
        audit_fingerprints({}, kinds=["picure"])
    same = listed("x", patient="1")
    assert kinds(audit({"a": same, "b": same}, kinds=["file"], images=False).overlaps) == {"file": 1}


# ---- by hand -----------------------------------------------------------------------------------------------

HASHES = np.random.default_rng(0).integers(1, 2**64, (3, 4), dtype=np.uint64)  # of three images that look nothing alike
NEAR = 2  # bits between images that look alike here


def hashed(*seen: int, patients: list[int] | None = None, names: list[str] | None = None) -> Fingerprints:
    """Records of images by their numbers: 10 k, 10 k + 1 and 10 k + 2 look alike, the last as the first but for one bit.

    An image of number 0 was not read, and one of number 90 is blank.
    """
    named = fingerprint(listed(*(names or [f"{id(seen)}/{n}.png" for n in range(len(seen))])), images=False)
    perceptual = np.zeros((len(seen), 2, 4), np.uint64)
    for place, number in enumerate(seen):
        if 0 < number < 90:
            perceptual[place] = HASHES[number // 10 - 1]
            perceptual[place, :, 0] ^= np.uint64(number % 10 == 2)
    known = np.array(patients or [0] * len(seen), np.uint64)
    return replace(named, exact=np.array(seen, np.uint64), perceptual=perceptual, patients=known, studies=known)


def similar(first: Fingerprints, second: Fingerprints) -> tuple[int, tuple[int, int]]:
    """Count and records of the overlap by similar images."""
    (overlap,) = compare(first, second, kinds=["similar image"], threshold=NEAR)
    return overlap.count, overlap.records


def test_records_whose_images_are_the_same_take_no_part_in_similar_ones():
    """10 is in both sets, so that of the first set 20 alone is involved in an image that only looks alike, 21."""
    assert similar(hashed(10, 20), hashed(10, 21)) == (1, (1, 1))
    assert similar(hashed(10, 20, 20), hashed(10, 21, 22, 22)) == (2, (2, 3))
    assert similar(hashed(10), hashed(10, 11)) == (1, (1, 1))  # the same image and another that looks like it
    assert compare(hashed(10), hashed(10, 20, 90, 0), kinds=["similar image"], threshold=NEAR) == []


def test_all_images_of_one_look_are_chained_and_each_pair_is_named_once():
    (overlap,) = repeats(hashed(10, 11, 13), "set", threshold=NEAR)  # three files of one hash, the first there is
    assert (overlap.kind, overlap.count, overlap.records) == ("similar image", 2, (3, 3))
    (overlap,) = repeats(hashed(12, 30, 10), "set", threshold=NEAR)
    assert (overlap.count, overlap.records) == (1, (2, 2))


def test_examples_are_the_nearest_and_as_many_as_asked_for():
    first = hashed(10, 20, names=["a", "b"])
    second = hashed(12, 21, names=["c", "d"])  # one bit apart, and none
    for examples, expected in ((1, (("b", "d"),)), (2, (("b", "d"), ("a", "c")))):
        (overlap,) = compare(first, second, threshold=NEAR, examples=examples)
        assert overlap.examples == expected
    (overlap,) = repeats(hashed(10, 11, 13, names=["a", "b", "c"]), "set", threshold=NEAR, examples=1)
    assert overlap.examples == (("a", "b"),)


def test_what_is_unknown_is_not_the_same_within_a_set_either():
    assert repeats(hashed(0, 0, 90, 90 + 1), "set", threshold=NEAR) == []
    (overlap,) = repeats(hashed(0, 0, 0, patients=[5, 0, 5]), "set", threshold=NEAR)
    assert (overlap.kind, overlap.count, overlap.records) == ("patient", 1, (2, 2))
    assert str(repeats(hashed(10, 10), "set", threshold=NEAR)[0]) == "set: 2 records share an image with another record"


def test_five_examples_are_named_unless_another_number_is_asked_for():
    """Six patients are in both sets, and seven records are of one, so that there are six of each to name."""
    six, one = hashed(*[0] * 6, patients=[1, 2, 3, 4, 5, 6]), hashed(*[0] * 7, patients=[1] * 7)
    asked = audit_fingerprints({"a": six, "b": six}, kinds=["patient"], examples=6)
    usual = audit_fingerprints({"a": six, "b": six}, kinds=["patient"])
    for overlaps, count in (
        (asked.overlaps, 6),
        (usual.overlaps, 5),
        (compare(six, six, kinds=["patient"]), 5),
        (repeats(one, "set", kinds=["patient"]), 5),
        (audit({"set": listed(*"abcdefg", patient="1")}, images=False, within=True, kinds=["patient"]).overlaps, 5),
    ):
        assert [(o.kind, o.count, len(o.examples)) for o in overlaps] == [("patient", 6, count)]
    assert [c.patients for c in usual.sets.values()] == [6, 6]


def test_a_set_is_searched_for_duplicates_only_if_asked_to():
    twice = {"set": hashed(10, 10)}
    assert (audit_fingerprints(twice).overlaps, audit_fingerprints(twice).compared) == ((), False)
    assert [o.kind for o in audit_fingerprints(twice, within=True).overlaps] == ["image"]


TABLE = """\
set       records  patient known  images read
train.csv    1,200          1,100        1,199
test.csv        20             20            0

first      second    same     count  records
train.csv  test.csv  patient  1      1,002 and 2

examples
  patient: a/x.png = b/y.png

note: records of unknown patient: train.csv (100)
note: patients taken from file names: train.csv (3), test.csv (20)
note: blank images, compared by exact content only: train.csv (2)
note: unreadable images, not compared: train.csv (1)
note: images not compared, only names and ids: test.csv
note: train.csv: c.png: cut off

NOT clean: the sets overlap"""


def test_the_table_by_hand():
    sets = {
        "train.csv": Coverage(1200, 1100, 3, 1199, 2, ("c.png: cut off",)),
        "test.csv": Coverage(20, 20, 20, 0, 0, ()),
    }
    overlap = Overlap("train.csv", "test.csv", "patient", 1, (1002, 2), (("a/x.png", "b/y.png"),))
    table = AuditReport((overlap,), sets).table()
    assert [" ".join(line.split()) for line in table.splitlines()] == [
        " ".join(line.split()) for line in TABLE.splitlines()
    ]
    assert AuditReport(()).table().endswith("\n\nclean: nothing that was compared overlaps")
    rows = table.splitlines()[4:6]
    assert [row.index("test.csv") for row in rows[1:]] == [rows[0].index("second")]  # columns begin below their heads
    assert rows[0].index("count") == rows[1].index("1 ")


SETS = st.lists(
    st.tuples(
        st.sampled_from([0, 10, 11, 12, 20, 21, 30, 90]), st.integers(0, 3), st.sampled_from(["p/x", "q/x", "p/y", "r/q/x", "z"])
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=25)
@given(SETS, SETS)
def test_an_audit_is_symmetric_in_its_sets(first, second):
    one, other = (
        hashed(*(row[0] for row in rows), patients=[row[1] for row in rows], names=[row[2] for row in rows])
        for rows in (first, second)
    )
    forth, back = ({o.kind: o for o in compare(*pair, threshold=NEAR)} for pair in ((one, other), (other, one)))
    for kind in ("patient", "study", "file", "image"):
        assert (kind in forth) == (kind in back)
        if kind in forth:
            assert (forth[kind].count, forth[kind].records) == (back[kind].count, back[kind].records[::-1])
    assert ({"image", "similar image"} & set(forth) == set()) == ({"image", "similar image"} & set(back) == set())
    near = {  # by comparing each with each: looking alike, and not in the first set
        (i, j)
        for i, (a, *_) in enumerate(first)
        for j, (b, *_) in enumerate(second)
        if 0 < a < 90 and 0 < b < 90 and a // 10 == b // 10 and b not in {row[0] for row in first}
    }
    expected = (len({second[j][0] for _, j in near}), (len({i for i, _ in near}), len({j for _, j in near})))
    assert expected == (similar(one, other) if "similar image" in forth else (0, (0, 0)))


# ---- stored ------------------------------------------------------------------------------------------------


def test_fingerprints_without_images_find_a_leak_later(tmp_path):
    train = Records([saved(tmp_path, f"{i}.png", radiograph(i), patient=f"secret-{i}") for i in range(3)])
    stored = fingerprint(train).save(tmp_path / "training.npz")
    assert b"secret" not in stored.read_bytes()
    test = Records([saved(tmp_path, "t/9.jpg", images.resize(radiograph(2), 80, 80), patient="secret-1")])
    overlaps = compare(Fingerprints.load(stored), fingerprint(test))
    assert kinds(overlaps) == {"patient": 1, "similar image": 1}
    assert overlaps[0].examples == (("record 2", "t/9.jpg"),)
    assert (overlaps[0].first, overlaps[0].second) == ("training", "test")


def test_of_another_sites_fingerprints_only_images_are_compared(tmp_path, monkeypatch):
    train = Records([saved(tmp_path, "1.png", radiograph(1), patient="7", study="3")])
    prints = fingerprint(train)
    own, foreign = (prints.keyed(site_key.SiteKey(bytes([n]) * 32)) for n in (1, 2))
    stored = Fingerprints.load(foreign.save(tmp_path / "f.npz"))
    assert stored.key == foreign.key
    assert kinds(compare(stored, prints)) == kinds(compare(prints, stored)) == {"image": 1}
    assert kinds(compare(own, stored)) == {"image": 1}
    assert comparable(stored, prints) is None
    assert kinds(compare(stored, foreign)) == {"patient": 1, "study": 1, "file": 1, "image": 1}
    with pytest.raises(RecordError, match="hashed with another site key"):
        foreign.keyed(site_key.SiteKey(bytes(32)))
    monkeypatch.setenv("MRM_SITE_KEY", str(tmp_path / "absent"))  # and nobody makes a key to compare
    assert kinds(compare(stored, prints)) == {"image": 1}
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("lacking", ["key", "version"])
def test_fingerprints_of_an_earlier_version_are_refused_since_their_hashes_mean_something_else(tmp_path, lacking):
    prints = fingerprint(Records([saved(tmp_path, "1.png", radiograph(1), patient="7")]))
    with np.load(prints.save(tmp_path / "f.npz")) as file:
        np.savez(tmp_path / "old.npz", **{name: file[name] for name in file.files if name != lacking})
    with pytest.raises(RecordError, match=r"old\.npz: fingerprints of another version of mrm; create them again"):
        Fingerprints.load(tmp_path / "old.npz")


def test_a_file_that_holds_no_fingerprints_is_refused(tmp_path):
    prints = fingerprint(listed("x"), images=False)
    path = prints.save(tmp_path / "f.npz")
    path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    replace(prints, names=np.zeros((1, 2), np.uint64)).save(tmp_path / "old.npz")
    for name in ("f.npz", "text.npz", "other.npz", "old.npz", "absent.npz"):
        with pytest.raises(RecordError, match=name):
            Fingerprints.load(tmp_path / name)


def test_a_verdict_comes_back_from_json():
    a = listed("x", "y", patient="1")
    verdict = audit({"a": a, "b": a}, within=True)
    assert AuditReport.from_json(verdict.to_json()) == verdict
    assert json.loads(verdict.to_json())["clean"] is False
    assert [o.kind for o in verdict.between("b", "a")] == ["patient", "file"]
    content = json.loads(verdict.to_json())
    lacking = [json.dumps({k: v for k, v in content.items() if k != key}) for key in ("sets", "compared", "related")]
    for bad in ("", "[]", "{}", '{"sets": {"a": {}}, "overlaps": []}', *lacking):
        with pytest.raises(RecordError, match="not an audit report"):
            AuditReport.from_json(bad)


def test_one_set_is_no_comparison():
    one = {"a": listed("x", "y")}
    assert not audit(one).compared
    assert "nothing was compared" in audit(one).table()
    assert audit(one, within=True).compared
    assert AuditReport.from_json(audit(one).to_json()) == audit(one)


def test_what_is_said_of_an_overlap():
    assert str(Overlap("a", "b", "image", 2, (3, 1500))) == "1,500 records of b share an image with a"
    assert (
        str(Overlap("a", "a", "similar image", 2, (4, 4))) == "a: 4 records share a similar image with another record"
    )


def test_progress_counts_images(tmp_path):
    calls = []
    records = Records([saved(tmp_path, f"{i}.png", radiograph(i)) for i in range(3)])
    audit({"set": records}, progress=lambda name: lambda *call: calls.append((name, *call)))
    assert calls == [("set", 1, 3), ("set", 2, 3), ("set", 3, 3)]


# ---- real data ---------------------------------------------------------------------------------------------


def published(shared_data, corpus: str) -> AuditReport:
    lists = sorted((shared_data / "reference-splits" / corpus).glob("*.txt"))
    return audit({path.stem: read_names(path) for path in lists})


def test_published_siim_lists_overlap(shared_data):
    verdict = published(shared_data, "SIIM-ACR_Pneumothorax")
    assert kinds(verdict.between("train_list", "test_list")) == {"file": 494}
    assert kinds(verdict.between("train_list", "val_list")) == {"file": 478}
    assert kinds(verdict.between("val_list", "test_list")) == {"file": 124}


def test_published_chexpert_lists_share_patients(shared_data):
    verdict = published(shared_data, "CheXpert")
    assert kinds(verdict.between("train_10", "val_list")) == {"patient": 1837, "study": 173}
    assert verdict.between("train_10", "test_list") == []
    assert any("taken from file names" in note for note in verdict.notes)


@pytest.mark.slow
def test_published_nih_lists_are_apart(shared_data):
    folder = shared_data / "reference-splits" / "NIH_ChestX-ray"
    assert audit({name: read_names(folder / f"{name}.txt") for name in ("train_list", "test_list")}).clean


def test_near_duplicates_of_the_covid_images(shared_data):
    """All seven pairs are one radiograph each, by eye: other window, size, arrows drawn in."""
    paths = sorted((shared_data / "covid-cxr" / "images").iterdir())
    records = Records([Record(path, name=path.name) for path in paths])
    verdict = audit({"covid": records}, within=True, examples=10)
    assert kinds(verdict.overlaps) == {"image": 1, "similar image": 6}
    assert ("A7E260CE-8A00-4C5F-A7F5-27336527A981.jpg", "case_76_1-3.jpg") in verdict.overlaps[1].examples


@pytest.mark.parametrize(
    "changes",
    [
        {"names": np.zeros((2, 4))},
        {"exact": np.zeros(2, np.float64)},
        {"perceptual": np.zeros((3, 4), np.uint64)},
        {"depths": np.full(2, 9, np.uint8)},
        {"patients": np.array(["a", "b"])},
        {"patients": np.array([{}, {}], dtype=object)},
        {"studies": None},
        {"read": np.array("yes")},
    ],
    ids=lambda c: next(iter(c)),
)
def test_a_seen_file_whose_arrays_are_no_hashes_is_refused(tmp_path, changes):
    records = Records(
        [Record(images.encode_png(radiograph(i, 64)), patient=f"p{i}", name=f"{i}.png") for i in range(2)]
    )
    path = fingerprint(records, workers=1).save(tmp_path / "seen.npz")
    with np.load(path) as file:
        arrays = {**file, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(RecordError, match=r"seen\.npz: not a fingerprint file, or damaged .*; create it again"):
        Fingerprints.load(path)


@pytest.mark.parametrize("content", [b"[" * 200_000, b"\xff\xfe", b"[]", b"3", b'{"overlaps": [], "sets": 5}'])
def test_an_audit_file_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "audit.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"audit\.json: "):
        AuditReport.load(tmp_path / "audit.json")


def test_prints_that_are_kept_and_a_folder_that_is_gone_wait_for_images_out_of_reach(tmp_path):
    rows = [saved(tmp_path, f"a/{i}.png", radiograph(i)) for i in range(3)]
    rows[1].image.rename(tmp_path / "aside")
    records = Records(rows)
    assert len(fingerprint(records).unreadable) == 1  # an audit of the moment says so
    with pytest.raises(UnreachableError, match=r"1\.png: no such file"):
        fingerprint(records, kept=True)
    (tmp_path / "aside").rename(rows[1].image)
    assert not fingerprint(records, kept=True).unreadable
