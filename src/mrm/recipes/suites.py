"""Suites: which recipes, sets and published numbers make up a benchmark; `mrm.runs.benchmarking` runs them.

A suite is a table in `suite_tables/NAME.yaml`. It names the sets of records it needs by what `mrm prepare` writes (`train_1`,
`val`, `test`; below the folder of a corpus: `nih/train_1`) or by the names of the published lists (`train_1.txt`,
`val_list.txt`, `test_list.txt`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

from mrm.system.errors import ConfigError, RunError

SUITES = (
    *("nih", "chexpert", "rsna", "covid", "siim", "phantom"),
    *("benchx", "medical-mae", "eva-x", "mrm-peft"),
)

# A set by the names its file may have. CSV comes first: it knows patients, so that intervals are drawn by patient.
FILES = {
    "train": ("train.csv", "train_list.txt", "train_100.txt"),
    "train_10": ("train_10.csv", "train_10.txt"),
    "train_1": ("train_1.csv", "train_1.txt"),
    "val": ("val.csv", "val_list.txt"),
    "test": ("test.csv", "test_list.txt"),
}
MASKS = ("training", "validation", "test")  # of a segmentation folder

Metric = Literal["auroc", "f1", "accuracy", "dice_positive", "dice_published", "dice_pooled", "dice_mean"]


@dataclass(frozen=True)
class Entry:
    """One line of a suite: a recipe, the sets it trains, chooses and is tested on, and the published numbers."""

    name: str
    recipe: str = ""
    train: str = ""
    val: str = ""
    test: str = ""
    kind: Literal["finetune", "segment", "cited"] = "finetune"  # cited: published, but nothing that mrm can run
    folder: str = ""  # segment: the segmentation folder below --data, by default --data itself
    metric: Metric | None = "auroc"
    classes: tuple[str, ...] = ()  # by default all numeric columns
    split: str = ""  # that the numbers were measured on, see `mrm.recipes.splits`
    findings: int | None = None  # classes whose mean the numbers are
    numbers: dict[str, float] = field(default_factory=dict)  # published, in percent, by model
    of: str = ""  # the model whose number stands beside ours, by default none
    where: str = ""  # in the source of the suite, such as a table
    reason: str = ""  # cited: why it cannot be run

    @property
    def published(self) -> float | None:
        """The published number that ours is compared with, as a share; None where none is stated."""
        return round(self.numbers[self.of] / 100, 5) if self.of else None


@dataclass(frozen=True)
class Suite:
    """A benchmark."""

    about: str
    entries: tuple[Entry, ...]
    prepare: dict[str, str]  # folder below --data, "" for itself: the command that makes it
    source: str = ""  # of its published numbers
    name: str = ""

    @property
    def runnable(self) -> tuple[Entry, ...]:
        """The entries that can be run."""
        return tuple(entry for entry in self.entries if entry.kind != "cited")


def require_suite(name: str) -> None:
    """Raises ConfigError, which lists the suites, for an unknown name."""
    if name not in SUITES:
        raise ConfigError(f"unknown suite {name!r}; choose from {', '.join(SUITES)}")


@cache
def find(name: str) -> Suite:
    """The suite of that name. Raises ConfigError for an unknown name, and for a table that is wrong."""
    require_suite(name)
    from mrm.recipes.splits import TABLES
    from mrm.system.yaml_files import from_yaml

    file = f"{name}.yaml"
    suite = replace(from_yaml(Suite, (TABLES / file).read_text(encoding="utf-8"), file), name=name)
    if problems := [problem for entry in suite.entries for problem in _problems(entry, suite)]:
        raise ConfigError(f"{file}: {'; '.join(problems)}")
    return suite


def _problems(entry: Entry, suite: Suite) -> list[str]:
    """What is wrong with an entry of a suite."""
    from mrm.recipes.finetune_recipes import FINETUNE
    from mrm.recipes.segment_recipes import SEGMENT
    from mrm.recipes.splits import known

    recipes = {"finetune": set(FINETUNE), "segment": set(SEGMENT), "cited": {""}}[entry.kind]
    checks = {
        f"unknown recipe {entry.recipe!r}": entry.recipe not in recipes,
        f"unknown split {entry.split!r}": bool(entry.split) and entry.split not in known(),
        "a published number needs its split, its place in the source, and a source": bool(entry.numbers)
        and not (entry.where and suite.source and (entry.split or entry.kind == "cited")),
        f"{entry.of} has no number": bool(entry.of) and entry.of not in entry.numbers,
        "a cited entry needs a reason, and another one has none": (entry.kind == "cited") != bool(entry.reason),
    }
    return [f"{entry.name}: {problem}" for problem, wrong in checks.items() if wrong]


def file_of(data: Path, name: str) -> Path | None:
    """The file of the set `name` (`val`, `covid1/train`) under `data`, None if it is absent."""
    return next((p for file in names_of(name) if (p := data / file).is_file()), None)


def names_of(name: str) -> list[str]:
    """The files below `data` that a set may be in."""
    folder, _, last = name.rpartition("/")
    return [f"{folder}/{file}" if folder else file for file in FILES[last]]


def require_data(suite: Suite, entries: Iterable[Entry], data: Path) -> None:
    """Raises a RunError that names every list and folder that entries of a suite need and `data` lacks, and how to make them."""
    absent = dict.fromkeys(place for entry in entries for place in _absent(entry, data))
    if not absent:
        return
    folders = dict.fromkeys(place.rpartition("/")[0].split("/")[0] for place, _ in absent)
    commands = dict.fromkeys(suite.prepare.get(folder, suite.prepare.get("", "")) for folder in folders)
    raise RunError(
        f"{data}: the suite {suite.name} needs {len(absent)} more: {'; '.join(text for _, text in absent)}. Make them with "
        f"{', '.join(f'`{command}`' for command in commands if command)}, or use the published lists"
    )


def _absent(entry: Entry, data: Path) -> list[tuple[str, str]]:
    """The places below `data` that an entry needs and that are absent, and how each may be called."""
    sets = [name for name in (entry.train, entry.val, entry.test) if name]
    absent = []
    if entry.kind == "segment":
        sets = [entry.train] if entry.train else []
        at = f"{entry.folder}/" if entry.folder else ""
        missing = [f for f in MASKS if not (data / at / "images" / f).is_dir()]
        absent = [(f"{at}images", f"{at}images/{f}/ and {at}annotations/{f}/") for f in missing]
    return absent + [(name, " or ".join(names_of(name))) for name in sets if not file_of(data, name)]
