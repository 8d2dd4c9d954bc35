"""What `--patience` saves, and what it costs: runs that end early, and the same runs to their last step.

    python benchmarks/early_stopping.py --data DIR --out early_stopping.json

DIR has `pneumonia-cxr`, as tests use it. The recipe `tiny` from random weights learns pneumonia in children; patients are held
out for validation and for the test. A run with patience ends; then it is prolonged to all of its steps, which is the run
that it would have been without patience, bit for bit. The best checkpoint of either is tested on the same images. Every
seed starts from other random weights and draws other training images; a seed that is in the file already is not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from resizing import split

from mrm import recipes, runs
from mrm.data.records import Records
from mrm.models import model_folder
from mrm.training.patience import Patience


def main() -> None:
    """Measure, print, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800, help="of the whole run")
    parser.add_argument("--batch", type=int, default=32, help="images of a step")
    parser.add_argument("--patience", type=int, default=4, help="validations without a gain")
    parser.add_argument("--every", type=int, default=50, help="steps from one validation to the next")
    parser.add_argument("--labels", type=int, default=None, help="training images; by default all")
    parser.add_argument("--validation", type=int, default=None, help="validation images; by default all")
    parser.add_argument("--gain", type=float, default=0.001, help="in validation AUROC")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    settings = {k: v for k, v in vars(options).items() if k not in ("data", "out", "seeds")}
    report = json.loads(options.out.read_text()) if options.out.is_file() else {"settings": settings, "seeds": {}}
    if report["settings"] != settings:
        parser.error(f"{options.out} was measured with other settings: {report['settings']}")
    for seed in options.seeds:
        if str(seed) not in report["seeds"]:
            with tempfile.TemporaryDirectory() as folder:
                report["seeds"][str(seed)] = measured(options, Path(folder), seed)
            report["mean"] = mean_of([*report["seeds"].values()])
            options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def mean_of(reports: list[dict[str, Any]]) -> dict[str, float]:
    """What was saved and what it cost, on average over the seeds."""
    names = ("steps saved", "difference in AUROC, early less whole")
    values = [[report[names[0]], report[names[1]]["difference"]["value"]] for report in reports]
    return {
        name: round(sum(column) / len(values), 4) for name, column in zip(names, zip(*values, strict=True), strict=True)
    }


def measured(options: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    """Both runs of a seed, tested."""
    train, val, test = split(options.data / "pneumonia-cxr" / "labels.csv", folder, None)
    train, val = part_of(train, options.labels, seed), part_of(val, options.validation, 0)
    config = recipes.tiny_finetune(train, val, None, folder / "run", audit="names", floors=False, seed=seed)
    config = replace(config, encoder=recipes.TINY_MODEL.encoder, encoder_options=recipes.TINY_MODEL.encoder_options)
    config = replace(config, image_size=recipes.TINY_MODEL.image_size)
    training = replace(config.training, steps=options.steps, global_batch=options.batch, validate_every=options.every)
    config = replace(config, training=training)
    runs.finetune(replace(config, patience=options.patience, patience_gain=options.gain))
    early = tested(folder / "run", test, folder / "early")
    runs.finetune(replace(config, extend=True))  # without patience
    whole = tested(folder / "run", test, folder / "whole")
    difference = runs.compare(folder / "early", folder / "whole", folder / "compared")["pneumonia"]["auroc"].to_dict()
    return {
        "records": {path.stem.removesuffix("-used"): len(Records.load(path)) for path in (train, val, test)},
        "early": early,
        "whole": whole,
        "by patience": by_patience(folder / "run" / "validation.csv", whole["last step"], options),
        "steps saved": round(1 - early["last step"] / whole["last step"], 3),
        "difference in AUROC, early less whole": difference,
    }


def by_patience(validation: Path, total: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Where the same run would have ended with other patience, and which checkpoint would then have been its best."""
    with open(validation, newline="") as text:
        scores = [(int(row["step"]), float(row["score"])) for row in csv.DictReader(text)]
    ends = {}
    for validations in range(2, 8):
        patience, best = Patience(validations, options.gain), (0, 0.0)
        for step, score in scores:
            patience.note(step, score)
            best = max(best, (step, score), key=lambda pair: pair[1])
            if patience.is_exhausted(step, options.every):
                break
        ends[str(validations)] = {"last step": step, "best step": best[0], "steps saved": round(1 - step / total, 3)}
    return ends


def part_of(records: Path, count: int | None, seed: int) -> Path:
    """So many records of a table, drawn by the seed, in a file of their own."""
    loaded = Records.load(records, ("pneumonia",))
    chosen = np.random.default_rng(seed).permutation(len(loaded))[:count]
    return loaded.select(np.sort(chosen)).to_csv(records.with_name(f"{records.stem}-used.csv"))


def tested(run: Path, test: Path, out: Path) -> dict[str, Any]:
    """The steps of a run, and the AUROC of its best checkpoint on the test records."""
    auroc = runs.evaluate(run, test, out)["classes"]["pneumonia"]["auroc"]
    steps = {f"{name} step": model_folder.read_card(run / name).origin["step"] for name in ("best", "last")}
    return {**steps, "auroc": auroc}


if __name__ == "__main__":
    main()
