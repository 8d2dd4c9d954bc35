"""The options of a command that trains: a recipe, a file of settings, and every setting of its configuration.

The recipe comes first, a file overrides it, and options override both; each of the three may be left out.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mrm.cli import help_text, options, parsing
from mrm.cli.options import REQUIRED, Docstring, Option
from mrm.recipes import Recipe, find, read_yaml
from mrm.system.errors import ConfigError

PLACE = "<required>"  # stands in a configuration for a path that is still to be given
RECIPE = Option("recipe", str, None, "Settings", "named settings, see `mrm recipes`", positional=True, optional=True)
FILE = Option(
    "config", Path, None, "Settings", "a YAML file of settings, such as RUN/config.yaml; it overrides the recipe"
)


def configuration(function: Callable[..., Any], recipes: Mapping[str, Recipe], words: Sequence[str]) -> Any:
    """The configuration that the words of a command line ask for. Raises ConfigError."""
    kind = kind_of(function)
    values = parsing.parse([RECIPE, FILE, *options.fields_of(kind)], words)
    recipe, file = values.get("recipe"), values.get("config")
    if recipe is None and file is None:
        raise ConfigError(f"give a recipe ({', '.join(recipes)}) or --config FILE")
    base = base_of(kind, recipes, recipe, file)
    parsing.require(options.fields_of(kind, base), values)
    return options.build(base, values)


def base_of(kind: type, recipes: Mapping[str, Recipe], recipe: str | None, file: Path | None) -> Any:
    """The settings of the recipe (the defaults without one) under those of the file; REQUIRED where neither says."""
    make: Callable[..., Any] = kind if recipe is None else find(recipes, recipe).make  # type: ignore[arg-type]
    base = make(**places(kind))
    if file is not None:
        base = read_yaml(kind, file, f"--config {file}", base)
    absent = {name: REQUIRED for name in places(kind) if getattr(base, name) == Path(PLACE)}
    return dataclasses.replace(base, **absent)


def places(kind: type) -> dict[str, Path | None]:
    """Stand-ins for the settings without a default, where the data, the model and the run are; None if one may be left out."""
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if options.default_of(field) is REQUIRED]
    return {name: None if type(None) in get_args(hints[name]) else Path(PLACE) for name in names}


def kind_of(function: Callable[..., Any]) -> type:
    """The class of the configuration that a command takes."""
    (parameter,) = inspect.signature(function).parameters
    return get_type_hints(function)[parameter]


def help_of(
    name: str, docs: Docstring, function: Callable[..., Any], recipes: Mapping[str, Recipe], words: Sequence[str]
) -> str:
    """The help of a command that trains, with the defaults of the recipe among the words."""
    kind = kind_of(function)
    recipe = next((word for word in words if word in recipes), None)
    known = options.fields_of(kind, base_of(kind, recipes, recipe, None))
    if recipe is None:
        known = help_text.without_defaults(known)
    notes = [_defaults(recipe, name), "Recipes: " + ", ".join(recipes)]
    return help_text.help_text(name, docs, [RECIPE, FILE, *known], notes)


def _defaults(recipe: str | None, command: str) -> str:
    if recipe:
        return f"The defaults shown are those of the recipe {recipe}."
    return f"`mrm {command} RECIPE --help` shows the defaults of a recipe, `mrm recipes RECIPE` all of its settings."
