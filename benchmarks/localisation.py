"""Do heat maps of a trained classifier know more of the place of a finding than the middle of the image does?

    python benchmarks/localisation.py --out localisation

Draws phantoms of four findings, none of them slight, which come with boxes; fine-tunes a small Vision Transformer from random
weights with their labels alone (the settings are in `train`); and runs the test of `mrm evaluate --boxes` on phantoms of other
patients: heat maps against boxes, beside a map of the centre of the image and a random one. The same is done with a network of
random weights. Prints both tables and writes `localisation.json`; what is there already is not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mrm import recipes, runs
from mrm.corpora.phantoms import phantom_files
from mrm.corpora.phantoms.phantom import Kinds
from mrm.data.config import CropConfig
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier
from mrm.system.files import write_json

KINDS = Kinds(("cardiomegaly", "consolidation", "effusion", "pneumothorax"), least_severity=0.5)
ENCODER, OPTIONS = "vit_tiny_patch16_224", {"depth": 4}
SETS = ("train", "val", "test")


def main() -> None:
    """Train, test the trained and a random network, which prints their tables; write `localisation.json`."""
    options = arguments()
    report = benchmark(options)
    write_json(options.out / "localisation.json", report)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for phantoms, models, tests and localisation.json"
    )
    parser.add_argument("--count", type=int, default=1200, help="phantoms to train on")
    parser.add_argument("--val", type=int, default=100, help="phantoms that choose the checkpoint")
    parser.add_argument("--test", type=int, default=200, help="phantoms to test on")
    parser.add_argument("--steps", type=int, default=300, help="of fine-tuning, 32 phantoms each")
    parser.add_argument("--size", type=int, default=96, help="pixels a side of a phantom, and of the input")
    parser.add_argument("--draws", type=int, default=2000, help="bootstrap resamples")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """What the trained and the random network show, on the same phantoms."""
    for seed, (name, count) in enumerate(
        zip(SETS, (options.count, options.val, options.test), strict=True), options.seed
    ):
        if not (options.out / name / "records.csv").is_file():
            phantom_files.write(options.out / name, count, seed, options.size, workers=1, kinds=KINDS)
    trained = train(options)
    networks = {"trained": trained, "random weights": random_weights(trained, options)}
    return {
        "models": {name: test(path, options, name.replace(" ", "-")) for name, path in networks.items()},
        "settings": {name: value for name, value in vars(options).items() if name != "out"},
    }


def train(options: argparse.Namespace) -> Path:
    """A classifier of phantoms, from random weights."""
    files = (options.out / name / "records.csv" for name in SETS[:2])
    recipe = recipes.tiny_finetune(*files, None, options.out / "run", seed=options.seed)
    every = max(1, options.steps // 4)
    training = replace(
        recipe.training, steps=options.steps, warmup_steps=max(1, options.steps // 10), layer_decay=None, workers=0,
        validate_every=every, save_every=every,
    )  # fmt: skip
    return runs.finetune(
        replace(
            recipe, training=training, classes=KINDS.findings, encoder=ENCODER, encoder_options=OPTIONS,
            image_size=options.size, drop_path=0.0, crop=CropConfig(area=(0.8, 1.0)), audit="names", floors=False,
        )
    )  # fmt: skip


def random_weights(trained: Path, options: argparse.Namespace) -> Path:
    """A network of the same architecture that has learnt nothing."""
    with noise.seeded(options.seed + 1):
        return model_folder.save(options.out / "random", Classifier(model_folder.load_as(trained, Classifier).config))


def test(model: Path, options: argparse.Namespace, name: str) -> dict[str, Any]:
    """What `mrm evaluate --boxes` says of a model."""
    folder = options.out / SETS[2]
    results = runs.evaluate(
        model, folder / "records.csv", options.out / f"test-{name}", runs.Reading(workers=0), options.draws,
        boxes=runs.Boxes(folder / "boxes.csv"),
    )  # fmt: skip
    found = results["localisation"]
    return {"auroc": results["classes"]["mean"]["auroc"], "counts": found["counts"], "classes": short(found["classes"])}


def short(classes: dict[str, Any]) -> dict[str, Any]:
    """Every estimate as [value, low, high, n]."""
    return {
        name: {
            measure: {source: [e["value"], e["low"], e["high"], e["n"]] for source, e in own.items()}
            for measure, own in measures.items()
        }
        for name, measures in classes.items()
    }


if __name__ == "__main__":
    main()
