"""`mrm benchmark`: a suite of fine-tunings and tests, and the reproduction ledger of their results.

Every (model, entry, seed) is a cell with its own folder: its run, its test, and `cell.json` once it is done or has failed.
The same command resumes with the cells that are not done. `ledger.json`, `ledger.md` and `ledger.html` are written anew
after every cell, so they always hold all results so far.
"""

from __future__ import annotations

import shlex
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mrm import recipes
from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data import masks
from mrm.data.records import Records
from mrm.evaluation import drawn
from mrm.models import model_folder
from mrm.recipes import FinetuneConfig, SegmentConfig, splits, suites
from mrm.recipes.suites import Entry, Suite
from mrm.runs.benchmark_plan import SCRATCH, BenchmarkConfig, Cell, folder_of, note_of, status
from mrm.runs.benchmark_results import NO_NUMBER, not_comparable, table, write
from mrm.runs.encoder_facts import short_names
from mrm.runs.evaluating import evaluate
from mrm.runs.finetuning import finetune
from mrm.runs.output_lock import alone_in
from mrm.runs.phantom_sets import draw_sets
from mrm.runs.pretraining import pretrain
from mrm.runs.reading_options import Reading
from mrm.runs.segmenting import segment
from mrm.system.errors import ConfigError, RunError
from mrm.system.files import write_json
from mrm.system.output_folder import json_settings, open_folder

PHANTOMS = {"pretrain": 1200, "train": 600, "val": 150, "test": 500}  # of the suite `phantom`, which draws its own data
PHANTOM_SIZE = 192
_PARTS = 3  # of a path, by which images are told apart, so that data may move


@alone_in("config.out")
def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Run the cells of a suite that are not done, and write the ledger. Returns it. A failed cell does not stop the others."""
    suite = suites.find(config.suite)
    _open(config)
    entries = _chosen(config, suite)
    data, models = _ready(config, suite)
    labels = labels_of(models)
    cells = [Cell(m, e, s, labels[m]) for e in entries for m in models for s in config.seeds]
    listed = {entry.name: _listed(config, entry, data) for entry in entries}
    _require_one_split(config, cells, listed)
    for entry in entries:
        if (reason := not_comparable(entry, listed[entry.name])) not in ("", NO_NUMBER):
            print(f"{entry.name}: no gap will be shown, because {reason}", flush=True)
    for cell in cells:
        if status(config, cell) != "done":
            print(f"{cell.name}: {cell.entry.recipe}, seed {cell.seed}", flush=True)
            try:
                _attempt(config, cell, data, models, listed[cell.entry.name])
            finally:
                write(config, suite, cells, listed)
    ledger = write(config, suite, cells, listed)
    print(table(ledger))
    return ledger


# Suite, data and models ---------------------------------------------------------------------------------------


def _open(config: BenchmarkConfig) -> None:
    """Make the folder, or resume the benchmark that it holds. Raises OutputError if it holds something else."""
    may_change = ("out", "models", "seeds", "only", "images", "data")  # more models or seeds only add to a ledger
    open_folder(
        config.out, json_settings("benchmark", "benchmark.json", asdict(config), may_change=may_change, update=True)
    )


def _chosen(config: BenchmarkConfig, suite: Suite) -> list[Entry]:
    """The entries of `--only`, with modern recipes if asked for. Raises ConfigError for unknown names."""
    known = {e.name: e for e in suite.runnable}
    for entry in suite.entries:
        if entry.kind == "cited" and entry.name in config.only:
            raise ConfigError(f"the entry {entry.name} cannot be run: {entry.reason}; leave it out of --only")
    if unknown := [name for name in config.only if name not in known]:
        raise ConfigError(f"unknown entry {unknown[0]!r} of the suite {suite.name}; choose from {', '.join(known)}")
    entries = [known[name] for name in config.only or known]
    if not config.modern:
        return entries
    if lacking := [e.name for e in entries if e.kind == "segment" or f"{e.recipe}-modern" not in recipes.FINETUNE]:
        raise ConfigError(f"there is no modern recipe for {', '.join(lacking)}; leave --modern out")
    return [replace(e, name=f"{e.name}-modern", recipe=f"{e.recipe}-modern") for e in entries]


def _ready(config: BenchmarkConfig, suite: Suite) -> tuple[Path, tuple[str, ...]]:
    """The folder of the lists, and the models. Raises RunError or ConfigError if something is missing."""
    if suite.name == "phantom" and config.data is None:
        data = config.out / "data"
        models = config.models or (str(_phantom_model(config, data)), SCRATCH)
    elif config.data is None:
        commands = ", ".join(f"`{command}`" for command in suite.prepare.values())
        raise ConfigError(f"the suite {suite.name} needs --data DIR with the lists of {commands}")
    else:
        data, models = config.data, config.models
        suites.require_data(suite, _chosen(config, suite), data)
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


def _listed(config: BenchmarkConfig, entry: Entry, data: Path) -> list[str]:
    """The names of the images that an entry tests."""
    if entry.kind == "segment":
        rows, _, _ = masks.list_masked_images(data / entry.folder, "test")
        return [row.name for row in rows]
    return [record.name for record in Records.load(_set(data, entry.test), None, config.images)]


def _require_one_split(config: BenchmarkConfig, cells: Sequence[Cell], listed: Mapping[str, Sequence[str]]) -> None:
    """Raises ConfigError if the ledger has results of an entry on other images than those that it would test now."""
    for cell in cells:
        note, names = note_of(config, cell), listed[cell.entry.name]
        if note["status"] == "done" and note["listed"]["digest"] != splits.digest_of(names, _PARTS):
            raise ConfigError(
                f"{config.out}: holds results of {cell.entry.name} on {note['listed']['images']:,} images, but --data has "
                f"{len(names):,} images for it, not the same; a ledger compares results on the same images: give another --out"
            )


# One cell ---------------------------------------------------------------------------------------------


def _attempt(config: BenchmarkConfig, cell: Cell, data: Path, models: Sequence[str], listed: Sequence[str]) -> None:
    """Fine-tune, test on the `listed` images, and note the result. An error is noted too, and must not keep the other cells from running."""
    folder, began = folder_of(config, cell), time.perf_counter()
    for name in ("cell.json", "resamples.npz"):
        (folder / name).unlink(missing_ok=True)
    note: dict[str, Any] = {"model": cell.model, "entry": cell.entry.name, "seed": cell.seed}
    note |= {"listed": {"images": len(listed), "digest": splits.digest_of(listed, _PARTS)}}
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
        only, folder = suites.file_of(data, entry.train) if entry.train else None, data / entry.folder
        return recipe.make(folder, folder, init, run, only=only, **{**options, "classes": entry.classes})
    train, val = _set(data, entry.train), _set(data, entry.val)
    return recipe.make(train, val, init, run, images=config.images, classes=entry.classes, **options)


def _set(data: Path, name: str) -> Path:
    """The list of a set. Raises RunError if it is missing."""
    file = suites.file_of(data, name)
    if file is None:
        raise RunError(f"{data}: no {' or '.join(suites.names_of(name))} in it")
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
    if entry.classes:
        words += ["--classes", *entry.classes]
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
        records = masks.load(settings.train, "training", settings.classes, only=settings.only).records()
        tested = settings.train
    else:
        finetune(replace(settings, floors=False))
        records, tested = Records.load(settings.train, None, config.images), _set(data, entry.test)
    results = evaluate(run, tested, test, Reading(config.images), draws=config.draws)
    names, classes = drawn.tested_names(test), results["classes"]
    if entry.metric in drawn.DECIDED:
        estimate = drawn.decided_estimate(test, entry.metric, config.draws).to_dict()
    else:
        estimate = (classes.get("mean") or next(iter(classes.values())))[entry.metric]
    return {
        "tested": {
            "images": len(names),
            "split": splits.identify(names, splits.find(entry.split).corpus) if entry.split else "",
        },
        "no_gap": not_comparable(entry, names, drawn.classes_of(test)),
        "estimate": estimate,
        "metric": entry.metric,
        "fingerprints": {"train": records.fingerprint(), "test": results["fingerprint"]},
        "n_train": len(records),
        "patients": results.get("patients"),
        "overlap": results["overlap"],
        "unreadable": len(results.get("unreadable", ())),
        "steps": int(model_folder.read_card(run / "last").origin["step"]),
    }
