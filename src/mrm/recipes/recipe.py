"""What a recipe is, and how one is looked up by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mrm.system.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """A complete configuration by name. `make` takes the paths of the data, the model and the run."""

    make: Callable[..., Any]
    about: str
    expect: str  # the published result, or that there is none


def find(recipes: dict[str, Recipe], name: str) -> Recipe:
    """The recipe of that name. Raises ConfigError, which lists the recipes, for an unknown name."""
    if name not in recipes:
        raise ConfigError(f"unknown recipe {name!r}; choose from {', '.join(recipes)}")
    return recipes[name]
