"""Suites: which recipes, lists and published numbers make up a benchmark; `mrm.runs.benchmarking` runs them.

A suite names the sets of records it needs by what `mrm prepare CORPUS --splits PUBLISHED-LISTS` writes (`train_1`, `val`,
`test`) or by the names of the published lists (`train_1.txt`, `val_list.txt`, `test_list.txt`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mrm.recipes.finetune_recipes import PUBLISHED
from mrm.system.errors import ConfigError, RunError

# A set by the names its file may have. CSV comes first: it knows patients, so that intervals are drawn by patient.
FILES = {
    "train": ("train.csv", "train_list.txt", "train_100.txt"),
    "train_10": ("train_10.csv", "train_10.txt"),
    "train_1": ("train_1.csv", "train_1.txt"),
    "val": ("val.csv", "val_list.txt"),
    "test": ("test.csv", "test_list.txt"),
}


@dataclass(frozen=True)
class Entry:
    """One line of a suite: a recipe, the sets it trains, chooses and is tested on, and the published number."""

    name: str
    recipe: str
    train: str
    val: str
    test: str
    kind: Literal["finetune", "segment"] = "finetune"
    metric: str = "auroc"  # or dice_published, ...
    published: float | None = None  # as a share, 0.794; None where no number is published
    classes: tuple[str, ...] = ()  # else all numeric columns


@dataclass(frozen=True)
class Suite:
    """A benchmark by name."""

    name: str
    about: str
    entries: tuple[Entry, ...]
    prepare: str  # the command that makes the data ready


def _shares(corpus: str) -> tuple[Entry, ...]:
    """1, 10 and 100 % of the labels, each by the recipe of that name."""
    sets = {"1": "train_1", "10": "train_10", "100": "train"}
    return tuple(
        Entry(
            f"{corpus}-{share}",
            f"{corpus}-{share}",
            train,
            "val",
            "test",
            published=published_auroc(f"{corpus}-{share}"),
        )
        for share, train in sets.items()
    )


def published_auroc(recipe: str) -> float | None:
    """The published mean AUROC of a recipe, as a share; None where the paper's table has none for it."""
    percent = PUBLISHED[recipe].auroc
    return None if percent is None else round(percent / 100, 4)


_COVID = tuple(
    Entry(f"{task}{number}", "covid", f"{task}{number}/train", f"{task}{number}/val", f"{task}{number}/test")
    for task in ("covid", "viral")
    for number in range(1, 6)
)
_SIIM = (
    Entry("siim-10", "siim-10", "train_10", "", "test", "segment", "dice_published", 0.732, ("pneumothorax",)),
    Entry("siim-100", "siim-100", "", "", "test", "segment", "dice_published", 0.914, ("pneumothorax",)),
)
_PHANTOM = (
    Entry("phantom-10", "tiny", "train_10", "val", "test"),
    Entry("phantom-100", "tiny", "train", "val", "test"),
)

SUITES = {
    suite.name: suite
    for suite in (
        Suite("nih", "NIH ChestX-ray14, 14 findings, 1 / 10 / 100 % of labels", _shares("nih"), "mrm prepare nih --source ChestX-ray14 --out DIR --splits LISTS"),
        Suite("chexpert", "CheXpert, 5 findings, 1 / 10 / 100 % of labels", _shares("chexpert"), "mrm prepare chexpert --source CheXpert --out DIR --splits LISTS"),
        Suite("rsna", "RSNA Pneumonia, 1 / 10 / 100 % of labels", _shares("rsna"), "mrm prepare rsna --source rsna-pneumonia --out DIR --splits LISTS"),
        Suite("covid", "COVID-19 Image Data Collection: two tasks, five splits each", _COVID, "mrm prepare covid --source covid-chestxray-dataset --out DIR"),
        Suite("siim", "SIIM-ACR Pneumothorax, 10 / 100 % of masks", _SIIM, "mrm prepare siim --source siim --out DIR --splits LISTS"),
        Suite("phantom", "phantoms, drawn by the suite itself: minutes on two CPU cores", _PHANTOM, "nothing: the suite draws its own data"),
    )
}  # fmt: skip


def find(name: str) -> Suite:
    """The suite of that name. Raises ConfigError, which lists the suites, for an unknown name."""
    if name not in SUITES:
        raise ConfigError(f"unknown suite {name!r}; choose from {', '.join(SUITES)}")
    return SUITES[name]


def file_of(data: Path, name: str) -> Path | None:
    """The file of the set `name` (`val`, `covid1/train`) under `data`, None if it is absent."""
    folder, _, last = name.rpartition("/")
    return next((p for file in FILES[last] if (p := data / folder / file).is_file()), None)


def require_data(suite: Suite, data: Path) -> None:
    """Raises a RunError that names every list that a suite needs and `data` lacks, and how to make them."""
    needed = dict.fromkeys(s for e in suite.entries for s in (e.train, e.val, e.test) if s and e.kind == "finetune")
    absent = [" or ".join(_names(s)) for s in needed if not file_of(data, s)]
    if any(e.kind == "segment" for e in suite.entries):
        folders = [f"images/{s}/ and annotations/{s}/" for s in ("training", "validation", "test")]
        absent += [f for f in folders if not (data / f.split("/ and")[0]).is_dir()]
        absent += [" or ".join(_names(e.train)) for e in suite.entries if e.train and not file_of(data, e.train)]
    if absent:
        raise RunError(
            f"{data}: the suite {suite.name} needs {len(absent)} more: {'; '.join(absent)}. Make them with "
            f"`{suite.prepare}`, or use the published lists"
        )


def _names(name: str) -> list[str]:
    folder, _, last = name.rpartition("/")
    return [f"{folder}/{file}" if folder else file for file in FILES[last]]
