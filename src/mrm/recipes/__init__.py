"""Recipes: named, complete configurations, each with the published number to expect.

A recipe is a function of the paths (`records`, `out`, ...) that returns a frozen configuration. Change it with
`dataclasses.replace`, from the command line, or in the YAML file that a run leaves behind.
"""

from typing import TYPE_CHECKING

from mrm.system import lazy

if TYPE_CHECKING:
    from mrm.recipes.configurations import FINETUNE_CROP, FinetuneConfig, PretrainConfig, SegmentConfig
    from mrm.recipes.finetune_recipes import FINETUNE, published_training, tiny_finetune
    from mrm.recipes.pretrain_recipes import (
        PRETRAIN,
        SMALL_MODEL,
        TINY_MODEL,
        mimic,
        mimic_modern,
        mimic_next,
        small,
        small_next,
        tiny,
    )
    from mrm.recipes.recipe import Recipe, find
    from mrm.recipes.segment_recipes import SEGMENT, tiny_segment
    from mrm.recipes.suites import SUITES
    from mrm.system.yaml_files import differences, from_yaml, read_yaml, to_yaml

__all__ = [
    "FINETUNE",
    "FINETUNE_CROP",
    "PRETRAIN",
    "SEGMENT",
    "SMALL_MODEL",
    "SUITES",
    "TINY_MODEL",
    "FinetuneConfig",
    "PretrainConfig",
    "Recipe",
    "SegmentConfig",
    "differences",
    "find",
    "from_yaml",
    "mimic",
    "mimic_modern",
    "mimic_next",
    "published_training",
    "read_yaml",
    "small",
    "small_next",
    "tiny",
    "tiny_finetune",
    "tiny_segment",
    "to_yaml",
]
__getattr__, __dir__ = lazy.exports(
    "mrm.recipes",
    {
        "FINETUNE": "mrm.recipes.finetune_recipes",
        "FINETUNE_CROP": "mrm.recipes.configurations",
        "PRETRAIN": "mrm.recipes.pretrain_recipes",
        "SEGMENT": "mrm.recipes.segment_recipes",
        "SMALL_MODEL": "mrm.recipes.pretrain_recipes",
        "SUITES": "mrm.recipes.suites",
        "TINY_MODEL": "mrm.recipes.pretrain_recipes",
        "FinetuneConfig": "mrm.recipes.configurations",
        "PretrainConfig": "mrm.recipes.configurations",
        "Recipe": "mrm.recipes.recipe",
        "SegmentConfig": "mrm.recipes.configurations",
        "differences": "mrm.system.yaml_files",
        "find": "mrm.recipes.recipe",
        "from_yaml": "mrm.system.yaml_files",
        "read_yaml": "mrm.system.yaml_files",
        "mimic": "mrm.recipes.pretrain_recipes",
        "mimic_modern": "mrm.recipes.pretrain_recipes",
        "mimic_next": "mrm.recipes.pretrain_recipes",
        "published_training": "mrm.recipes.finetune_recipes",
        "small": "mrm.recipes.pretrain_recipes",
        "small_next": "mrm.recipes.pretrain_recipes",
        "tiny": "mrm.recipes.pretrain_recipes",
        "tiny_finetune": "mrm.recipes.finetune_recipes",
        "tiny_segment": "mrm.recipes.segment_recipes",
        "to_yaml": "mrm.system.yaml_files",
    },
)
