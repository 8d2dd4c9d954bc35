"""Grey matching: any exposure of an image gets one distribution, and what is no exposure stays."""

import numpy as np
import pytest
from scipy.stats import truncnorm

from mrm.data.grey_matching import matched

LOW, HIGH = (0 - 0.4978) / 0.2449, (1 - 0.4978) / 0.2449


def test_greys_become_the_quantiles_of_a_normal_distribution_cut_off_at_black_and_white():
    """Four greys of a quarter each lie at the quantiles 1/8, 3/8, 5/8 and 7/8, whatever they were; SciPy knows those."""
    image = np.repeat(np.array([10, 20, 30, 200], np.uint8), 16).reshape(8, 8)
    quantiles = truncnorm.ppf([1 / 8, 3 / 8, 5 / 8, 7 / 8], LOW, HIGH, loc=0.4978, scale=0.2449)
    expected = np.repeat(np.rint(255 * quantiles), 16).reshape(8, 8)
    assert np.abs(matched(image).astype(int) - expected).max() <= 1


def test_mean_and_deviation_are_those_of_the_reference_and_order_stays():
    image = np.random.default_rng(0).gamma(2.0, 15.0, (200, 200)).clip(1, 254).astype(np.uint8)
    now = matched(image)
    mean, variance = truncnorm.stats(LOW, HIGH, loc=0.4978, scale=0.2449)
    assert now.mean() / 255 == pytest.approx(mean, abs=0.01)
    assert now.std() / 255 == pytest.approx(variance**0.5, abs=0.01)
    order = np.argsort(image, axis=None)
    assert (np.diff(now.ravel()[order].astype(int)) >= 0).all()


def test_another_exposure_of_an_image_becomes_the_same_image():
    """Any rising table of greys that keeps them apart: twice the contrast, and a gamma of 1.8."""
    image = 2 * np.random.default_rng(1).integers(10, 50, (64, 64)).astype(np.uint8)
    table = np.rint(255 * (np.arange(256) / 255) ** (1 / 1.8)).astype(np.uint8)
    for other in (image * 2, table[image]):
        assert len(np.unique(other)) == len(np.unique(image))
        np.testing.assert_array_equal(matched(other), matched(image))


def test_a_frame_and_letters_neither_change_nor_count():
    image = np.random.default_rng(2).integers(20, 100, (40, 40)).astype(np.uint8)
    framed = np.pad(image, ((5, 9), (3, 0)))
    framed[:4, :6] = 255
    now = matched(framed)
    np.testing.assert_array_equal(now[5:45, 3:], matched(image))
    np.testing.assert_array_equal(now[:5], framed[:5])


@pytest.mark.parametrize("grey", [0, 255])
def test_an_image_of_black_or_white_alone_is_left(grey):
    image = np.full((6, 5), grey, np.uint8)
    assert np.array_equal(matched(image), image)
