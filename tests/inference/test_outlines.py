"""Thresholds and least areas, and the outlines that follow from them."""

import numpy as np
import pytest

from mrm.data.masks import IGNORED
from mrm.inference.outlines import LEVELS, choose, levels_of, outline
from mrm.models.card import OutlineThreshold


def test_levels_count_every_labelled_pixel():
    rng = np.random.default_rng(0)
    probability, mask = rng.random((2, 20, 30), dtype=np.float32), rng.integers(0, 3, (20, 30)).astype(np.uint8)
    mask[:3] = IGNORED
    levels = levels_of(probability, mask)
    assert levels.shape == (2, 2, LEVELS + 1)
    assert (levels.sum(axis=(1, 2)) == 17 * 30).all()
    for c, k in ((0, 25), (1, 80)):
        above = (probability[c] >= k / LEVELS) & (mask != IGNORED)
        assert levels[c, :, k:].sum() == above.sum()
        assert levels[c, 1, k:].sum() == (above & (mask == c + 1)).sum()


def images_with(probabilities, truths):
    return np.stack(
        [levels_of(p[None].astype(np.float32), t.astype(np.uint8)) for p, t in zip(probabilities, truths, strict=True)]
    )[:, 0]


def test_the_threshold_is_where_dice_is_best():
    truth = np.zeros((40, 40))
    truth[:20] = 1
    found = np.where(truth, 0.37, 0.2)
    threshold, dice = choose(images_with([found], [truth]))
    assert 0.2 < threshold.probability <= 0.37
    assert dice == {"dice_positive": 1.0, "dice_published": 1.0}


def test_a_least_area_removes_specks_from_empty_images():
    truth, empty = np.zeros((100, 100)), np.zeros((100, 100))
    truth[:30] = 1
    speck = np.zeros((100, 100))
    speck[:2, :10] = 0.9  # 20 of 10,000 pixels
    threshold, dice = choose(images_with([truth * 0.9, speck], [truth, empty]))
    assert 20e-4 < threshold.area < 0.3
    assert dice["dice_published"] == 1.0


def test_predicting_nothing_is_never_chosen():
    """Nine of ten images are empty and look like lesions: the published Dice alone would give the lesion up."""
    truth, empty = np.zeros((20, 20)), np.zeros((20, 20))
    truth[:10] = 1
    _, dice = choose(images_with([0.5 * truth + 0.1] + [np.full((20, 20), 0.6)] * 9, [truth] + [empty] * 9))
    assert dice == {"dice_positive": 1.0, "dice_published": pytest.approx(0.1)}
    with pytest.raises(ValueError, match="no image with a lesion"):
        choose(images_with([empty], [empty]))


def test_outlines_are_exclusive_and_large_enough():
    probability = np.zeros((2, 10, 10), np.float32)
    probability[0, :5] = 0.6
    probability[1, 4:6] = 0.8
    found = outline(probability, [OutlineThreshold(0.5), OutlineThreshold(0.7)])
    assert (found[:4] == 1).all()
    assert (found[4:6] == 2).all()
    assert (found[6:] == 0).all()
    assert set(np.unique(outline(probability, [OutlineThreshold(0.5), OutlineThreshold(0.7, area=0.3)]))) == {0, 1}
