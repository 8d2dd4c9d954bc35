"""`mrm select`: the rule on a model's own values, from end to end, and pools that are too small."""

import csv

import numpy as np
import pytest

import mrm
from mrm import cli, runs
from mrm.data.records import Records
from mrm.inference import predict, selection
from mrm.system.errors import RunError
from tests.support.models import PROBED, probed_classifier


@pytest.fixture(scope="module")
def classifier(phantoms, tmp_path_factory):
    return probed_classifier(phantoms, tmp_path_factory.mktemp("model") / "classifier")


def rows_of(file):
    with open(file, newline="") as text:
        return list(csv.DictReader(text))


def test_the_table_is_the_rule_applied_to_the_models_probabilities_and_features(classifier, phantoms, tmp_path):
    pool = phantoms / "records.csv"
    cli.main(["select", str(classifier), str(pool), "--n", "6", "--out", str(tmp_path / "next.csv"), "--workers", "0"])
    network, records = mrm.load(classifier), Records.load(pool, PROBED)
    probabilities = predict.classify(network, records, workers=0).probabilities_NC
    features, _ = predict.features(network, records, workers=0)
    expected = selection.choose(selection.doubt_of(probabilities), features, records.patients, 6)
    rows = rows_of(tmp_path / "next.csv")
    assert [row["path"] for row in rows] == [records[c.image].name for c in expected]
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [float(row["doubt"]) for row in rows] == pytest.approx([c.doubt for c in expected], abs=1e-5)
    assert [float(row["effusion"]) for row in rows] == pytest.approx(
        [probabilities[c.image, 0] for c in expected], abs=1e-5
    )
    runs.select(classifier, [pool], tmp_path / "again.csv", 6, runs.Reading(workers=0))
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "next.csv").read_bytes()


def test_a_pre_trained_model_has_no_doubt_and_chooses_by_features_alone(pretrained, phantoms, tmp_path):
    runs.select(pretrained, [phantoms / "images"], tmp_path / "next.csv", 4, runs.Reading(workers=0))
    rows = rows_of(tmp_path / "next.csv")
    assert {row["doubt"] for row in rows} == {"1.0"}
    assert "effusion" not in rows[0]
    assert np.all(np.diff([float(row["distance"]) for row in rows]) <= 1e-9)  # farthest first


def test_a_pool_with_fewer_images_is_refused_before_and_after_reading(classifier, phantoms, tmp_path, capsys):
    images = sorted((phantoms / "images").iterdir())[:3]
    with pytest.raises(SystemExit) as stop:
        cli.main(["select", str(classifier), *map(str, images), "--n", "4", "--out", str(tmp_path / "next.csv")])
    assert stop.value.code == 2
    assert "the pool has 3 images, fewer than the 4 asked for" in capsys.readouterr().err
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(RunError, match="3 images that can be read, fewer than the 4 asked for"):
        runs.select(classifier, [*images, tmp_path / "broken.png"], tmp_path / "next.csv", 4, runs.Reading(workers=0))
    with pytest.raises(RunError, match="--n must be at least 1"):
        runs.select(classifier, images, tmp_path / "next.csv", 0)
