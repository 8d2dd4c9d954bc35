"""Masked words named by a pre-trained model."""

import numpy as np

from mrm.data import images
from mrm.inference import masked_words
from tests.support.configs import MICRO


def test_words_depend_on_the_image_and_are_probabilities(model, records):
    contexts = masked_words.context_of(model, [images.read(r.image) for r in records[:2]])
    ids = np.array([2, 10, 3, 12, 3])
    first, second = (masked_words.word_probabilities(model, c[None], ids) for c in contexts)
    assert first.shape == (2, MICRO.vocabulary)
    np.testing.assert_allclose(first.sum(1), 1, rtol=1e-5)
    assert not np.allclose(first, second)
