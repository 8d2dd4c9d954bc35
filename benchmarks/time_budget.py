"""What the recipe `cpu` reaches in a time, beside logistic regressions on pixels and HOG: `mrm finetune --budget`.

    OMP_NUM_THREADS=1 python benchmarks/time_budget.py --data DIR --out time_budget.json --minutes 5
    OMP_NUM_THREADS=1 python benchmarks/time_budget.py --data DIR --out time_budget.json --minutes 5 --init MODEL

DIR has `pneumonia-cxr`, as tests use it. The patients with the lowest numbers of each series of files are the test set: series
are numbered as they came in, so the test is of another time than the training, and nothing was chosen on it by chance. A
tenth of the other patients chooses the checkpoint. On a shared machine the wall clock says nothing, so minutes are those of
the processor, of one thread; the same thread reads the images.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import mrm
from mrm import recipes, runs
from mrm.data.records import Record, Records
from mrm.evaluation import floors
from mrm.evaluation.predictions import Predictions, write_predictions
from mrm.models import model_folder
from mrm.runs import stage_times

TEST, VAL = 0.15, 0.1  # of the patients
FINDING = "pneumonia"


def main() -> None:
    """Train, test, print, and add the numbers to the JSON file, by the name of the start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15.0, help="of processor time")
    parser.add_argument("--init", type=Path, default=None, help="a pre-trained model; by default random weights")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    stage_times.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        report = measured(options, Path(folder))
    print(json.dumps(report, indent=1))
    start = "pre-trained" if options.init else "random weights"
    name = f"{start}, {options.minutes:g} minutes, seed {options.seed}"
    earlier = json.loads(options.out.read_text()) if options.out.is_file() else {}
    options.out.write_text(json.dumps({**earlier, name: report}, indent=1) + "\n")


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One fine-tuning and both floors, tested on the same records."""
    parts = split(Records.load(options.data / "pneumonia-cxr" / "labels.csv", (FINDING,)), folder)
    config = recipes.FINETUNE["cpu"].make(
        *parts[:2], options.init, folder / "run", budget=f"{round(60 * options.minutes)}s", floors=False, audit="names",
        seed=options.seed,
    )  # fmt: skip
    config = replace(config, training=replace(config.training, workers=0, threads=1))
    began = time.process_time()
    run = runs.finetune(config)
    seconds = time.process_time() - began
    results = runs.evaluate(run, parts[2], folder / "test")
    card = model_folder.read_card(model_folder.find_model(run))
    return {
        "records": {path.stem: len(Records.load(path)) for path in parts},
        "plan": json.loads((run / "plan.json").read_text()),
        "encoder": card.architecture["encoder"],
        "best step": card.origin["step"],
        "seconds of the processor": round(seconds),
        "auroc": results["classes"][FINDING]["auroc"],
        "floors": against_floors(parts, folder),
        "mrm": mrm.__version__,
    }


def against_floors(parts: list[Path], folder: Path) -> dict[str, Any]:
    """The test AUROC of each floor, and what the network has more, paired over patients."""
    records = {part: Records.load(path, (FINDING,)) for part, path in zip(("train", "val", "test"), parts, strict=True)}
    features = {part: floors.features(rows)[0] for part, rows in records.items()}
    results = {}
    for floor in floors.FLOORS:
        scores_NC = floors.fitted({part: values[floor] for part, values in features.items()}, records).scores_NC
        test = records["test"]
        predictions = Predictions(
            [r.name for r in test], test.patients, test.classes, test.labels_NC, 1 / (1 + np.exp(-scores_NC))
        )
        write_predictions(folder / f"{floor}.csv", predictions)
        compared = runs.compare(
            folder / "test" / "predictions.csv", folder / f"{floor}.csv", folder / f"against {floor}"
        )
        found = compared[FINDING]["auroc"].to_dict()
        results[floor] = {"auroc": found["second"], "network less this": found["difference"]}
    return results


def split(records: Records, folder: Path) -> list[Path]:
    """Training, validation and test records in files; the patients with the lowest numbers of each series are tested."""
    numbers: dict[str, set[int]] = {}
    for record in records:
        series, number = place_of(record)
        numbers.setdefault(series, set()).add(number)
    last = {series: sorted(every)[round(TEST * len(every)) - 1] for series, every in numbers.items()}
    tested = {r.patient for r in records if place_of(r)[1] <= last[place_of(r)[0]]}
    others = sorted({r.patient for r in records} - tested)
    drawn = set(np.random.default_rng(0).permutation(others)[: round(VAL * len(others))].tolist())
    rules: dict[str, Callable[[Record], bool]] = {
        "train": lambda r: r.patient not in tested | drawn,
        "val": lambda r: r.patient in drawn,
        "test": lambda r: r.patient in tested,
    }
    return [records.where(rule).to_csv(folder / f"{name}.csv") for name, rule in rules.items()]


def place_of(record: Record) -> tuple[str, int]:
    """The series of a file and its number in it: 'normal-NORMAL2-IM-0383-0001.jpg' is number 383 of 'normal-NORMAL2-IM-'."""
    match = re.match(r"(\D+(?:2-IM-)?)0*(\d+)", Path(record.name).name)
    assert match, record.name
    return match[1], int(match[2])


if __name__ == "__main__":
    main()
