"""Images restored by a pre-trained model."""

import numpy as np

from mrm.data import images
from mrm.inference import reconstruction
from tests.support.configs import MICRO


def test_a_reconstruction_pastes_visible_patches_and_gives_patches_their_own_mean_back(model, records):
    image = images.read(records[0].image)
    shown = reconstruction.reconstruct(model, image, seed=1)
    size, side = MICRO.target_size, 32
    original = images.resize(image, size, size)
    np.testing.assert_array_equal(shown.original, original)
    cut = lambda a: a.reshape(size // side, side, size // side, side).transpose(0, 2, 1, 3).reshape(-1, side, side)  # noqa: E731
    same = [np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(cut(shown.restored), cut(original), strict=True)]
    assert sum(same) >= MICRO.keep
    for restored, true in zip(cut(shown.restored), cut(original), strict=True):
        if 40 < true.mean() < 215 and true.std() < 20:  # else clipping at black and white moves the mean
            assert abs(restored.mean() - true.mean()) < 12
    assert 0.5 < shown.error < 3  # an untrained decoder restores normalised patches no better than their mean


def test_a_reconstruction_is_the_same_for_the_same_seed(model, records):
    image = images.read(records[0].image)
    a, b, c = (reconstruction.reconstruct(model, image, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a.restored, b.restored)
    assert not np.array_equal(a.masked, c.masked)
