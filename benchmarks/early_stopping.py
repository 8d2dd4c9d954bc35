"""What `--patience` saves, and what it costs: where it would end whole runs, and what the checkpoint that it keeps reaches.

    python benchmarks/early_stopping.py --data DIR --out early_stopping.json --labels 100 --validation 300 --seeds 3 4

DIR has `pneumonia-cxr`, as tests use it. The recipe `tiny` from random weights learns pneumonia in children; patients are held
out for validation and for the test. A run keeps the checkpoint of every validation. An end by patience leaves all that came
before it as it was, so the scores of the whole run say where each patience would have ended it, and with which checkpoint;
each of these is tested on the same images. Beside the rule of `mrm.training.patience` stands one that counts all validations
from the first. Every seed starts from other random weights and draws other training images; a seed that is in the file
already is not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from resizing import split

from mrm import recipes, runs
from mrm.data.records import Records
from mrm.training.patience import Patience

PATIENCES = range(2, 7)  # validations without a gain
FINDING = "pneumonia"
RULES = ("from half of the steps", "from the start")


def main() -> None:
    """Measure, print, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200, help="of the whole run")
    parser.add_argument("--batch", type=int, default=8, help="images of a step")
    parser.add_argument("--every", type=int, default=50, help="steps from one validation to the next")
    parser.add_argument("--labels", type=int, default=None, help="training images; by default all")
    parser.add_argument("--validation", type=int, default=None, help="validation images; by default all")
    parser.add_argument("--gain", type=float, default=0.001, help="in validation AUROC")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    settings = {k: v for k, v in vars(options).items() if k not in ("data", "out", "seeds")}
    for seed in options.seeds:
        if (known := report_at(options.out, settings))["settings"] != settings:
            parser.error(f"{options.out} was measured with other settings: {known['settings']}")
        if not all(set(RULES) <= set(one) for one in known["seeds"].values()):
            parser.error(f"{options.out} is of an earlier version of this script; give another --out")
        if str(seed) in known["seeds"]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            one = measured(options, Path(folder), seed)
        report = report_at(options.out, settings)  # another process may have added its seed meanwhile
        report["seeds"][str(seed)] = one
        report["mean"] = mean_of([*report["seeds"].values()])
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(options.out.read_text())


def report_at(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What the file holds, or an empty report with these settings."""
    return json.loads(file.read_text()) if file.is_file() else {"settings": settings, "seeds": {}}


def measured(options: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    """The whole run of a seed, and where each rule and patience would have ended it."""
    train, val, test = split(options.data / "pneumonia-cxr" / "labels.csv", folder, None)
    train, val = part_of(train, options.labels, seed), part_of(val, options.validation, 0)
    config = recipes.tiny_finetune(train, val, None, folder / "run", audit="names", floors=False, seed=seed)
    config = replace(config, encoder=recipes.TINY_MODEL.encoder, encoder_options=recipes.TINY_MODEL.encoder_options)
    config = replace(config, image_size=recipes.TINY_MODEL.image_size)
    lengths = {"steps": options.steps, "global_batch": options.batch, "validate_every": options.every}
    kept = {"save_every": options.every, "keep": options.steps // options.every}
    run = runs.finetune(replace(config, training=replace(config.training, **lengths, **kept)))
    with open(run / "validation.csv", newline="") as text:
        scores = [(int(row["step"]), float(row["score"])) for row in csv.DictReader(text)]
    whole, tests = ended(scores, None, options.gain, False), Tests(run, test, folder)
    report: dict[str, Any] = {
        "records": {path.stem.removesuffix("-used"): len(Records.load(path)) for path in (train, val, test)},
        "validation": [[step, round(score, 6)] for step, score in scores],
        "whole": {"last step": whole[0], "best step": whole[1], "auroc": tests.auroc(whole[1])},
    }
    for rule in RULES:
        report[rule] = {}
        for patience in PATIENCES:
            last, best = ended(scores, patience, options.gain, rule == "from the start")
            report[rule][str(patience)] = {
                "last step": last, "best step": best, "steps saved": round(1 - last / whole[0], 3),
                "auroc": tests.auroc(best), "difference": tests.difference(best, whole[1]),
            }  # fmt: skip
    return report


def ended(
    scores: Sequence[tuple[int, float]], validations: int | None, gain: float, from_start: bool
) -> tuple[int, int]:
    """The last step of a run with this patience, and the step of its best checkpoint."""
    patience, every, total, best = Patience(validations, gain), scores[0][0], scores[-1][0], (0, -math.inf)
    for step, score in scores:
        patience.note(step, score)
        best = (step, score) if score > best[1] else best
        if patience.is_exhausted(step, every, 0 if from_start else total):
            return step, best[0]
    return total, best[0]


@dataclass
class Tests:
    """Checkpoints of a run on the test records, each tested once."""

    run: Path
    test: Path
    folder: Path
    tested: dict[int, dict[str, Any]] = field(default_factory=dict)
    compared: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)

    def auroc(self, step: int) -> dict[str, Any]:
        """The AUROC of the checkpoint of a step."""
        if step not in self.tested:
            checkpoint = self.run / "checkpoints" / f"step-{step:08d}"
            self.tested[step] = runs.evaluate(checkpoint, self.test, self.place(step))["classes"][FINDING]["auroc"]
        return self.tested[step]

    def difference(self, step: int, other: int) -> dict[str, Any] | None:
        """The AUROC of a checkpoint less that of another, paired; None for the same checkpoint."""
        if step == other:
            return None
        if (step, other) not in self.compared:
            compared = runs.compare(self.place(step), self.place(other), self.folder / f"{step}-less-{other}")
            self.compared[step, other] = compared[FINDING]["auroc"].to_dict()["difference"]
        return self.compared[step, other]

    def place(self, step: int) -> Path:
        """The folder of the test of a checkpoint."""
        return self.folder / f"tested-{step}"


def mean_of(reports: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """By rule and patience, what was saved and the AUROC that it cost, on average over the seeds."""
    means: dict[str, dict[str, dict[str, float]]] = {}
    for rule in RULES:
        for patience in reports[0][rule]:
            ends = [(report[rule][patience], report["whole"]) for report in reports]
            gaps = [end["auroc"]["value"] - whole["auroc"]["value"] for end, whole in ends]
            saved = float(np.mean([end["steps saved"] for end, _ in ends]))
            mean = {"steps saved": round(saved, 4), "difference": round(float(np.mean(gaps)), 4)}
            means.setdefault(rule, {})[patience] = {**mean, "worst": round(min(gaps), 4)}
    return means


def part_of(records: Path, count: int | None, seed: int) -> Path:
    """So many records of a table, drawn by the seed, in a file of their own."""
    loaded = Records.load(records, (FINDING,))
    chosen = np.random.default_rng(seed).permutation(len(loaded))[:count]
    return loaded.select(np.sort(chosen)).to_csv(records.with_name(f"{records.stem}-used.csv"))


if __name__ == "__main__":
    main()
