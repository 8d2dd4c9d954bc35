"""A head fitted to the features of an encoder."""

from dataclasses import replace

import numpy as np
import torch

from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data.records import Records
from mrm.inference import linear_head, predict
from mrm.models import noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.statistics import ranking
from tests.support.configs import MICRO


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
