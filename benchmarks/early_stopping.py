"""What `--patience` saves, and what it costs: runs that end early, and the same runs to their last step.

    python benchmarks/early_stopping.py --data DIR --out early_stopping.json

DIR has `pneumonia-cxr`, as tests use it. The recipe `tiny` from random weights learns pneumonia in children; patients are held
out for validation and for the test. A run with a patience of 2 validations ends; then it goes on with 3, and so on, and at last
to all of its steps, so each end is that of a run with this patience, bit for bit. The best checkpoint of each is tested on
the same images. Every seed starts from other random weights and draws other training images; a seed that is in the file
already is not repeated.
"""

from __future__ import annotations

import argparse
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

LEAST, MOST = 2, 7  # validations without a gain


def main() -> None:
    """Measure, print, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800, help="of the whole run")
    parser.add_argument("--batch", type=int, default=32, help="images of a step")
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


def mean_of(reports: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By patience, what was saved and the AUROC that it cost, on average over the seeds."""
    means = {}
    for patience in reports[0]["by patience"]:
        ends = [report["by patience"][patience] for report in reports]
        gaps = [
            end["auroc"]["value"] - report["whole"]["auroc"]["value"] for end, report in zip(ends, reports, strict=True)
        ]
        saved = float(np.mean([end["steps saved"] for end in ends]))
        means[patience] = {"steps saved": round(saved, 4), "difference": round(float(np.mean(gaps)), 4)}
    return means


def measured(options: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    """The runs of a seed, tested: the run ends with the least patience, then goes on with more and more, and to its end."""
    train, val, test = split(options.data / "pneumonia-cxr" / "labels.csv", folder, None)
    train, val = part_of(train, options.labels, seed), part_of(val, options.validation, 0)
    config = recipes.tiny_finetune(train, val, None, folder / "run", audit="names", floors=False, seed=seed)
    config = replace(config, encoder=recipes.TINY_MODEL.encoder, encoder_options=recipes.TINY_MODEL.encoder_options)
    config = replace(config, image_size=recipes.TINY_MODEL.image_size)
    training = replace(config.training, steps=options.steps, global_batch=options.batch, validate_every=options.every)
    config = replace(config, training=training, patience_gain=options.gain)
    ends = {}
    for patience in (*range(LEAST, MOST + 1), None):
        runs.finetune(replace(config, patience=patience, extend=bool(ends)))
        ends[patience] = tested(folder / "run", test, folder)
    whole = ends.pop(None)
    return {
        "records": {path.stem.removesuffix("-used"): len(Records.load(path)) for path in (train, val, test)},
        "whole": whole,
        "by patience": {str(patience): against(end, whole, folder) for patience, end in ends.items()},
    }


def against(early: dict[str, Any], whole: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a run that ended early saved, and the AUROC of its best checkpoint less that of the whole run's."""
    report = {**early, "steps saved": round(1 - early["last step"] / whole["last step"], 3)}
    names = [f"tested-{run['best step']}" for run in (early, whole)]
    if names[0] == names[1]:
        return {**report, "difference": None}  # the same checkpoint
    compared = runs.compare(*(folder / name for name in names), folder / "-".join(["compared", *names]))
    return {**report, "difference": compared["pneumonia"]["auroc"].to_dict()["difference"]}


def part_of(records: Path, count: int | None, seed: int) -> Path:
    """So many records of a table, drawn by the seed, in a file of their own."""
    loaded = Records.load(records, ("pneumonia",))
    chosen = np.random.default_rng(seed).permutation(len(loaded))[:count]
    return loaded.select(np.sort(chosen)).to_csv(records.with_name(f"{records.stem}-used.csv"))


def tested(run: Path, test: Path, folder: Path) -> dict[str, Any]:
    """The steps of a run, and the AUROC of its best checkpoint on the test records; a checkpoint is tested once."""
    steps = {f"{name} step": model_folder.read_card(run / name).origin["step"] for name in ("best", "last")}
    out = folder / f"tested-{steps['best step']}"
    auroc = runs.evaluate(run, test, out)["classes"]["pneumonia"]["auroc"]
    return {**steps, "auroc": auroc}


if __name__ == "__main__":
    main()
