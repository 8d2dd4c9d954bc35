"""Studies: which images belong together, which views count, and what is pooled."""

import numpy as np
import pytest

from mrm.inference.studies import (
    GUESSED_FRONTAL,
    GUESSED_LATERAL,
    LOOKS_FRONTAL,
    UNSTATED,
    is_lateral,
    note_of_view,
    note_unstated,
    pooled,
    studies_of,
    study_key,
)


@pytest.mark.parametrize("view", ["Lateral", "LATERAL", "lat", "LL", "RL", "L", "Frontal/Lateral", " left lateral "])
def test_lateral_views_are_known_by_the_words_of_tables_and_headers(view):
    assert is_lateral(view)


@pytest.mark.parametrize(
    "view", ["", "PA", "AP", "Frontal", "AP Supine", "LLD", "left lateral decubitus", "LLO", "left"]
)
def test_frontal_and_unstated_views_are_not_lateral(view):
    assert not is_lateral(view)


def test_images_of_one_patient_and_study_are_together_and_one_without_a_study_is_alone():
    told = [("a", "1", "x"), ("b", "1", "y"), ("a", "1", "z"), ("a", None, "u"), (None, None, "v"), (None, None, "w")]
    views = ["PA", "Lateral", "lateral", "", "", "PA"]
    readable = [False, True, True, True, True, True]
    keys = [study_key(*one) for one in told]
    every = studies_of(keys, views, readable, "all")
    assert [study.images for study in every] == [(0, 2), (1,), (3,), (4,), (5,)]
    assert (every[0].used, every[0].unreadable) == ((2,), (0,))
    frontal = studies_of(keys, views, readable, "frontal")
    assert (frontal[0].used, frontal[0].lateral, frontal[0].unreadable) == ((), (2,), (0,))
    assert (frontal[1].used, frontal[1].lateral) == ((), (1,))


def test_logits_are_pooled_by_mean_or_largest_and_features_by_mean():
    values = np.array([[1.0, -2.0, 10.0], [3.0, -4.0, 20.0]])
    assert pooled(values, 2, "mean").tolist() == [2.0, -3.0, 15.0]
    assert pooled(values, 2, "max").tolist() == [3.0, -2.0, 15.0]
    assert pooled(values[:, :2], 2, "mean").tolist() == [2.0, -3.0]


def test_the_images_of_a_study_stand_in_their_order_whatever_became_of_them():
    (study,) = studies_of(["s"] * 4, ["lateral", "PA", "", "LL"], [True, False, True, False], "frontal")
    assert (study.used, study.lateral, study.unreadable) == ((2,), (0, 3), (1,))
    assert study.images == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("view", "note"),
    [
        ("", UNSTATED),
        (" ", UNSTATED),
        (GUESSED_FRONTAL, LOOKS_FRONTAL),
        (GUESSED_LATERAL, ""),
        ("PA", ""),
        ("left", ""),
    ],
)
def test_an_image_that_states_no_view_has_a_note_where_lateral_ones_are_left_out(view, note):
    assert note_of_view(view, "frontal") == note
    assert note_of_view(view, "all") == ""


def test_a_guessed_lateral_view_is_lateral_and_a_guessed_frontal_one_is_not():
    assert is_lateral(GUESSED_LATERAL)
    assert not is_lateral(GUESSED_FRONTAL)


def test_images_that_state_no_view_are_counted_where_lateral_ones_are_left_out():
    views = ["PA", "", " ", "lateral"]
    (note,) = note_unstated(views, "frontal")
    assert note.startswith("2 of 4 images state no view, so --views frontal took them for frontal")
    assert note_unstated(views, "all") == []
    assert note_unstated(["PA", "lateral"], "frontal") == note_unstated([], "frontal") == []
