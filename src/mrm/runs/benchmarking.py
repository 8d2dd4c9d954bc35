"""`mrm benchmark`: a suite of fine-tunings and tests, and the reproduction ledger of their results.

Every (model, entry, seed) is a cell with its own folder: its run, its test, and `cell.json` once it is done or has failed.
The same command resumes with the cells that are not done. `ledger.json`, `ledger.md` and `ledger.html` are written anew
after every cell, so they always hold all results so far.
"""

from __future__ import annotations

import io
import json
import shlex
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrm import recipes
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import masks
from mrm.data.records import Records
from mrm.evaluation.predictions import read_dice, read_predictions
from mrm.models import model_folder
from mrm.pages.ledger import markdown, write_ledger_page
from mrm.recipes import FinetuneConfig, SegmentConfig, suites
from mrm.recipes.suites import Entry, Suite
from mrm.runs.encoder_facts import NOT_PRE_TRAINED, short_names, trained_on
from mrm.runs.evaluating import evaluate
from mrm.runs.finetuning import finetune
from mrm.runs.output_lock import alone_in
from mrm.runs.phantom_sets import draw_sets
from mrm.runs.pretraining import pretrain
from mrm.runs.reading_options import Reading
from mrm.runs.segmenting import segment
from mrm.statistics import seeds
from mrm.statistics.comparison import bootstrap_p, holm
from mrm.statistics.intervals import Bootstrap
from mrm.statistics.ranking import RankedScores, bootstrap_metrics, mean_degrees, mean_or_nan
from mrm.system.errors import ConfigError, RunError
from mrm.system.files import write_json, write_whole
from mrm.system.output_folder import json_settings, open_folder
from mrm.system.text_table import estimate_cells, text_table

SCRATCH = "scratch"  # in place of a model: random weights
PHANTOMS = {"pretrain": 1200, "train": 600, "val": 150, "test": 500}  # of the suite `phantom`, which draws its own data
PHANTOM_SIZE = 192


@dataclass(frozen=True)
class BenchmarkConfig:
    """A suite, the models that it compares, and the folders of data, images and results."""

    suite: str
    out: Path
    data: Path | None = None  # the prepared corpus, or the published lists; `phantom` draws its own
    models: tuple[str, ...] = ()  # what --init takes; "scratch" has random weights; others are compared with the first
    images: Path | None = None  # the folder that relative image paths start from; by default that of the lists
    seeds: tuple[int, ...] = (0, 1, 2)
    only: tuple[str, ...] = ()  # entries of the suite; by default all
    modern: bool = False  # fine-tune by the recipes NAME-modern
    max_steps: int | None = None  # squeeze every run into so many steps: a rehearsal, which the ledger then says it is
    draws: int = 2000  # bootstrap resamples


@dataclass(frozen=True)
class Cell:
    """One model, fine-tuned by one entry of the suite from one seed."""

    model: str
    entry: Entry
    seed: int
    label: str  # of the model

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.entry.name}/{self.label.replace('/', '_')}-{self.seed}"


@alone_in("config.out")
def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Run the cells of a suite that are not done, and write the ledger. Returns it. A failed cell does not stop the others."""
    suite = suites.find(config.suite)
    _open(config)
    data, models = _ready(config, suite)
    labels = labels_of(models)
    cells = [Cell(m, e, s, labels[m]) for e in _chosen(config, suite) for m in models for s in config.seeds]
    for cell in cells:
        if status(config, cell) != "done":
            print(f"{cell.name}: {cell.entry.recipe}, seed {cell.seed}", flush=True)
            try:
                _attempt(config, cell, data, models)
            finally:
                write(config, suite, cells)
    ledger = write(config, suite, cells)
    print(table(ledger))
    return ledger


def table(ledger: dict[str, Any]) -> str:
    """Published numbers, ours and the gaps, as text to print."""
    rows = []
    for row in ledger["rows"]:
        ours, gap = row["ours"], row["gap"]
        published = "" if row["published"] is None else f"{row['published']:.3f}"
        numbers = ["", "", "", ""] if ours is None else estimate_cells(ours)
        difference = "" if gap is None else f"{gap['value']:+.3f}"
        done = sum(cell["status"] == "done" for cell in row["cells"])
        state = f"{done} of {len(row['cells'])} done"
        rows.append([row["entry"], row["label"], published, *numbers[:2], difference, *numbers[2:], state])
    head = ("entry", "model", "published", "ours", "95 % interval", "gap", "n", "positives", "runs")
    return text_table(head, rows, text_columns=2)


# Suite, data and models ---------------------------------------------------------------------------------------


def _open(config: BenchmarkConfig) -> None:
    """Make the folder, or resume the benchmark that it holds. Raises OutputError if it holds something else."""
    may_change = ("out", "models", "seeds", "only", "images", "data")  # more models or seeds only add to a ledger
    open_folder(
        config.out, json_settings("benchmark", "benchmark.json", asdict(config), may_change=may_change, update=True)
    )


def _chosen(config: BenchmarkConfig, suite: Suite) -> list[Entry]:
    """The entries of `--only`, with modern recipes if asked for. Raises ConfigError for unknown names."""
    known = {e.name: e for e in suite.entries}
    if unknown := [name for name in config.only if name not in known]:
        raise ConfigError(f"unknown entry {unknown[0]!r} of the suite {suite.name}; choose from {', '.join(known)}")
    entries = [known[name] for name in config.only or known]
    if not config.modern:
        return entries
    segmentations = [e.name for e in entries if e.kind == "segment"]
    if segmentations:
        raise ConfigError(f"there is no modern recipe for {', '.join(segmentations)}; leave --modern out")
    return [replace(e, name=f"{e.name}-modern", recipe=f"{e.recipe}-modern") for e in entries]


def _ready(config: BenchmarkConfig, suite: Suite) -> tuple[Path, tuple[str, ...]]:
    """The folder of the lists, and the models. Raises RunError or ConfigError if something is missing."""
    if suite.name == "phantom" and config.data is None:
        data = config.out / "data"
        models = config.models or (str(_phantom_model(config, data)), SCRATCH)
    elif config.data is None:
        raise ConfigError(f"the suite {suite.name} needs --data DIR with the lists of `{suite.prepare}`")
    else:
        data, models = config.data, config.models
        suites.require_data(replace(suite, entries=tuple(_chosen(replace(config, modern=False), suite))), data)
    if not models or all(m == SCRATCH for m in models):
        raise ConfigError("name at least one model to fine-tune: --models MRM.pth; `scratch` takes its architecture")
    labels_of(models)
    for model in models:
        if model != SCRATCH:
            model_folder.architecture(model)
    if not config.seeds:
        raise ConfigError("a benchmark needs at least one seed: --seeds 0")
    return data, tuple(models)


def labels_of(models: Sequence[str]) -> dict[str, str]:
    """A short name for each model. Raises ConfigError where a model is given twice, RunError where two are alike."""
    if len(set(models)) < len(models):
        raise ConfigError(f"a model is given twice: {', '.join(models)}")
    return {SCRATCH: SCRATCH} | short_names([model for model in models if model != SCRATCH])


def _phantom_model(config: BenchmarkConfig, data: Path) -> Path:
    """Draw the sets of the suite `phantom`, each once, and pre-train a small model on one of them."""
    for name, file in draw_sets(data, PHANTOMS, first_seed=2000, size=PHANTOM_SIZE).items():
        if name != "pretrain" and not (data / f"{name}.csv").is_file():
            Records.load(file, FINDINGS).to_csv(data / f"{name}.csv")
    if not (data / "train_10.csv").is_file():
        Records.load(data / "train.csv", FINDINGS)[: PHANTOMS["train"] // 10].to_csv(data / "train_10.csv")
    run = config.out / "pretrained"
    recipe = recipes.tiny(data / "pretrain" / "records.csv", run)
    training = replace(recipe.training, epochs=8.0, global_batch=16, log_every=25)
    return pretrain(replace(recipe, training=training, max_steps=config.max_steps))


# One cell ---------------------------------------------------------------------------------------------


def folder_of(config: BenchmarkConfig, cell: Cell) -> Path:
    """The folder of a cell."""
    return config.out / "cells" / cell.name


def status(config: BenchmarkConfig, cell: Cell) -> str:
    """ "done", "failed", "begun" (stopped or killed on the way) or "to do"."""
    folder = folder_of(config, cell)
    if (folder / "cell.json").is_file():
        return str(json.loads((folder / "cell.json").read_bytes())["status"])
    return "begun" if folder.is_dir() else "to do"


def _attempt(config: BenchmarkConfig, cell: Cell, data: Path, models: Sequence[str]) -> None:
    """Fine-tune, test, and note the result. An error is noted too, and must not keep the other cells from running."""
    folder, began = folder_of(config, cell), time.perf_counter()
    for name in ("cell.json", "resamples.npy"):
        (folder / name).unlink(missing_ok=True)
    note: dict[str, Any] = {"model": cell.model, "entry": cell.entry.name, "seed": cell.seed}
    try:
        settings = _settings(config, cell, data, models)
        note |= {"command": _command(config, cell, settings)}
        note |= {"status": "done", **_measure(config, cell, settings, data)}
    except Exception as error:  # not `training.Stopped`: a signal to stop ends the benchmark too
        note |= {"status": "failed", "reason": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        print(f"{cell.name}: failed: {note['reason']}", flush=True)
    note["seconds"] = time.perf_counter() - began
    write_json(folder / "cell.json", note)


def _settings(config: BenchmarkConfig, cell: Cell, data: Path, models: Sequence[str]) -> FinetuneConfig | SegmentConfig:
    """All settings of the cell's fine-tuning."""
    entry, run = cell.entry, folder_of(config, cell) / "run"
    scratch = cell.model == SCRATCH
    init = Path(next(m for m in models if m != SCRATCH) if scratch else cell.model)
    table = recipes.SEGMENT if entry.kind == "segment" else recipes.FINETUNE
    recipe = recipes.find(table, entry.recipe)
    options: dict[str, Any] = {"scratch": scratch, "seed": cell.seed, "max_steps": config.max_steps}
    if entry.kind == "segment":
        only = suites.file_of(data, entry.train) if entry.train else None
        return recipe.make(data, data, init, run, only=only, **options)
    train, val = _set(data, entry.train), _set(data, entry.val)
    return recipe.make(train, val, init, run, images=config.images, classes=entry.classes, **options)


def _set(data: Path, name: str) -> Path:
    """The list of a set. Raises RunError if it is missing."""
    file = suites.file_of(data, name)
    if file is None:
        raise RunError(f"{data}: no {' or '.join(suites.FILES[name.rpartition('/')[2]])} in it")
    return file


def _command(config: BenchmarkConfig, cell: Cell, settings: FinetuneConfig | SegmentConfig) -> str:
    """The command that runs this cell alone, for the ledger, so that anyone can check a number."""
    entry = cell.entry
    words: list[object] = ["mrm", entry.kind, entry.recipe]
    words += ["--train", settings.train, "--val", settings.val, "--init", settings.init]
    words += ["--out", settings.out, "--seed", settings.seed]
    if settings.scratch:
        words.append("--scratch")
    if config.max_steps:
        words += ["--max-steps", config.max_steps]
    if isinstance(settings, SegmentConfig) and settings.only:
        words += ["--only", settings.only]
    if isinstance(settings, FinetuneConfig) and config.images:
        words += ["--images", config.images]
    return shlex.join(map(str, words))


def _measure(
    config: BenchmarkConfig, cell: Cell, settings: FinetuneConfig | SegmentConfig, data: Path
) -> dict[str, Any]:
    """Fine-tune and test. Returns the metric with its interval, and the fingerprints of the data."""
    entry, run = cell.entry, settings.out
    test = run.with_name("test")
    if isinstance(settings, SegmentConfig):
        segment(settings)
        records, tested = masks.load(settings.train, "training", settings.classes, only=settings.only).records(), data
    else:
        finetune(replace(settings, floors=False))
        records, tested = Records.load(settings.train, None, config.images), _set(data, entry.test)
    results = evaluate(run, tested, test, Reading(config.images), draws=config.draws)
    classes = results["classes"]
    estimate = (classes.get("mean") or next(iter(classes.values())))[entry.metric]
    return {
        "estimate": estimate,
        "metric": entry.metric,
        "fingerprints": {"train": records.fingerprint(), "test": results["fingerprint"]},
        "n_train": len(records),
        "patients": results.get("patients"),
        "overlap": results["overlap"],
        "unreadable": len(results.get("unreadable", ())),
        "steps": int(model_folder.read_card(run / "last").origin["step"]),
    }


# The ledger -------------------------------------------------------------------------------------------


def write(config: BenchmarkConfig, suite: Suite, cells: Sequence[Cell]) -> dict[str, Any]:
    """Write `ledger.json`, `ledger.md` and `ledger.html` from the cells so far. Returns the ledger."""
    parts: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        parts.setdefault((cell.entry.name, cell.model), []).append(cell)
    rows = [_row(config, part) for part in parts.values()]
    compare_models(config, rows, list(parts.values()))
    ledger = {
        "suite": suite.name,
        "about": suite.about,
        "rehearsal": f"every run squeezed into {config.max_steps} steps" if config.max_steps else None,
        "rows": rows,
    }
    write_json(config.out / "ledger.json", ledger)
    write_whole(config.out / "ledger.md", markdown(ledger).encode())
    write_ledger_page(config.out / "ledger.html", ledger)
    return ledger


def _row(config: BenchmarkConfig, cells: Sequence[Cell]) -> dict[str, Any]:
    """One model by one recipe: the mean over seeds, its interval, and the gap to the published number."""
    entry, model = cells[0].entry, cells[0].model
    notes = [_note(config, cell) for cell in cells]
    done = [note for note in notes if note["status"] == "done"]
    ours = _over_seeds(config, cells, notes)
    gap = None
    if ours and entry.published is not None and not config.max_steps:
        gap = {k: None if ours[k] is None else ours[k] - entry.published for k in ("value", "low", "high")}
    return {
        "entry": entry.name,
        "recipe": entry.recipe,
        "model": model,
        "label": cells[0].label,
        "trained_on": NOT_PRE_TRAINED if model == SCRATCH else trained_on(Path(model)),
        "metric": entry.metric,
        "published": entry.published,
        "ours": ours,
        "gap": gap,
        "fingerprints": sorted({json.dumps(note["fingerprints"]) for note in done}),
        "overlap": sorted({line for note in done for line in note["overlap"]}),
        "cells": notes,
    }


def _note(config: BenchmarkConfig, cell: Cell) -> dict[str, Any]:
    """What a cell has noted, or only its status."""
    file = folder_of(config, cell) / "cell.json"
    if file.is_file():
        return dict(json.loads(file.read_bytes()))
    return {"seed": cell.seed, "status": status(config, cell)}


def _over_seeds(
    config: BenchmarkConfig, cells: Sequence[Cell], notes: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """The mean over the seeds that are done, with an interval over test patients and seeds; None without any."""
    done = [(c, note) for c, note in zip(cells, notes, strict=True) if note["status"] == "done"]
    defined = [(cell, note) for cell, note in done if note["estimate"]["value"] is not None]
    if not defined:
        return None
    estimates = [note["estimate"] for _, note in defined]
    value_S = np.array([e["value"] for e in estimates])
    summary = {
        "value": float(value_S.mean()),
        **{k: estimates[0][k] for k in ("n", "positives")},
        "seeds": len(defined),
    }
    reasons = [e["note"] for e in estimates if e["low"] is None]  # why there is no interval
    if len({(note["fingerprints"]["test"], note["estimate"]["n"]) for _, note in defined}) > 1:
        reasons.append("interval undefined: the seeds were not tested on the same records")
    if reasons:
        return {**summary, "low": None, "high": None, "note": reasons[0]}
    drawn, tails = zip(*(_resamples(config, cell) for cell, _ in defined), strict=True)
    drawn_SD, tail = np.stack(drawn), tails[0]  # the seeds have the same test records
    spread_D = seeds.with_seed_variance(value_S, drawn_SD, np.random.default_rng(0))
    low, high = np.nanquantile(spread_D, [tail, 1 - tail]).tolist()
    return {**summary, "low": low, "high": high, "note": seeds.seed_note(len(defined))}


def compare_models(config: BenchmarkConfig, rows: Sequence[dict[str, Any]], parts: Sequence[Sequence[Cell]]) -> None:
    """Give each row but the first of its entry the paired difference of the first model and this one.

    Of the seeds that both have done on the same test records; p values are corrected by Holm for all of the ledger.
    """
    firsts: dict[str, Sequence[Cell]] = {}
    for row, cells in zip(rows, parts, strict=True):
        first = firsts.setdefault(row["entry"], cells)
        row["first_less_this"] = None if first is cells else _difference(config, first, cells)
    compared = [row["first_less_this"] for row in rows if row["first_less_this"]]
    for difference, p in zip(compared, holm([difference["p"] for difference in compared]), strict=True):
        difference["p_holm"] = float(p)


def _difference(config: BenchmarkConfig, first: Sequence[Cell], second: Sequence[Cell]) -> dict[str, Any] | None:
    """First less second over the seeds that both have done: value, interval, p; None where they cannot be paired."""
    pairs = [(cells, [_note(config, cell) for cell in cells]) for cells in zip(first, second, strict=True)]
    done = [(cells, notes) for cells, notes in pairs if all(note["status"] == "done" for note in notes)]
    tested = {(note["fingerprints"]["test"], note["estimate"]["n"]) for _, notes in done for note in notes}
    if len(tested) != 1 or any(note["estimate"]["low"] is None for _, notes in done for note in notes):
        return None
    value_S = np.array([one["estimate"]["value"] - other["estimate"]["value"] for _, (one, other) in done])
    drawn = [[_resamples(config, cell) for cell in cells] for cells, _ in done]
    gaps_SD = np.stack([one - other for (one, _), (other, _) in drawn])
    gaps_D = seeds.with_seed_variance(value_S, gaps_SD, np.random.default_rng(0), (-1.0, 1.0))
    low, high = np.nanquantile(gaps_D, [drawn[0][0][1], 1 - drawn[0][0][1]]).tolist()
    return {"value": float(value_S.mean()), "low": low, "high": high, "p": bootstrap_p(gaps_D)[0], "seeds": len(done)}


def _resamples(config: BenchmarkConfig, cell: Cell) -> tuple[np.ndarray, float]:
    """The cell's metric in each resample of the test patients, the same patients for all seeds; kept in a file.

    Returns the values (D,), and the share of them that lies below the interval of one seed, and above it.
    """
    file = folder_of(config, cell) / "resamples.npz"
    if not file.is_file():
        content = io.BytesIO()
        values_D, tail = _drawn(file.with_name("test"), cell.entry.metric, config.draws)
        np.savez(content, values=values_D, tail=tail)
        write_whole(file, content.getvalue())
    with np.load(file) as kept:
        return kept["values"], float(kept["tail"])


def _drawn(test: Path, metric: str, draws: int) -> tuple[np.ndarray, float]:
    """What `mrm evaluate` drew for its interval, from its table of records: see `_resamples`."""
    if (test / "images.csv").is_file():
        dice = next(iter(read_dice(test / "images.csv").values()))
        dice_N = {"dice_positive": dice.positive_N, "dice_published": dice.published_N}[metric]
        bootstrap, used_N = Bootstrap.from_groups(dice.patients, len(dice.names), draws), ~np.isnan(dice_N)
        return bootstrap.means(dice_N, used_N), bootstrap.tail(bootstrap.degrees(used_N))
    p = read_predictions(test / "predictions.csv")
    bootstrap = Bootstrap.from_groups(p.patients, len(p.names), draws)
    pairs = zip(p.labels_NC.T, p.probabilities_NC.T, strict=True)
    ranked = [RankedScores(labels_N, scores_N, bootstrap) for labels_N, scores_N in pairs]
    ranked = [scores for scores in ranked if not scores.undefined]
    values_D = mean_or_nan(bootstrap_metrics(ranked, [metric], bootstrap)[:, 0])
    return values_D, bootstrap.tail(mean_degrees(ranked))
