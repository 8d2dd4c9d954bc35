"""Images a second of `mrm.Predictor` on arrays against `mrm predict` on their files, and its memory over many arrays.

    python -m benchmarks.in_memory
    python -m benchmarks.in_memory --encoder vit_base_patch16_224 --size 224 --images 500 --side 512

Both see the same pixels: few phantoms are drawn, written as PNG, and stand in turn for the many. They take turns in one
process, and the order changes with each repeat; a ratio is of one turn. The probabilities of both are compared, so that the
same work is timed. The arrays come from a generator, which makes each of them anew.

Memory is what a fresh process holds while the generator is asked for image 1,000, 2,000, ...: anonymous and
shared memory (Linux, Pss_Anon and Pss_Shmem of smaps_rollup).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import mrm
from benchmarks.predict import resident
from mrm.corpora.phantoms.phantom import FINDINGS, phantom
from mrm.data import images
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.runs import predicting
from mrm.runs.reading_options import Reading
from mrm.system import hardware

DRAWN = 16  # phantoms


def main() -> None:
    """Time, measure, and print one line of JSON."""
    options = arguments()
    drawn = [phantom(0, index, options.side).image for index in range(DRAWN)]
    if options.hold:
        print(json.dumps(memory_curve(options.hold, drawn, options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_model(folder / "model", options)
        report = {
            **{key: value for key, value in vars(options).items() if key != "hold"},
            "device": hardware.device_name(hardware.best_device()),
            "torch": torch.__version__,
            **timed(model, drawn, folder, options),
            "memory_mib": held_by_fresh_process(model, options),
        }
    print(json.dumps(report))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="vit_tiny_patch16_224", help="any timm Vision Transformer")
    parser.add_argument("--size", type=int, default=64, help="pixels of the model's input")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=128, help="pixels of the arrays")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hold", type=Path, help="a model folder: print only the memory that its predictor holds")
    return parser.parse_args()


def write_model(folder: Path, options: argparse.Namespace) -> Path:
    """An untrained classifier whose head tells images apart."""
    with noise.seeded(0):
        model = Classifier(ClassifierConfig(FINDINGS, options.encoder, image_size=options.size))
        torch.nn.init.normal_(model.encoder.head.weight)
    return model_folder.save(folder, model)


def arrays(drawn: list[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """So many arrays, each a copy of its own."""
    return (drawn[i % len(drawn)].copy() for i in range(count))


def timed(model: Path, drawn: list[np.ndarray], folder: Path, options: argparse.Namespace) -> dict:
    """Images a second of both, their ratio in each turn, and how far their probabilities differ."""
    many = folder / "images"
    many.mkdir()
    files = [many / f"{i:05}.png" for i in range(options.images)]
    for file, image in zip(files, arrays(drawn, options.images), strict=True):
        file.write_bytes(images.encode_png(image))
    predictor = mrm.Predictor(model, batch=options.batch, workers=options.workers)
    answers: dict[str, np.ndarray] = {}

    def from_arrays(count: int) -> None:
        answers["arrays"] = predictor(arrays(drawn, count)).probabilities_NC

    def from_files(count: int) -> None:
        reading = Reading(batch=options.batch, workers=options.workers)
        predicting.predict_table(model, files[:count], folder / "out.jsonl", reading)
        rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
        answers["files"] = np.array([[row[c] for c in FINDINGS] for row in rows])

    ways, rates = {"arrays": from_arrays, "files": from_files}, {"arrays": [], "files": []}
    for way in ways.values():
        way(options.batch)
    for repeat in range(options.repeats):
        for name in ("arrays", "files") if repeat % 2 == 0 else ("files", "arrays"):
            start = time.perf_counter()
            ways[name](options.images)
            rates[name].append(round(options.images / (time.perf_counter() - start), 1))
    ratios = [round(a / f, 3) for a, f in zip(rates["arrays"], rates["files"], strict=True)]
    return {
        "images_a_second": rates,
        "arrays_over_files": ratios,
        "median_ratio": statistics.median(ratios),
        "greatest_difference_of_probabilities": float(np.abs(answers["arrays"] - answers["files"]).max()),
    }


def held_by_fresh_process(model: Path, options: argparse.Namespace) -> dict[str, float]:
    """The memory curve of a process that does nothing else."""
    words = [f"--{key}={getattr(options, key)}" for key in ("size", "images", "side", "batch", "workers")]
    command = [sys.executable, "-m", "benchmarks.in_memory", f"--hold={model}", *words]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def memory_curve(model: Path, drawn: list[np.ndarray], options: argparse.Namespace) -> dict[str, float]:
    """MiB held by this process after each tenth of the images, and with the table of all."""
    predictor, curve = mrm.Predictor(model, batch=options.batch, workers=options.workers), {}

    def watched() -> Iterator[np.ndarray]:
        for number, image in enumerate(arrays(drawn, options.images)):
            if number and number % max(1, options.images // 10) == 0:
                curve[str(number)] = round(resident(os.getpid()) / 2**20, 1)
            yield image

    table = predictor(watched())
    curve[str(len(table))] = round(resident(os.getpid()) / 2**20, 1)
    return curve


if __name__ == "__main__":
    main()
