"""What the start of the report decoder does to a short pre-training: the published one against BERT's with tied words.

    python benchmarks/start.py --out start.json

Each arm is the recipe `tiny` on phantoms, with the same seed, records, crops, patches and masks; only the start and the output
words differ. Reported are nats per masked word of held-out reports, and the loss of restored patches, over the steps.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from mrm import recipes, runs
from mrm.corpora.phantoms import phantom_files
from mrm.recipes import PretrainConfig

ARMS = {
    "published start, untied words": {"start": "xavier", "tied_words": False},
    "published start, tied words": {"start": "xavier", "tied_words": True},
    "BERT's start, untied words": {"start": "normal", "tied_words": False},
    "BERT's start, tied words": {"start": "normal", "tied_words": True},
}

LOSSES = "held-out losses by step"


def main() -> None:
    """Pre-train each arm, print the losses, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--phantoms", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="the others stay in --out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, count, seed in (("train", options.phantoms, 1), ("val", 200, 2)):
            phantom_files.write(folder / name, count, seed=seed, size=192, workers=1)
        arms = {name: losses(folder, name, ARMS[name], options) for name in options.arms}
    report = {name: getattr(options, name) for name in ("steps", "batch", "phantoms", "seed")}
    before = json.loads(options.out.read_text()) if options.out.is_file() else {}
    if report.items() <= before.items():
        arms = {**before[LOSSES], **arms}
    report[LOSSES] = arms
    print(json.dumps(report, indent=1))
    options.out.write_text(json.dumps(report, indent=1) + "\n")


def losses(folder: Path, name: str, changes: dict, options: argparse.Namespace) -> list[dict[str, float]]:
    """The held-out losses of an arm at four places of its run."""
    recipe: PretrainConfig = recipes.tiny(folder / "train" / "records.csv", folder / "runs" / name.replace(" ", "-"))
    every = max(1, options.steps // 4)
    training = replace(
        recipe.training, epochs=None, steps=options.steps, warmup_steps=options.steps // 20, global_batch=options.batch,
        validate_every=every, save_every=options.steps, trackers=(),
    )  # fmt: skip
    config = replace(
        recipe, val=folder / "val" / "records.csv", model=replace(recipe.model, **changes), training=training,
        seed=options.seed, audit="names",
    )  # fmt: skip
    with open(runs.pretrain(config) / "validation.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    return [
        {"step": int(r["step"]), "report": round(float(r["val_report"]), 3), "image": round(float(r["val_image"]), 3)}
        for r in rows
    ]


if __name__ == "__main__":
    main()
