"""Commands that measure a model: evaluate, calibrate, compare, probe, crossval, benchmark."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mrm.cli.command import commands
from mrm.cli.output import end
from mrm.cli.shared_options import (
    Batch,
    Budget,
    ByStudy,
    CropBorders,
    Device,
    Draws,
    Flip,
    Images,
    ImageSize,
    Precision,
    Uncertain,
    ViewClassifier,
    Views,
    Workers,
)
from mrm.models.config import TargetName
from mrm.recipes import FINETUNE, find, suites
from mrm.system.errors import RunError

if TYPE_CHECKING:
    from mrm.runs import Boxes


def evaluate(
    model: Path,
    /,
    records: Path,
    out: Path,
    images: Images = None,
    crop_borders: CropBorders = False,
    by_study: ByStudy = None,
    views: Views = "all",
    view_classifier: ViewClassifier = None,
    flip: Flip = False,
    by: tuple[str, ...] = (),
    split: str = "test",
    slide: bool = False,
    boxes: Path | None = None,
    agree: int | None = None,
    tolerance: float = 0.03,
    level: float = 0.5,
    method: Literal["gradcam", "rollout", "attention"] = "gradcam",
    draws: Draws = 2000,
    seed: int = 0,
    batch: Batch = 64,
    workers: Workers = None,
    precision: Precision = "fp32",
    device: Device = "auto",
) -> None:
    """Test a classifier or a segmenter: every metric with its interval, and a page.

    The exit status is 3 if some images could not be read; results.json names them, and the numbers are of the others.

    Example:
        mrm evaluate runs/nih-1 --records test.csv --out runs/nih-1/test --by sex --by age
        mrm evaluate runs/rsna-1 --records test.csv --boxes boxes.csv --out runs/rsna-1/test

    Data:
        model: a model folder or a run.
        records: a label list or CSV with the model's classes; for a segmenter a segmentation folder.
        out: the folder to write: results.json, a CSV with a line for each image, and index.html.
        by: also report groups of a column of the records: view, sex, age (in bands), site, or any other.
        split: of a segmentation folder: training, validation or test.
        slide: outline with sliding windows, finer and slower than the whole image at once.

    Where it looks:
        boxes: a boxes.csv, as `mrm prepare` writes it: also measure the heat maps of a classifier, or the outlines of a
            segmenter, against the boxes, beside a map of the centre and a random one.
        agree: readers who must have drawn a box; by default 1, or 2 where an image has boxes of several readers.
        tolerance: by how much a peak may miss a box, as a share of the longer side of the image.
        level: share of the greatest heat at which a part of a heat map begins.
        method: of the heat maps, as in `mrm explain`; gradcam needs the extra `explain`.

    Statistics:
        seed: of the bootstrap and the random map.
    """
    from mrm import runs

    how = images, batch, workers, precision, device, crop_borders, by_study, views, flip, view_classifier
    located = _boxes(boxes, agree, tolerance, level, method)
    results = runs.evaluate(model, records, out, runs.Reading(*how), draws, seed, split, slide, by, located)
    print(f"open {out / 'index.html'}")
    end(len(results.get("unreadable", ())))


def _boxes(
    file: Path | None,
    agree: int | None,
    tolerance: float,
    level: float,
    method: Literal["gradcam", "rollout", "attention"],
) -> Boxes | None:
    """The options of `evaluate` about boxes; None without a file. Raises RunError for others without one."""
    from mrm import runs

    if file:
        return runs.Boxes(file, agree, tolerance, level, method)
    if (agree, tolerance, level, method) != (None, 0.03, 0.5, "gradcam"):
        raise RunError(
            "--agree, --tolerance, --level and --method are of --boxes; give a file of boxes, or leave them out"
        )
    return None


def calibrate(
    model: Path,
    /,
    val: Path,
    train: Path | None = None,
    images: Images = None,
    crop_borders: CropBorders = False,
    by_study: ByStudy = None,
    views: Views = "all",
    view_classifier: ViewClassifier = None,
    flip: Flip = False,
    sensitivity: float | None = None,
    specificity: float | None = None,
    youden: bool = False,
    outliers: bool = True,
    known: float = 0.99,
    coverage: float = 0.9,
    seed: int = 0,
    batch: Batch = 64,
    workers: Workers = None,
    precision: Precision = "fp32",
    device: Device = "auto",
) -> None:
    """Fit temperatures, thresholds, sets and outliers to validation records.

    They are stored in the model folder of the classifier. `mrm evaluate` then reports their effect on a test set, and
    `mrm predict` uses them. The threshold of a finding is the one that reaches the sensitivity or specificity asked
    for, or that has the largest sum of both (Youden).

    Example:
        mrm calibrate runs/nih-1 --val val.csv --sensitivity 0.9

    Data:
        model: the model folder or run of a classifier.
        val: records with the model's classes that it was not trained on and that no test will use.
        train: records that show what known images look like; by default those of --val, in five folds.

    Thresholds:
        sensitivity: to reach on these records.
        specificity: to reach on these records.
        youden: take the largest sum of both, which is also the default.
        coverage: share of patients with a finding, and of those without it, for whom its set holds the truth.

    Outliers:
        outliers: fit a reference for outliers.
        known: share of known images that get a decision; the model abstains on the rest.
        seed: of the folds and the intervals.
    """
    from mrm import runs

    if youden and (sensitivity is not None or specificity is not None):
        raise RunError("give only one of --sensitivity, --specificity and --youden")
    goal = runs.Goal(sensitivity, specificity)
    reading = runs.Reading(
        images, batch, workers, precision, device, crop_borders, by_study, views, flip, view_classifier
    )
    runs.calibrate(model, val, goal, reading, train, known, outliers, seed, coverage)
    print(f"next: mrm evaluate {model} --records TEST.csv --out {model}/test")


def compare(first: Path, second: Path, /, out: Path, draws: Draws = 2000, seed: int = 0) -> None:
    """Compare two models on the same records: differences, intervals and p values.

    Also shown: the minimum detectable difference. Classifiers are compared by AUROC (DeLong, and a bootstrap over
    patients) and average precision (bootstrap), segmenters by Dice (permutation of signs). P values are corrected
    over classes (Holm).

    Example:
        mrm compare runs/a/test runs/b/test --out comparison

    Data:
        first: the folder that `mrm evaluate` wrote, or the predictions.csv or images.csv in it.
        second: the same of another model, for the same records.
        out: the folder to write: comparison.json and index.html.

    Statistics:
        seed: of the resamples.
    """
    from mrm import runs

    runs.compare(first, second, out, draws, seed)
    print(f"open {out / 'index.html'}")


def probe(
    init: tuple[str, ...],
    train: Path,
    val: Path,
    test: Path,
    out: Path,
    classes: tuple[str, ...] = (),
    images: Images = None,
    image_size: ImageSize = None,
    uncertain: Uncertain = "ignore",
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0),
    seeds: int = 3,
    finetune: str = "",
    max_steps: int | None = None,
    floors: bool = True,
    draws: Draws = 2000,
    workers: Workers = None,
    device: Device = "auto",
) -> None:
    """Compare what encoders know of findings with 1, 10 and 100 % of the labels.

    Linear probes and nearest neighbours on frozen features, and fine-tuning if a recipe is named. All encoders get the
    same records, draws of labels and settings; each sees images as it was trained. Settings are chosen on the validation
    records. Run the same command again to resume, or to add seeds or shares of labels.

    Example:
        mrm probe --init runs/mimic rad-dino random --train tr.csv --val val.csv --test te.csv --out probe

    Data:
        train: records with labels, of which the shares are drawn by patient.
        val: records that choose regularisation, neighbours and checkpoints.
        test: records to test on.
        out: the folder to write: probe.json, index.html, label_efficiency.png and the scores of every fit.
        classes: label columns; by default all numeric columns of --train.

    What is compared:
        init: up to eight encoders: models, classifiers, those of other programs (a folder, a file or timm:NAME=PATH), or
            `random`, the architecture of the first with random weights. The others are compared with the first.
        fractions: shares of the labels.
        seeds: how often each share below 1 is drawn anew.
        finetune: a recipe of `mrm finetune`: also fine-tune on each share; the runs are kept in OUT/runs.
        max_steps: shorten each fine-tuning to this many steps.
        floors: fit logistic regressions on pixels and HOG beside, which use no network.
    """
    if finetune:
        find(FINETUNE, finetune)  # refuses an unknown one at once
    from mrm import runs

    config = runs.ProbeConfig(
        init, train, val, test, out, classes, images, uncertain, fractions, seeds, finetune, max_steps, draws,
        workers, device, floors, image_size,
    )  # fmt: skip
    runs.probe(config)
    print(f"open {out / 'index.html'}")


def crossval(
    recipe: str,
    /,
    records: Path,
    out: Path,
    init: Path | None = None,
    folds: int = 5,
    repeats: int = 2,
    val_share: float = 0.2,
    classes: tuple[str, ...] = (),
    images: Images = None,
    image_size: ImageSize = None,
    uncertain: Uncertain = "ignore",
    target: TargetName | None = None,
    settings: Path | None = None,
    scratch: bool = False,
    budget: Budget = None,
    max_steps: int | None = None,
    ensemble: bool = False,
    floors: bool = True,
    seed: int = 0,
    workers: Workers = None,
    device: Device = "auto",
) -> None:
    """Measure what a recipe reaches on your own records, by cross-validation.

    The patients are divided into folds, stratified by finding and anew for every repeat; each fold is tested by a model
    that was fine-tuned on the others. All folds give one AUROC with one interval, beside logistic regressions on pixels
    and on HOG. Run the same command again to resume, or to add repeats. Exit status 3: some images could not be read.

    Example:
        mrm crossval tiny --records labels.csv --init runs/mimic --out crossval

    Data:
        recipe: a recipe of `mrm finetune`.
        records: records with labels and patients.
        init: the model that every fine-tuning starts from; without it random weights of the recipe's encoder.
        out: the folder to write: crossval.json, index.html, predictions.csv, folds.csv and the scores of every fold.
        classes: label columns; by default all numeric columns of --records.

    Folds:
        folds: how many; each class needs as many positive and negative patients.
        repeats: how often the patients are divided anew; with one, the interval is wider than it need be.
        val_share: share of the records outside a fold that chooses its checkpoint.
        seed: of the folds and of the fine-tunings.

    What is trained:
        target: findings (multilabel), one of several classes (multiclass) or levels (ordinal).
        settings: a YAML file of fine-tuning settings that override the recipe.
        scratch: start from random weights, for comparison.
        max_steps: shorten each fine-tuning to this many steps.
        ensemble: keep the models of all folds, in OUT/runs, and write them as one model, OUT/ensemble.
        floors: fit logistic regressions on pixels and HOG beside, on the same records.
    """
    find(FINETUNE, recipe)  # refuses an unknown one at once
    from mrm import runs

    config = runs.CrossvalConfig(recipe, records, init, out, folds, repeats, val_share, classes, images, uncertain, target,
        settings, scratch, image_size, budget, max_steps, floors, ensemble, seed, workers, device)  # fmt: skip
    end(len(runs.crossval(config)["unreadable"]))


def benchmark(
    suite: str,
    /,
    out: Path,
    data: Path | None = None,
    images: Images = None,
    models: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    modern: bool = False,
    seeds: tuple[int, ...] = (0, 1, 2),
    max_steps: int | None = None,
    draws: Draws = 2000,
) -> None:
    """Fine-tune and test by the recipes of a suite, and compare with published numbers.

    SUITE is nih, chexpert, rsna, covid, siim or phantom, or one of later work: benchx, medical-mae, eva-x, mrm-peft.
    The ledger has the published number, ours with its 95 % interval over patients and seeds, the gap, the command of
    every run, fingerprints of the data, and what the model had seen of its test set. A number that was published for
    other test images than those tested is not shown, and the ledger says why. Run the same command again to resume;
    what failed is tried again. The exit status is 1 if something failed.

    Example:
        mrm benchmark nih --data data/nih --models runs/mimic scratch --out benchmark

    Data:
        suite: nih, chexpert, rsna, covid, siim, phantom, benchx, medical-mae, eva-x or mrm-peft.
        out: the folder to write: the runs, ledger.json, ledger.md and ledger.html.
        data: the corpus as `mrm prepare` writes it, or its published lists; for a suite of several corpora a folder
            with one for each; phantom draws its own.

    What is trained:
        models: what --init takes: runs, MRM.pth, encoders of other programs; `scratch` is the architecture of the first
            with random weights. The others are compared with the first.
        only: entries of the suite, such as nih-1; by default all.
        modern: use the recipes NAME-modern instead of the published ones.
        seeds: one fine-tuning for each.
        max_steps: shorten every run to this many steps; the ledger then says that it is a rehearsal.
    """
    suites.require_suite(suite)
    from mrm import runs

    config = runs.BenchmarkConfig(suite, out, data, models, images, seeds, only, modern, max_steps, draws)
    ledger = runs.benchmark(config)
    print(f"open {out / 'ledger.html'}")
    if any(cell["status"] != "done" for row in ledger["rows"] for cell in row["cells"]):
        sys.exit(1)


COMMANDS = commands(evaluate, calibrate, compare, probe, crossval, benchmark)
