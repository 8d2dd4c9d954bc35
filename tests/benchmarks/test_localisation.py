"""The heat maps of a classifier trained on labels alone know more of the place of a finding than the middle of the image does."""

import importlib
from pathlib import Path

import pytest

PLACE = ("pointing", "energy")


@pytest.mark.slow
def test_maps_of_a_trained_classifier_beat_the_centre_and_those_of_random_weights_do_not(tmp_path, monkeypatch):
    """`benchmarks/localisation.py` as it is: minutes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    localisation = importlib.import_module("localisation")
    report = localisation.benchmark(localisation.arguments(["--out", str(tmp_path)]))
    trained, blind = (report["models"][name]["classes"] for name in ("trained", "random weights"))
    for name, measure in (("all", "pointing"), *((n, m) for n in ("consolidation", "effusion") for m in PLACE)):
        assert trained[name][measure]["over_centre"][1] > 0, (name, measure)  # the low end
    assert blind["all"]["pointing"]["over_centre"][1] < 0
