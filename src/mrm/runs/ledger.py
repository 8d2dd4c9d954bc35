"""`mrm benchmark`: a suite of fine-tunings and tests, and the reproduction ledger they add up to.

Every (model, entry, seed) is a cell with a folder of its own: its run, its test, and `cell.json` when it is over, done
or failed. The same command goes on with what is neither done nor under way; `ledger.json`, `ledger.md` and `ledger.html`
are written anew after every cell, so that what is there is always what is known.
"""

from __future__ import annotations

import json
import math
import shlex
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri
from scipy.stats import t as student

from mrm import checkpoint, masks, pages, recipes, suites
from mrm.corpora import phantom_files
from mrm.corpora.phantom import FINDINGS
from mrm.evaluate import RunError
from mrm.recipes import ConfigError, FinetuneConfig, PretrainConfig, SegmentConfig
from mrm.records import Records, write_whole
from mrm.suites import Entry, Suite

SCRATCH = "scratch"  # the model that is none: random weights
PHANTOMS = {"pretrain": 1200, "train": 600, "val": 150, "test": 500}  # the suite that draws its own data
PHANTOM_SIZE = 192


class Stopped(RunError):
    """A run of the benchmark that was asked to stop before its end."""


@dataclass(frozen=True)
class Commands:
    """What a cell is made of: the commands of `mrm.runs`, which hands them in (it imports this file)."""

    pretrain: Callable[[PretrainConfig], Path]
    finetune: Callable[[FinetuneConfig], Path]
    segment: Callable[[SegmentConfig], Path]
    evaluate: Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class BenchmarkConfig:
    """A suite, the models it compares, and where things are."""

    suite: str
    out: Path
    data: Path | None = None  # the prepared corpus, or the published lists; `phantom` draws its own
    models: tuple[str, ...] = ()  # runs, model folders, MRM.pth; "scratch" has random weights
    images: Path | None = None  # where relative picture paths are; else beside the lists
    seeds: tuple[int, ...] = (0, 1, 2)
    only: tuple[str, ...] = ()  # entries to do; else all
    modern: bool = False  # fine-tune by the recipes NAME-modern
    max_steps: int | None = None  # squeeze every run into so many steps: a rehearsal, and the ledger says so
    draws: int = 2000  # bootstrap resamples


@dataclass(frozen=True)
class Cell:
    """One model, fine-tuned by one entry of the suite from one seed."""

    model: str
    entry: Entry
    seed: int

    @property
    def name(self) -> str:
        """A folder's name."""
        return f"{self.entry.name}/{Path(self.model).stem or 'model'}-{self.seed}"


def benchmark(config: BenchmarkConfig, commands: Commands) -> dict[str, Any]:
    """Do what is left of a suite and write the ledger. Returns it. A cell that fails is noted, and the rest goes on."""
    suite = suites.find(config.suite)
    _open(config)
    data, models = _ready(config, suite, commands)
    cells = [Cell(m, e, s) for e in _chosen(config, suite) for m in models for s in config.seeds]
    for cell in cells:
        if status(config, cell) != "done":
            print(f"{cell.name}: {cell.entry.recipe}, seed {cell.seed}", flush=True)
            try:
                _attempt(config, cell, data, models, commands)
            finally:
                write(config, suite, cells)
    return write(config, suite, cells)


# What is needed ---------------------------------------------------------------------------------------


def _open(config: BenchmarkConfig) -> None:
    """Make the folder, or take up the suite it holds. Raises RunError where another one is there."""
    file, settings = config.out / "benchmark.json", json.loads(json.dumps(asdict(config), default=str))
    free = ("out", "models", "seeds", "only", "images", "data")  # more models or seeds only add to a ledger
    if file.is_file():
        before = json.loads(file.read_text())
        if changed := [k for k in settings if k not in free and settings[k] != before.get(k)]:
            told = "; ".join(f"{k}: {before.get(k)}, now {settings[k]}" for k in changed)
            raise RunError(f"{config.out}: holds another benchmark ({told}); choose another --out")
    elif config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise RunError(f"{config.out}: is not empty and holds no benchmark; choose another --out")
    write_whole(file, (json.dumps(settings, indent=2) + "\n").encode())


def _chosen(config: BenchmarkConfig, suite: Suite) -> list[Entry]:
    """The entries asked for, by the recipes asked for. Raises ConfigError for names there are not."""
    known = {e.name: e for e in suite.entries}
    if unknown := [name for name in config.only if name not in known]:
        raise ConfigError(f"the suite {suite.name} has no {unknown[0]!r}; there are {', '.join(known)}")
    entries = [known[name] for name in config.only or known]
    if not config.modern:
        return entries
    if segmenting := [e.name for e in entries if e.kind == "segment"]:
        raise ConfigError(f"no modern recipe for {', '.join(segmenting)}: leave --modern out")
    return [replace(e, name=f"{e.name}-modern", recipe=f"{e.recipe}-modern") for e in entries]


def _ready(config: BenchmarkConfig, suite: Suite, commands: Commands) -> tuple[Path, tuple[str, ...]]:
    """The folder of the lists and the models, all of them there. Raises RunError or ConfigError for what is not."""
    if suite.name == "phantom" and config.data is None:
        data = config.out / "data"
        models = config.models or (str(_phantom_model(config, data, commands)), SCRATCH)
    elif config.data is None:
        raise ConfigError(f"the suite {suite.name} needs --data DIR with the lists of `{suite.prepare}`")
    else:
        data, models = config.data, config.models
        suites.require_data(replace(suite, entries=tuple(_chosen(replace(config, modern=False), suite))), data)
    if not models or all(m == SCRATCH for m in models):
        raise ConfigError("name at least one model to fine-tune: --models MRM.pth; `scratch` takes its architecture")
    if len(set(names := [Path(m).stem for m in models])) < len(names):
        raise ConfigError(f"models must differ in their last name, by which the ledger calls them: {', '.join(models)}")
    for model in models:
        if model != SCRATCH:
            checkpoint.architecture(model)
    if not config.seeds:
        raise ConfigError("a benchmark needs at least one seed: --seeds 0")
    return data, tuple(models)


def _phantom_model(config: BenchmarkConfig, data: Path, commands: Commands) -> Path:
    """Draw the sets of the suite `phantom`, each once, and pre-train a small model on one of them."""
    for number, (name, count) in enumerate(PHANTOMS.items()):
        if not (data / name / "records.csv").is_file():
            print(f"drawing {count} phantoms: {name}", flush=True)
            phantom_files.write(data / name, count, seed=2000 + number, size=PHANTOM_SIZE)
        if name != "pretrain" and not (data / f"{name}.csv").is_file():
            Records.load(data / name / "records.csv", FINDINGS).to_csv(data / f"{name}.csv")
    if not (data / "train_10.csv").is_file():
        Records.load(data / "train.csv", FINDINGS)[: PHANTOMS["train"] // 10].to_csv(data / "train_10.csv")
    run = config.out / "pretrained"
    recipe = recipes.tiny(data / "pretrain" / "records.csv", run)
    training = replace(recipe.training, epochs=8.0, global_batch=16, log_every=25)
    made = replace(recipe, training=training, max_steps=config.max_steps)
    _require_whole(commands.pretrain(made), made.training.shortened(config.max_steps), len(Records.load(made.records)))
    return run


# One cell ---------------------------------------------------------------------------------------------


def folder_of(config: BenchmarkConfig, cell: Cell) -> Path:
    """Where a cell is."""
    return config.out / "cells" / cell.name


def status(config: BenchmarkConfig, cell: Cell) -> str:
    """ "done", "failed", "begun" (stopped or killed on the way) or "to do"."""
    folder = folder_of(config, cell)
    if (folder / "cell.json").is_file():
        return str(json.loads((folder / "cell.json").read_text())["status"])
    return "begun" if folder.is_dir() else "to do"


def _attempt(config: BenchmarkConfig, cell: Cell, data: Path, models: Sequence[str], commands: Commands) -> None:
    """Fine-tune, test, and note how it went. What is wrong with one cell must not keep the others from their turn."""
    folder, began = folder_of(config, cell), time.perf_counter()
    (folder / "cell.json").unlink(missing_ok=True)
    note: dict[str, Any] = {"model": cell.model, "entry": cell.entry.name, "seed": cell.seed}
    try:
        settings = _settings(config, cell, data, models)
        note |= {"command": _command(config, cell, settings)}
        note |= {"status": "done", **_measure(config, cell, settings, data, commands)}
    except Stopped:
        raise
    except Exception as error:
        note |= {"status": "failed", "reason": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        print(f"{cell.name}: failed: {note['reason']}", flush=True)
    note["seconds"] = time.perf_counter() - began
    write_whole(folder / "cell.json", (json.dumps(note, indent=2) + "\n").encode())


def _settings(config: BenchmarkConfig, cell: Cell, data: Path, models: Sequence[str]) -> FinetuneConfig | SegmentConfig:
    """The cell's fine-tuning, whole."""
    entry, run = cell.entry, folder_of(config, cell) / "run"
    scratch = cell.model == SCRATCH
    init = Path(next(m for m in models if m != SCRATCH) if scratch else cell.model)
    table = recipes.SEGMENT if entry.kind == "segment" else recipes.FINETUNE
    recipe = recipes.find(table, entry.recipe)
    where: dict[str, Any] = {"scratch": scratch, "seed": cell.seed, "max_steps": config.max_steps}
    if entry.kind == "segment":
        only = suites.file_of(data, entry.train) if entry.train else None
        return recipe.make(data, data, init, run, only=only, **where)
    train, val = _set(data, entry.train), _set(data, entry.val)
    return recipe.make(train, val, init, run, images=config.images, classes=entry.classes, **where)


def _set(data: Path, name: str) -> Path:
    file = suites.file_of(data, name)
    if file is None:
        raise RunError(f"{data}: no {' or '.join(suites.FILES[name.rpartition('/')[2]])} in it")
    return file


def _command(config: BenchmarkConfig, cell: Cell, settings: FinetuneConfig | SegmentConfig) -> str:
    """What one would type to make the cell alone: the ledger has it so that anyone can check a number."""
    entry = cell.entry
    words: list[object] = [
        "mrm",
        entry.kind,
        entry.recipe,
        "--train",
        settings.train,
        "--val",
        settings.val,
        "--init",
        settings.init,
    ]
    words += ["--out", settings.out, "--seed", settings.seed, *(["--scratch"] if settings.scratch else [])]
    words += ["--max-steps", config.max_steps] if config.max_steps else []
    if isinstance(settings, SegmentConfig):
        words += ["--only", settings.only] if settings.only else []
    else:
        words += ["--images", config.images] if config.images else []
    return shlex.join(map(str, words))


def _measure(
    config: BenchmarkConfig, cell: Cell, settings: FinetuneConfig | SegmentConfig, data: Path, commands: Commands
) -> dict[str, Any]:
    """Fine-tune and test; the number with its interval, and the fingerprints of what it rests on."""
    entry, run = cell.entry, settings.out
    test = run.with_name("test")
    if isinstance(settings, SegmentConfig):
        commands.segment(settings)
        records, tested = masks.load(settings.train, "training", settings.classes, only=settings.only).records(), data
    else:
        commands.finetune(settings)
        records, tested = Records.load(settings.train, None, config.images), _set(data, entry.test)
    _require_whole(run, settings.training.shortened(config.max_steps), len(records))
    results = commands.evaluate(run, tested, test, images=config.images, draws=config.draws)
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
        "steps": int(checkpoint.read_card(run / "last").origin["step"]),
    }


def _require_whole(run: Path, training: recipes.TrainConfig, records: int) -> None:
    """A run that was asked to stop ends early without an error; then the benchmark stops too."""
    reached, (steps, _) = int(checkpoint.read_card(run / "last").origin["step"]), training.plan(records)
    if reached < steps:
        raise Stopped(f"{run}: stopped at step {reached} of {steps}; the same command goes on")


# The ledger -------------------------------------------------------------------------------------------


def write(config: BenchmarkConfig, suite: Suite, cells: Sequence[Cell]) -> dict[str, Any]:
    """`ledger.json`, `ledger.md` and `ledger.html` from the cells there are. Returns the first."""
    rows = list(dict.fromkeys((c.entry, c.model) for c in cells))
    ledger: dict[str, Any] = {
        "suite": suite.name,
        "about": suite.about,
        "rehearsal": f"every run squeezed into {config.max_steps} steps" if config.max_steps else None,
        "rows": [
            _row(config, entry, model, [c for c in cells if (c.entry, c.model) == (entry, model)])
            for entry, model in rows
        ],
    }
    write_whole(config.out / "ledger.json", (json.dumps(ledger, indent=2) + "\n").encode())
    write_whole(config.out / "ledger.md", markdown(ledger).encode())
    pages.ledger(config.out / "ledger.html", ledger, HEAD, [_cells(row) for row in ledger["rows"]], _details(ledger))
    return ledger


def _row(config: BenchmarkConfig, entry: Entry, model: str, cells: Sequence[Cell]) -> dict[str, Any]:
    """One model by one recipe: the mean over seeds, its interval, and its distance from the published number."""
    notes = [_note(config, cell) for cell in cells]
    done = [note for note in notes if note["status"] == "done"]
    ours = over_seeds([note["estimate"] for note in done])
    gap = None
    if ours and entry.published is not None and not config.max_steps:
        gap = {k: None if ours[k] is None else ours[k] - entry.published for k in ("value", "low", "high")}
    return {
        "entry": entry.name,
        "recipe": entry.recipe,
        "model": model,
        "metric": entry.metric,
        "published": entry.published,
        "ours": ours,
        "gap": gap,
        "fingerprints": sorted({json.dumps(note["fingerprints"]) for note in done}),
        "overlap": sorted({line for note in done for line in note["overlap"]}),
        "cells": notes,
    }


def _note(config: BenchmarkConfig, cell: Cell) -> dict[str, Any]:
    """What is known of a cell."""
    file = folder_of(config, cell) / "cell.json"
    if file.is_file():
        return dict(json.loads(file.read_text()))
    return {"seed": cell.seed, "status": status(config, cell)}


def over_seeds(estimates: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The mean over seeds, with an interval over patients and seeds; None without any.

    All seeds are tested on the same patients, so their error is the mean standard error over patients (an upper
    bound: as if the seeds' errors were one); the seeds' own variance over their number comes on top, with
    Satterthwaite's degrees of freedom. One seed says nothing about seeds, and the note says so.
    """
    stated = [e for e in estimates if e["value"] is not None]
    if not stated:
        return None
    values = np.array([e["value"] for e in stated])
    value, n, positives = float(values.mean()), stated[0]["n"], stated[0]["positives"]
    told = {"value": value, "n": n, "positives": positives, "seeds": len(stated)}
    if any(e["low"] is None for e in stated):
        return {**told, "low": None, "high": None, "note": next(e["note"] for e in stated if e["low"] is None)}
    patients = float(np.mean([(e["high"] - e["low"]) / (2 * ndtri(0.975)) for e in stated])) ** 2
    if len(stated) == 1:
        return {
            **told,
            "low": stated[0]["low"],
            "high": stated[0]["high"],
            "note": "one seed: interval over patients only",
        }
    among = float(values.var(ddof=1)) / len(stated)
    total = patients + among
    freedom = total**2 * (len(stated) - 1) / among**2 if among else math.inf
    half = float(student.ppf(0.975, freedom)) * math.sqrt(total)
    return {**told, "low": value - half, "high": value + half, "note": "interval over patients and seeds"}


HEAD = ("entry", "model", "metric", "published", "ours", "gap", "tested on", "state")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row in words."""
    ours, gap = row["ours"], row["gap"]
    states = [note["status"] for note in row["cells"]]
    state = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    published = "none" if row["published"] is None else f"{row['published']:.3f} (no interval published)"
    size = (
        f"n={ours['n']:,}" + (f", {ours['positives']:,} positive" if ours["positives"] is not None else "")
        if ours
        else ""
    )
    model = row["model"] if row["model"] == SCRATCH else Path(row["model"]).name
    return (row["entry"], model, row["metric"], published, _span(ours), _span(gap, "+"), size, state)


def _span(e: dict[str, Any] | None, sign: str = "") -> str:
    """'0.794 (0.781 to 0.806), 3 seeds'"""
    if e is None:
        return ""
    span = f" ({e['low']:{sign}.3f} to {e['high']:{sign}.3f})" if e["low"] is not None else " (no interval)"
    seeds = f", {e['seeds']} seed{'s' if e['seeds'] > 1 else ''}" if "seeds" in e else ""
    return f"{e['value']:{sign}.3f}{span}{seeds}"


def _details(ledger: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """What lies under each row: commands, fingerprints, overlaps, failures."""
    found = []
    for row in ledger["rows"]:
        lines: list[str] = []
        for note in row["cells"]:
            lines += [f"seed {note['seed']}: {note['command']}"] if "command" in note else []
            lines += [f"seed {note['seed']} failed: {note['reason']}"] if "reason" in note else []
        lines += [f"data: {prints}" for prints in row["fingerprints"]]
        lines += [f"OVERLAP: {line}" for line in row["overlap"]]
        found.append((f"{row['entry']}, {row['model']}", lines))
    return found


def markdown(ledger: dict[str, Any]) -> str:
    """The ledger as Markdown."""
    lines = [f"# Reproduction ledger: {ledger['suite']}", "", ledger["about"] + ".", ""]
    lines += (
        [f"**A rehearsal: {ledger['rehearsal']}. Nothing here can be compared with a published number.**", ""]
        if ledger["rehearsal"]
        else []
    )
    lines += ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in ledger["rows"]]
    lines += ["", "95 % intervals. A gap is ours less the published number, whose own uncertainty is not known.", ""]
    for title, details in _details(ledger):
        lines += [f"## {title}", "", *(f"- `{line}`" for line in details), ""]
    return "\n".join(lines)
