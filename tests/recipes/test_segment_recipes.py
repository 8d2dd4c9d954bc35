"""The recipes of segmentation, in numbers."""

import pytest

from mrm import recipes


@pytest.mark.parametrize("name", recipes.SEGMENT)
def test_recipes_can_be_written_and_read_back(name, tmp_path):
    made = recipes.SEGMENT[name].make(*[tmp_path] * 4)
    assert recipes.from_yaml(recipes.SegmentConfig, recipes.to_yaml(made)) == made


def test_the_published_recipe_in_numbers(tmp_path):
    made = recipes.SEGMENT["siim-100"].make(*[tmp_path] * 4)
    t = made.training
    assert (t.steps, t.warmup_steps, t.global_batch, t.lr, t.weight_decay, t.layer_decay) == (
        160_000,
        1_500,
        8,
        2e-5,
        0.05,
        0.65,
    )
    assert (t.optimizer, t.schedule, made.image_size, made.channels, made.auxiliary) == (
        "adamw",
        "polynomial",
        (512, 512),
        768,
        256,
    )
    assert (made.focal_weight, made.dice_weight, made.auxiliary_weight, made.negatives) == (2.0, 1.0, 0.4, 0.4)
    assert (made.crop.area[0], made.crop.flip) == (1.0, 0.5)
    ten = recipes.SEGMENT["siim-10"].make(*[tmp_path] * 4).training
    assert (ten.steps, ten.warmup_steps) == (5_000, 100)
