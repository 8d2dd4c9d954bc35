"""What boxes say of tested records: whose boxes count, which images are without a finding, and what is said of the rest."""

from pathlib import Path

import numpy as np
import pytest

from mrm.data import images
from mrm.data.records import Record, Records
from mrm.evaluation.box_truths import truths_of
from mrm.system.errors import RunError

NAN = float("nan")


@pytest.fixture
def records(tmp_path) -> Records:
    """Five images of 64 pixels: labelled with a square in two, without in two, not stated in one."""
    rows = []
    for name, square in (("a", 1.0), ("b", 1.0), ("c", 0.0), ("d", 0.0), ("e", NAN)):
        file = tmp_path / f"{name}.png"
        file.write_bytes(images.encode_png(np.zeros((64, 64), np.uint8)))
        rows.append(Record(file, labels=(square, 0.0), name=f"{name}.png"))
    return Records(rows, ("square", "ring"))


def boxes_file(folder: Path, *rows: str) -> Path:
    (folder / "boxes.csv").write_text("\n".join(["image_path,class,x,y,width,height,reader", *rows]) + "\n")
    return folder / "boxes.csv"


def test_boxes_count_and_images_without_them_only_where_they_are_labelled_0(tmp_path, records):
    truths = truths_of(boxes_file(tmp_path, "a.png,square,1,2,16,8,", "a.png,square,30,30,4,4,"), records)
    assert list(truths.classes) == ["square"]
    assert [truth.box_K4.tolist() for truth in truths.classes["square"]] == [
        [[1, 2, 16, 8], [30, 30, 4, 4]], [], [], [], []
    ]  # fmt: skip
    assert [truth.counts for truth in truths.classes["square"]] == [True, False, True, True, False]
    assert truths.notes == [
        "no boxes of ring: not measured",
        "square: 2 images have no box, but are not labelled 0; no mark on them is judged",
    ]


def test_boxes_of_other_images_and_of_unknown_classes_are_counted_and_said(tmp_path, records):
    rows = ["a.png,square,0,0,9,9,", "gone.png,square,0,0,1,1,", "gone.png,ring,0,0,1,1,", "a.png,Mass,0,0,9,9,"]
    assert truths_of(boxes_file(tmp_path, *rows), records).notes[:2] == [
        "2 boxes on 1 images that are not among the tested records were left out",
        "boxes of classes that the model does not have were left out: Mass (1)",
    ]


def test_a_box_on_an_image_that_is_labelled_0_counts_and_is_said(tmp_path, records):
    truths = truths_of(boxes_file(tmp_path, "c.png,square,0,0,9,9,"), records)
    assert truths.classes["square"][2].has_boxes
    assert "square: 1 images have a box, but are labelled 0; the box counts" in truths.notes


def test_of_two_readers_what_one_drew_alone_is_disputed(tmp_path, records):
    file = boxes_file(
        tmp_path, "a.png,square,0,0,16,16,R1", "a.png,square,2,0,16,16,R2", "b.png,square,0,0,16,16,R1",
        "c.png,square,0,0,60,60,R2",
    )  # fmt: skip
    truths = truths_of(file, records)
    own = truths.classes["square"]
    assert (truths.agree, truths.readers) == (2, 2)
    assert [len(truth.box_K4) for truth in own] == [1, 0, 0, 0, 0]
    assert [len(truth.disputed_J4) for truth in own] == [0, 1, 1, 0, 0]
    assert own[0].box_K4.tolist() == [[1, 0, 16, 16]]
    assert (
        "images have boxes of up to 2 readers; a box counts that at least 2 drew (--agree), and 2 that fewer did are disputed: "
        "a mark there is neither right nor wrong"
    ) in truths.notes
    each = truths_of(file, records, agree=1).classes["square"]
    assert [len(truth.box_K4) for truth in each] == [1, 1, 1, 0, 0]
    with pytest.raises(RunError, match="--agree 3, but the most readers who drew boxes on one image are 2"):
        truths_of(file, records, agree=3)


def test_readers_who_agree_on_nothing_leave_no_box(tmp_path, records):
    file = boxes_file(tmp_path, "a.png,square,0,0,16,16,R1", "a.png,square,40,0,16,16,R2")
    with pytest.raises(
        RunError, match="no box of a class of the model was drawn by 2 readers who agree; choose a smaller"
    ):
        truths_of(file, records)


def test_classes_that_are_all_unknown_are_refused_with_both_lists(tmp_path, records):
    with pytest.raises(RunError, match="its boxes are of Mass, but the model has square, ring; name the classes"):
        truths_of(boxes_file(tmp_path, "a.png,Mass,0,0,9,9,"), records)
