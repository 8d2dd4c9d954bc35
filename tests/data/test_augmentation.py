"""Augmentation: every change does what it says, in proportion, and the published recipe is left alone."""

import numpy as np
import pytest

from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import augmentation as augmentation
from mrm.data.augmentation import augment
from mrm.data.config import NONE, STRONG, AugmentConfig, CropConfig
from mrm.data.eval_view import EvalView
from mrm.data.records import Records
from mrm.data.samples import LabelData
from mrm.system.errors import AugmentError


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """A grey ramp with a bright square off its centre, (64, 80) uint8."""
    made = np.tile(np.linspace(30, 200, 80).astype(np.uint8), (64, 1))
    made[10:20, 12:22] = 240
    return made


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_nothing_changes_and_nothing_is_drawn_by_default(image):
    used, fresh = rng(), rng()
    assert augment(image, used, NONE) is image
    assert used.random() == fresh.random()


def test_the_sample_decides_and_the_input_is_kept(image):
    before = image.copy()
    first, again, other = (augment(image, rng(seed), STRONG) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(image, before)
    assert (first.dtype, first.shape) == (np.uint8, image.shape)


def test_rotation_turns_about_the_centre_and_no_further_than_asked(image):
    angles = []
    for seed in range(40):
        dot = np.zeros((65, 65), np.uint8)
        dot[30:35, 55:60] = 255  # 25 pixels right of the centre
        turned = augmentation.rotate(dot, rng(seed), 20.0)
        y, x = (np.average(axis, weights=turned) for axis in np.indices(turned.shape))
        assert np.hypot(x - 32, y - 32) == pytest.approx(25, abs=0.5)
        angles.append(np.degrees(np.arctan2(y - 32, x - 32)))
    assert max(np.abs(angles)) <= 20.5
    assert min(angles) < -10
    assert max(angles) > 10


def test_exposure_keeps_the_order_of_greys_and_stays_within_its_amounts(image):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    shifts, gammas = [], []
    for seed in range(40):
        assert (np.diff(augmentation.expose(ramp, rng(seed), 0.2, 0.3, 0.3).ravel().astype(int)) >= 0).all()
        shifts.append(int(augmentation.expose(ramp, rng(seed), 0.2, 0, 0)[8, 0]) - 128)
        gammas.append(np.log(augmentation.expose(ramp, rng(seed), 0, 0, 0.5)[8, 0] / 255) / np.log(128 / 255))
        contrasted = augmentation.expose(image, rng(seed), 0, 0.3, 0)
        assert image.std() / 1.35 <= contrasted.std() <= image.std() * 1.35
        assert contrasted.mean() == pytest.approx(image.mean(), abs=3)
    assert max(np.abs(shifts)) <= 52
    assert max(shifts) > 25
    assert min(shifts) < -25
    assert 1 / 1.52 <= min(gammas) < 0.9
    assert 1.1 < max(gammas) <= 1.52


def test_blur_and_noise_touch_half_of_the_images(image):
    for change, amount in ((augmentation.blur, 1.0), (augmentation.add_noise, 0.05)):
        changed = [not np.array_equal(change(image, rng(seed), amount), image) for seed in range(60)]
        assert 15 < sum(changed) < 45
    noisy = [augmentation.add_noise(image, rng(s), 0.05).astype(float) - image for s in range(60)]
    assert 2 < max(n.std() for n in noisy) <= 0.05 * 255 * 1.1
    edges = [np.abs(np.diff(augmentation.blur(image, rng(s), 1.0).astype(int))).max() for s in range(60)]
    assert min(edges) < np.abs(np.diff(image.astype(int))).max() == max(edges)


def test_erasing_takes_one_rectangle_of_a_fiftieth_to_a_fifth(image):
    shares, aspects = [], []
    for seed in range(60):
        changed = augmentation.erase(image, rng(seed), 1.0) != image
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert changed.sum() > 0.9 * box  # noise equals what was there in one pixel of 256
        shares.append(box / image.size)
        aspects.append((rows[-1] - rows[0] + 1) / (columns[-1] - columns[0] + 1))
    assert 0.25 < min(aspects) < 0.5  # sides are whole pixels
    assert 2 < max(aspects) < 4
    assert 0.01 < min(shares) < 0.06
    assert 0.12 < max(shares) <= 0.21
    left = [np.array_equal(augmentation.erase(image, rng(seed), 0.25), image) for seed in range(80)]
    assert 45 < sum(left) < 75


def test_equalising_spreads_the_greys_of_the_share_of_images_that_is_asked_for(image):
    dull = (60 + image // 8).astype(np.uint8)
    changed = [augmentation.equalise(dull, rng(seed), 1.0) for seed in range(40)]
    assert min(c.std() for c in changed) >= dull.std() - 1
    assert max(c.std() for c in changed) > 4 * dull.std()  # equalised as a whole, nearly all of it
    same = [np.array_equal(augmentation.equalise(dull, rng(seed), 0.25), dull) for seed in range(80)]
    assert 45 < sum(same) < 75


def test_a_frame_is_black_or_white_and_the_whole_image_is_within(image):
    bright = np.full((100, 80), 128, np.uint8)
    sides, greys = [], []
    for seed in range(60):
        framed = augmentation.add_frame(bright, rng(seed), 1.0)
        inside = framed == 128
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        sides += [rows[0] / 100, 1 - (rows[-1] + 1) / 100, columns[0] / 80, 1 - (columns[-1] + 1) / 80]
        greys += set(framed[~inside].tolist())
    assert 0.09 < max(sides) <= 0.12
    assert set(greys) == {0, 255}
    assert greys.count(0) > greys.count(255)


def test_letters_are_few_bright_pixels_in_the_outer_parts():
    dark = np.zeros((128, 128), np.uint8)
    for seed in range(60):
        marked = augmentation.add_letters(dark, rng(seed), 1.0)
        rows, columns = np.nonzero(marked)
        assert 5 < len(rows) < 0.05 * dark.size
        assert marked.max() >= 100  # thin strokes are smoothed
        assert not ((columns > 0.35 * 128) & (columns < 0.74 * 128)).any()
        assert rows.max() <= 0.55 * 128
    assert np.array_equal(augmentation.add_letters(dark, rng(), 0.0), dark)


ALONE = {
    "rotate": (10.0, augmentation.rotate),
    "equalise": (1.0, augmentation.equalise),
    "brightness": (0.2, lambda image, rng, amount: augmentation.expose(image, rng, amount, 0, 0)),
    "contrast": (0.3, lambda image, rng, amount: augmentation.expose(image, rng, 0, amount, 0)),
    "gamma": (0.3, lambda image, rng, amount: augmentation.expose(image, rng, 0, 0, amount)),
    "letters": (1.0, augmentation.add_letters),
    "frame": (1.0, augmentation.add_frame),
    "blur": (1.0, augmentation.blur),
    "noise": (0.05, augmentation.add_noise),
    "erase": (1.0, augmentation.erase),
}


@pytest.mark.parametrize("name", ALONE)
def test_each_change_can_be_switched_on_alone(image, name):
    amount, change = ALONE[name]
    changed = [augment(image, rng(seed), AugmentConfig(**{name: amount})) for seed in range(8)]
    assert any(not np.array_equal(one, image) for one in changed)
    for seed, one in enumerate(changed):
        np.testing.assert_array_equal(one, change(image, rng(seed), amount))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rotate": -1}, "rotate"),
        ({"erase": 1.5}, "erase"),
        ({"noise": 2}, "noise"),
        ({"blur": float("nan")}, "blur"),
        ({"frame": -0.1}, "frame"),
        ({"letters": 2}, "letters"),
        ({"equalise": 1.1}, "equal"),
    ],
)
def test_amounts_that_make_no_sense_are_refused(wrong, told):
    with pytest.raises(AugmentError, match=told):
        AugmentConfig(**wrong)


def test_training_samples_are_augmented_and_test_images_are_not(phantoms):
    records = Records.load(phantoms / "records.csv", FINDINGS)
    plain, strong = (LabelData(records, EvalView(64), CropConfig(), seed=3, augment=a) for a in (NONE, STRONG))
    pairs = [(plain.sample(0, i)["image"], strong.sample(0, i)["image"]) for i in range(8)]
    assert all(not np.array_equal(a, b) for a, b in pairs)
    assert all(np.array_equal(strong.sample(0, i)["image"], strong.sample(0, i)["image"]) for i in range(8))
    whole, same = (LabelData(records, EvalView(64), None, seed=3, augment=a).sample(0, 0) for a in (NONE, STRONG))
    assert np.array_equal(whole["image"], same["image"])
