"""What the recipe `cpu` reaches in a time, beside logistic regressions on pixels and HOG: `mrm finetune --budget`.

    OMP_NUM_THREADS=1 python benchmarks/time_budget.py --data DIR --out time_budget.json --minutes 5
    OMP_NUM_THREADS=1 python benchmarks/time_budget.py --data DIR --out time_budget.json --minutes 5 --init MODEL

DIR has `pneumonia-cxr`, as tests use it. The patients with the lowest numbers of each series of files are the test set: series
are numbered as they came in, so the test is of another time than the training, and nothing was chosen on it by chance. A
tenth of the other patients chooses the checkpoint. The same test images are tested once more as another device might have made
them: with another exposure, blurred, partly equalised, turned and scaled (`other_device`).

On a shared machine the wall clock says nothing, so minutes are those of the processor, of one thread; the same thread reads
the images.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

import mrm
from mrm import recipes, runs
from mrm.data import images
from mrm.data.records import Record, Records
from mrm.evaluation import floors
from mrm.evaluation.predictions import Predictions, write_predictions
from mrm.models import model_folder
from mrm.runs import stage_times
from mrm.training.patience import Patience

TEST, VAL = 0.15, 0.1  # of the patients
FINDING = "pneumonia"
PATIENCE, GAIN = range(2, 8), 0.001  # validations without a gain of this AUROC


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
    config = replace(config, training=replace(config.training, workers=0, threads=1, keep=50))
    began = time.process_time()
    run = runs.finetune(config)
    seconds = time.process_time() - began
    tests = {"test": parts[2], "shifted": shifted(Records.load(parts[2], (FINDING,)), folder / "shifted")}
    results = {
        name: runs.evaluate(run, path, folder / f"of {name}")["classes"][FINDING] for name, path in tests.items()
    }
    card = model_folder.read_card(model_folder.find_model(run))
    return {
        "records": {path.stem: len(Records.load(path)) for path in parts},
        "plan": json.loads((run / "plan.json").read_text()),
        "encoder": card.architecture["encoder"],
        "best step": card.origin["step"],
        "seconds of the processor": round(seconds),
        "auroc": {name: result["auroc"] for name, result in results.items()},
        "floors": against_floors(parts, tests, folder),
        "by patience": by_patience(run, parts[2], folder),
        "mrm": mrm.__version__,
    }


def by_patience(run: Path, test: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Where `--patience` would have ended this run, and what the checkpoint that it would have kept reaches on the test."""
    with open(run / "validation.csv", newline="") as text:
        scores = [(int(row["step"]), float(row["score"])) for row in csv.DictReader(text)]
    ends: dict[str, dict[str, Any]] = {}
    for validations in PATIENCE:
        patience, best = Patience(validations, GAIN), scores[0]
        for step, score in scores:
            patience.note(step, score)
            best = max(best, (step, score), key=lambda pair: pair[1])
            if patience.is_exhausted(step, scores[0][0], scores[-1][0]):
                break
        checkpoint = run / "checkpoints" / f"step-{best[0]:08d}"
        auroc = runs.evaluate(checkpoint, test, folder / f"of step {best[0]}")["classes"][FINDING]["auroc"]
        saved = round(1 - step / scores[-1][0], 3)
        ends[str(validations)] = {"last step": step, "best step": best[0], "steps saved": saved, "auroc": auroc}
    return ends


def against_floors(parts: list[Path], tests: dict[str, Path], folder: Path) -> dict[str, Any]:
    """By test, the AUROC of each floor, and what the network has more, paired over patients."""
    learned = {part: Records.load(path, (FINDING,)) for part, path in zip(("train", "val"), parts, strict=False)}
    known = {part: floors.features(records, 0)[0] for part, records in learned.items()}
    report: dict[str, Any] = {}
    for test, path in tests.items():
        records = {**learned, "test": Records.load(path, (FINDING,))}
        features = {**known, "test": floors.features(records["test"], 0)[0]}
        report[test] = {}
        for floor in floors.FLOORS:
            scores_NC = floors.fitted({part: values[floor] for part, values in features.items()}, records).scores_NC
            names, patients = [r.name for r in records["test"]], records["test"].patients
            predictions = Predictions(
                names, patients, records["test"].classes, records["test"].labels_NC, 1 / (1 + np.exp(-scores_NC))
            )
            file = folder / f"{floor} of {test}.csv"
            write_predictions(file, predictions)
            found = runs.compare(folder / f"of {test}" / "predictions.csv", file, folder / f"against {floor} of {test}")
            gap = found[FINDING]["auroc"].to_dict()
            report[test][floor] = {"auroc": gap["second"], "network less this": gap["difference"]}
    return report


def shifted(records: Records, folder: Path) -> Path:
    """The records with their images changed, each by its place in the list."""
    folder.mkdir()
    rows = []
    for number, record in enumerate(records):
        image_HW = other_device(images.read(record.image), np.random.default_rng([5, number]))
        (folder / f"{number}.png").write_bytes(images.encode_png(image_HW))
        rows.append(replace(record, image=folder / f"{number}.png", name=f"{number}.png"))
    return replace(records, rows=rows).to_csv(folder / "records.csv")


def other_device(image_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gamma and contrast halved to doubled, brightness by a fifth; half blurred, a third equalised, turned by up to 6 degrees.

    The recipe's own augmentation turns and re-exposes too, within narrower bounds, but neither blurs nor scales.
    """
    height, width = image_HW.shape
    curve = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.7, 0.7))
    middle = float(curve[image_HW].mean())
    curve = middle + (curve - middle) * np.exp(rng.uniform(-0.6, 0.6)) + rng.uniform(-0.2, 0.2)
    image_HW = np.rint(255 * np.clip(curve, 0, 1)).astype(np.uint8)[image_HW]
    if rng.random() < 1 / 2:
        image_HW = cv2.GaussianBlur(image_HW, (0, 0), rng.uniform(0.5, 2.0) * width / 224)
    if rng.random() < 1 / 3:
        image_HW = cv2.equalizeHist(image_HW)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-6, 6), rng.uniform(0.85, 1.15))
    return cv2.warpAffine(image_HW, turn, (width, height))


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
