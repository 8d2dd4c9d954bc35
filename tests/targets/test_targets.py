"""What each target does with labels and logits; right values are computed by hand, by scikit-learn or by PyTorch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit
from sklearn.metrics import accuracy_score, cohen_kappa_score, roc_auc_score

from mrm.data.records import Record, Records
from mrm.system.errors import RecordError, RunError
from mrm.targets import TARGETS, target_of

NAN = float("nan")
LOGITS = np.array([[2.0, 0.5, -1.0], [-0.3, 0.1, 0.4], [0.0, 3.0, 2.9], [1.0, 1.5, -4.0]])


def table(rows, classes=("a", "b", "c"), kind="findings") -> Records:
    records = [Record(Path(f"{i}.png"), labels=tuple(row)) for i, row in enumerate(rows)]
    return Records(records, classes, "train.csv", kind)


ONE_HOT = table([(1, 0, 0), (NAN, 1, NAN), (0, 0, 1), (NAN, NAN, NAN)])
AGES = table([(40,), (60,), (NAN,), (50,)], ("age",), "numbers")
LEVELS = table([(0,), (3,), (1,), (2,), (NAN,)], ("score",), "numbers")


# Labels -------------------------------------------------------------------------------------------------


def test_a_class_excludes_the_others_that_are_not_stated():
    labels = TARGETS["multiclass"].of_training(ONE_HOT).labels(ONE_HOT).labels_NC
    np.testing.assert_array_equal(labels, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [NAN] * 3])


def test_levels_become_the_steps_that_they_reach_and_levels_again():
    target = TARGETS["ordinal"].of_training(LEVELS)
    assert target.classes == ("score >= 1", "score >= 2", "score >= 3")
    assert target.columns == ("score",)
    steps = target.labels(LEVELS)
    np.testing.assert_array_equal(steps.labels_NC, [[0, 0, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0], [NAN] * 3])
    np.testing.assert_array_equal(target.as_stated(steps).labels_NC, LEVELS.labels_NC)
    assert target_of({"target": "ordinal", "classes": list(target.classes)}) == target


def test_numbers_are_scaled_by_the_training_labels():
    target = TARGETS["regression"].of_training(AGES)
    assert target.centre == (50.0,)
    assert target.spread == (pytest.approx(np.sqrt(200 / 3)),)
    np.testing.assert_allclose(target.values(np.array([[0.0], [1.0]])), [[50], [50 + np.sqrt(200 / 3)]])


@pytest.mark.parametrize(
    ("target", "records", "said"),
    [
        ("multiclass", table([(1, 0, 0), (0, 1, 1)]), r"train\.csv: 1\.png has more than one of the classes a, b, c"),
        ("multiclass", table([(1, 0, 0), (0, 0, 0)]), r"1\.png has labels, but none of the classes a, b, c"),
        ("multiclass", table([(1, 0, 0), (0, 1, 0)]), r"no record is of the class c"),
        ("multiclass", table([(1,), (0,)], ("a",)), r"a column for each of two or more classes"),
        ("regression", table([(7,), (7,), (NAN,)], ("age",), "numbers"), r"age has fewer than two different numbers"),
        (
            "ordinal",
            table([(0,), (1.5,)], ("s",), "numbers"),
            r"1\.png has the level 1\.5 of s; the levels are 0 to 1, in whole",
        ),
        ("ordinal", table([(-1,), (1,)], ("s",), "numbers"), r"0\.png has the level -1 of s"),
        (
            "ordinal",
            table([(0,), (3,), (1,)], ("s",), "numbers"),
            r"no record has the level 2 of s, which goes up to 3",
        ),
        ("ordinal", table([(0, 1)], ("s", "t"), "numbers"), r"needs one column of levels, and has s, t"),
        ("ordinal", table([(0,), (70,)], ("s",), "numbers"), r"s has a level 70; at most 50"),
    ],
)
def test_labels_that_state_no_such_target_are_refused(target, records, said):
    with pytest.raises(RecordError, match=said):
        TARGETS[target].of_training(records)


def test_a_level_above_those_of_the_training_records_does_not_exist():
    with pytest.raises(
        RecordError, match=r"val\.csv: 1\.png has the level 4 of score \(2 such records\); the levels are 0 to 3"
    ):
        TARGETS["ordinal"].of_training(LEVELS).labels(
            replace(table([(0,), (4,), (9,)], ("score",), "numbers"), source="val.csv")
        )


def test_numbers_that_are_all_alike_cannot_validate():
    with pytest.raises(RunError, match=r"no two different numbers of age, so R2 is undefined"):
        TARGETS["regression"].of_training(AGES).require_variety(AGES.select([0]))


def test_a_study_gets_the_mean_of_its_numbers_and_the_one_class_of_its_images():
    ages, classes = TARGETS["regression"](("age",), (0.0,), (1.0,)), TARGETS["multiclass"](("a", "b"))
    np.testing.assert_array_equal(ages.of_study(np.array([[40.0], [NAN], [60.0]])), [50.0])
    assert np.isnan(ages.of_study(np.array([[NAN]]))).all()
    np.testing.assert_array_equal(classes.of_study(np.array([[0.0, 1.0], [NAN, NAN]])), [0, 1])
    with pytest.raises(RecordError, match="images of different classes"):
        classes.of_study(np.array([[0.0, 1.0], [1.0, 0.0]]))


# Errors and values --------------------------------------------------------------------------------------


def test_the_error_of_exclusive_classes_is_cross_entropy():
    target = TARGETS["multiclass"](("a", "b", "c"))
    truth, logits = torch.tensor([0, 2, 1, 1]), torch.from_numpy(LOGITS)
    mean = target.error(logits, F.one_hot(truth, 3).double()).mean()
    torch.testing.assert_close(mean, F.cross_entropy(logits, truth))
    soft = torch.tensor([[0.2, 0.5, 0.3]] * 4, dtype=torch.float64)
    torch.testing.assert_close(target.error(logits, soft).mean(), F.cross_entropy(logits, soft))


def test_the_error_of_a_number_is_squared_in_deviations_of_the_training_labels():
    target = TARGETS["regression"](("age",), (50.0,), (10.0,))
    error = target.error(torch.tensor([[1.0], [0.0]]), torch.tensor([[60.0], [70.0]]))
    torch.testing.assert_close(error, torch.tensor([[0.0], [4.0]]))


@pytest.mark.parametrize("name", TARGETS)
def test_values_are_those_of_the_activation_in_a_network(name):
    scale = ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)) if name == "regression" else ((), ())
    target = TARGETS[name](("x >= 1", "x >= 2", "x >= 3"), *scale)
    expected = {
        "multilabel": expit(LOGITS),
        "multiclass": np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True),
        "regression": LOGITS * [4, 5, 6] + [1, 2, 3],
        "ordinal": np.minimum.accumulate(expit(LOGITS), axis=1),
    }[name]
    np.testing.assert_allclose(target.values(LOGITS), expected, rtol=1e-12)
    np.testing.assert_allclose(target.activation(torch.from_numpy(LOGITS)).numpy(), expected, rtol=1e-6)


def test_scores_of_exclusive_classes_order_records_as_their_probabilities_do():
    target = TARGETS["multiclass"](("a", "b", "c"))
    np.testing.assert_allclose(expit(target.scores(LOGITS)), target.values(LOGITS), rtol=1e-12)
    apart = target.scores(np.array([[60.0, 0.0, 0.0], [61.0, 0.0, 0.0]]))  # both probabilities round to 1
    assert apart[1, 0] > apart[0, 0]


def test_answers_are_the_likeliest_class_and_the_level_that_is_likelier_than_not():
    classes, levels = TARGETS["multiclass"](("a", "b", "c")), TARGETS["ordinal"](("x >= 1", "x >= 2", "x >= 3"))
    assert classes.answers(classes.values(LOGITS)) == ["a", "c", "b", "b"]
    assert classes.answer == {"class": str}
    assert levels.answers(levels.values(LOGITS)) == [2, 0, 3, 2]
    assert levels.answer == {"x": int}
    assert classes.answers(np.full((1, 3), NAN)) == levels.answers(np.full((1, 3), NAN)) == [None]


# Measures -----------------------------------------------------------------------------------------------


def test_measures_of_classes_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 80)
    logits = rng.normal(size=(80, 3)) + 1.5 * np.eye(3)[truth]
    target = TARGETS["multiclass"](("a", "b", "c"))
    labels, values = np.eye(3)[truth], target.values(logits)
    labels_with_gap = np.vstack([labels, np.full((1, 3), NAN)])
    mean = target.report(labels_with_gap, np.vstack([values, values[:1]]), draws=100)["mean"]
    assert mean["auroc"].value == pytest.approx(roc_auc_score(truth, values, multi_class="ovr"))
    assert mean["accuracy"].value == pytest.approx(accuracy_score(truth, values.argmax(1)))
    assert mean["kappa"].value == pytest.approx(cohen_kappa_score(truth, values.argmax(1)))
    validated = target.validated(labels_with_gap, np.vstack([logits, logits[:1]]))
    assert validated["val_accuracy"] == pytest.approx(mean["accuracy"].value)
    assert validated["score"] == pytest.approx(mean["auroc"].value)
    names, counts = target.confusion(labels_with_gap, np.vstack([values, values[:1]]))
    assert names == ("a", "b", "c")
    assert counts.sum() == 80


def test_measures_of_levels_are_those_of_scikit_learn():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 90)
    target = TARGETS["ordinal"](tuple(f"s >= {k}" for k in (1, 2, 3)))
    labels = (truth[:, None] >= [1, 2, 3]).astype(float)
    values = target.values(2 * labels - 1 + rng.normal(size=labels.shape))
    called = (values >= 0.5).sum(axis=1)
    mean = target.report(labels, values, draws=100)["mean"]
    assert mean["quadratic_kappa"].value == pytest.approx(cohen_kappa_score(truth, called, weights="quadratic"))
    assert mean["mae"].value == pytest.approx(np.abs(truth - called).mean())
    assert mean["quadratic_kappa"].low < mean["quadratic_kappa"].value < mean["quadratic_kappa"].high


def test_refusals_name_the_target():
    with pytest.raises(RunError, match=r"calibrating needs findings.* --target multiclass"):
        TARGETS["multiclass"](("a", "b")).require_independent("calibrating")
    with pytest.raises(RunError, match=r"the service needs probabilities; .* --target regression"):
        TARGETS["regression"](("a",), (0.0,), (1.0,)).require_probabilities("the service")
    TARGETS["ordinal"](("a >= 1",)).require_independent("calibrating")  # its steps are findings
