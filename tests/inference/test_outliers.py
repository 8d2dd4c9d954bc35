"""Images of another kind lie far, those of the same kind do not, and what cannot be told is refused."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from mrm.inference import outliers
from mrm.models.card import OutlierReference
from mrm.system.errors import OutlierError


def known_features(n=300, width=20, seed=0):
    """Correlated features: most of the variance in a few directions, which are those of no axis."""
    mixing = np.random.default_rng(99).normal(size=(width, width)) * np.geomspace(1, 0.05, width)
    return np.random.default_rng(seed).normal(size=(n, width)) @ mixing.T + 3


def test_images_of_another_kind_lie_far_and_new_ones_of_the_same_kind_pass():
    reference = OutlierReference.of(json.loads(json.dumps(asdict(outliers.reference(known_features())))))
    new = outliers.outlying(known_features(4000, seed=1), reference)
    assert 0.7 < np.median(new) < 1.3
    assert (new > reference.threshold).mean() < 0.03
    other = np.random.default_rng(2).normal(size=(200, 20)) * known_features().std() + 3  # as far, in other directions
    assert (outliers.outlying(other, reference) > reference.threshold).mean() > 0.95


def test_fewer_records_than_features_will_do():
    reference = outliers.reference(known_features(40, width=64))
    assert (outliers.outlying(known_features(500, 64, seed=1), reference) > reference.threshold).mean() < 0.2
    assert "too few for the share" in reference.chosen_on


def test_a_threshold_can_be_chosen_on_records_held_out():
    held_out = known_features(999, seed=4)
    reference = outliers.reference(known_features(), held_out_ND=held_out, share=0.95)
    assert (outliers.outlying(held_out, reference) > reference.threshold).sum() == 49  # n + 1 - 950


@pytest.mark.parametrize("share", [0.9, 0.99, 0.9999])
def test_rounding_turns_no_known_image_into_an_outlier(share):
    held_out = known_features(200, seed=4)
    reference = outliers.reference(known_features(), held_out_ND=held_out, share=share)
    beyond = outliers.outlying(held_out, reference) > reference.threshold
    for seed in range(20):
        noise = np.random.default_rng(seed).uniform(-1e-6, 1e-6, held_out.shape)
        rounded = outliers.outlying(held_out * (1 + noise), reference)
        assert ((rounded > reference.threshold) == beyond).all()
    assert beyond.sum() == max(0, 200 - int(np.ceil(201 * share)))


def test_rows_that_could_not_be_read_are_left_out_and_have_no_score():
    features = known_features()
    broken = np.vstack([features, np.full(20, np.nan)])
    groups = [str(i // 2) for i in range(301)]
    assert outliers.reference(broken, groups) == outliers.reference(features, groups[:300])
    assert np.isnan(outliers.outlying(broken, outliers.reference(features))[-1])


def test_fewer_patients_than_folds_are_refused():
    with pytest.raises(OutlierError, match=r"4 patients \(or records\), fewer than the 5 folds"):
        outliers.reference(known_features(40), [str(i % 4) for i in range(40)])


def test_other_features_are_refused():
    with pytest.raises(OutlierError, match="do not vary"):
        outliers.reference(np.ones((30, 4)))
    with pytest.raises(OutlierError, match="do not fit the model's 20; calibrate the model again"):
        outliers.outlying(np.ones((3, 4)), outliers.reference(known_features()))
    with pytest.raises(OutlierError, match="between 0 and 1"):
        outliers.reference(known_features(), share=1.0)
