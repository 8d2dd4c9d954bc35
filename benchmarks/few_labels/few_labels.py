"""Which way to learn from few labels is best, and is pre-training worth it? One command that can be stopped anywhere.

    python benchmarks/few_labels/few_labels.py --data DATA --out OUT --encoder both-0=RUN --encoder image-0=RUN ... --dry-run
    python benchmarks/few_labels/few_labels.py --data DATA --out OUT --encoder both-0=RUN ... --minutes 60
    python benchmarks/few_labels/few_labels.py --out OUT --page

An encoder is named ARM-NUMBER: `both-0` and `both-1` are two pre-trainings with both losses. `random-0` and `random-1` are
added: the architecture of the first encoder with random weights. Each unit of work (task, labels, draw, encoder, method)
adds a line to OUT/units.jsonl and the scores of every test image to OUT/scores, when it is done, and is never done twice;
start the command again to go on, with more encoders if there are. `--tasks`, `--labels`, `--methods`, `--arms` and `--draws`
choose what is done first. `--page` (and the end of every call) writes
OUT/results.json, OUT/results.md and the plots from the finished units. What is measured is in README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import differences
import label_tasks
import numpy as np
import torch
from differences import FLOORS, SIZES, Unit
from label_methods import STEPS, TRAINED, Place, regression, trained

from mrm.data.records import Records
from mrm.evaluation import floors
from mrm.inference import predict
from mrm.models import model_folder, noise
from mrm.models.mrm import MRM
from mrm.runs.kept_models import read_arrays, write_arrays
from mrm.statistics import ranking
from mrm.system.errors import MRMError

DRAWS, FIRST = 5, "both"  # FIRST: the arm whose encoders try every method
ARMS = ("both", "image", "random")
FINE_TUNED = (*TRAINED, "ensemble")
METHODS = ("probe", *FINE_TUNED)
MAIN = ("full", "lora", "last-2", "published")


def main() -> None:
    """Do the remaining units, then write the page."""
    options = arguments()
    torch.set_num_threads(1)
    encoders = dict(pair.split("=", 1) for pair in options.encoder)
    if not options.page:
        if not encoders or options.data is None:
            sys.exit("few_labels.py: error: give --data and at least one --encoder, or --page to write the page alone")
        done = finished(options.out, options.steps)
        plan = [
            unit for unit in planned([*encoders, "random-0", "random-1"]) if unit not in done and asked(unit, options)
        ]
        print(f"{len(done)} units are done, {len(plan)} are left", flush=True)
        if options.dry_run:
            return
        work(options, {name: Path(folder) for name, folder in encoders.items()}, plan)
    print(differences.write(options.out, options.results or options.out))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with tuberculosis, pneumonia-cxr and covid-cxr")
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument(
        "--encoder", action="append", default=[], metavar="ARM-NUMBER=RUN", help="a pre-trained encoder"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no unit after this time")
    for field, values in (("tasks", label_tasks.TASKS), ("labels", SIZES), ("methods", METHODS), ("arms", ARMS)):
        parser.add_argument(f"--{field}", nargs="+", choices=list(values), help=f"only these {field}; by default all")
    parser.add_argument("--draws", type=int, default=DRAWS, help="so many draws of the labels")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"of every fine-tuning, by default {STEPS}; OUT has one number of them"
    )
    parser.add_argument("--page", action="store_true", help="write the page from what is there, and do nothing else")
    parser.add_argument("--results", type=Path, help="folder of the page; by default OUT")
    parser.add_argument("--dry-run", action="store_true", help="count what is left")
    return parser.parse_args()


def planned(encoders: list[str]) -> Iterator[Unit]:
    """All units, those that answer most first: what trains no encoder; then 50 labels, 250, 10 and all.

    At each number of labels the main methods on the encoders of both losses come first, then full fine-tuning of the
    others, then what is left. Each stage has two draws before any has more.
    """
    for size in SIZES:
        for draw in draws(size):
            for task in label_tasks.TASKS:
                yield from (Unit(task, size, draw, floor, "floor") for floor in FLOORS)
                yield from (Unit(task, size, draw, encoder, "probe") for encoder in encoders)
    both = [name for name in encoders if name.startswith(FIRST)]
    others = [name for name in encoders if name not in both]
    stages = [(both, MAIN), (others, ("full",)), (both, [m for m in FINE_TUNED if m not in MAIN])]
    for size in ("50", "250", "10", "all"):
        for some in (draws(size)[:2], draws(size)[2:]):
            for names, methods in stages:
                for draw in some:
                    for task in label_tasks.TASKS:
                        yield from (Unit(task, size, draw, name, m) for m in methods for name in names)


def asked(unit: Unit, options: argparse.Namespace) -> bool:
    """Whether the options ask for this unit now."""
    arm = unit.encoder.rpartition("-")[0]
    pairs = [
        (unit.task, options.tasks), (unit.labels, options.labels), (unit.method, options.methods), (arm, options.arms)
    ]  # fmt: skip
    return unit.draw < options.draws and all(chosen is None or value in chosen for value, chosen in pairs)


def draws(size: str) -> range:
    """The numbers of the draws; all labels can be drawn once only."""
    return range(DRAWS if SIZES[size] else 1)


def finished(out: Path, steps: int) -> set[Unit]:
    """The units that have their line; a last line that a kill has cut is not one. Exits where they had other steps."""
    rows = list(differences.lines(out / "units.jsonl"))
    if others := {row["steps"] for row in rows if row["method"] in FINE_TUNED} - {steps}:
        sys.exit(
            f"few_labels.py: error: the fine-tunings in {out} have {others.pop()} steps; give --steps, or another --out"
        )
    return {Unit.of(row) for row in rows}


def work(options: argparse.Namespace, encoders: dict[str, Path], plan: list[Unit]) -> None:
    """Do the units in order. One that fails is noted in `failed.log` and left for the next call."""
    end, out = time.monotonic() + 60 * options.minutes, options.out
    (out / "logs").mkdir(parents=True, exist_ok=True)
    for number in (0, 1):
        encoders[f"random-{number}"] = random_encoder(out, next(iter(encoders.values())), number)
    sets: dict[str, dict[str, Records]] = {}
    for number, unit in enumerate(plan, 1):
        if time.monotonic() > end:
            print(f"{len(plan) - number + 1} units are left; repeat the command to go on", flush=True)
            return
        if unit.task not in sets:
            sets[unit.task] = label_tasks.prepared(unit.task, options.data.absolute(), out / "tasks")
        began = time.perf_counter()
        try:
            with quiet(out / "logs" / "training.log"):
                scores_N = scored(out, unit, sets[unit.task], encoders, options.steps)
        except MRMError:
            with open(out / "failed.log", "a") as text:
                text.write(f"{unit}\n{traceback.format_exc()}\n")
            print(f"{unit.name}: failed, see failed.log", flush=True)
            continue
        cost = {"seconds": round(time.perf_counter() - began, 2)}
        if unit.method in FINE_TUNED:
            cost["steps"] = options.steps
        note(out, unit, sets[unit.task], scores_N, cost)
        if number % 20 == 0:
            print(f"{time.strftime('%H:%M:%S')} {number}/{len(plan)} {unit.name}", flush=True)


@contextlib.contextmanager
def quiet(log: Path) -> Iterator[None]:
    """What a fine-tuning prints and warns of goes into a file."""
    with (
        open(log, "w") as text,
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def scored(out: Path, unit: Unit, sets: dict[str, Records], encoders: dict[str, Path], steps: int) -> np.ndarray:
    """Scores (N,) of the test images; a fine-tuning has so many steps."""
    train = label_tasks.drawn(sets["pool"], SIZES[unit.labels], unit.draw)
    if unit.method in ("floor", "probe"):
        features = features_of(out, unit, sets, encoders)
        places = {record.name: i for i, record in enumerate(sets["pool"])}
        rows = [places[record.name] for record in train]
        return regression(features["pool"][rows], train.labels_NC[:, 0], features["test"])
    seed = 1_000 * unit.draw + int(unit.encoder.rpartition("-")[2])
    place = Place(encoders[unit.encoder], out / "run", steps, pretrained=not unit.encoder.startswith("random-"))
    return trained(unit.method, train, sets["test"], place, seed)


def features_of(out: Path, unit: Unit, sets: dict[str, Records], encoders: dict[str, Path]) -> dict[str, np.ndarray]:
    """The features of all images of a task by an encoder or a floor; computed once."""
    file = out / "features" / f"{unit.task}_{unit.encoder}.npz"
    if not file.is_file():
        if unit.method == "floor":
            kinds = {"hog": "HOG", "pixels": "pixels"}
            values = {name: floors.features(records, 0)[0][kinds[unit.encoder]] for name, records in sets.items()}
        else:
            model = model_folder.load(encoders[unit.encoder])
            values = {name: predict.features(model, records, workers=0)[0] for name, records in sets.items()}
        write_arrays(file, values)
    return read_arrays(file)


def random_encoder(out: Path, like: Path, number: int) -> Path:
    """An encoder of the same architecture with random weights."""
    folder = out / "encoders" / f"random-{number}"
    if not (folder / "config.json").is_file():
        model = model_folder.load_as(like, MRM)
        with noise.seeded(number):
            model_folder.save(folder, MRM(model.config), tokenizer=model.tokenizer)
    return folder


def note(out: Path, unit: Unit, sets: dict[str, Records], scores_N: np.ndarray, cost: dict[str, float]) -> None:
    """Keep the scores, then add the unit's line, whole."""
    write_arrays(out / "scores" / f"{unit.name}.npz", {"scores": scores_N.astype(np.float32)})
    test = sets["test"]
    line = {**unit._asdict(), "auroc": round(float(ranking.auroc(test.labels_NC[:, 0], scores_N)), 4)}
    line |= {"average_precision": round(float(ranking.average_precision(test.labels_NC[:, 0], scores_N)), 4)}
    line |= {**cost, "test": len(test), "pool": len(sets["pool"])}
    with open(out / "units.jsonl", "a+b") as text:
        if text.seek(0, os.SEEK_END) and not ends_with_line(text):
            text.write(b"\n")
        text.write((json.dumps(line) + "\n").encode())


def ends_with_line(file) -> bool:
    """Whether the last line is whole: a kill may have cut it."""
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


if __name__ == "__main__":
    main()
