"""The free-response ROC equals values worked out by hand, and its intervals those of images drawn one by one."""

import numpy as np
import pytest

from mrm.statistics.detection import FALSE_MARKS, Marked, curve, free_response, report, sensitivities
from mrm.statistics.intervals import Bootstrap

MISSED = -np.inf


def marked(lesions, false, images):
    """From (score, image) pairs."""
    arrays = [np.array(column) for pairs in (lesions, false) for column in zip(*pairs, strict=True)] if false else []
    if not false:
        scores, places = zip(*lesions, strict=True)
        arrays = [np.array(scores), np.array(places), np.empty(0), np.empty(0, int)]
    return Marked(*arrays, images)


# Four images and four lesions, found with scores 0.9, 0.6 and 0.3, one never; four false marks, of 0.8, 0.5, 0.5 and 0.2.
EXAMPLE = marked([(0.9, 0), (0.6, 0), (0.3, 1), (MISSED, 2)], [(0.8, 3), (0.5, 3), (0.5, 0), (0.2, 1)], images=4)


@pytest.mark.parametrize(
    ("false_marks", "expected"),
    [
        (1 / 8, 1 / 4),  # no false mark: above 0.8 lies 0.9 alone
        (1 / 4, 2 / 4),  # one, of 0.8: down to above 0.5
        (1 / 2, 2 / 4),  # two would be made, but those of 0.5 only come together
        (3 / 4, 3 / 4),  # three: down to above 0.2
        (1, 3 / 4),  # all four
        (8, 3 / 4),
    ],
)
def test_sensitivity_at_a_number_of_false_marks_is_that_of_the_strictest_count(false_marks, expected):
    assert sensitivities(EXAMPLE, [false_marks])[0] == expected


def test_a_lesion_of_the_score_of_a_false_mark_needs_it():
    equal = marked([(0.5, 0)], [(0.5, 1)], images=2)
    assert sensitivities(equal, [1 / 4, 1 / 2]).tolist() == [0, 1]


def test_without_false_marks_all_that_is_found_is_found_at_every_rate():
    assert sensitivities(marked([(0.1, 0), (MISSED, 1)], [], 2)).tolist() == [0.5] * 7
    assert np.isnan(sensitivities(Marked(np.empty(0), np.empty(0, int), np.array([0.5]), np.array([0]), 2))).all()


def test_the_curve_has_every_threshold():
    false_K, found_K = curve(EXAMPLE)
    assert false_K.tolist() == [0, 0, 0.25, 0.25, 0.75, 0.75, 1.0]
    assert found_K.tolist() == [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


def test_the_curve_of_marks_on_images_without_lesions_and_of_no_marks():
    false_K, found_K = curve(Marked(np.empty(0), np.empty(0, int), np.array([0.5, 0.5, 0.2]), np.array([0, 1, 1]), 2))
    assert (false_K.tolist(), found_K.tolist()) == ([0, 1, 1.5], [0, 0, 0])
    empty = np.empty(0)
    assert [part.tolist() for part in curve(Marked(empty, empty, empty, empty, 0))] == [[0], [0]]


def test_no_draws_give_values_alone():
    bootstrap = Bootstrap.from_groups(None, 4, draws=0)
    found = free_response(EXAMPLE, bootstrap)
    assert found.draws.shape == (len(FALSE_MARKS) + 1, 0)
    one = report({"model": found}, bootstrap, with_lesions=3)["found_0.5"]["model"]
    assert (one.value, one.note) == (0.5, "no interval requested")


def random_marks(rng, images=30):
    lesions = [
        (rng.random() if rng.random() < 0.8 else MISSED, i) for i in range(0, images, 2) for _ in range(1 + i % 3)
    ]
    false = [(round(0.8 * rng.random(), 2), int(rng.integers(images))) for _ in range(70)]
    return lesions, false


def test_a_draw_of_patients_counts_each_of_their_images_as_often_as_it_is_drawn():
    """Against the definition: the images of each draw written out one by one, with their marks."""
    lesions, false = random_marks(np.random.default_rng(1))
    patients = [f"p{i // 2}" for i in range(30)]
    bootstrap = Bootstrap.from_groups(patients, 30, draws=25, seed=4)
    drawn = free_response(marked(lesions, false, 30), bootstrap).draws
    weights_GD = np.hstack(list(bootstrap.weights()))
    for d in range(25):
        copies = [image for image in range(30) for _ in range(int(weights_GD[bootstrap.group_N[image], d]))]
        again = [
            [(score, place) for place, image in enumerate(copies) for score, own in pairs if own == image]
            for pairs in (lesions, false)
        ]
        expected = sensitivities(marked(*again, len(copies)))
        assert drawn[:-1, d] == pytest.approx(expected)
        assert drawn[-1, d] == pytest.approx(expected.mean())


def test_the_difference_from_another_is_paired():
    lesions, false = random_marks(np.random.default_rng(2))
    own, worse = marked(lesions, false, 30), marked([(s / 2, i) for s, i in lesions], false, 30)
    bootstrap = Bootstrap.from_groups(None, 30, draws=200, seed=0)
    each = {"model": free_response(own, bootstrap), "half": free_response(worse, bootstrap)}
    rows = report(each, bootstrap, with_lesions=15)
    luna16 = ["found_0.125", "found_0.25", "found_0.5", "found_1", "found_2", "found_4", "found_8"]
    assert list(rows) == [*luna16, "found_mean"]
    mean = rows["found_mean"]
    assert mean["over_half"].value == pytest.approx(mean["model"].value - mean["half"].value)
    gaps_D = each["model"].draws[-1] - each["half"].draws[-1]
    assert mean["over_half"].low == pytest.approx(np.quantile(gaps_D, 0.025))
    assert mean["over_half"].low > 0
    assert (mean["model"].n, mean["model"].positives) == (30, 15)
    turned = report(dict(reversed(each.items())), bootstrap, with_lesions=15)["found_mean"]["over_model"]
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-mean["over_half"].value, -mean["over_half"].high, -mean["over_half"].low)
    )
    same = report({"model": each["model"], "same": each["model"]}, bootstrap, 15)["found_1"]["over_same"]
    assert (same.value, np.isnan(same.low)) == (0, True)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (([0.5], [0, 1], [], []), "expected lesion scores and images of one length"),
        (([0.5], [2], [], []), "lesion images must be from 0 to 1"),
        (([], [], [0.5], [-1]), "false images must be from 0 to 1"),
        (([0.5], [0], [np.nan], [0]), "false scores must be finite"),
        (([np.inf], [0], [], []), "lesion scores must be finite"),
        (([], [], [-np.inf], [0]), "false scores must be finite"),
    ],
)
def test_marks_that_cannot_be_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        Marked(*map(np.array, arrays), images=2)
