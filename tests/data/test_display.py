"""Display: images are shrunk but never enlarged, classes keep their colour, figures and pages agree on theirs."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

import mrm.pages
from mrm.data import display
from mrm.system.errors import ImageError

IMAGE = np.arange(40 * 60, dtype=np.float32).reshape(40, 60).astype(np.uint8)


@pytest.mark.parametrize(("side", "shape"), [(30, (20, 30)), (60, (40, 60)), (500, (40, 60)), (1, (1, 1))])
def test_the_longer_side_is_shrunk_and_never_enlarged(side, shape):
    assert display.shrink(IMAGE, side).shape == shape
    assert display.shrink(np.stack([IMAGE] * 3, axis=-1), side).shape == (*shape, 3)


def test_half_the_size_has_the_means_of_two_by_two_pixels():
    means = IMAGE.reshape(20, 2, 30, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(display.shrink(IMAGE, 30), means, atol=0.51)
    np.testing.assert_array_equal(display.shrink(IMAGE, 60), IMAGE)


def test_colour_is_shrunk_channel_by_channel():
    colour = np.stack([IMAGE, IMAGE[::-1], IMAGE[:, ::-1]], axis=-1)
    np.testing.assert_array_equal(
        display.shrink(colour, 20)[..., 1], display.shrink(np.ascontiguousarray(IMAGE[::-1]), 20)
    )


def test_a_mask_keeps_its_class_numbers():
    mask = np.repeat([[0, 1, 2, 7]], 8, axis=0).astype(np.uint8)
    assert set(np.unique(display.resize_mask(mask, 16, 2))) <= {0, 1, 2, 7}


def test_colours_of_classes_are_distinct_and_then_repeat():
    colours = [display.class_colour(number) for number in range(1, 7)]
    published = ["E69F00", "56B4E9", "009E73", "F0E442", "0072B2", "D55E00"]  # Okabe and Ito: orange to vermilion
    assert colours == [tuple(bytes.fromhex(colour)) for colour in published]
    assert display.class_colour(7) == colours[0]


def test_classes_are_tinted_and_outlined_and_the_rest_is_left():
    mask = np.zeros(IMAGE.shape, np.uint8)
    mask[10:20, 10:20], mask[25:35, 30:50] = 1, 2
    drawn = display.draw_classes(IMAGE, mask)
    np.testing.assert_array_equal(drawn[mask == 0], np.repeat(IMAGE[mask == 0][:, None], 3, axis=1))
    for number, (row, column) in ((1, (10, 10)), (2, (25, 30))):
        assert tuple(drawn[row, column]) == display.class_colour(number)
    inside = 0.65 * IMAGE[15, 15] + 0.35 * np.array(display.class_colour(1))
    np.testing.assert_array_equal(drawn[15, 15], inside.astype(np.uint8))


def test_files_hold_colour_in_the_right_order_and_refuse_what_is_not_an_image():
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 200
    decoded = cv2.imdecode(np.frombuffer(display.encode_png(red), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decoded, red)
    assert display.jpeg_data_uri(red).startswith("data:image/jpeg;base64,")
    assert display.jpeg_data_uri(IMAGE).startswith("data:image/jpeg;base64,")
    with pytest.raises(ImageError, match="only"):
        display.encode_png(red.astype(np.float32))


def test_figures_and_the_style_of_pages_have_the_same_colours():
    style = (Path(mrm.pages.__file__).parent / "style.css").read_text()
    light = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", style.split("@media")[0]))
    named = zip(
        ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"], display.SERIES, strict=True
    )
    expected = {"ink": display.INK, "muted": display.MUTED, "line": display.FAINT, **dict(named)}
    assert {name: light[name] for name in expected} == expected
