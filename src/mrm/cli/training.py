"""Commands that train, and the recipes they train by: demo, recipes, pretrain, finetune, segment."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from mrm.cli.command import Command, commands
from mrm.recipes import (
    FINETUNE,
    PRETRAIN,
    SEGMENT,
    FinetuneConfig,
    PretrainConfig,
    Recipe,
    SegmentConfig,
    find,
    from_yaml,
    to_yaml,
)
from mrm.system.errors import ConfigError


@dataclass(frozen=True)
class Training:
    """A command that trains by a recipe."""

    about: str
    config: type
    recipes: dict[str, Recipe]


TRAINING = {
    "pretrain": Training(
        "Learn from images and reports: restore masked patches and masked words.", PretrainConfig, PRETRAIN
    ),
    "finetune": Training("Learn findings from labels, from a pre-trained encoder.", FinetuneConfig, FINETUNE),
    "segment": Training("Learn outlines from masks, from a pre-trained encoder.", SegmentConfig, SEGMENT),
}


def demo(out: Path = Path("demo"), seed: int = 0) -> None:
    """Phantom records: pre-train, fine-tune with few labels, evaluate, and one page to look at.

    Minutes on a CPU. Open OUT/index.html when it is done.
    """
    from mrm import runs

    print(f"open {runs.demo(out, seed)}")


def recipes(name: str = "", /) -> None:
    """List the recipes, or print one in full.

    Args:
        name: one of those that are listed.
    """
    shown = [(c, n, r) for c, training in TRAINING.items() for n, r in training.recipes.items() if name in ("", n)]
    if not shown:
        raise ConfigError(f"no recipe {name!r}; `mrm recipes` lists them")
    for training, n, recipe in shown:
        print(f"mrm {training} {n:14} {recipe.about:48} {recipe.expect}")
        if name:
            print(to_yaml(recipe.make(**_places(TRAINING[training].config, "<required>"))))


def train(name: str, argv: list[str]) -> None:
    """`mrm pretrain RECIPE ...`, or with `--config FILE.yaml` in the recipe's place."""
    from mrm import runs

    about, kind, table = TRAINING[name].about, TRAINING[name].config, TRAINING[name].recipes
    if not argv or argv[0] in ("-h", "--help"):
        print(
            f"usage: mrm {name} RECIPE [options] | --config FILE.yaml [options]\n{about}\n\nRecipes: {', '.join(table)}"
        )
        print(f"`mrm {name} RECIPE --help` lists the options, `mrm recipes RECIPE` all settings.")
        return
    if argv[0] == "--config":
        if len(argv) < 2 or not Path(argv[1]).is_file():
            raise ConfigError(f"--config needs a YAML file, as a run leaves behind; {' '.join(argv[1:2])} is none")
        default, called, rest = from_yaml(kind, Path(argv[1]).read_text(), argv[1]), argv[1], argv[2:]
    else:
        called, rest = argv[0], argv[1:]
        default = find(table, called).make(**_places(kind, tyro.MISSING))
    config = tyro.cli(kind, default=default, prog=f"mrm {name} {called}", description=about, args=rest)
    print(f"run {getattr(runs, name)(config)}")


def _places(kind: type, value: Any) -> dict[str, Any]:
    """A value for each setting that has no default: where the data and the run are."""
    absent = dataclasses.MISSING
    return {f.name: value for f in dataclasses.fields(kind) if f.default is absent and f.default_factory is absent}


COMMANDS = {
    **commands(demo, recipes),
    **{name: Command(training.about, partial(train, name)) for name, training in TRAINING.items()},
}
