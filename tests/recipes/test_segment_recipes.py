"""The recipes of segmentation, in numbers."""

import pytest

from mrm import recipes
from tests.support.published import OURS, SEGMENTATION, SEGMENTATIONS, settings


@pytest.mark.parametrize("name", recipes.SEGMENT)
def test_recipes_can_be_written_and_read_back(name, tmp_path):
    made = recipes.SEGMENT[name].make(*[tmp_path] * 4)
    assert recipes.from_yaml(recipes.SegmentConfig, recipes.to_yaml(made)) == made


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_the_published_recipe_in_numbers(name, tmp_path):
    made = recipes.SEGMENT[name].make(*[tmp_path] * 4)
    assert settings(made, SEGMENTATION) == {**SEGMENTATION, **OURS["segment"]}
    steps, warmup, dice = SEGMENTATIONS[name]
    assert (made.training.steps, made.training.warmup_steps) == (steps, warmup)
    assert made.training.betas == (0.9, 0.999)
    assert made.crop.area == (1.0, 1.0)
    assert dice in recipes.SEGMENT[name].expect


def test_the_small_recipe_keeps_what_learns_in_few_steps(tmp_path):
    made = recipes.SEGMENT["tiny"].make(*[tmp_path] * 4)
    assert (made.feature_norm, made.head_dropout, made.dice_weight) == (True, 0.0, 1.0)
