"""The card of a model survives `config.json` with its types, and another file of that name is refused."""

import json

import pytest

from mrm.models.card import Card, Gaussian, OutlierReference, OutlineThreshold, PastTest
from mrm.system.errors import ConfigError

WHOLE = Card(
    "segmenter",
    {"classes": ["lung", "nodule"]},
    origin={"n": 12},
    tested=[PastTest("test", "ab", 20, ["7 records"], {"lung": {"dice_positive": {"value": 0.8}}})],
    thresholds={"nodule": 0.3},
    temperatures={"nodule": 2.5},
    outline_thresholds={"lung": OutlineThreshold(0.4, 0.001)},
    outliers=OutlierReference(
        Gaussian("AACAPw==", "AAAAAAAAAAA=", (2.0, 1.0), 0.5), 1.7, 0.99, 300, "300 records in 5 folds"
    ),
    calibration={"goal": "Youden"},
)


def test_a_card_is_the_same_after_json():
    assert Card.of(json.loads(json.dumps(WHOLE.to_dict()))) == WHOLE
    assert Card.of({"kind": "mrm", "architecture": {}}) == Card("mrm", {})


def test_keys_that_a_card_does_not_have_are_ignored():
    assert Card.of({"kind": "mrm", "architecture": {}, "colour": "blue"}) == Card("mrm", {})


@pytest.mark.parametrize(
    "content",
    [
        {"kind": "mrm"},
        {"kind": 3, "architecture": {}},
        {"kind": "mrm", "architecture": []},
        {"kind": "mrm", "architecture": {}, "outline_thresholds": {"lung": {"level": 0.5}}},
        {"kind": "mrm", "architecture": {}, "outliers": {"threshold": 1.0}},
        {"kind": "mrm", "architecture": {}, "tested": [{"records": "a"}]},
    ],
)
def test_values_of_another_shape_are_refused(content):
    with pytest.raises((AttributeError, KeyError, TypeError)):
        Card.of(content)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ({"records": 3}, "calibration: records must be text"),
        ({"classes": ["lung"]}, "calibration: classes must be a mapping"),
        ({"classes": {"lung": {"threshold_interval": "wide"}}}, "calibration: threshold_interval must be a list"),
        ({"classes": {"lung": {"operating_point": {"threshold": 0.5}}}}, "calibration: sensitivity must be a mapping"),
        (
            {"classes": {"lung": {"operating_point": {"threshold": 0.5, "sensitivity": {"n": "7"}}}}},
            "calibration: sensitivity n must be a whole number, not '7'",
        ),
    ],
)
def test_parts_of_a_calibration_that_are_shown_must_have_their_type(calibration, message):
    with pytest.raises(ConfigError, match=message):
        Card.of({"kind": "classifier", "architecture": {}, "calibration": calibration})


def test_cuts_of_sets_are_probabilities_of_classes_that_the_model_has():
    content = {"kind": "classifier", "architecture": {"classes": ["lung"]}}
    good = {"present_from": 0.2, "absent_to": 0.4, "coverage": 0.9}
    assert Card.of({**content, "sets": {"lung": good}}).sets["lung"].absent_to == 0.4
    with pytest.raises(ConfigError, match=r"sets: absent_to must be from 0 to 1, not 1\.4"):
        Card.of({**content, "sets": {"lung": {**good, "absent_to": 1.4}}})
    with pytest.raises(ConfigError, match="sets: 'heart' is not a class of this model"):
        Card.of({**content, "sets": {"heart": good}})
