"""Borders: what is cut off, and which part of the image is left."""

import numpy as np
import pytest

from mrm.data.borders import Box, border_box, content_box
from tests.support.image_files import radiograph


@pytest.fixture(scope="module")
def inner() -> np.ndarray:
    """A radiograph without black or white."""
    return radiograph(0, 64).clip(20, 230)


def test_white_within_black_is_cut_off_too(inner):
    framed = np.pad(np.pad(inner, ((3, 5), (7, 2)), constant_values=255), ((4, 0), (0, 6)), constant_values=2)
    box = border_box(framed)
    assert box == Box(7, 7, *inner.shape)
    np.testing.assert_array_equal(framed[box.top : box.top + box.height, box.left : box.left + box.width], inner)


def test_an_image_without_border_or_of_nothing_else_is_whole(inner):
    assert border_box(inner) == Box(0, 0, *inner.shape)
    for value in (0, 255):
        assert border_box(np.full((5, 6), value, np.uint8)) == Box(0, 0, 5, 6)


def test_a_line_that_only_a_cut_leaves_empty_is_cut_off_as_well():
    """The right column has content in its last row alone, which is itself no content: 5 x 5 becomes 4 x 4."""
    image = np.ones((5, 5), int)
    image[4, :4], image[:4, 4] = 0, 0
    rows_of_two = lambda part: ((part > 0).sum(1) > 1, (part > 0).sum(0) > 1)  # noqa: E731
    assert content_box(image, rows_of_two) == Box(0, 0, 4, 4)


def test_a_box_within_a_box():
    assert Box(2, 3, 10, 20).inner(Box(1, 4, 5, 6)) == Box(3, 7, 5, 6)
