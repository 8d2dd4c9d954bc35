"""What a model of tuberculosis that learned on one hospital's radiographs is worth on others: Shenzhen, then ROCOv2's figures.

    OMP_NUM_THREADS=1 python benchmarks/other_hospital.py --data DIR --out other_hospital.json --init MODEL

DIR has `tuberculosis` and `rocov2-cxr`, as tests use them. The recipe `cpu` learns from four fifths of the Shenzhen radiographs,
a fifth chooses its checkpoint; from random weights and from MODEL, with its augmentation and without, and with borders cut off
and greys matched. The tests are figures of articles from many hospitals whose captions name tuberculosis, miliary spread or
cavities, against those that call the chest normal. That is a proxy: captions are no labels, and a cavity may have another cause.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import mrm
from mrm import recipes, runs
from mrm.data.config import NONE
from mrm.data.records import Records
from mrm.evaluation import floors
from mrm.statistics.comparison import delong_interval
from mrm.system.files import write_json

FINDING = "tuberculosis"
POSITIVE = re.compile(r"tubercul|miliary|cavit")
NORMAL = re.compile(
    r"\bnormal (chest|preoperative chest|posteroanterior|pa |cxr)|no acute|"
    r"chest (x-ray|radiograph)[a-z ]* (was|is|showing|shows|with|appears)? ?(normal|no abnormal|unremarkable)"
)

ALIKE = {"crop_borders": True, "greys": "matched"}
ARMS: dict[str, tuple[bool, dict[str, Any]]] = {
    "random weights": (False, {}),
    "random weights, no augmentation": (False, {"augment": NONE}),
    "random weights, borders cut and greys matched": (False, ALIKE),
    "pre-trained": (True, {}),
    "pre-trained, borders cut and greys matched": (True, ALIKE),
}
FIRST = next(iter(ARMS))


def main() -> None:
    """Train the arms, test them, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True, help="a pre-trained model")
    parser.add_argument("--budget", default="2m", help="of each fine-tuning")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        parts = divided(options.data, Path(folder))
        records = {name: Records.load(path, (FINDING,)) for name, path in parts.items()}
        counts = {name: [len(rows), int(rows.labels_NC.sum())] for name, rows in records.items()}
        report: dict[str, Any] = {"records, positives": counts, "budget": options.budget, "mrm": mrm.__version__}
        report |= of_floors(records)
        for name in ARMS:
            report[name] = measured(name, options, parts, Path(folder))
            write_json(options.out, report)
    print(json.dumps(report, indent=1))


def divided(data: Path, folder: Path) -> dict[str, Path]:
    """Training, validation and test records in files."""
    shenzhen = Records.load(data / FINDING / "records.csv", (FINDING,)).split({"train": 0.8, "val": 0.2}, seed=0)
    parts = {name: records.to_csv(folder / f"{name}.csv") for name, records in shenzhen.items()}
    return {**parts, "test": figures(data / "rocov2-cxr", folder)}


def measured(name: str, options: argparse.Namespace, parts: dict[str, Path], folder: Path) -> dict[str, Any]:
    """One arm, tested on the hospital that it learned from and on the figures, and what it has more than the first arm."""
    pretrained, change = ARMS[name]
    config = recipes.FINETUNE["cpu"].make(
        parts["train"], parts["val"], options.init if pretrained else None, folder / name,
        budget=options.budget, floors=False, audit="names",
    )  # fmt: skip
    config = replace(config, training=replace(config.training, workers=0, threads=1), **change)
    run = runs.finetune(config)
    results = {part: runs.evaluate(run, parts[part], folder / f"{part} of {name}") for part in ("val", "test")}
    report = {part: one["classes"][FINDING]["auroc"] for part, one in results.items()}
    if name != FIRST:
        pair = [folder / f"test of {arm}" for arm in (name, FIRST)]
        compared = runs.compare(*pair, folder / f"compared {name}")[FINDING]["auroc"].to_dict()
        report[f"less {FIRST}"] = compared["difference"]
    return report


def figures(place: Path, folder: Path) -> Path:
    """The figures whose captions say tuberculosis or normal, and not both, in a file."""
    pairs = Records.load(place / "training.csv")
    rows = []
    for record in pairs:
        text = (record.report or "").lower()
        said = bool(POSITIVE.search(text)), bool(NORMAL.search(text))
        if sum(said) == 1:
            rows.append(replace(record, labels=(float(said[0]),), report=""))
    return replace(pairs, rows=rows, classes=(FINDING,)).to_csv(folder / "test.csv")


def of_floors(records: dict[str, Records]) -> dict[str, Any]:
    """The floors on the same test."""
    features = {part: floors.features(rows, 0)[0] for part, rows in records.items()}
    test, report = records["test"], {}
    for floor in floors.FLOORS:
        scores_NC = floors.fitted({part: values[floor] for part, values in features.items()}, records).scores_NC
        auroc = delong_interval(test.labels_NC[:, 0], np.asarray(scores_NC)[:, 0], test.people)
        report[floor] = {"test": auroc.to_dict()}
    return report


if __name__ == "__main__":
    main()
