"""Selection: doubt by the formula of entropy, the traversal against brute force, patients, and ties."""

import math

import numpy as np
import pytest

from mrm.inference import selection
from mrm.system.errors import RunError


def test_doubt_is_the_mean_entropy_in_bits():
    doubt = selection.doubt_of(np.array([[0.5, 0.5], [0.5, 1.0], [0.0, 1.0], [0.25, 0.25]]))
    quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert doubt == pytest.approx([1.0, 0.5, 0.0, quarter])


def test_each_choice_has_the_largest_product_of_doubt_and_distance_from_those_before():
    rng = np.random.default_rng(0)
    doubt, features = rng.random(40), rng.normal(size=(40, 6)) * [1, 1, 1, 5, 5, 0]
    choices = selection.choose(doubt, features, [""] * 40, 8)
    scale = features.std(axis=0)
    standard = (features - features.mean(axis=0)) / np.where(scale > 0, scale, 1)
    unit = standard / np.linalg.norm(standard, axis=1, keepdims=True)
    assert choices[0].image == int(np.argmax(doubt))
    for k, choice in enumerate(choices[1:], 1):
        before = [c.image for c in choices[:k]]
        gain = {i: doubt[i] * min(1 - unit[i] @ unit[j] for j in before) for i in range(40) if i not in before}
        assert choice.image == max(gain, key=gain.get)
        assert choice.distance == pytest.approx(min(1 - unit[choice.image] @ unit[j] for j in before))


def test_copies_of_a_doubtful_image_are_not_chosen_while_others_are_there():
    features = np.vstack([np.tile([3.0, 1.0, 0.0], (5, 1)), np.random.default_rng(1).normal(size=(5, 3))])
    doubt = np.array([0.99] * 5 + [0.3] * 5)
    chosen = [c.image for c in selection.choose(doubt, features, [""] * 10, 4)]
    assert chosen[0] == 0
    assert not set(chosen) & {1, 2, 3, 4}


def test_a_patient_gives_one_image_unless_patients_are_fewer_than_images_asked_for():
    rng = np.random.default_rng(2)
    doubt, features = rng.random(30), rng.normal(size=(30, 4))
    patients = [f"p{i // 3}" for i in range(30)]
    ten = [c.image for c in selection.choose(doubt, features, patients, 10)]
    assert len({patients[i] for i in ten}) == 10
    assert all(doubt[i] == max(doubt[j] for j in range(30) if patients[j] == patients[i]) for i in ten)
    assert len({c.image for c in selection.choose(doubt, features, patients, 12)}) == 12
    assert len({c.image for c in selection.choose(doubt, features, [""] * 30, 30)}) == 30


def test_equal_images_are_taken_in_their_order_and_too_small_a_pool_is_refused():
    same = selection.choose(np.ones(4), np.zeros((4, 3)), [""] * 4, 3)
    assert [c.image for c in same] == [0, 1, 2]
    with pytest.raises(RunError, match="the pool has 4 images that can be read, fewer than the 5 asked for"):
        selection.choose(np.ones(4), np.zeros((4, 3)), [""] * 4, 5)
