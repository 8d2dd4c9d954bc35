"""What a probe is to do: its settings, its records and models, and the units of work that follow from them."""

# Shapes: N records, C classes
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mrm import recipes
from mrm.corpora import splits
from mrm.data.records import Records, resolve_uncertain
from mrm.evaluation import probes
from mrm.statistics import ranking
from mrm.system.errors import RunError

RANDOM = "random"  # in place of a model: the architecture of the first one with random weights
FINETUNE = "fine-tuning"
MODELS = 4  # at most in one plot
SETS = ("train", "val", "test")


@dataclass(frozen=True)
class ProbeConfig:
    """What to probe, and with which labels."""

    model: Path
    train: Path
    val: Path
    test: Path
    out: Path
    against: tuple[str, ...] = ()  # further models, or `random`
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
    if 1 + len(config.against) > MODELS:
        raise RunError(f"{1 + len(config.against)} models are too many for one plot; give at most {MODELS}")
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
    """Short names of the models, and their paths; None for random weights. Raises RunError for a model given twice."""
    paths = [config.model, *(None if a == RANDOM else Path(a) for a in config.against)]
    if len(set(paths)) != len(paths):
        raise RunError(f"a model is given twice: {', '.join(map(str, (config.model, *config.against)))}")
    last_names = [path.resolve().name if path else RANDOM for path in paths]
    models: dict[str, Path | None] = {}
    for name, path in zip(last_names, paths, strict=True):
        if path and last_names.count(name) > 1:
            name = "/".join(path.resolve().parts[-2:])
        models[name] = path
    if len(models) < len(paths):
        raise RunError(f"two models have the same name: {', '.join(last_names)}; rename a folder")
    return models


# Units ------------------------------------------------------------------------------------------------


def subsets(train: Records, fractions: Sequence[float], seed: int) -> dict[float, np.ndarray]:
    """The indices of the training records in each share: drawn by patient, stratified, each share within the next."""
    rows = [
        replace(r, patient=person, name=str(i)) for i, (r, person) in enumerate(zip(train, train.people, strict=True))
    ]
    percents = [100 * f for f in fractions if f < 1]
    shares = splits.fractions(replace(train, rows=rows), percents, seed)
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
