"""Floors: gradients against a definition pixel by pixel, and regressions that learn what they can."""

from dataclasses import replace

import numpy as np
import pytest

from mrm.data import images
from mrm.data.records import Record, Records
from mrm.evaluation import floors
from mrm.statistics import ranking
from mrm.system.errors import UnreachableError


def test_pixels_are_means_of_two_by_two():
    image = np.random.default_rng(1).integers(0, 256, (64, 64)).astype(np.uint8)
    means = image.reshape(32, 2, 32, 2).mean(axis=(1, 3)) / 255
    assert np.abs(floors.pixels(image).reshape(32, 32) - means).max() <= 0.5 / 255 + 1e-6


def striped(number: int, across: bool) -> bytes:
    """Noise with faint stripes, across or along."""
    rng = np.random.default_rng(number)
    phase = rng.integers(0, 8)
    stripes_HW = 60 * np.sin((np.arange(80) + phase) * np.pi / 4)[:, None] * np.ones((80, 80))
    image = 128 + (stripes_HW if across else stripes_HW.T) + rng.normal(0, 40, (80, 80))
    return images.encode_png(image.clip(0, 255).astype(np.uint8))


def test_gradients_tell_directions_that_pixels_do_not():
    rows = [Record(striped(i, i % 2 == 0), labels=(float(i % 2 == 0),), name=str(i)) for i in range(90)]
    records = Records(rows, ("across",))
    features, unreadable = floors.features(records, workers=0)
    parts = {"train": range(0, 50), "val": range(50, 70), "test": range(70, 90)}
    sets = {name: records.select(part) for name, part in parts.items()}
    scores = {
        floor: floors.fitted({name: values[list(part)] for name, part in parts.items()}, sets).scores_NC[:, 0]
        for floor, values in features.items()
    }
    labels = sets["test"].labels_NC[:, 0]
    assert not unreadable
    assert set(scores) == set(floors.FLOORS)
    assert ranking.auroc(labels, scores["HOG"]) == 1.0 > ranking.auroc(labels, scores["pixels"])


def test_an_image_that_cannot_be_read_is_nan_and_one_out_of_reach_is_an_error(tmp_path):
    rows = [Record(striped(0, True), name="good"), Record(b"\x89PNG\r\n\x1a\nnothing", name="bad")]
    features, unreadable = floors.features(Records(rows), workers=0)
    assert list(unreadable) == ["bad"]
    for values in features.values():
        assert np.isnan(values[1]).all()
        assert not np.isnan(values[0]).any()
    gone = Records([rows[0], replace(rows[0], image=tmp_path / "gone.png", name="gone.png")])
    with pytest.raises(UnreachableError, match="Run the same command again"):
        floors.features(gone, workers=0)
