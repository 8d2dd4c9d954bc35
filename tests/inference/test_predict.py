"""Scores and features of records, one row an image, whether it can be read or not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.inference import linear_head, predict
from mrm.models.classifier import Classifier
from mrm.models.mrm import normalise
from mrm.system.errors import PredictError
from tests.support.configs import MICRO


def test_scores_do_not_depend_on_batch_size_workers_or_ranks(classifier, records):
    whole = predict.classify(classifier, records, batch=48, workers=0).logits_NC
    small = predict.classify(classifier, records, batch=5, workers=1).logits_NC
    ranks = sum(
        predict.classify(classifier, records, batch=5, workers=0, rank=r, world_size=3).logits_NC for r in range(3)
    )
    np.testing.assert_allclose(small, whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ranks, whole, rtol=1e-4, atol=1e-5)


def test_on_a_cpu_the_memory_of_a_batch_is_kept_for_the_next_before_the_first_is_computed(
    classifier, records, monkeypatch
):
    devices = []
    monkeypatch.setattr("mrm.system.hardware.keep_freed_memory", devices.append)
    predict.classify(classifier, Records(list(records)[:2], FINDINGS), workers=0)
    assert devices == [torch.device("cpu")]


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
    assert images.eval_image(path, 64, "whole")[:, :8].min() > 200
    assert images.eval_image(path, 64, "centre").max() == 0


def test_a_classifier_is_tested_with_the_filter_that_it_was_trained_with(classifier, records):
    few = records[:4]
    model = Classifier(replace(classifier.config, resize="bilinear")).eval()
    model.load_state_dict(classifier.state_dict())
    seen = torch.from_numpy(
        np.stack([images.eval_image(r.image, classifier.config.image_size, method="bilinear") for r in few])
    )
    with torch.inference_mode():
        expected = model(normalise(seen, classifier.config.mean, classifier.config.std)).numpy()
    np.testing.assert_allclose(predict.classify(model, few, workers=0).logits_NC, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(predict.classify(classifier, few, workers=0).logits_NC, expected, atol=1e-5)


def test_features_are_the_mean_of_the_patches_or_the_patches_after_the_last_norm(model, classifier, records):
    few = records[:5]
    seen = torch.from_numpy(np.stack([images.eval_image(r.image, MICRO.image_size) for r in few]))
    normal = normalise(seen, MICRO.mean, MICRO.std)
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
    (tmp_path / "another file").write_text("")  # the folder is there
    none = Records([Record(tmp_path / f"{i}.png", labels=(1.0,) * 8) for i in range(3)], FINDINGS)
    scores = predict.classify(classifier, none, workers=0)
    assert np.isnan(scores.logits_NC).all()
    assert len(scores.unreadable) == 3
    with pytest.raises(PredictError, match=r"none of the 3 images could be read; first error: .*no such file"):
        linear_head.fit_head(classifier, none, workers=0)


def test_records_in_memory_are_scored_as_files_are(classifier, phantoms):
    file = phantoms / "images" / "S0-000000.jpg"
    in_memory, on_disk = (
        predict.classify(classifier, Records([Record(image)]), workers=0).logits_NC
        for image in (file.read_bytes(), file)
    )
    assert in_memory.shape == (1, len(FINDINGS))
    np.testing.assert_array_equal(in_memory, on_disk)
