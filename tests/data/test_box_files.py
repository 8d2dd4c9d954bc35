"""Reading boxes.csv: each box finds its image, what belongs to no record is counted, and what is no box is refused by its line."""

from pathlib import Path

import numpy as np
import pytest

from mrm.data import images
from mrm.data.box_files import boxes_of, read_boxes
from mrm.data.boxes import Box
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError

HEADER = "image_path,class,x,y,width,height,reader,text"


def boxes_file(folder: Path, *rows: str, header: str = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "boxes.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "boxes.csv"


def records_of(folder: Path, *names: str) -> Records:
    """Images 40 wide and 30 high."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(images.encode_png(np.zeros((30, 40), np.uint8)))
    return Records([Record(folder / name, name=name) for name in names])


def test_boxes_are_those_of_the_rows_with_reader_and_phrase(tmp_path):
    file = boxes_file(tmp_path, "a.png,Mass,1,2,3.5,4,R1,a mass", "a.png,Nodule,0,0,9,9,,", "b/c.png,Mass,5,5,1,1,-,")
    assert read_boxes(file) == {
        "a.png": [
            Box("Mass", 1, 2, 3.5, 4, "R1", "a mass", "boxes.csv, line 2"),
            Box("Nodule", 0, 0, 9, 9, where="boxes.csv, line 3"),
        ],
        "b/c.png": [Box("Mass", 5, 5, 1, 1, where="boxes.csv, line 4")],
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"boxes\.csv: has no boxes"),
        (["a.png,Mass,1,2,x,4,,"], r"1 bad lines: line 2: a box needs an image_path, a class and four numbers"),
        (["a.png,Mass,1,2,,4,,", "a.png,Mass,1,nan,1,4,,"], "2 bad lines: line 2: .*; line 3: a box needs"),
        (["a.png,,1,2,3,4,,", ",Mass,1,2,3,4,,"], "2 bad lines"),
        (["a.png,Mass,1,2,3"], "line 2: 5 fields, but the header has 8"),
    ],
)
def test_rows_that_are_no_boxes_are_refused(tmp_path, rows, message):
    with pytest.raises(RecordError, match=message):
        read_boxes(boxes_file(tmp_path, *rows))


def test_an_empty_file_an_absent_one_and_another_table_are_refused(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(RecordError, match=r"empty\.csv: empty file"):
        read_boxes(tmp_path / "empty.csv")
    with pytest.raises(RecordError, match=r"gone\.csv: no such file of boxes"):
        read_boxes(tmp_path / "gone.csv")
    with pytest.raises(RecordError, match=r"no column class, x, y, width, height; .* those found are image_path, Mass"):
        read_boxes(boxes_file(tmp_path, "a.png,1", header="image_path,Mass"))


def test_images_are_found_by_path_by_name_and_by_a_file_name_that_only_one_has(tmp_path):
    records = records_of(tmp_path / "data", "x/a.png", "b.png", "y/c.png", "d.png")
    file = boxes_file(
        tmp_path / "lists",
        f"{tmp_path}/data/x/a.png,by path,0,0,1,1,,",
        "b.png,by name,0,0,1,1,,",
        "elsewhere/c.jpg,by file,0,0,1,1,,",
        "one/d.png,twice,0,0,1,1,,",
        "two/d.png,twice,0,0,2,2,,",
    )
    found = boxes_of(file, records)
    assert {name: [box.name for box in own] for name, own in found.boxes.items()} == {
        "x/a.png": ["by path"],
        "b.png": ["by name"],
        "y/c.png": ["by file"],
    }
    assert (found.other_images, found.other_boxes) == (2, 2)


def test_boxes_of_no_record_are_refused_with_both_names(tmp_path):
    records = records_of(tmp_path, "a.png")
    with pytest.raises(
        RecordError, match=r"none of its 1 images is among the 1 records; its first is z\.png, that of the"
    ):
        boxes_of(boxes_file(tmp_path, "z.png,Mass,0,0,1,1,,"), records)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (
            "30,5,20,10",
            r"\(1 box outside its image\); first: boxes\.csv, line 3: Mass x 30, y 5, width 20, height 10 in 40 x 30",
        ),
        ("-5,5,10,10", r"\(1 box outside its image\)"),
        ("5,5,-3,10", r"\(1 box without a size\)"),
        ("5,5,3,0", r"\(1 box without a size\)"),
    ],
)
def test_a_box_outside_its_image_or_without_size_is_refused(tmp_path, box, message):
    records = records_of(tmp_path, "a.png", "b.png")
    with pytest.raises(RecordError, match=f"1 of 2 boxes do not fit their images {message}"):
        boxes_of(boxes_file(tmp_path, "a.png,Mass,1,1,5,5,,", f"b.png,Mass,{box},,"), records)


def test_boxes_of_images_of_another_size_are_refused_with_what_to_do(tmp_path):
    """Boxes of 1024 pixels on images that were made smaller."""
    records = records_of(tmp_path, "a.png", "b.png")
    file = boxes_file(tmp_path, "a.png,Mass,500,600,100,90,,", "b.png,Mass,10,10,20,20,,", "b.png,Mass,900,20,30,30,,")
    with pytest.raises(
        RecordError, match=r"2 of 3 boxes do not fit .* if the images were resized, resize the boxes too"
    ):
        boxes_of(file, records)


def test_a_box_that_leaves_its_image_by_rounding_is_clipped(tmp_path):
    found = boxes_of(boxes_file(tmp_path, "a.png,Mass,-0.5,0,40.7,30,,"), records_of(tmp_path, "a.png"))
    (box,) = found.boxes["a.png"]
    assert (box.x, box.y, box.width, box.height) == (0, 0, 40, 30)
