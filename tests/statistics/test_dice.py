"""Four images counted by hand, the set where predicting nothing looks good, and errors by their words."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrm.statistics.dice import MEASURES, PixelCounts, overlap_report, pooled_draws
from mrm.statistics.intervals import Bootstrap


@pytest.fixture
def four() -> PixelCounts:
    """Images of 100 pixels: empty, nothing predicted; empty, 10 predicted; 20 true, 30 predicted, 15 in
    both; 40 true and the same predicted."""
    return PixelCounts(intersection=[0, 0, 15, 40], predicted=[0, 10, 30, 40], true=[0, 0, 20, 40], pixels=[100] * 4)


def test_four_images_by_hand(four):
    report = overlap_report(four)
    partial = 2 * 15 / (30 + 20)  # 0.6
    pooled = 2 * 55 / (80 + 60)
    background = 2 * (400 - 85) / ((400 - 80) + (400 - 60))  # union 80 + 60 - 55 = 85
    expected = {
        "dice_positive": (partial + 1) / 2,
        "dice_published": (1 + 0 + partial + 1) / 4,
        "dice_pooled": pooled,
        "dice_mean": (pooled + background) / 2,
        "iou_mean": (55 / 85 + 315 / (400 - 55)) / 2,
        "sensitivity": 1,
        "false_positives": 1 / 2,
    }
    assert {name: estimate.value for name, estimate in report.items()} == pytest.approx(expected)
    assert list(report) == list(MEASURES)
    sizes = {name: (estimate.n, estimate.positives) for name, estimate in report.items()}
    whole = (4, 2)
    assert sizes == {
        "dice_positive": (2, 2),
        "dice_published": whole,
        "dice_pooled": whole,
        "dice_mean": whole,
        "iou_mean": whole,
        "sensitivity": (2, 2),
        "false_positives": (2, 0),
    }


def test_predicting_nothing_looks_good_only_as_published():
    empty = np.arange(1000) < 647
    report = overlap_report(PixelCounts(np.zeros(1000), np.zeros(1000), np.where(empty, 0, 50), np.full(1000, 400)))
    assert report["dice_published"].value == pytest.approx(0.647)
    assert report["dice_published"].note.endswith("64.7% of images have no lesion")
    assert report["dice_positive"].value == report["dice_pooled"].value == report["sensitivity"].value == 0
    assert report["dice_positive"].n == 353
    assert 0 < report["sensitivity"].high < 0.02
    assert report["false_positives"].value == 0
    half = math.sqrt(0.647 * 0.353 / 1000) * 1.96
    assert (report["dice_published"].low, report["dice_published"].high) == pytest.approx(
        (0.647 - half, 0.647 + half), abs=0.003
    )


def test_dice_per_image(four):
    np.testing.assert_allclose(four.dice(), [math.nan, math.nan, 0.6, 1])
    np.testing.assert_allclose(four.dice_published(), [1, 0, 0.6, 1])


def test_masks_are_counted():
    predicted = [np.array([[1, 1], [0, 0]]), np.zeros((2, 3))]
    true = [np.array([[255, 0], [255, 0]]), np.zeros((2, 3))]
    for sign in (1, -1):  # a value other than 0 means lesion
        counts = PixelCounts.of([sign * mask for mask in predicted], [sign * mask for mask in true])
        assert {name: value.tolist() for name, value in vars(counts).items()} == {
            "intersection": [1, 0],
            "predicted": [2, 0],
            "true": [2, 0],
            "pixels": [4, 6],
        }
    assert len(PixelCounts.of([], []).true) == 0


@given(st.integers(0, 2**30))
def test_pooled_measures_are_those_of_one_large_image(seed):
    rng = np.random.default_rng(seed)
    predicted, true = rng.random((2, 3, 5, 5)) < 0.4
    true[0, 0, 0] = True
    many, one = overlap_report(PixelCounts.of(predicted, true)), overlap_report(PixelCounts.of([predicted], [true]))
    for name in ("dice_pooled", "dice_mean", "iou_mean"):
        assert many[name].value == pytest.approx(one[name].value)
    assert one["dice_positive"].value == pytest.approx(one["dice_pooled"].value)


def test_intervals_are_over_patients():
    rng = np.random.default_rng(0)
    true = rng.integers(1, 50, size=60)
    both = (true * rng.random(60)).astype(int)
    counts = [np.tile(x, 4) for x in (both, true, true, np.full(60, 100))]
    by_image = overlap_report(PixelCounts(*counts))
    by_patient = overlap_report(PixelCounts(*counts), groups=np.tile(np.arange(60), 4))
    for name in ("dice_positive", "dice_pooled", "iou_mean"):
        ratio = (by_patient[name].high - by_patient[name].low) / (by_image[name].high - by_image[name].low)
        assert ratio == pytest.approx(2, rel=0.15)
    assert by_patient["dice_mean"].note == "bootstrap by 60 patients"


@pytest.mark.parametrize(
    ("true", "undefined"),
    [
        ([0, 0], {"dice_positive", "dice_pooled", "dice_mean", "iou_mean", "sensitivity"}),
        ([5, 5], {"false_positives"}),
        ([], set(MEASURES)),
    ],
)
def test_what_has_no_images_is_undefined(true, undefined):
    report = overlap_report(PixelCounts(np.zeros(len(true)), np.ones(len(true)), true, np.full(len(true), 9)))
    assert {name for name, estimate in report.items() if not estimate.defined} == undefined
    assert all(str(report[name]).startswith("undefined (no image") for name in undefined)


def test_a_lesion_of_one_pixel_that_is_found_is_found_in_full():
    report = overlap_report(PixelCounts([1, 1], [1, 1], [1, 1], [4, 4]))
    assert [report[name].value for name in ("dice_pooled", "dice_mean", "iou_mean")] == [1, 1, 1]


def test_counts_that_are_just_possible_are_taken():
    """The lesion is all of what is predicted, and both together all of the image."""
    counts = PixelCounts([3, 0], [3, 5], [9, 4], [9, 9])
    assert counts.union.tolist() == [9, 9]
    np.testing.assert_allclose(counts.dice(), [6 / 12, 0])
    report = overlap_report(counts)
    assert report["dice_mean"].value == pytest.approx((6 / 21 + 0) / 2)  # no pixel of the background is right


def test_measures_of_draws_are_those_of_the_drawn_images():
    rng = np.random.default_rng(3)
    true = rng.integers(0, 4, 12) * rng.integers(0, 2, 12)
    predicted = rng.integers(0, 4, 12)
    counts = PixelCounts(np.minimum(true, predicted), predicted, true, np.full(12, 9))
    bootstrap = Bootstrap.from_groups(np.arange(12) // 2, 12, draws=30, seed=2)
    drawn, weights_GD = pooled_draws(counts, bootstrap), np.hstack(list(bootstrap.weights()))
    for d in range(30):
        copies = np.repeat(np.arange(12), weights_GD[bootstrap.group_N, d].astype(int))
        again = overlap_report(PixelCounts(*(np.asarray(column)[copies] for column in vars(counts).values())), draws=0)
        for name, values in drawn.items():
            assert values[d] == pytest.approx(again[name].value, nan_ok=True)


def test_a_draw_without_a_lesion_has_no_measure():
    counts = PixelCounts([3, 0], [4, 0], [5, 0], [9, 9])
    bootstrap = Bootstrap.from_groups(None, 2, draws=40, seed=0)
    lesions_D = np.hstack(list(bootstrap.weights()))[bootstrap.group_N[0]]
    assert 0 in lesions_D
    for name, value in (("dice_pooled", 6 / 9), ("iou_mean", None)):
        drawn_D = pooled_draws(counts, bootstrap)[name]
        np.testing.assert_array_equal(np.isnan(drawn_D), lesions_D == 0)
        assert value is None or drawn_D[lesions_D > 0] == pytest.approx(value)


def test_one_image_with_a_lesion_has_no_interval():
    report = overlap_report(PixelCounts([3, 0, 0], [4, 1, 0], [5, 0, 0], [9, 9, 9]))
    assert report["false_positives"].value == 1 / 2  # one pixel is one
    for name in ("dice_positive", "dice_pooled", "dice_mean", "iou_mean"):
        assert report[name].defined
        assert "interval undefined: only one" in str(report[name])


def test_one_pixel_of_background_is_enough_to_be_wrong_about_it():
    report = overlap_report(PixelCounts([8], [8], [9], [9]), draws=0)
    assert report["dice_mean"].value == pytest.approx((16 / 17 + 0) / 2)
    assert report["iou_mean"].value == pytest.approx((8 / 9 + 0) / 2)


def test_lesions_that_fill_every_image():
    report = overlap_report(PixelCounts([9, 9], [9, 9], [9, 9], [9, 9]))
    assert report["dice_mean"].value == report["iou_mean"].value == 1
    assert "every resample gave the same value" in str(report["dice_mean"])


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (([0], [0, 0], [0, 0], [9, 9]), r"of one length, not intersection \(1,\), predicted \(2,\)"),
        (([[0]], [[0]], [[0]], [[9]]), r"counts must be \(N,\) and of one length, not intersection \(1, 1\)"),
        (([0, 3], [0, 2], [0, 5], [9, 9]), "1 of 2 intersections exceed a lesion; the first at index 1"),
        (
            ([0, 0], [5, 1], [5, 1], [9, 9]),
            "1 of 2 unions of both lesions exceed the image; the first at index 0",
        ),
        (([0, 0], [-1, 1], [5, 1], [9, 9]), "1 of 2 predicted counts are not whole numbers"),
        (([0, 0], [1, 1], [0.5, math.nan], [9, 9]), "2 of 2 true counts are not whole numbers"),
    ],
)
def test_wrong_counts_are_named(counts, words):
    with pytest.raises(ValueError, match=words):
        PixelCounts(*counts)


def test_masks_that_differ_are_named():
    with pytest.raises(ValueError, match=r"image 1: predicted mask \(2, 2\), but true mask \(2, 3\)"):
        PixelCounts.of([np.zeros((2, 2))] * 2, [np.zeros((2, 2)), np.zeros((2, 3))])
    with pytest.raises(ValueError, match="shorter"):
        PixelCounts.of([np.zeros((2, 2))], [])
    with pytest.raises(ValueError, match="2 records, but 1 groups"):
        overlap_report(PixelCounts([0, 0], [0, 0], [0, 0], [9, 9]), groups=["a"])
