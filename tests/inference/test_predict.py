"""Scores, restored images and filled-in words of a model put to use."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images, samples
from mrm.data.records import Record, Records
from mrm.inference import linear_head, masked_words, predict, reconstruction
from mrm.models import noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.mrm import normalise
from mrm.statistics import ranking
from mrm.system.errors import PredictError
from tests.support.configs import MICRO
from tests.support.models import classifier_of, mrm_model


@pytest.fixture(scope="module")
def model():
    return mrm_model()


@pytest.fixture(scope="module")
def classifier():
    return classifier_of()


@pytest.fixture(scope="module")
def records(phantoms):
    return Records.load(phantoms / "records.csv", FINDINGS)


def test_scores_do_not_depend_on_batch_size_workers_or_ranks(classifier, records):
    whole = predict.classify(classifier, records, batch=48, workers=0).logits_NC
    small = predict.classify(classifier, records, batch=5, workers=1).logits_NC
    ranks = sum(
        predict.classify(classifier, records, batch=5, workers=0, rank=r, world_size=3).logits_NC for r in range(3)
    )
    np.testing.assert_allclose(small, whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ranks, whole, rtol=1e-4, atol=1e-5)


def test_unreadable_images_are_nan_and_named_and_others_keep_their_scores(classifier, records, tmp_path):
    whole = predict.classify(classifier, records, workers=0).logits_NC
    rows = list(records)
    rows[3] = Record(tmp_path / "gone.jpg", labels=rows[3].labels, name="gone.jpg")
    scores = predict.classify(classifier, Records(rows, FINDINGS), workers=0)
    assert list(scores.unreadable) == ["gone.jpg"]
    assert np.isnan(scores.logits_NC[3]).all()
    others = np.arange(len(rows)) != 3
    np.testing.assert_allclose(scores.logits_NC[others], whole[others], rtol=1e-4, atol=1e-5)


def test_a_radiograph_that_is_not_square_is_seen_whole_unless_its_centre_is_asked_for(tmp_path):
    radiograph = np.zeros((100, 200), np.uint8)
    radiograph[:, :40] = 255  # a bright stripe at the side
    path = tmp_path / "radiograph.png"
    path.write_bytes(images.encode_png(radiograph))
    from mrm.data.samples import eval_image as image_for

    assert image_for(Record(path), 64, "whole")[:, :8].min() > 200
    assert image_for(Record(path), 64, "centre").max() == 0


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


def test_words_depend_on_the_image_and_are_probabilities(model, records):
    contexts = masked_words.context_of(model, [images.read(r.image) for r in records[:2]])
    ids = np.array([2, 10, 3, 12, 3])
    first, second = (masked_words.word_probabilities(model, c[None], ids) for c in contexts)
    assert first.shape == (2, MICRO.vocabulary)
    np.testing.assert_allclose(first.sum(1), 1, rtol=1e-5)
    assert not np.allclose(first, second)


def test_a_fitted_head_is_a_linear_probe_of_the_features(records):
    with noise.seeded(0):
        shape = ClassifierConfig(FINDINGS, MICRO.encoder, MICRO.encoder_options, MICRO.image_size)
        model = Classifier(shape).eval()
    labels = records.labels_NC
    before = [
        ranking.auroc(labels[:, c], predict.classify(model, records, workers=0).logits_NC[:, c]) for c in range(8)
    ]
    linear_head.fit_head(model, records, workers=0)
    scores = predict.classify(model, records, workers=0)
    after = [ranking.auroc(labels[:, c], scores.logits_NC[:, c]) for c in range(8)]
    assert np.nanmean(after) > np.nanmean(before) + 0.1
    np.testing.assert_allclose(scores.probabilities_NC.mean(0), labels.mean(0), atol=0.02)  # a fit intercept calibrates


def test_a_class_of_one_value_keeps_its_head(records, classifier):
    one = Records([replace(r, labels=(1.0, *r.labels[1:])) for r in records], FINDINGS)
    before = classifier.encoder.head.weight.detach().clone()
    linear_head.fit_head(classifier, one, workers=0)
    assert torch.equal(classifier.encoder.head.weight[0], before[0])
    assert not torch.equal(classifier.encoder.head.weight[1], before[1])
    classifier.encoder.head.weight.data = before


def test_features_are_the_mean_of_the_patches_or_the_patches_after_the_last_norm(model, classifier, records):
    few = records[:5]
    images = torch.from_numpy(np.stack([samples.eval_image(r, MICRO.image_size) for r in few]))
    normal = normalise(images, MICRO.mean, MICRO.std)
    with torch.inference_mode():
        tokens = model.encode(normal)[:, 1:]  # without the class token
        inside = classifier.encoder.forward_features(normal)[:, 1:]
        expected = {
            ("mrm", "pooled"): tokens.mean(1),
            ("mrm", "patches"): tokens,
            ("classifier", "pooled"): classifier.encoder.fc_norm(inside.mean(1)),
            ("classifier", "patches"): classifier.encoder.fc_norm(inside),
        }
    for (name, kind), true in expected.items():
        made, unreadable = predict.features(
            {"mrm": model, "classifier": classifier}[name], few, kind, batch=2, workers=0
        )
        assert made.shape == tuple(true.shape)
        assert not unreadable
        np.testing.assert_allclose(made, true, rtol=1e-4, atol=1e-5)


def test_features_of_unreadable_images_are_nan_and_a_wrong_kind_is_refused(model, records, tmp_path):
    rows = [records[0], Record(tmp_path / "gone.jpg", labels=records[0].labels, name="gone.jpg")]
    for kind in ("pooled", "patches"):
        made, unreadable = predict.features(model, Records(rows, FINDINGS), kind, workers=0)
        assert np.isfinite(made[0]).all()
        assert np.isnan(made[1]).all()
        assert list(unreadable) == ["gone.jpg"]
    with pytest.raises(PredictError, match="unknown kind of features 'cls'"):
        predict.features(model, records, "cls", workers=0)


def test_logits_and_features_of_one_pass_are_those_of_two(classifier, records):
    normal = torch.randn(3, 3, MICRO.image_size, MICRO.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        both = predict.scores_and_features(classifier)(normal)
        pooled = predict.feature_function(classifier, "pooled")(normal)
        torch.testing.assert_close(both, torch.cat([classifier(normal), pooled], 1))


def test_where_nothing_can_be_read_scores_are_nan_and_no_head_is_fitted(classifier, tmp_path):
    none = Records([Record(tmp_path / f"{i}.png", labels=(1.0,) * 8) for i in range(3)], FINDINGS)
    scores = predict.classify(classifier, none, workers=0)
    assert np.isnan(scores.logits_NC).all()
    assert len(scores.unreadable) == 3
    with pytest.raises(PredictError, match=r"none of the 3 images could be read; first error: .*no such file"):
        linear_head.fit_head(classifier, none, workers=0)


def test_records_in_memory_are_read_too(classifier, phantoms):
    image = (phantoms / "images" / "S0-000000.jpg").read_bytes()
    scores = predict.classify(classifier, Records([Record(image)]), workers=0)
    assert np.isfinite(scores.logits_NC).all()
