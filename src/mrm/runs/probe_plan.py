"""What a probe is to do: its settings, its records and models, and the units of work that follow from them."""

# Shapes: N records, C classes
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mrm import recipes
from mrm.data import dividing
from mrm.data.records import Records, resolve_uncertain
from mrm.evaluation import floors, probes
from mrm.models.init_paths import init_path
from mrm.runs.encoder_facts import short_names
from mrm.statistics import ranking
from mrm.system.errors import RunError

RANDOM = "random"  # in place of an encoder: the architecture of the first one with random weights
FINETUNE = "fine-tuning"
FLOOR = "floor"  # logistic regression without a network; `floors.FLOORS` stand in place of an encoder
MODELS = 8  # at most in one plot
SETS = ("train", "val", "test")


@dataclass(frozen=True)
class ProbeConfig:
    """What to probe, and with which labels."""

    init: tuple[str, ...]  # encoders, the first of which the others are compared with; or `random`
    train: Path
    val: Path
    test: Path
    out: Path
    classes: tuple[str, ...] = ()  # label columns; by default all numeric ones of --train
    images: Path | None = None
    uncertain: str = "ignore"  # what labels of -1 become: ones, zeros, ignore
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    seeds: int = 3
    finetune: str = ""  # a recipe, to fine-tune as well
    max_steps: int | None = None  # of fine-tuning
    draws: int = 2000
    workers: int | None = None
    device: str = "auto"
    floors: bool = True  # logistic regressions on pixels and HOG beside
    image_size: int | None = None  # of every encoder; by default each sees images as it was trained


@dataclass(frozen=True)
class Unit:
    """One model, method, share of labels and seed."""

    model: str
    method: str
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        """The name of its files, such as 'pretrained-linear-10-seed2'."""
        return f"{self.model}-{self.method}-{100 * self.fraction:g}-seed{self.seed}".replace("/", "_")


# Settings, records, models ----------------------------------------------------------------------------


def check(config: ProbeConfig) -> None:
    """Raises RunError for settings that are out of range, ConfigError for an unknown recipe."""
    if config.seeds < 1:
        raise RunError(f"--seeds must be 1 or more, not {config.seeds}")
    if not config.fractions or not all(0 < f <= 1 for f in config.fractions):
        raise RunError(f"--fractions are shares of the labels, above 0 and at most 1, not {config.fractions}")
    if len(set(config.fractions)) != len(config.fractions):
        raise RunError(f"--fractions has a share twice: {config.fractions}")
    if not config.init or config.init[0] == RANDOM:
        raise RunError("--init needs an encoder first; `random` is the architecture of that one with random weights")
    if len(config.init) > MODELS:
        raise RunError(f"{len(config.init)} encoders are too many for one plot; give at most {MODELS} to --init")
    for given in config.init:
        if given != RANDOM and not init_path(given).path.exists():
            raise RunError(f"--init {given}: no such file or folder")
    if config.finetune:
        recipes.find(recipes.FINETUNE, config.finetune)


def labelled_records(config: ProbeConfig) -> dict[str, Records]:
    """The three sets, with the same classes. Raises RunError if no class of a set has both label values."""
    sets: dict[str, Records] = {}
    for name in SETS:
        classes = sets["train"].classes if sets else config.classes or None
        loaded = Records.load(getattr(config, name), classes, config.images)
        sets[name] = resolve_uncertain(loaded, config.uncertain)
    for name in ("train", "val"):  # for the test set the table says what is missing
        if len(one_label_only(sets[name].labels_NC)) == len(sets[name].classes):
            raise RunError(
                f"{getattr(config, name)}: no class has both positives and negatives, so nothing can be probed"
            )
    return sets


def one_label_only(labels_NC: np.ndarray) -> list[int]:
    """The classes whose stated labels are not of both values."""
    return [c for c, labels_N in enumerate(labels_NC.T) if ranking.undefined_reason(labels_N[~np.isnan(labels_N)])]


def named_models(config: ProbeConfig) -> dict[str, Path | None]:
    """Short names of the encoders, and their paths; None for random weights. Raises RunError for one given twice."""
    if len(set(config.init)) != len(config.init):
        raise RunError(f"an encoder is given twice: --init {' '.join(config.init)}")
    names = short_names([given for given in config.init if given != RANDOM])
    if reserved := set(names.values()) & set(floors.FLOORS):
        raise RunError(f"an encoder is called {reserved.pop()}, as a floor is; rename its folder")
    return {names.get(given, RANDOM): None if given == RANDOM else Path(given) for given in config.init}


# Units ------------------------------------------------------------------------------------------------


def subsets(train: Records, fractions: Sequence[float], seed: int) -> dict[float, np.ndarray]:
    """The indices of the training records in each share: drawn by patient, stratified, each share within the next."""
    rows = [
        replace(r, patient=person, name=str(i)) for i, (r, person) in enumerate(zip(train, train.people, strict=True))
    ]
    percents = [100 * f for f in fractions if f < 1]
    shares = dividing.fractions(replace(train, rows=rows), percents, seed)
    indices = {}
    for fraction in fractions:
        if fraction < 1:
            names = [record.name for record in shares[f"train_{100 * fraction:g}"]]
            indices[fraction] = np.array(names, dtype=np.intp)
        else:
            indices[fraction] = np.arange(len(train))
    return indices


def planned(config: ProbeConfig, models: Mapping[str, Path | None]) -> Iterator[Unit]:
    """All units. A probe with all labels is the same for every seed, so one is enough; fine-tuning differs by seed."""
    methods = [*probes.METHODS, FINETUNE] if config.finetune else list(probes.METHODS)
    for method in methods:
        for model in models:
            for fraction in sorted(config.fractions):
                seeds = 1 if fraction == 1 and method != FINETUNE else config.seeds
                yield from (Unit(model, method, fraction, seed) for seed in range(seeds))
    for floor in floors.FLOORS if config.floors else ():
        for fraction in sorted(config.fractions):
            seeds = 1 if fraction == 1 else config.seeds
            yield from (Unit(floor, FLOOR, fraction, seed) for seed in range(seeds))
