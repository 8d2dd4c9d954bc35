"""What several readers agree on: boxes of the same thing become one, and what too few drew is disputed."""

import csv
import gzip
from collections import defaultdict

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from mrm.data.box_consensus import consensus, overlap, readers_of_an_image
from mrm.data.boxes import Box


def box(reader: str, x: float, y: float, width: float = 10, height: float = 10) -> Box:
    return Box("Mass", x, y, width, height, reader)


def places(boxes):
    return [(b.x, b.y, b.width, b.height, b.reader) for b in boxes]


@pytest.mark.parametrize(
    ("other", "expected"),
    [((0, 0), 1.0), ((5, 0), 50 / 150), ((0, 10), 0.0), ((20, 20), 0.0), ((5, 5), 25 / 175)],
)
def test_overlap_is_the_shared_area_over_the_area_of_either(other, expected):
    assert overlap(box("a", 0, 0), box("b", *other)) == pytest.approx(expected)


def test_boxes_that_two_readers_drew_become_one_of_their_mean_sides():
    """Moved by 4 of 10 pixels: 60 of 140 pixels are shared, 0.43."""
    agreed, disputed = consensus([box("R1", 0, 0), box("R2", 4, 0, 10, 10)], agree=2)
    assert places(agreed) == [(2, 0, 10, 10, "R1 + R2")]
    assert disputed == []


def test_boxes_that_share_too_little_are_two_things_and_disputed():
    """Moved by 5 of 10 pixels: 50 of 150 pixels are shared, 0.33."""
    agreed, disputed = consensus([box("R1", 0, 0), box("R2", 5, 0)], agree=2)
    assert agreed == []
    assert places(disputed) == [(0, 0, 10, 10, "R1"), (5, 0, 10, 10, "R2")]


def test_of_three_readers_two_are_enough_and_one_is_not():
    drawn = [box("R1", 0, 0), box("R2", 50, 50), box("R3", 1, 0)]
    agreed, disputed = consensus(drawn, agree=2)
    assert places(agreed) == [(0.5, 0, 10, 10, "R1 + R3")]
    assert places(disputed) == [(50, 50, 10, 10, "R2")]
    assert consensus(drawn, agree=3).agreed == []


def test_where_each_reader_counts_the_same_thing_is_still_one_box():
    agreed, disputed = consensus([box("R1", 0, 0), box("R2", 0, 0), box("R2", 50, 50)], agree=1)
    assert places(agreed) == [(0, 0, 10, 10, "R1 + R2"), (50, 50, 10, 10, "R2")]
    assert disputed == []


def test_two_boxes_of_one_reader_are_two_things_however_they_overlap():
    agreed, disputed = consensus([box("", 0, 0), box("", 1, 0)], agree=1)
    assert len(agreed) == 2
    assert disputed == []


def test_the_most_readers_of_an_image_are_counted():
    assert readers_of_an_image([[box("R1", 0, 0), box("R1", 9, 9)], [box("R1", 0, 0), box("R2", 0, 0)]]) == 2
    assert readers_of_an_image([[box("", 0, 0)]]) == 1


@pytest.mark.slow
def test_the_readers_of_the_vinbigdata_table_agree_as_its_overlaps_say(shared_data):
    """Against the connected components of the graph of overlaps, by SciPy."""
    drawn = defaultdict(list)
    with gzip.open(shared_data / "official/vinbigdata-train.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            if row["class_name"] != "No finding":
                left, top, right, bottom = (float(row[side]) for side in ("x_min", "y_min", "x_max", "y_max"))
                drawn[row["image_id"], row["class_name"]].append(
                    Box(row["class_name"], left, top, right - left, bottom - top, row["rad_id"])
                )
    agreed = disputed = 0
    for boxes in drawn.values():
        left, top, width, height = np.array([(b.x, b.y, b.width, b.height) for b in boxes]).T
        readers = np.array([b.reader for b in boxes])
        across = np.minimum.outer(left + width, left + width) - np.maximum.outer(left, left)
        down = np.minimum.outer(top + height, top + height) - np.maximum.outer(top, top)
        shared = across.clip(0) * down.clip(0)
        same = shared / (np.add.outer(width * height, width * height) - shared) >= 0.4
        count, number = connected_components(same & (readers[:, None] != readers))
        sizes = [len(set(readers[number == k])) for k in range(count)]
        found = consensus(boxes, 2)
        assert (len(found.agreed), len(found.disputed)) == (sum(s >= 2 for s in sizes), sum(s < 2 for s in sizes))
        agreed, disputed = agreed + len(found.agreed), disputed + len(found.disputed)
    assert sum(map(len, drawn.values())) == 36_096
    assert (agreed, disputed) == (8_821, 13_690)
