"""Pneumothorax on phantoms: Dice of positive images and false positives of a small segmenter, from phantoms alone.

    python benchmarks/pneumothorax.py --out pneumothorax --minutes 15
    python benchmarks/pneumothorax.py --out pneumothorax --minutes 15 --init PRETRAINED

Draws phantoms for training, validation and test from different seeds, and so of different patients; trains the recipe
`tiny` from a random encoder and, with --init, from a pre-trained one with the same steps; tests on unseen phantoms.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from lungs import configure, random_encoder, steps_within, with_interval

from mrm import runs
from mrm.corpora.phantoms import phantom_files
from mrm.system.files import write_json

CLASSES = ("pneumothorax",)
COUNTS = {"training": 1500, "validation": 300, "test": 600}
MEASURES = ("dice_positive", "dice_published", "dice_pooled", "sensitivity", "false_positives")


def main() -> None:
    """Draw, train, test; write `pneumothorax.json` and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for phantoms, runs and pneumothorax.json")
    parser.add_argument("--init", type=Path, help="a run of `mrm pretrain`, or another encoder")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, for each encoder")
    parser.add_argument("--steps", type=int, help="instead of --minutes")
    parser.add_argument("--size", type=int, default=192, help="pixels a side of the input")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--share", type=float, default=1.0, help="of the number of phantoms")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = {split: max(20, round(options.share * n)) for split, n in COUNTS.items()}
    folder = draw(options.out / "phantoms", counts, options.seed)
    start = options.init or random_encoder(options.out / "random-encoder")
    steps = options.steps or steps_within(options, folder, start, CLASSES)
    report = {"images": counts, "steps": steps, "threads": torch.get_num_threads(), "seconds": {}, "results": {}}
    for name, scratch in {"random encoder": True, **({"pre-trained encoder": False} if options.init else {})}.items():
        began = time.perf_counter()
        run = options.out / f"{name.replace(' ', '-')}-{steps}"
        runs.segment(configure(options, folder, start, run, steps, scratch, CLASSES))
        report["seconds"][name] = time.perf_counter() - began
        report["results"][name] = runs.evaluate(run, folder, run / "test")["classes"]["pneumothorax"]
    write_json(options.out / "pneumothorax.json", report)
    print(f"{'':22}" + "".join(f"{m:>24}" for m in MEASURES))
    for name, measures in report["results"].items():
        print(f"{name:22}" + "".join(f"{with_interval(measures[m]):>24}" for m in MEASURES))


def draw(out: Path, counts: dict[str, int], seed: int) -> Path:
    """A segmentation folder of phantoms; an existing set is kept."""
    for number, (split, count) in enumerate(counts.items()):
        drawn = out / "drawn" / split
        if not (drawn / "records.csv").is_file():
            print(f"drawing {count} phantoms: {split}", flush=True)
            phantom_files.write(drawn, count, seed=1000 * seed + number, size=256, masks=("pneumothorax",))
        for kind, source in (("images", "images"), ("annotations", "pneumothorax")):
            (out / kind).mkdir(parents=True, exist_ok=True)
            if not (out / kind / split).exists():
                (out / kind / split).symlink_to((drawn / source).absolute())
    return out


if __name__ == "__main__":
    main()
