"""What several readers agree on: boxes of the same thing become one, and what too few drew is disputed."""

import pytest

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
