"""The start of fine-tuning from a linear probe: a classifier's head is fitted to the encoder's features."""

# Shapes: N records, D encoder width
from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from mrm.data.records import Records
from mrm.inference.predict import features
from mrm.models.classifier import Classifier
from mrm.system.errors import PredictError


def fit_head(model: Classifier, records: Records, batch: int = 64, workers: int | None = None) -> None:
    """Start fine-tuning from a linear probe: fit the head to the encoder's features as they are.

    Features are standardised, each class gets a regularised logistic regression over its stated labels, and
    both are folded into the head. A class with one label value keeps its head. LP-FT, arXiv:2202.10054.
    Raises PredictError where no image can be read.
    """
    head = model.encoder.get_classifier()
    features_ND, unreadable = features(model, records, batch=batch, workers=workers)
    read = ~np.isnan(features_ND).any(axis=1)
    if not read.any():
        name, reason = next(iter(unreadable.items()))
        raise PredictError(f"none of the {len(records)} images could be read; first error: {name}: {reason}")
    mean_D, std_D = features_ND[read].mean(0), features_ND[read].std(0) + 1e-6
    for c, labels_N in enumerate(records.labels_NC.T):
        stated = read & ~np.isnan(labels_N)
        if len(np.unique(labels_N[stated])) < 2:
            continue
        probe = LogisticRegression(C=0.01, max_iter=500)
        probe.fit((features_ND[stated] - mean_D) / std_D, labels_N[stated])
        weight_D = probe.coef_[0] / std_D
        with torch.no_grad():
            head.weight[c] = torch.from_numpy(weight_D)
            head.bias[c] = float(probe.intercept_[0] - weight_D @ mean_D)
