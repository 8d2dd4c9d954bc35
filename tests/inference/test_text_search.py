"""Texts and images in one space: their vectors, and texts that a model cannot read."""

import numpy as np
import pytest
import torch

from mrm.data.reports import CLS
from mrm.inference import text_search
from mrm.models.mrm import normalise
from mrm.system.errors import ReportError
from tests.support.bright_and_dark import TEXTS, bright_or_dark, with_contrast


@pytest.fixture(scope="module")
def searchable(bright_and_dark_model):
    return with_contrast(bright_and_dark_model)


def test_an_image_has_the_vector_that_training_contrasts(searchable):
    image_BHW = torch.from_numpy(np.stack([bright_or_dark(i < 2, i) for i in range(4)]))
    features_BSD = searchable.encode(normalise(image_BHW, searchable.config.mean, searchable.config.std))
    pooled = features_BSD[:, searchable.prefix :].mean(1).numpy()
    vectors = text_search.image_vectors(searchable, np.vstack([pooled, np.full_like(pooled[:1], np.nan)]))
    np.testing.assert_allclose(vectors[:4], searchable.image_vector(features_BSD).numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors[:4], axis=1), 1, atol=1e-6)
    assert np.isnan(vectors[4]).all()  # could not be read, so nothing is near it


def test_a_text_has_the_vector_of_its_tokens_whatever_else_is_searched_for(searchable):
    texts = ["The chest is bright.", "nothing"]
    together, alone = text_search.text_vectors(searchable, texts), text_search.text_vectors(searchable, texts[1:])
    np.testing.assert_array_equal(together[1:], alone)
    ids = torch.tensor([[CLS, *searchable.tokenizer.inner.encode(texts[0], add_special_tokens=False).ids]])
    expected = searchable.report_vector(ids, torch.ones_like(ids))
    np.testing.assert_allclose(together[:1], expected.numpy(), atol=1e-6)


def test_a_text_is_nearer_to_images_that_it_describes(searchable):
    image_BHW = torch.from_numpy(np.stack([bright_or_dark(i < 5, 400 + i) for i in range(10)]))
    features_BSD = searchable.encode(normalise(image_BHW, searchable.config.mean, searchable.config.std))
    images = text_search.image_vectors(searchable, features_BSD[:, searchable.prefix :].mean(1).numpy())
    bright, dark = text_search.text_vectors(searchable, TEXTS)
    assert (images @ bright)[:5].min() > (images @ bright)[5:].max()
    assert (images @ dark)[5:].min() > (images @ dark)[:5].max()


def test_texts_that_cannot_be_read_are_refused_and_half_read_ones_are_named(searchable, bright_and_dark_model):
    with pytest.raises(ReportError, match=r"without contrast.*pre-train one with --contrast-weight"):
        text_search.text_vectors(bright_and_dark_model, ["bright"])
    for text in ("", "胸部"):
        with pytest.raises(ReportError, match="knows none of its words"):
            text_search.text_vectors(searchable, [text])
    with pytest.warns(UserWarning, match="does not know 1 of its 2 pieces"):
        text_search.text_vectors(searchable, ["bright 胸部"])
    with pytest.warns(UserWarning, match="only the first 99 pieces are read"):
        text_search.text_vectors(searchable, ["bright " * 120])
