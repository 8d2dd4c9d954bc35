"""Perceptual hashes survive what images go through, and the search finds what a full comparison finds."""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import fft, stats

from mrm.audit import perceptual_hashes as hashing
from mrm.audit.perceptual_hashes import (
    BITS,
    THRESHOLD,
    content_hash,
    distance,
    halved,
    mirrored,
    near_pairs,
    perceptual_hash,
    perceptual_hashes,
    without_border,
)
from mrm.data import images
from tests.support.image_files import radiograph


def window(image: np.ndarray, low: float, high: float) -> np.ndarray:
    a, b = np.percentile(image, [low, high])
    return np.rint(np.clip((image - a) / (b - a), 0, 1) * 255).astype(np.uint8)


CHANGES = {
    "resized": lambda x: images.resize(x, 100, 100),
    "another aspect": lambda x: images.resize(x, 160, 120),
    "JPEG 50": lambda x: images.read(images.encode_jpeg(x, 50)),
    "gamma": lambda x: np.rint(255 * (x / 255) ** 1.5).astype(np.uint8),
    "window": lambda x: window(x, 5, 90),
    "inverted": lambda x: 255 - x,
    "inverted, window, JPEG, resized": lambda x: images.read(
        images.encode_jpeg(images.resize(255 - window(x, 3, 97), 120, 120), 50)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_image_stays_near(change):
    for seed in range(10):
        image = radiograph(seed)
        assert distance(perceptual_hash(image), perceptual_hash(CHANGES[change](image))) <= THRESHOLD


def framed(image: np.ndarray, top: int, bottom: int, left: int, right: int, grey: int = 0) -> np.ndarray:
    return np.pad(image, ((top, bottom), (left, right)), constant_values=grey)


FRAMES = {
    "a square, black": lambda x: framed(x, 60, 60, 0, 0),
    "a square, white, and JPEG": lambda x: images.read(images.encode_jpeg(framed(x, 60, 60, 0, 0, 255), 50)),
    "letterbox grey": lambda x: framed(x, 0, 0, 33, 34, 114),
    "one side only": lambda x: framed(x, 0, 47, 0, 0),
    "a black frame, JPEG, resized": lambda x: images.resize(images.read(images.encode_jpeg(framed(x, *[13] * 4), 60)), 200, 180),
    "a white frame in a black one": lambda x: framed(framed(x, *[9] * 4, 255), *[11] * 4),
    "mirrored": lambda x: x[:, ::-1].copy(),
    "mirrored, inverted, in a frame": lambda x: framed(255 - x[:, ::-1], *[20] * 4),
    "mirrored, resized": lambda x: images.resize(x[:, ::-1].copy(), 99, 77),
}  # fmt: skip


@pytest.mark.parametrize("change", FRAMES)
def test_frames_and_mirrors_do_not_hide_a_copy(change):
    for seed in range(10):
        image = radiograph(seed)[:, 20:220].copy()
        original, copy = perceptual_hashes(image), perceptual_hashes(FRAMES[change](image))
        assert distance(original[:, None], copy[None]).min() <= THRESHOLD


def test_a_frame_is_taken_off_and_an_image_is_not():
    image = radiograph(3)
    np.testing.assert_array_equal(without_border(framed(framed(image, 3, 0, 9, 5, 255), 1, 2, 3, 4)), image)
    np.testing.assert_array_equal(without_border(image), image)
    blank = np.full((9, 9), 77, np.uint8)
    np.testing.assert_array_equal(without_border(blank), blank)


def test_a_line_whose_greys_differ_by_32_is_border_and_by_33_is_image():
    image = radiograph(3)
    for spread, rows in ((32, 256), (33, 257)):
        line = np.where(np.arange(256) % 2, 100, 100 + spread).astype(np.uint8)
        assert len(without_border(np.vstack([line, image]))) == rows


def test_mirroring_changes_the_bits_of_odd_columns_and_no_other():
    """The cosine transform of a mirrored image has the signs of its odd columns changed, by its definition."""
    for seed in range(5):
        image = radiograph(seed)
        np.testing.assert_array_equal(mirrored(perceptual_hash(image)), perceptual_hash(image[:, ::-1].copy()))
        assert not np.array_equal(mirrored(perceptual_hash(image)), perceptual_hash(image))


def test_other_images_are_far():
    hashes = np.stack([perceptual_hash(radiograph(seed)) for seed in range(60)])
    assert len(near_pairs(hashes)) == 0


def test_inversion_changes_every_bit():
    a, b = perceptual_hash(radiograph(1)), perceptual_hash(255 - radiograph(1))
    assert np.bitwise_count(a ^ b).sum() == BITS


def test_blank_images_have_no_hash_and_tiny_ones_do():
    assert not perceptual_hash(np.full((50, 40), 7, np.uint8)).any()
    speck = np.zeros((500, 500), np.uint8)
    speck[250, 250] = 255
    assert not perceptual_hash(speck).any()
    assert perceptual_hash(radiograph(0, side=8)).any()


def test_a_hash_has_the_signs_of_the_cosine_transform_of_mid_ranks():
    """By its definition, with SciPy: bit 16 b + v is the sign of the coefficient of row v and column 1 + (v + b) mod 16."""
    for seed in range(3):
        image = radiograph(seed)  # 256 x 256, so that the small image has the means of 8 x 8 pixels
        ranks = (stats.rankdata(image).reshape(256, 256) - 0.5) / image.size - 0.5
        small = ranks.reshape(32, 8, 32, 8).mean(axis=(1, 3))
        wave = fft.dctn(small, norm="ortho")
        expected = [wave[v, 1 + (v + b) % 16] for b in range(16) for v in range(16)]
        bits = np.unpackbits(perceptual_hash(image).view(np.uint8), bitorder="little")
        clear = np.abs(expected) > 1e-4  # of single precision in the hash
        assert clear.sum() > 250
        assert (bits[clear] == (np.array(expected) > 0)[clear]).all()


def test_large_images_are_halved_by_means_until_their_shorter_side_would_have_fewer_pixels_than_asked():
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(2051, 2306), dtype=np.uint8)
    once = image[:2050].reshape(1025, 2, 1153, 2).mean(axis=(1, 3))
    twice = halved(image, 512)
    assert twice.shape == (512, 576)
    np.testing.assert_allclose(twice, once[:1024, :1152].reshape(512, 2, 576, 2).mean(axis=(1, 3)), atol=1)
    assert halved(image[:1023], 512).shape == (1023, 2306)


@pytest.mark.parametrize("size", [(300, 310), (640, 700), (1290, 1301)])
def test_a_frame_of_any_width_is_cut_off_before_pixels_of_it_and_of_the_image_become_one(size):
    image = images.resize(radiograph(3), *size, "bicubic")
    least = 2 ** max(0, min(size).bit_length() - 10)  # lines that become one before borders are sought
    framed = np.pad(image, [(5 * least, 2 * least), (3 * least, 4 * least)])
    np.testing.assert_array_equal(perceptual_hashes(framed)[1], perceptual_hashes(image)[1])


@pytest.mark.parametrize(
    "change", [lambda x: x, lambda x: images.resize(x, 300, 300), lambda x: 255 - x[1:], lambda x: x[:, ::-1]]
)
def test_a_copy_of_a_large_image_is_near_it(change):
    for seed in range(3):
        large = images.resize(radiograph(seed), 1301, 1290, "bicubic")
        copied = perceptual_hashes(np.ascontiguousarray(change(large)))
        assert distance(perceptual_hashes(large)[0], copied[0]) <= 8


def test_content_hash_tells_shape_and_pixels():
    image = radiograph(2)
    assert content_hash(image) == content_hash(image.copy()) == content_hash(image.T.copy().T)
    others = [image.reshape(128, 512), image[:, ::-1], image + np.uint8(1)]
    assert len({content_hash(p) for p in [image, *others]}) == 4


def changed(hashes_N4: np.ndarray, bits: int, rng: np.random.Generator) -> np.ndarray:
    """The hashes with exactly `bits` of their bits changed."""
    flips = np.zeros((len(hashes_N4), BITS), np.uint8)
    for row in flips:
        row[rng.choice(BITS, bits, replace=False)] = 1
    return hashes_N4 ^ np.packbits(flips, axis=1, bitorder="little").view(np.uint64)


def random_hashes(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 2**64, (n, 4), dtype=np.uint64)


@pytest.fixture
def by_bands(monkeypatch):
    """Small sets are searched as large ones are."""
    monkeypatch.setattr(hashing, "ONE_BY_ONE", 0)


@pytest.mark.parametrize("threshold", [0, 3, 15, 31, 36, 47])
def test_search_is_exact(threshold, by_bands):
    """The claim of the search: not one pair less than comparing all with all, inverted ones too."""
    rng = np.random.default_rng(threshold)
    first = random_hashes(120, rng)
    parts = [changed(first[i::7], min(threshold + 3 - i, BITS), rng) for i in range(3)]
    second = np.concatenate(
        [random_hashes(50, rng), *parts, ~parts[2], ~first[:5], mirrored(parts[0]), ~mirrored(parts[1])]
    )
    table = distance(first[:, None], second[None])
    found = near_pairs(first, second, threshold)
    assert found[:, :2].tolist() == np.argwhere(table <= threshold).tolist()
    assert (found[:, 2] == table[found[:, 0], found[:, 1]]).all()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])  # the fixture is a constant
@given(st.lists(st.integers(0, 255), min_size=0, max_size=36, unique=True), st.booleans(), st.integers(0, 2**32))
def test_no_pattern_of_changed_bits_escapes(by_bands, bits, inverted, seed):
    first = random_hashes(1, np.random.default_rng(seed))
    flips = np.zeros((1, BITS), np.uint8)
    flips[0, bits] = 1
    second = first ^ np.packbits(flips, axis=1, bitorder="little").view(np.uint64)
    assert near_pairs(first, ~second if inverted else second).tolist() == [[0, 0, len(bits)]]


@pytest.mark.parametrize("one_by_one", [0, 10**6])
def test_search_within_gives_each_pair_once(monkeypatch, one_by_one):
    monkeypatch.setattr(hashing, "ONE_BY_ONE", one_by_one)
    rng = np.random.default_rng(0)
    base = random_hashes(40, rng)
    hashes = np.concatenate([base, changed(base[:10], 20, rng)])
    assert near_pairs(hashes).tolist() == [[i, 40 + i, 20] for i in range(10)]


def test_few_images_are_compared_one_by_one_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(1)
    first = random_hashes(30, rng)
    second = np.concatenate([changed(first[::3], bits, rng) for bits in (THRESHOLD, THRESHOLD + 1)] + [~first[:7]])
    few = near_pairs(first, second)
    assert sorted(few[:, 2]) == [0] * 7 + [THRESHOLD] * 10  # counted: those one bit farther apart are left out
    monkeypatch.setattr(hashing, "ONE_BY_ONE", len(first) * len(second) - 1)
    many = near_pairs(first, second)
    assert (few == many).all()
    assert few.dtype == many.dtype == np.int64


def test_nothing_to_compare_and_a_threshold_too_high():
    none, some = np.zeros((0, 4), np.uint64), random_hashes(3, np.random.default_rng(0))
    assert near_pairs(none, some).shape == near_pairs(some, none).shape == near_pairs(none).shape == (0, 3)
    for threshold in (-1, 48):
        with pytest.raises(ValueError, match=f"threshold {threshold}: give 0 to 47 bits"):
            near_pairs(some, some, threshold)


def test_candidates_come_in_chunks_that_hold_no_more_than_they_must(monkeypatch):
    """Query k has the entries from `lows[k]` up to `highs[k]`; a chunk ends before the query that would fill it."""
    monkeypatch.setattr(hashing, "_CHUNK", 10)
    lows = np.array([0, 5, 2, 0, 7, 30], np.int32)
    highs = lows + np.array([4, 3, 0, 12, 1, 2], np.int32)
    chunks = [np.stack(chunk, axis=1) for chunk in hashing._candidates(lows, highs)]
    assert np.concatenate(chunks).tolist() == [[i, k] for k in range(6) for i in range(lows[k], highs[k])]
    assert len(chunks) > 1
    assert max(map(len, chunks)) <= 10 + 12


def timed(n: int) -> float:
    """Seconds of the processor, which other work on the machine does not lengthen."""
    rng = np.random.default_rng(n)
    first, second = random_hashes(n, rng), random_hashes(n, rng)
    second[:300] = changed(first[:300], THRESHOLD, rng)
    second[300:500] = ~changed(first[300:500], 20, rng)
    start = time.process_time()
    found = near_pairs(first, second)
    seconds = time.process_time() - start
    assert (found[:, 0] == found[:, 1]).all()
    assert len(found) == 500
    return seconds


def test_the_search_at_20_000_images():
    assert timed(20_000) < 20


@pytest.mark.slow
def test_100_000_against_100_000_take_less_than_a_minute(capsys):
    seconds = timed(100_000)
    with capsys.disabled():
        print(f"\n100,000 against 100,000 hashes: {seconds:.1f} s")
    assert seconds < 60
