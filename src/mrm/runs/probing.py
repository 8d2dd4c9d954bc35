"""How much a frozen encoder knows of findings, with 1, 10 and 100 % of the labels: the run behind `mrm probe`.

A unit is one model, one method, one share of labels and one seed. Each leaves its test scores in a file of its own, so
that the same command goes on where it was stopped; table and plot are made from the units when all are there.
"""

# Shapes: N records, C classes, D features, S seeds
from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrm import recipes
from mrm.corpora import splits
from mrm.data.records import Records, resolve_uncertain
from mrm.evaluation import probes
from mrm.evaluation.classifier_test import overlaps
from mrm.evaluation.probes import Labelled
from mrm.inference import predict
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier
from mrm.models.mrm import MRM
from mrm.pages.figures import Curve
from mrm.pages.probe import write_probe_page
from mrm.runs.finetuning import finetune
from mrm.runs.reading_options import device_named
from mrm.runs.run_folder import warn_of
from mrm.statistics import ranking, seeds
from mrm.statistics.intervals import Estimate
from mrm.system.errors import RunError
from mrm.system.files import write_json
from mrm.system.output_folder import json_settings, open_folder
from mrm.training.checkpoints import STATE

RANDOM = "random"  # in place of a model: the first one's architecture with random weights
FINETUNE = "fine-tuning"
MODELS = 4  # that one plot can tell apart
SETS = ("train", "val", "test")


@dataclass(frozen=True)
class ProbeConfig:
    """What to probe, with which labels."""

    model: Path
    train: Path
    val: Path
    test: Path
    out: Path
    against: tuple[str, ...] = ()  # further models, or `random`
    classes: tuple[str, ...] = ()  # label columns; else all numeric ones of --train
    images: Path | None = None
    uncertain: str = "ignore"  # what labels of -1 become: ones, zeros, ignore
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    seeds: int = 3
    finetune: str = ""  # a recipe: fine-tune too
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
        """'pre-trained, linear, 10 %, seed 2' as a file name."""
        return f"{self.model}-{self.method}-{100 * self.fraction:g}-seed{self.seed}".replace("/", "_")


def probe(config: ProbeConfig) -> dict[str, Any]:
    """Probe, and fine-tune if a recipe is named: `probe.json`, `index.html`, `label_efficiency.png`, `units/`.

    Raises RunError for settings or records that cannot be probed, ProbeError for labels nothing can be learned from.
    """
    check(config)
    records = labelled_records(config)
    models = named_models(config)
    open_probe(config, records, models)
    warn_of(leaks := list(shared(config, records, models)))
    parts = {seed: subsets(records["train"], config.fractions, seed) for seed in range(config.seeds)}
    tables = {name: features_of(config, name, path, records) for name, path in models.items()}
    units = list(planned(config, models))
    for number, unit in enumerate(units, 1):
        file = Path(config.out) / "units" / f"{unit.name}.npz"
        if not file.is_file():
            chosen = parts[unit.seed][unit.fraction]
            if unit.method == FINETUNE:
                made = fine_tuned(config, unit, models[unit.model], records, chosen)
            else:
                made = probed(unit, tables[unit.model], records, chosen)
            write_unit(file, made)
        keep_model(run_of(config, unit))
        made = read_unit(file)
        print(f"{number} of {len(units)}: {unit.name}: validation AUROC {float(made['val_auroc']):.3f}", flush=True)
    results = summarise(config, records, models, parts, units, leaks)
    write_json(Path(config.out) / "probe.json", results)
    write_probe_page(config.out, results, curves(results))
    print(table(results))
    return results


# What goes in -------------------------------------------------------------------------------------------


def check(config: ProbeConfig) -> None:
    """Raises RunError for settings that cannot be."""
    if config.seeds < 1:
        raise RunError(f"--seeds must be 1 or more, not {config.seeds}")
    if not config.fractions or not all(0 < f <= 1 for f in config.fractions):
        raise RunError(f"--fractions are shares of the labels, above 0 and at most 1, not {config.fractions}")
    if len(set(config.fractions)) != len(config.fractions):
        raise RunError(f"--fractions come twice: {config.fractions}")
    if 1 + len(config.against) > MODELS:
        raise RunError(f"{1 + len(config.against)} models; one plot tells {MODELS} apart")
    if config.finetune:
        recipes.find(recipes.FINETUNE, config.finetune)


def labelled_records(config: ProbeConfig) -> dict[str, Records]:
    """The three sets, with the same classes. Raises RunError where one has no class with both label values."""
    found: dict[str, Records] = {}
    for name in SETS:
        classes = found["train"].classes if found else config.classes or None
        loaded = Records.load(getattr(config, name), classes, config.images)
        found[name] = resolve_uncertain(loaded, config.uncertain)
    for name in ("train", "val"):  # of a test set, what is missing is said in the table
        labels_NC = found[name].labels_NC
        if all(ranking.undefined_reason(labels_N[~np.isnan(labels_N)]) for labels_N in labels_NC.T):
            raise RunError(
                f"{getattr(config, name)}: no class has both positives and negatives, so nothing can be probed"
            )
    return found


def named_models(config: ProbeConfig) -> dict[str, Path | None]:
    """Short names of the models, and where they are; None for random weights. Raises RunError for the same twice."""
    places = [config.model, *(None if a == RANDOM else Path(a) for a in config.against)]
    if len(set(places)) != len(places):
        raise RunError(f"a model comes twice: {', '.join(map(str, (config.model, *config.against)))}")
    last = [RANDOM if p is None else p.resolve().name for p in places]
    named = {
        name if last.count(name) == 1 else "/".join(p.resolve().parts[-2:]) if p else name: p
        for name, p in zip(last, places, strict=True)
    }
    if len(named) < len(places):
        raise RunError(f"models of one name: {', '.join(last)}; rename a folder")
    return named


def open_probe(config: ProbeConfig, records: Mapping[str, Records], models: Mapping[str, Path | None]) -> None:
    """Make the folder, or resume the probe that it holds. Raises OutputError if it holds something else."""
    settings = {
        "models": {name: model_folder.weights_digest(path) if path else RANDOM for name, path in models.items()},
        "records": {name: part.fingerprint() for name, part in records.items()},
        "finetune": config.finetune,
        "max_steps": config.max_steps,
    }
    open_folder(Path(config.out), json_settings("probe", "probing.json", settings))


def shared(config: ProbeConfig, records: Mapping[str, Records], models: Mapping[str, Path | None]) -> Iterator[str]:
    """What test records share with training and validation, and with what the models were trained on."""
    from mrm.audit.overlaps import audit

    verdict = audit(dict(records), images=False)
    yield from (str(o) for o in verdict.overlaps if not o.series and o.first != o.second)
    for name, path in models.items():
        if path is not None and path.is_dir():
            yield from (
                f"{name}: {o}" for o in overlaps(model_folder.find_model(path) / "seen", records["test"], "test")
            )


def subsets(train: Records, fractions: Sequence[float], seed: int) -> dict[float, np.ndarray]:
    """Indices of the training records of each share: by patient, stratified, each within the next larger."""
    rows = [replace(r, patient=r.patient or r.name, name=str(i)) for i, r in enumerate(train)]
    numbered = replace(train, rows=rows)
    cut = splits.fractions(numbered, [100 * f for f in fractions if f < 1], seed)
    found = {f: cut[f"train_{100 * f:g}"] for f in fractions if f < 1}
    return {
        f: np.array([int(r.name) for r in found[f]], dtype=np.intp) if f < 1 else np.arange(len(train))
        for f in fractions
    }


def planned(config: ProbeConfig, models: Mapping[str, Path | None]) -> Iterator[Unit]:
    """All units. With all labels a probe has no choice of labels, so one seed says all; fine-tuning has its noise."""
    methods = [*probes.METHODS, *([FINETUNE] if config.finetune else [])]
    for method in methods:
        for model in models:
            for fraction in sorted(config.fractions):
                seeds = 1 if fraction == 1 and method != FINETUNE else config.seeds
                yield from (Unit(model, method, fraction, seed) for seed in range(seeds))


# A unit -------------------------------------------------------------------------------------------------


def features_of(
    config: ProbeConfig, name: str, path: Path | None, records: Mapping[str, Records]
) -> dict[str, np.ndarray]:
    """Pooled features (N, D) of the three sets, NaN where an image cannot be read; kept in a file."""
    file = Path(config.out) / "features" / f"{name.replace('/', '_')}.npz"
    if not file.is_file():
        network = opened(config, path).to(device_named(config.device))
        made = {}
        for part, rows in records.items():
            made[part], unreadable = predict.features(network, rows, workers=config.workers)
            if len(unreadable) == len(rows):
                first, reason = next(iter(unreadable.items()))
                raise RunError(
                    f"{getattr(config, part)}: not one of {len(rows)} images could be read: {first}: {reason}"
                )
            warn_of([f"{part}: left out {n}: {why}" for n, why in unreadable.items()])
        write_unit(file, {part: values.astype(np.float32) for part, values in made.items()})
    return {part: values.astype(np.float64) for part, values in read_unit(file).items()}


def opened(config: ProbeConfig, path: Path | None) -> MRM | Classifier:
    """The model at a path; for none, the architecture of the first with random weights."""
    model = model_folder.load_as(path or config.model, MRM, Classifier)
    if path is None:
        with noise.seeded(0):
            model = type(model)(model.config).eval()  # type: ignore[arg-type]
    return model


def probed(
    unit: Unit, features: Mapping[str, np.ndarray], records: Mapping[str, Records], chosen: np.ndarray
) -> dict[str, np.ndarray]:
    """The test scores of a linear probe or of neighbours; NaN for images that could not be read."""
    read = {name: ~np.isnan(features[name]).any(axis=1) for name in SETS}
    usable = chosen[read["train"][chosen]]
    labels = {name: records[name].labels_NC for name in SETS}
    train = Labelled(features["train"][usable], labels["train"][usable])
    val, test = (Labelled(features[n][read[n]], labels[n][read[n]]) for n in ("val", "test"))
    found = probes.METHODS[unit.method](train, val, test)
    scores_NC = np.full(labels["test"].shape, np.nan)
    scores_NC[read["test"]] = found.scores_NC
    return {
        "scores": scores_NC,
        "val_auroc": np.array(found.val_auroc),
        "setting": np.array(found.setting),
        "n": np.array(len(usable)),
        "untaught": np.array(found.untaught, dtype=np.intp),
        "note": np.array(found.note),
    }


def fine_tuned(
    config: ProbeConfig,
    unit: Unit,
    path: Path | None,
    records: Mapping[str, Records],
    chosen: np.ndarray,
) -> dict[str, np.ndarray]:
    """The test scores of a fine-tuned model: its run is under `runs/`, its labels under `lists/`."""
    lists = {
        "train": write_list(config, f"train-{100 * unit.fraction:g}-seed{unit.seed}", records["train"].select(chosen)),
        "val": write_list(config, "val", records["val"]),
    }
    recipe = recipes.find(recipes.FINETUNE, config.finetune)
    made = recipe.make(
        lists["train"], lists["val"], path or config.model, run_of(config, unit),
        scratch=path is None, seed=unit.seed, classes=records["train"].classes,
        on_error="skip", max_steps=config.max_steps,
    )  # fmt: skip
    batch = min(made.training.global_batch, len(chosen))  # few labels may not fill the recipe's batch
    lowered = f"batch of {batch} in place of {made.training.global_batch}" if batch < made.training.global_batch else ""
    made = replace(made, training=replace(made.training, global_batch=batch))
    if config.workers is not None:
        made = replace(made, training=replace(made.training, workers=config.workers))
    if not only_model(made.out):
        finetune(made)
    network = model_folder.load_as(made.out, Classifier).to(device_named(config.device))
    scores = {
        name: predict.classify(network, records[name], workers=config.workers).logits_NC for name in ("val", "test")
    }
    val_NC = records["val"].labels_NC
    read_N = ~np.isnan(scores["val"]).any(axis=1)
    pairs = zip(val_NC[read_N].T, scores["val"][read_N].T, strict=True)
    chosen_NC = records["train"].select(chosen).labels_NC
    untaught = [c for c, labels_N in enumerate(chosen_NC.T) if ranking.undefined_reason(labels_N[~np.isnan(labels_N)])]
    return {
        "scores": scores["test"],
        "val_auroc": np.array(np.nanmean([ranking.auroc(*pair) for pair in pairs])),
        "setting": np.array(model_folder.read_card(model_folder.find_model(made.out)).origin.get("step", math.nan)),
        "n": np.array(len(chosen)),
        "untaught": np.array(untaught, dtype=np.intp),
        "note": np.array(lowered),
    }


def run_of(config: ProbeConfig, unit: Unit) -> Path:
    """Where a unit is fine-tuned."""
    return Path(config.out) / "runs" / unit.name


def keep_model(run: Path) -> None:
    """Of a run whose model is scored, keep that model and the log: many runs' checkpoints would fill the disk."""
    if not (run / "checkpoints").is_dir():
        return
    kept = model_folder.find_model(run).resolve()
    for folder in (run / "checkpoints").iterdir():
        if folder.resolve() != kept:
            shutil.rmtree(folder)
    if not (run / "last").exists():
        (run / "last").unlink(missing_ok=True)
    (kept / STATE).unlink(missing_ok=True)  # last: without it the model is known to be all there is to the run


def only_model(run: Path) -> bool:
    """Whether `keep_model` has been here, so that there is nothing to train any more."""
    return any((run / n / "config.json").is_file() and not (run / n / STATE).is_file() for n in ("best", "last"))


def write_list(config: ProbeConfig, name: str, records: Records) -> Path:
    """Records as a file that a fine-tuning run reads. Raises RunError for images that are no files."""
    if any(not isinstance(r.image, Path) for r in records):
        raise RunError("fine-tuning in a probe needs images in files, not in shards; leave out --finetune")
    file = Path(config.out) / "lists" / f"{name}.csv"
    if not file.is_file():
        records.to_csv(file)
    return file


def write_unit(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays as an `.npz` that is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.tmp.npz")
    np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    temporary.replace(file)


def read_unit(file: Path) -> dict[str, np.ndarray]:
    """What `write_unit` wrote."""
    with np.load(file, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


# What comes out -----------------------------------------------------------------------------------------


def summarise(
    config: ProbeConfig,
    records: Mapping[str, Records],
    models: Mapping[str, Path | None],
    parts: Mapping[int, Mapping[float, np.ndarray]],
    units: Sequence[Unit],
    leaks: Sequence[str],
) -> dict[str, Any]:
    """Every row of the table: AUROC over seeds with its interval, and the difference from the first model."""
    test, read = records["test"], np.ones(len(records["test"]), bool)
    found = {u: read_unit(Path(config.out) / "units" / f"{u.name}.npz") for u in units}
    for made in found.values():
        read &= ~np.isnan(made["scores"]).any(axis=1)  # the same records for all models, else they cannot be paired
    kept = test.select(np.flatnonzero(read))
    stacks: dict[tuple[str, str, float], list[Unit]] = {}
    for unit in units:
        stacks.setdefault((unit.method, unit.model, unit.fraction), []).append(unit)
    scores = {key: np.stack([found[u]["scores"][read] for u in same]) for key, same in stacks.items()}
    first = next(iter(models))
    arguments: dict[str, Any] = {"groups": kept.patients, "draws": config.draws}
    rows = []
    for (method, model, fraction), same in stacks.items():
        scores_SNC = scores[method, model, fraction]
        auroc = seeds.auroc_over_seeds(kept.labels_NC, scores_SNC, kept.classes, **arguments)
        row: dict[str, Any] = {
            "method": method,
            "model": model,
            "fraction": fraction,
            "seeds": len(same),
            "records": [len(parts[u.seed][fraction]) for u in same],
            "positives": _positives(records["train"], parts, same),
            "settings": [finite(found[u]["setting"]) for u in same],
            "val_auroc": [finite(found[u]["val_auroc"]) for u in same],
            "untaught": sorted({kept.classes[c] for u in same for c in found[u]["untaught"]}),
            "notes": sorted({str(found[u]["note"]) for u in same} - {""}),
            "auroc": {name: e.to_dict() for name, e in auroc.items()},
        }
        if model != first:
            other = scores[method, first, fraction]
            gap = seeds.auroc_over_seeds(kept.labels_NC, other, kept.classes, against_SNC=scores_SNC, **arguments)
            row["first_less_this"] = {name: e.to_dict() for name, e in gap.items()}
        rows.append(row)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
    return {
        "settings": settings,
        "models": {name: str(path) if path else RANDOM for name, path in models.items()},
        "classes": list(kept.classes),
        "n": {name: len(part) for name, part in records.items()} | {"tested": len(kept)},
        "patients": {name: len(set(p.patients)) if p.patients else None for name, p in records.items()},
        "overlap": list(leaks),
        "interval": INTERVAL,
        "rows": rows,
    }


INTERVAL = (
    "95 %: test patients are drawn with replacement (the same draws for all seeds and models); to the mean over seeds in "
    "each draw is added s / sqrt(S) times a draw of Student's t with S - 1 degrees of freedom, s the deviation over the S "
    "seeds, each of which draws its own labels. With one seed, test patients alone."
)


def _positives(
    train: Records, parts: Mapping[int, Mapping[float, np.ndarray]], same: Sequence[Unit]
) -> dict[str, list[int]]:
    """Positive training records of each class, for each seed."""
    labels_NC = train.labels_NC
    counts = [(labels_NC[parts[u.seed][u.fraction]] == 1).sum(axis=0).tolist() for u in same]
    return {name: [count[c] for count in counts] for c, name in enumerate(train.classes)}


def finite(value: np.ndarray) -> float | None:
    """A number for JSON."""
    return float(value) if math.isfinite(float(value)) else None


def curves(results: Mapping[str, Any]) -> list[Curve]:
    """The mean AUROC of each method and model by share of labels, for the plot and the page."""
    found: dict[tuple[str, str], list[tuple[float, Estimate]]] = {}
    for row in results["rows"]:
        mean: dict[str, Any] = dict(row["auroc"]["mean"])
        mean |= {end: math.nan for end in ("value", "low", "high") if mean[end] is None}
        found.setdefault((row["method"], row["model"]), []).append((row["fraction"], Estimate(**mean)))
    return [Curve(method, model, tuple(points)) for (method, model), points in found.items()]


def table(results: Mapping[str, Any]) -> str:
    """Mean AUROC of every method, model and share, to print."""
    lines = [f"{'method':12} {'model':20} {'labels':>7} {'records':>8} {'seeds':>5}  mean AUROC (95 % interval)"]
    for row in results["rows"]:
        e = row["auroc"]["mean"]
        value = "undefined" if e["value"] is None else f"{e['value']:.3f}"
        value += f" ({e['low']:.3f} to {e['high']:.3f})" if e["low"] is not None else f" ({e['note']})"
        if "first_less_this" in row and (d := row["first_less_this"]["mean"])["low"] is not None:
            value += f"   first less this {d['value']:+.3f} ({d['low']:+.3f} to {d['high']:+.3f})"
        n = round(sum(row["records"]) / len(row["records"]))
        lines.append(
            f"{row['method']:12} {row['model']:20} {100 * row['fraction']:5g} % {n:8,} {row['seeds']:5}  {value}"
        )
    tested = f"{results['n']['tested']:,} test records, {len(results['classes'])} classes"
    return "\n".join([*lines, f"{tested}; intervals: {results['interval']}"])
