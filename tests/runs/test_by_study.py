"""One answer for each study: predict, evaluate and calibrate agree with a mean of logits by hand."""

import csv
from dataclasses import replace

import numpy as np
import pytest

import mrm
from mrm import runs
from mrm.data import sampling
from mrm.data.records import Records
from mrm.evaluation.predictions import read_predictions
from mrm.inference import predict
from mrm.system.errors import RunError
from tests.support.models import PROBED, probed_classifier, with_card


@pytest.fixture(scope="module")
def model(phantoms, tmp_path_factory):
    return probed_classifier(phantoms, tmp_path_factory.mktemp("model") / "classifier")


@pytest.fixture(scope="module")
def records(phantoms, tmp_path_factory):
    """Studies of two images, the second lateral; the last study has only lateral ones."""
    given = Records.load(phantoms / "records.csv", PROBED)
    rows = [
        replace(r, patient=f"p{i // 4}", study=f"s{i // 2}", view="PA" if i % 2 == 0 and i < 46 else "Lateral")
        for i, r in enumerate(given)
    ]
    return replace(given, rows=rows).to_csv(tmp_path_factory.mktemp("studies") / "records.csv")


@pytest.fixture(scope="module")
def logits(model, records):
    return predict.classify(mrm.load(model), Records.load(records, PROBED), workers=0).logits_NC


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rows_of(file):
    with open(file, newline="") as text:
        return list(csv.DictReader(text))


@pytest.mark.parametrize(("pool", "combine"), [("mean", np.mean), ("max", np.max)])
def test_predictions_by_study_are_of_pooled_logits_and_say_what_made_them(
    model, records, logits, tmp_path, pool, combine
):
    runs.predict(model, [records], tmp_path / "p.csv", runs.Reading(workers=0, by_study=pool))
    rows = rows_of(tmp_path / "p.csv")
    names = [r.name for r in Records.load(records)]
    assert len(rows) == 24
    for s, row in enumerate(rows):
        expected = sigmoid(combine(logits[2 * s : 2 * s + 2], axis=0))
        assert [float(row[name]) for name in PROBED] == pytest.approx(expected.tolist(), abs=1e-6)
        assert (row["study_id"], row["patient_id"], row["images"]) == (f"s{s}", f"p{s // 2}", "2")
        assert row["used"] == "; ".join(names[2 * s : 2 * s + 2])
        assert row["left_out"] == ""


def test_lateral_images_are_left_out_and_a_study_of_them_alone_is_named(model, records, logits, tmp_path):
    reading = runs.Reading(workers=0, by_study="mean", views="frontal")
    with pytest.warns(UserWarning, match="left out study s23: only lateral images"):
        runs.predict(model, [records], tmp_path / "p.csv", reading)
    rows = rows_of(tmp_path / "p.csv")
    assert float(rows[3]["effusion"]) == pytest.approx(sigmoid(logits[6, 0]), abs=1e-6)
    assert rows[3]["left_out"].endswith("(lateral)")
    assert rows[23]["effusion"] == ""
    assert "only lateral images" in rows[23]["error"]
    runs.predict(model, [records], tmp_path / "images.csv", replace(reading, by_study=None))
    lateral = rows_of(tmp_path / "images.csv")[1]
    assert lateral["effusion"] == ""
    assert "a lateral image, which --views frontal leaves out" in lateral["error"]


def test_an_image_that_states_no_view_counts_as_frontal_and_is_named(model, records, tmp_path):
    """The first study has a lateral image and one of no view, the second two of no view, all others two frontal ones."""
    given = Records.load(records, PROBED)
    views = ["", "lateral", "", " ", *["PA"] * 44]
    rows = [replace(r, view=view) for r, view in zip(given, views, strict=True)]
    partly = replace(given, rows=rows).to_csv(tmp_path / "partly.csv")
    reading = runs.Reading(workers=0, views="frontal")
    three = "3 of 48 images state no view, so --views frontal took them for frontal"
    with pytest.warns(UserWarning, match=three):
        runs.predict(model, [partly], tmp_path / "images.csv", reading)
    notes = [row["warning"] for row in rows_of(tmp_path / "images.csv")]
    assert [n for n, note in enumerate(notes) if "states no view" in note] == [0, 2, 3]
    with pytest.warns(UserWarning, match=three):
        runs.predict(model, [partly], tmp_path / "studies.csv", replace(reading, by_study="mean"))
    first, second, third, *_ = rows_of(tmp_path / "studies.csv")
    assert first["warning"] == f"{rows[0].name} states no view, so it was taken for frontal"
    assert second["warning"].count("states no view") == 2
    assert third["warning"] == ""
    with pytest.warns(UserWarning, match=three):
        assert runs.evaluate(model, partly, tmp_path / "test", reading, draws=50)["n"] == 47
    runs.predict(model, [partly], tmp_path / "all.csv", replace(reading, views="all"))
    assert {row["warning"] for row in rows_of(tmp_path / "all.csv")} == {""}


def test_evaluate_and_calibrate_take_the_study_as_the_unit(model, records, logits, tmp_path):
    reading = runs.Reading(workers=0, by_study="mean", views="frontal")
    with pytest.warns(UserWarning, match="left out study s23"):
        results = runs.evaluate(model, records, tmp_path / "test", reading, draws=50)
    assert (results["n"], results["by_study"]) == (23, "mean")
    assert list(results["unreadable"]) == ["study s23"]
    predictions = read_predictions(tmp_path / "test" / "predictions.csv")
    labels = Records.load(records, PROBED).labels_NC
    assert np.allclose(predictions.probabilities_NC, sigmoid(logits[0:46:2]), atol=1e-6)
    assert (predictions.labels_NC == np.maximum(labels[0:46:2], labels[1:46:2])).all()
    copy = with_card(model, tmp_path / "copy")
    summary = runs.calibrate(copy, records, reading=replace(reading, views="all"), outliers=False)
    assert (summary["n"], summary["by_study"]) == (24, "mean")
    with pytest.warns(UserWarning, match=r"chosen by study \(mean\) and are used by image"):
        runs.predict(copy, [records], tmp_path / "p.csv", runs.Reading(workers=0))


def test_images_without_a_study_stand_alone_and_a_test_of_them_is_refused(model, phantoms, records, tmp_path):
    given = Records.load(records, PROBED)
    bare = replace(given, rows=[replace(r, study="") for r in given]).to_csv(tmp_path / "bare.csv")
    with pytest.warns(UserWarning, match="48 of 48 images state no study"):
        runs.predict(model, [bare], tmp_path / "p.csv", runs.Reading(workers=0, by_study="mean"))
    assert len(rows_of(tmp_path / "p.csv")) == 48
    with pytest.raises(RunError, match=r"no record states its study.*study_id"):
        runs.evaluate(model, bare, tmp_path / "test", runs.Reading(workers=0, by_study="mean"))


def test_a_flip_averages_the_logits_of_an_image_and_its_mirror_image(model, records, logits, tmp_path):
    network = mrm.load(model)
    few = Records.load(records, PROBED)[:4]
    batches = sampling.in_order(len(few), 4)
    (computed,) = predict.compute_over(network, few, lambda images: network(images.flip(-1)), batches, 0)
    table = few.to_csv(records.parent / "few.csv")
    runs.predict(model, [table], tmp_path / "p.csv", runs.Reading(workers=0, flip=True))
    expected = sigmoid((logits[:4] + computed.values) / 2)
    values = [[float(row[name]) for name in PROBED] for row in rows_of(tmp_path / "p.csv")]
    assert np.allclose(values, expected, atol=1e-6)
    assert not np.allclose(values, sigmoid(logits[:4]), atol=1e-4)
