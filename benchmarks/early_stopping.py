"""What `--patience` saves, and what it costs: one run that ends early, and the same run to its last step.

    python benchmarks/early_stopping.py --data DIR --out early_stopping.json

DIR has `pneumonia-cxr`, as tests use it. The recipe `tiny` from random weights learns pneumonia in children; patients are held
out for validation and for the test. A run with patience ends; then it is prolonged to all of its steps, which is the run
that it would have been without patience, bit for bit. The best checkpoint of either is tested on the same images.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from resizing import split

import mrm
from mrm import recipes, runs
from mrm.data.records import Records
from mrm.models import model_folder, noise
from mrm.models.mrm import MRM
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
    parser.add_argument("--folder", type=Path, default=None, help="where the run is kept; by default nowhere")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report = measured(options, options.folder or Path(temporary))
    print(json.dumps(report, indent=1))
    options.out.write_text(json.dumps(report, indent=1) + "\n")


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both runs, tested."""
    folder.mkdir(parents=True, exist_ok=True)
    train, val, test = split(options.data / "pneumonia-cxr" / "labels.csv", folder, None)
    train, val = first_of(train, options.labels), first_of(val, options.validation)
    with noise.seeded(0):
        start = model_folder.save(folder / "start", MRM(recipes.TINY_MODEL))
    config = recipes.tiny_finetune(train, val, start, folder / "run", scratch=True, audit="names")
    training = replace(config.training, steps=options.steps, global_batch=options.batch, validate_every=options.every)
    config = replace(config, training=training)
    runs.finetune(replace(config, patience=options.patience, patience_gain=options.gain))
    early = tested(folder / "run", test, folder / "early")
    runs.finetune(replace(config, extend=True))  # without patience
    whole = tested(folder / "run", test, folder / "whole")
    difference = runs.compare(folder / "early", folder / "whole", folder / "compared")["pneumonia"]["auroc"].to_dict()
    return {
        "records": {path.stem.removesuffix("-used"): len(Records.load(path)) for path in (train, val, test)},
        "batch": options.batch,
        "validate_every": options.every,
        "patience": options.patience,
        "patience_gain": options.gain,
        "early": early,
        "whole": whole,
        "by patience": by_patience(folder / "run" / "validation.csv", whole["last step"], options),
        "steps saved": round(1 - early["last step"] / whole["last step"], 3),
        "difference in AUROC, early less whole": difference,
        "mrm": mrm.__version__,
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


def first_of(records: Path, count: int | None) -> Path:
    """The first records of a table, which are in random order, in a file of their own."""
    loaded = Records.load(records, ("pneumonia",))
    return replace(loaded, rows=list(loaded)[:count]).to_csv(records.with_name(f"{records.stem}-used.csv"))


def tested(run: Path, test: Path, out: Path) -> dict[str, Any]:
    """The steps of a run, and the AUROC of its best checkpoint on the test records."""
    auroc = runs.evaluate(run, test, out)["classes"]["pneumonia"]["auroc"]
    steps = {f"{name} step": model_folder.read_card(run / name).origin["step"] for name in ("best", "last")}
    return {**steps, "auroc": auroc}


if __name__ == "__main__":
    main()
