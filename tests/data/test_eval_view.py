"""How a model is shown an image: a border and an exposure that do not matter to it change nothing, in training and tests."""

import numpy as np
import pytest

from mrm.data import images
from mrm.data.borders import Box
from mrm.data.config import CropConfig
from mrm.data.eval_view import EvalView
from mrm.data.grey_matching import matched
from mrm.data.images import encode_png
from tests.support.image_files import radiograph

BOTH = EvalView(32, crop_borders=True, greys="matched")


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    """A radiograph without black or white, (96, 80), of 100 greys."""
    return (20 + radiograph(3, 96)[:, :80] // 2.56).astype(np.uint8)


@pytest.fixture(scope="module")
def other(plain) -> np.ndarray:
    """The same in a frame, with twice the contrast: it stays within white."""
    return np.pad((plain - 15) * 2, ((6, 2), (0, 11)))


def test_a_frame_and_another_exposure_give_the_same_test_image(plain, other):
    assert np.array_equal(BOTH.image(encode_png(other)), BOTH.image(plain))
    assert not np.array_equal(EvalView(32).image(other), EvalView(32).image(plain))
    assert np.array_equal(EvalView(32, greys="matched").image(plain), EvalView(32).image(matched(plain)))


def test_a_frame_and_another_exposure_give_the_same_crop(plain, other):
    crop, rng = CropConfig(area=(0.3, 1.0)), np.random.default_rng
    for seed in range(4):
        crops = [BOTH.train_image(image, rng(seed), crop) for image in (plain, other, encode_png(other))]
        expected = images.random_crop(matched(plain), rng(seed), 32, crop.area)
        assert np.array_equal(crops[0], expected) or np.array_equal(crops[0], images.flip(expected))
        assert all(np.array_equal(crops[0], one) for one in crops)


@pytest.mark.parametrize(("view", "box"), [("whole", Box(6, 0, 96, 80)), ("centre", Box(14, 0, 80, 80))])
def test_the_part_that_is_seen(other, view, box):
    seen = EvalView(32, view, crop_borders=True)
    assert seen.part(other) == box
    assert np.array_equal(seen.image(other), images.resize(images.crop(other, box), 32, 32))


def test_it_says_what_is_done_besides_resizing():
    assert EvalView(32).changes == ""
    assert BOTH.changes == "its black and white borders cut off and its greys matched (mrm.data.grey_matching.matched)"
