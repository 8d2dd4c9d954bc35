"""The heat maps of a classifier trained on labels alone know more of the place of a finding than the middle of the image does."""

import importlib
from pathlib import Path

import pytest


@pytest.mark.slow
def test_maps_of_a_trained_classifier_beat_the_centre_and_those_of_random_weights_do_not(tmp_path, monkeypatch):
    """`benchmarks/localisation.py` as it is: minutes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    localisation = importlib.import_module("localisation")
    report = localisation.benchmark(localisation.arguments(["--out", str(tmp_path)]))
    trained, blind = (report["models"][name]["localisation"]["classes"] for name in ("trained", "random weights"))
    for measure in ("pointing", "energy", "iou_0.1"):
        assert trained["all"][measure]["over_centre"]["low"] > 0
        assert blind["all"][measure]["over_centre"]["low"] < 0
