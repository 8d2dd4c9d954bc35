"""The measures of a map against boxes equal values worked out by hand."""

import numpy as np
import pytest

from mrm.corpora.phantoms.phantom import phantom
from mrm.corpora.phantoms.phantom_files import boxes_of
from mrm.evaluation import map_measures
from mrm.evaluation.map_measures import (
    Parts,
    centre_prior,
    contain,
    covered,
    energy,
    hot,
    iou,
    measure,
    parts_of,
    pointing,
    sides,
)


def boxes(*rows):
    return np.array(rows, float).reshape(-1, 4)


def heat(*pixels, shape=(10, 20)):
    """A map with heat at (row, column, value)."""
    heat_HW = np.zeros(shape, np.float32)
    for row, column, value in pixels:
        heat_HW[row, column] = value
    return heat_HW


def test_a_pixel_lies_in_a_box_if_its_centre_does():
    assert np.argwhere(covered(boxes((1.4, 0, 1.2, 2)), (3, 4))).tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert covered(boxes((0.6, 0.6, 0.3, 0.3)), (3, 4)).sum() == 0
    assert covered(boxes((0, 0, 4, 3)), (3, 4)).all()


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((-5, 0, 6, 1), [[0, 0]]),
        ((0, -5, 1, 6), [[0, 0]]),
        ((3, 2, 9, 9), [[2, 3]]),
        ((-5, 0, 5, 3), []),
        ((0, -5, 4, 5), []),
        ((4, 0, 2, 3), []),
        ((0, 3, 4, 2), []),
        ((0.5, 0, 1, 1), [[0, 0]]),
        ((0, 0.5, 1, 1), [[0, 0]]),
    ],
)
def test_of_a_box_that_reaches_beyond_the_image_what_lies_in_it_counts(box, pixels):
    """The upper and the left edge belong to a box, so that boxes side by side share no pixel."""
    assert np.argwhere(covered(boxes(box), (3, 4))).tolist() == pixels


def test_a_point_lies_in_a_box_up_to_its_edges_and_the_margin():
    """Of a box from 5 to 10 across and from 2 to 4 down."""
    x, y = np.array([4.9, 5, 7, 10, 10.1]), np.array([1.9, 2, 3, 4, 4.1])
    within = [False, True, True, True, False]
    assert contain(boxes((5, 2, 5, 2)), x, np.full(5, 3.0))[:, 0].tolist() == within
    assert contain(boxes((5, 2, 5, 2)), np.full(5, 7.0), y)[:, 0].tolist() == within
    assert contain(boxes((5.5, 2, 4, 2)), x, np.full(5, 3.0), 0.5)[:, 0].tolist() == within
    assert contain(boxes((5, 2.5, 5, 1)), np.full(5, 7.0), y, 0.5)[:, 0].tolist() == within
    assert contain(boxes((5, 2, 5, 2), (0, 0, 1, 1)), np.array([0.5]), np.array([0.5])).tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("column", "tolerance", "expected"),
    [(5, 0.0, 1), (9, 0.0, 1), (10, 0.0, 0), (10, 0.02, 0), (10, 0.03, 1), (11, 0.03, 0), (11, 0.1, 1)],
)
def test_a_peak_may_miss_its_box_by_the_tolerance(column, tolerance, expected):
    """The box ends at 10 and the centre of column 10 is at 10.5, so it misses by 0.5 of 20 pixels."""
    assert pointing(heat((4, column, 1), (4, 0, 0.9)), boxes((5, 2, 5, 5)), tolerance) == expected


def test_of_equal_peaks_the_share_in_a_box_counts():
    one = heat((4, 6, 1), (4, 15, 1), (0, 0, 1), (9, 19, 1))
    assert pointing(one, boxes((5, 2, 5, 5)), 0) == 0.25
    assert pointing(one, boxes((5, 2, 5, 5), (14, 4, 2, 1)), 0) == 0.5


def test_energy_is_the_share_of_heat_in_any_of_the_boxes():
    one = heat((4, 6, 3), (4, 15, 1), (0, 0, 4))
    assert energy(one, boxes((5, 2, 5, 5))) == pytest.approx(3 / 8)
    assert energy(one, boxes((5, 2, 5, 5), (4, 4, 3, 1))) == pytest.approx(3 / 8)  # what two boxes share counts once
    assert energy(one, boxes((5, 2, 5, 5), (14, 4, 2, 1))) == pytest.approx(4 / 8)


def test_iou_is_of_both_sets_of_boxes_taken_together():
    """A box of 4 x 4 and one of 2 x 2 against one of 4 x 4, half of which is in the first: 8 of 16 + 4 + 8 pixels."""
    assert iou(boxes((0, 0, 4, 4), (10, 6, 2, 2)), boxes((2, 0, 4, 4)), (10, 20)) == pytest.approx(8 / 28)
    assert iou(boxes(), boxes((2, 0, 4, 4)), (10, 20)) == 0


def test_a_map_without_heat_points_nowhere():
    empty = heat()
    parts = parts_of(hot(empty, 0.5), empty)
    assert len(parts.box_M4) == 0
    assert measure(empty, parts, boxes((0, 0, 20, 10)), 0.03) == (0, 0, 0)


def test_parts_are_connected_at_corners_too_and_have_their_mean_heat():
    one = heat((0, 0, 1), (1, 1, 0.6), (5, 10, 0.5), (5, 11, 0.9), (8, 19, 0.4))
    parts = parts_of(hot(one, 0.5), one)
    assert parts.box_M4.tolist() == [[0, 0, 2, 2], [10, 5, 2, 1]]
    assert parts.heat_M == pytest.approx([0.8, 0.7])
    assert parts.peak_M2.tolist() == [[0.5, 0.5], [11.5, 5.5]]


def test_the_hottest_point_of_a_part_is_the_mean_of_those_that_are_equally_hot():
    flat = heat(*((row, column, 1) for row in range(2, 5) for column in range(6, 12)), (5, 6, 0.9))
    assert parts_of(hot(flat, 0.5), flat).peak_M2.tolist() == [[9, 3.5]]


def test_the_centre_prior_is_a_gaussian_of_a_quarter_of_each_side():
    prior = centre_prior((8, 16))
    assert prior.shape == (8, 16)
    np.testing.assert_allclose(prior, prior[::-1, ::-1], rtol=1e-6)
    assert prior[3, 7] == prior.max()
    down, across = 3.5 / (0.25 * 8), 7.5 / (0.25 * 16)  # deviations of the first pixel from the middle
    assert prior[0, 0] == pytest.approx(np.exp(-(down**2 + across**2) / 2))
    assert centre_prior((8, 16)) is prior  # kept for the other classes of the same image


def test_on_phantoms_the_measures_are_what_their_boxes_give():
    """Of an even map: the area of the boxes. Of a map that is hot in the boxes alone: all of each."""
    for index in range(8):
        p = phantom(5, index, 96)
        for name in p.regions:
            box_K4 = sides([box for box in boxes_of(p) if box.name == name])
            mask_HW = np.zeros((96, 96), bool)
            for x, y, width, height in box_K4.astype(int):
                mask_HW[y : y + height, x : x + width] = True
            even = np.ones((96, 96), np.float32)
            share = mask_HW.mean()
            got = measure(even, parts_of(hot(even, 0.5), even), box_K4, 0)
            assert got == pytest.approx((share, share, share))
            exact = mask_HW.astype(np.float32)
            parts = Parts(box_K4, np.ones(len(box_K4)), box_K4[:, :2])
            assert measure(exact, parts, box_K4, 0) == (1, pytest.approx(1), 1)


def test_the_module_names_the_deviation_that_the_page_states():
    assert map_measures.CENTRE_SPREAD == 0.25
