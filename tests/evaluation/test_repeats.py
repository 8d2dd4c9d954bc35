"""Images that a set has more than once are named, and first of all those whose labels contradict each other."""

import math
from dataclasses import replace

import pytest

from mrm import runs
from mrm.audit.fingerprints import fingerprint
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.evaluation.repeats import repeats
from tests.support.image_files import radiograph
from tests.support.models import PROBED, probed_classifier

NAN = math.nan


def written(folder, name, seed):
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(images.encode_png(radiograph(seed, 64)))
    return file


def lines_of(rows, classes=("effusion", "mass")):
    records = Records(rows, classes)
    return repeats(records, fingerprint(records), "the test set")


def test_contrary_labels_are_named_with_class_and_values(tmp_path):
    a, copy, other = (written(tmp_path, name, seed) for name, seed in (("a.png", 1), ("copy.png", 1), ("b.png", 2)))
    rows = [
        Record(file, labels=labels, name=file.name) for file, labels in ((a, (1, 0)), (copy, (0, 0)), (other, (1, 1)))
    ]
    assert lines_of(rows) == [
        "1 image of the test set occurs more than once, with contrary labels, so no model can be right about them; "
        "correct the labels: a.png and copy.png (effusion 1 and 0)"
    ]


def test_of_many_copies_the_first_few_are_named(tmp_path):
    a = written(tmp_path, "a.png", 1)
    (line,) = lines_of([Record(a, labels=(n % 2, 0), name=f"{n}.png") for n in range(2000)])
    assert line.endswith("0.png and 1.png and 2.png and 3.png and 4.png and 1,995 more (effusion 0 and 1)")


def test_of_many_labels_and_many_patients_the_first_few_are_named(tmp_path):
    a, b = (written(tmp_path, name, seed) for name, seed in (("a.png", 1), ("b.png", 2)))
    rows = [Record(a, labels=(n,) * 7, name="a.png") for n in (0, 1)]
    rows += [Record(b, patient=f"p{n}", labels=(0,) * 7, name="b.png") for n in range(8)]
    contrary, people = lines_of(rows, tuple("cdefghi"))
    assert contrary.endswith(": a.png (c 0 and 1, d 0 and 1, e 0 and 1, f 0 and 1, g 0 and 1, and 2 more)")
    assert people.endswith(": b.png (p0, p1, p2, p3, p4, and 3 more)")


def test_rows_twice_and_copies_are_counted_and_a_label_that_is_not_stated_contradicts_none(tmp_path):
    a, copy, b = (written(tmp_path, name, seed) for name, seed in (("a.png", 1), ("copy.png", 1), ("b.png", 2)))
    rows = [Record(a, labels=(1, NAN)), Record(copy, labels=(NAN, 0)), *[Record(b, labels=(0, 0), name="b.png")] * 3]
    (line,) = lines_of(rows)
    assert line.startswith(
        "2 images of the test set occur more than once, and count as often; leave all but one of each"
    )
    assert "b.png (3 times)" in line


def test_one_file_by_two_paths_is_one_image_though_it_cannot_be_read(tmp_path):
    (tmp_path / "folder").mkdir()
    rows = [
        Record(tmp_path / "x.png", name="x.png"),
        Record(tmp_path / "folder" / ".." / "x.png", name="folder/../x.png"),
    ]
    (line,) = lines_of(rows, ())
    assert "x.png and folder/../x.png (2 times)" in line


def test_one_image_under_two_patients_is_named(tmp_path):
    file = written(tmp_path, "a.png", 1)
    rows = [
        Record(file, patient="p", labels=(1, 0), name="a.png"),
        Record(file, patient="q", labels=(1, 0), name="a.png"),
    ]
    (line,) = lines_of(rows)
    assert "under different patients" in line
    assert "a.png (p, q)" in line


def test_a_set_without_repetitions_brings_no_line_and_a_long_list_is_cut(tmp_path):
    rows = [Record(written(tmp_path, f"{i}.png", i), labels=(1, 0)) for i in range(8)]
    assert lines_of(rows) == []
    (line,) = lines_of([*rows, *rows])
    assert line.startswith("8 images of")
    assert line.endswith("; and 3 more")


@pytest.mark.filterwarnings("ignore:the training records of this model are unknown")
def test_a_test_and_a_calibration_warn_of_them_and_the_page_shows_them(phantoms, tmp_path):
    model = probed_classifier(phantoms, tmp_path / "model")
    records = Records.load(phantoms / "records.csv", PROBED)
    first = records[0]
    opposite = replace(first, labels=tuple(1 - label for label in first.labels))
    file = replace(records, rows=[*records, opposite]).to_csv(tmp_path / "test.csv")
    with pytest.warns(UserWarning, match="1 image of the test set occurs more than once, with contrary labels"):
        results = runs.evaluate(model, file, tmp_path / "out", draws=20, reading=runs.Reading(workers=0))
    assert "effusion" in results["repeats"][0]
    assert "with contrary labels" in (tmp_path / "out" / "index.html").read_text()
    with pytest.warns(UserWarning, match="1 image of the validation set occurs more than once, with contrary labels"):
        runs.calibrate(model, file, reading=runs.Reading(workers=0), outliers=False)
