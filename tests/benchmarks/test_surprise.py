"""True reports told from those of others: the vectors of contrast, by a model that knows two kinds of image."""

from pathlib import Path

import numpy as np
import pytest

from mrm.data import images
from mrm.data.records import Record, Records
from mrm.statistics import ranking
from mrm.training.tasks import PretrainTask
from tests.support.bright_and_dark import TEXTS, bright_or_dark, fresh_model, train

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def surprise(monkeypatch):
    """The benchmark as a module, as its command finds what it imports."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import surprise

    return surprise


def test_a_report_is_nearer_to_its_own_image_than_to_one_of_another_kind(surprise):
    model = fresh_model(contrast_width=16)
    train(PretrainTask(model, image_weight=0.0, report_weight=0.0, contrast_weight=1.0), epochs=10)
    rows = [Record(images.encode_png(bright_or_dark(i % 2 == 0, 300 + i)), TEXTS[i % 2], str(i)) for i in range(24)]
    test = Records(rows)
    partners = np.stack([surprise.partners(test, i, np.random.default_rng(i)) for i in range(24)])
    assert ((partners + np.arange(24)[:, None]) % 2 == 1).all()  # equal reports are not compared
    own, other = surprise.cosines_of(model.eval().requires_grad_(False), test, partners)
    assert (own.shape, other.shape) == ((24,), (24, surprise.PARTNERS))
    assert np.abs(np.concatenate([own[:, None], other], axis=1)).max() < 1 + 1e-6
    labels = np.repeat([1, 0], [24, other.size])
    assert ranking.auroc(labels, np.concatenate([own, other.ravel()])) > 0.95
