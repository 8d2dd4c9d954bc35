"""The test of maps: values worked out by hand, for the model as for the maps that know nothing, and the marks that follow."""

import numpy as np
import pytest

from mrm.evaluation import localisation_test
from mrm.evaluation.box_truths import Truth, Truths
from mrm.evaluation.localisation_test import Map, Settings, Tested, random_map, report_of, run_test, summary
from mrm.evaluation.map_measures import hot

SHAPE = (40, 40)
SETTINGS = Settings(tolerance=0, level=0.5, grid=(4, 4), seed=3)
NONE = np.zeros((0, 4))


def squares_at(*places: tuple[int, int, float]) -> np.ndarray:
    """A map with squares of 10 pixels at (x, y, heat)."""
    heat_HW = np.zeros(SHAPE, np.float32)
    for x, y, value in places:
        heat_HW[y : y + 10, x : x + 10] = value
    return heat_HW


def box(x: float, y: float, width: float = 10, height: float = 10) -> list[float]:
    return [x, y, width, height]


HEAT = [squares_at((0, 0, 1), (20, 20, 0.6)), squares_at((30, 30, 1)), squares_at((0, 20, 1)), squares_at((10, 10, 1))]
PROBABILITY = [0.9, 0.5, 0.8, 0.3]
TRUTHS = [
    Truth(np.array([box(0, 0), box(20, 20)]), NONE, 1),  # both are found, with scores 0.9 and 0.54
    Truth(np.array([box(0, 0)]), NONE, 1),  # missed, and a false mark of 0.5
    Truth(NONE, np.array([box(0, 18, 12, 14)]), 0),  # the mark is on a disputed box
    Truth(NONE, NONE, 0),  # a false mark of 0.3
    Truth(NONE, NONE, float("nan")),  # not judged
]


@pytest.fixture(scope="module")
def located():
    def maps(image):
        index = int(image.image_HW[0, 0])
        heat_HW = HEAT[index]
        return lambda name: Map(heat_HW, hot(heat_HW, SETTINGS.level), PROBABILITY[index])

    truths = Truths({"mass": TRUTHS}, 1, 1, ["said"])
    images = [Tested(index, np.full(SHAPE, index, np.uint8)) for index in range(5)]
    found = run_test(images, truths, maps, SETTINGS)
    report = report_of(found, ["p", "q", "r", "s", "t"], draws=50)
    return found, report, summary(found, truths, report, SETTINGS)


def test_measures_of_the_model_are_the_means_of_those_by_hand(located):
    """First map: its peak in a box, all heat and both boxes. Second map: nothing of it in the box."""
    mass = located[1]["mass"]
    for measure in ("pointing", "energy", "iou_0.1", "iou_0.3", "iou_0.5"):
        assert mass[measure]["model"].value == pytest.approx(0.5)
        assert mass[measure]["model"].n == 2


def test_the_centre_prior_is_measured_in_the_same_way(located):
    """It peaks in the middle, at 20: no box holds the four pixels there, but that of (20, 20) one of them."""
    mass = located[1]["mass"]
    assert mass["pointing"]["centre"].value == pytest.approx((1 / 4 + 0) / 2)
    line = np.exp(-0.5 * ((np.arange(40) + 0.5 - 20) / 10) ** 2)
    inside = [line[:10].sum() ** 2 + line[20:30].sum() ** 2, line[:10].sum() ** 2]
    energy = np.mean(inside) / line.sum() ** 2
    assert mass["energy"]["centre"].value == pytest.approx(energy, rel=1e-5)
    assert mass["energy"]["over_centre"].value == pytest.approx(0.5 - energy, rel=1e-5)


def test_boxes_are_found_by_scores_of_heat_times_probability(located):
    """Three boxes, with 0.9, 0.54 and missed; false marks of 0.5 and 0.3 on four images; the disputed mark is neither."""
    found, report, facts = located
    expected = {"0.125": 2 / 3, "0.25": 2 / 3, "1": 2 / 3, "8": 2 / 3, "mean": 2 / 3}
    for rate, value in expected.items():
        assert report["mass"][f"found_{rate}"]["model"].value == pytest.approx(value)
    assert [(mark.image, mark.score, mark.verdict) for mark in found.marks] == [
        (0, pytest.approx(0.9), "on a box"),
        (0, pytest.approx(0.54), "on a box"),
        (1, pytest.approx(0.5), "false"),
        (2, pytest.approx(0.8), "disputed"),
        (3, pytest.approx(0.3), "false"),
    ]
    assert facts["counts"]["mass"] == {"images with boxes": 2, "boxes": 3, "images judged": 4}
    assert facts["notes"] == ["said"]


def test_intervals_are_by_patient_and_differences_are_paired(located):
    mass = located[1]["mass"]
    assert mass["pointing"]["model"].note == "Wilson by 2 patients"
    assert "bootstrap by 2 patients" in mass["energy"]["over_centre"].note
    assert "bootstrap by 4 patients" in mass["found_mean"]["over_centre"].note
    assert (mass["found_1"]["model"].n, mass["found_1"]["model"].positives) == (4, 2)


def test_a_random_map_follows_from_its_seed_image_and_class():
    one = random_map(SHAPE, SETTINGS, (1, 0))
    assert one.shape == SHAPE
    assert one.max() == 1
    assert one.min() >= 0
    np.testing.assert_array_equal(one, random_map(SHAPE, SETTINGS, (1, 0)))
    others = [
        random_map(SHAPE, SETTINGS, (2, 0)),
        random_map(SHAPE, SETTINGS, (1, 1)),
        random_map(SHAPE, Settings(), (1, 0)),
    ]
    assert not any(np.array_equal(one, other) for other in others)


def test_several_classes_have_a_row_of_all_their_maps():
    truths = Truths({"mass": TRUTHS[:2], "other": TRUTHS[:2][::-1]}, 1, 1, [])
    heat_HW = HEAT[0]
    images = [Tested(index, np.full(SHAPE, index, np.uint8)) for index in range(2)]
    found = run_test(images, truths, lambda image: lambda name: Map(heat_HW, heat_HW > 0.5, 1.0), SETTINGS)
    report = report_of(found, ["p", "q"], draws=20)
    assert list(report) == ["all", "mass", "other"]
    assert report["all"]["pointing"]["model"].n == 4
    assert report["all"]["energy"]["model"].value == pytest.approx((1 + 1 / 1.6) / 2)
    assert "found_1" not in report["all"]
    assert set(localisation_test.curves(found, ["mass"])["mass"]) == {"model", "centre", "random"}
