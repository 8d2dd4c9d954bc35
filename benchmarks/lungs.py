"""Lungs on real radiographs: how well a small segmenter outlines them, with a random and with a pre-trained encoder.

    python benchmarks/lungs.py --data covid-cxr --out lungs --prepare-only
    mrm pretrain small --records lungs/pretraining.csv --out lungs/pretrained
    python benchmarks/lungs.py --data covid-cxr --out lungs --init lungs/pretrained --minutes 15
    python benchmarks/lungs.py --data covid-cxr --out lungs --init study/encoders/real-both-0 --steps 1000

The last command uses the encoder of `label_efficiency/study.py --part real`, which saw no test patient either.

DATA is the COVID-19 Image Data Collection: `images/`, `masks/` (PNG, 0 and 255), `metadata.csv` with patientid and
filename, `training.csv` with image-text pairs. A fifth of the patients with masks is the test set (images of unknown
patient go by their file name), a tenth chooses checkpoint and threshold. Empty masks are left out and counted: a chest
radiograph without lungs is one that was not outlined. `pretraining.csv` has every image that is not in the test set,
with its text where there is one. Both encoders get the same steps; the baseline is the mean mask of the training set.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from mrm import recipes, runs
from mrm.data import images, masks
from mrm.data.patients import PATIENTS
from mrm.data.records import Record, Records
from mrm.evaluation.predictions import ImageDice, read_dice
from mrm.models import model_folder, noise
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.statistics.dice import PixelCounts, mean_over, overlap_report
from mrm.statistics.intervals import Bootstrap, Estimate
from mrm.system.files import write_csv, write_json
from mrm.system.tables import read_csv_rows

SHARES = {"training": 0.7, "validation": 0.1, "test": 0.2}
GRID = 256  # pixels a side of the mean mask
LUNGS = ("lungs",)
MEASURES = ("dice_positive", "iou_mean", "surface_distance", "hausdorff_95")


def main() -> None:
    """Prepare, train, test; write `lungs.json` and print a table."""
    options = arguments()
    sets, empty = split_images(options.data, options.seed)
    folder = write_folders(options.data, options.out / "data", sets)
    write_pretraining(options.data, options.out / "pretraining.csv", sets["test"])
    counts = {name: len(records) for name, records in sets.items()}
    print(f"{counts} images with lungs; {empty} empty masks left out", flush=True)
    if options.prepare_only:
        return
    start = options.init or random_encoder(options.out / "random-encoder")
    steps = options.steps or steps_within(options, folder, start)
    results = {"mean mask": mean_mask(folder)}
    trained = {"random encoder": True} | ({"pre-trained encoder": False} if options.init else {})
    dice, seconds = {}, {}
    for name, scratch in trained.items():
        run = options.out / f"{name.replace(' ', '-')}-{steps}"
        began = time.perf_counter()
        runs.segment(configure(options, folder, start, run, steps, scratch))
        seconds[name] = time.perf_counter() - began
        results[name] = runs.evaluate(run, folder, run / "test")["classes"]["lungs"]
        dice[name] = read_dice(run / "test" / "images.csv")["lungs"]
    report = {"images": counts, "empty masks left out": empty, "steps": steps, "seconds": seconds, "results": results}
    if len(dice) == 2:
        report["difference"] = difference(dice["pre-trained encoder"], dice["random encoder"]).to_dict()
    report |= {"threads": torch.get_num_threads(), "machine": platform.machine(), "torch": torch.__version__}
    write_json(options.out / "lungs.json", report)
    print(table(report))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the COVID-19 Image Data Collection")
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and lungs.json")
    parser.add_argument("--init", type=Path, help="a run of `mrm pretrain`, or another encoder")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training, for each encoder")
    parser.add_argument("--steps", type=int, help="instead of --minutes")
    parser.add_argument("--size", type=int, default=192, help="pixels a side of the input")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prepare-only", action="store_true", help="write data and pretraining.csv, and stop")
    return parser.parse_args()


# Data ---------------------------------------------------------------------------------------------------


def split_images(data: Path, seed: int) -> tuple[dict[str, Records], int]:
    """Images whose mask is not empty, patient-disjoint; and how many masks are empty."""
    patients = patients_of(data)
    files = {masks.stem(p.name): p for p in sorted((data / "images").iterdir())}
    rows, empty = [], 0
    for file in sorted((data / "masks").glob("*.png")):
        if not images.read(file).any():
            empty += 1
            continue
        image = files[masks.stem(file.name)]
        rows.append(Record(image, patient=patients.get(masks.stem(file.name), ""), name=image.name))
    return Records(rows, source=str(data)).split(SHARES, seed), empty


def patients_of(data: Path) -> dict[str, str]:
    """The patient of each image, by its name without ending."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few notes are not UTF-8
        header, lines = read_csv_rows(data / "metadata.csv")
        rows = [dict(zip(header, fields, strict=False)) for _, fields in lines]
    return {masks.stem(row["filename"]): row["patientid"].strip() for row in rows}


def write_folders(data: Path, out: Path, sets: dict[str, Records]) -> Path:
    """A segmentation folder of links to the images and masks, with the patients as far as they are known."""
    rows = [[record.name, record.patient] for records in sets.values() for record in records if record.patient]
    write_csv(out / PATIENTS, ["image_path", "patient_id"], rows)
    for split, records in sets.items():
        for kind in ("images", "annotations"):
            (out / kind / split).mkdir(parents=True, exist_ok=True)
        for record in records:
            stem = masks.stem(record.name)
            places = {
                out / "images" / split / record.name: data / "images" / record.name,
                out / "annotations" / split / f"{stem}.png": data / "masks" / f"{stem}.png",
            }
            for link, target in places.items():
                if not link.is_symlink():
                    link.symlink_to(target.absolute())
    return out


def write_pretraining(data: Path, path: Path, test: Records) -> None:
    """Every image outside the test patients, with its text where there is one."""
    patients = patients_of(data)
    kept_out = {r.patient for r in test if r.patient}, {r.name for r in test}
    texts = {Path(r.name).name: r for r in Records.load(data / "training.csv")}
    rows = []
    for image in sorted((data / "images").iterdir()):
        patient = patients.get(masks.stem(image.name), "")
        if patient not in kept_out[0] and image.name not in kept_out[1]:
            report = texts[image.name].report if image.name in texts else ""
            rows.append(Record(image.absolute(), report=report, patient=patient, name=image.name))
    Records(rows).to_csv(path)


# Training -----------------------------------------------------------------------------------------------


def configure(
    options, folder: Path, start: Path, run: Path, steps: int, scratch: bool, classes: tuple[str, ...] = LUNGS
) -> recipes.SegmentConfig:
    """The recipe `tiny` with this number of steps."""
    recipe = recipes.SEGMENT["tiny"].make(
        folder, folder, start, run, classes=classes, scratch=scratch, seed=options.seed
    )
    validate_every = max(1, steps // 8)
    training = replace(
        recipe.training, steps=steps, warmup_steps=max(1, steps // 15), global_batch=options.batch, workers=options.workers,
        validate_every=validate_every, save_every=validate_every,
    )  # fmt: skip
    return replace(recipe, image_size=(options.size, options.size), training=training)


def random_encoder(folder: Path) -> Path:
    """A small encoder with random weights, where none is given: half a ViT-Tiny, as in `mrm pretrain tiny`."""
    shape = ClassifierConfig(("unused",), "vit_tiny_patch16_224", {"depth": 6}, image_size=96)
    with noise.seeded(0):
        return model_folder.save(folder, Classifier(shape))


def steps_within(options, folder: Path, start: Path, classes: tuple[str, ...] = LUNGS) -> int:
    """How many steps fit into --minutes, from the time that ten of them take on this machine."""
    times = []
    for steps in (3, 13):
        began = time.perf_counter()
        config = configure(options, folder, start, options.out / f"timing-{time.time_ns()}", steps, True, classes)
        runs.segment(
            replace(config, audit="names", training=replace(config.training, validate_every=99, save_every=99))
        )
        times.append(time.perf_counter() - began)
    each = max(1e-3, (times[1] - times[0]) / 10)
    return max(20, int(0.9 * 60 * options.minutes / each))  # a tenth is for validation


# Results ------------------------------------------------------------------------------------------------


def mean_mask(folder: Path) -> dict[str, dict]:
    """The mean mask of the training set, at the threshold with the best Dice on that set, as the prediction for every image."""
    train, test = (masks.load(folder, split, ("lungs",)) for split in ("training", "test"))
    small = np.stack([images.resize(255 * train.mask(i), GRID, GRID) for i in range(len(train))]) / 255.0
    mean = small.mean(axis=0)
    scores = {}
    for cut in np.arange(0.05, 0.95, 0.05):
        counts = PixelCounts.of([mean >= cut] * len(small), small >= 0.5)
        scores[float(cut)] = float(np.nanmean(counts.dice()))
    best = max(scores, key=lambda cut: scores[cut])
    true = [test.mask(i) for i in range(len(test))]
    predicted = [cv2.resize(mean, t.shape[::-1], interpolation=cv2.INTER_LINEAR) >= best for t in true]
    report = overlap_report(PixelCounts.of(predicted, true), test.records().patients)
    return {name: e.to_dict() for name, e in report.items()}


def difference(first: ImageDice, second: ImageDice) -> Estimate:
    """Mean difference in Dice on the same images, with its interval by patient."""
    every = np.ones(len(first.names), dtype=bool)
    bootstrap = Bootstrap.from_groups(first.patients, len(first.names))
    return mean_over(first.positive_N - second.positive_N, every, every, bootstrap)


def table(report: dict) -> str:
    """The results, one row per model."""
    lines = [f"{'':22}" + "".join(f"{name:>26}" for name in MEASURES)]
    for name, measures in report["results"].items():
        cells = [with_interval(measures[m]) if m in measures else "" for m in MEASURES]
        lines.append(f"{name:22}" + "".join(f"{cell:>26}" for cell in cells))
    if "difference" in report:
        lines.append(f"{'pre-trained - random':22}{with_interval(report['difference']):>26}")
    minutes = ", ".join(f"{name} {s / 60:.1f} minutes" for name, s in report["seconds"].items())
    return "\n".join([*lines, f"{report['steps']} steps; {minutes}; {report['threads']} threads"])


def with_interval(e: dict) -> str:
    """'0.912 (0.893-0.926)'"""
    if e["value"] is None:
        return "undefined"
    span = f" ({e['low']:.3f}-{e['high']:.3f})" if e["low"] is not None else ""
    return f"{e['value']:.3f}{span}"


if __name__ == "__main__":
    main()
