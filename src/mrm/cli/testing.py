"""Commands that measure a model: evaluate, calibrate, compare, probe, benchmark."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mrm.cli.command import commands


def evaluate(
    model: Path,
    /,
    records: Path,
    out: Path,
    images: Path | None = None,
    draws: int = 2000,
    seed: int = 0,
    by: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    split: str = "test",
    slide: bool = False,
) -> None:
    """Test a classifier or a segmenter: every metric with its interval, and one page.

    Args:
        model: a model folder or a run.
        records: a label list or CSV with the model's classes; for a segmenter a segmentation folder.
        out: folder for results.json, a CSV with a line for each image, and index.html.
        images: where relative image paths are; else beside the records.
        draws: bootstrap resamples, by patient where patients are known.
        seed: of the bootstrap.
        by: a column of the records to group by: view, sex, age (in bands), site, or any other; --by sex --by age for two.
        split: of the segmentation folder: training, validation or test.
        slide: outline by sliding windows, finer and slower than the whole image at once.
    """
    from mrm import runs

    runs.evaluate(model, records, out, runs.Reading(images), draws, seed, split=split, slide=slide, by=by)
    print(f"open {out / 'index.html'}")


def calibrate(
    model: Path,
    /,
    val: Path,
    sensitivity: float | None = None,
    specificity: float | None = None,
    youden: bool = False,
    images: Path | None = None,
    train: Path | None = None,
    known: float = 0.99,
    outliers: bool = True,
    seed: int = 0,
) -> None:
    """Fit temperatures, thresholds and a reference for outliers on validation records; keep them in the model.

    `mrm evaluate` then reports what they do on a test set, and `mrm predict` uses them. The threshold of each finding is
    the one that reaches the sensitivity or the specificity asked for, or else has the largest sum of both (Youden).

    Args:
        model: a classifier's model folder or run.
        val: records with the model's classes that it was not trained on, and that no test will use.
        sensitivity: to reach, on these records.
        specificity: to reach, on these records.
        youden: the largest sum of both; also what is done if nothing is said.
        images: where relative image paths are; else beside the records.
        train: records that show what known images look like; else those of --val, in five folds.
        known: share of known images that get a decision; the rest are abstained on.
        outliers: no outlier reference with --no-outliers.
        seed: of the folds and the intervals.
    """
    from mrm import runs
    from mrm.system.errors import RunError

    if youden and (sensitivity is not None or specificity is not None):
        raise RunError("give one of --sensitivity, --specificity and --youden")
    goal = runs.Goal(sensitivity, specificity)
    runs.calibrate(model, val, goal, runs.Reading(images), train, known, outliers, seed)


def compare(first: Path, second: Path, /, out: Path, draws: int = 2000, seed: int = 0) -> None:
    """Compare two models on the same records: differences, intervals, p values, minimum detectable differences.

    Classifiers: AUROC by DeLong and by a bootstrap over patients, average precision by bootstrap. Segmenters: Dice by
    permutation of signs. P values are corrected over classes (Holm).

    Args:
        first: a predictions.csv (classifier) or images.csv (segmenter) of `mrm evaluate`, or the folder it is in.
        second: the same of another model, for the same records.
        out: folder for comparison.json and index.html.
        draws: bootstrap resamples.
        seed: of the resamples.
    """
    from mrm import runs

    runs.compare(first, second, out, draws, seed)
    print(f"open {out / 'index.html'}")


def probe(
    model: Path,
    /,
    train: Path,
    val: Path,
    test: Path,
    out: Path,
    against: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
    images: Path | None = None,
    uncertain: Literal["ones", "zeros", "ignore"] = "ignore",
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0),
    seeds: int = 3,
    finetune: str = "",
    max_steps: int | None = None,
    draws: int = 2000,
) -> None:
    """How much an encoder knows of findings with 1, 10 and 100 % of the labels: a table and a plot, with intervals.

    A linear probe and nearest neighbours on frozen features, and fine-tuning if a recipe is named. Settings are chosen
    on validation records. The same command goes on where it was stopped, also with more seeds or shares.

    Args:
        model: a pre-trained model or a classifier.
        train: records with labels, of which shares are cut by patient.
        val: records that choose regularisation, neighbours and checkpoints.
        test: records to test on.
        out: folder for probe.json, index.html, label_efficiency.png and the scores of every unit.
        against: up to three further models, or `random`: the same architecture with random weights.
        classes: label columns; else all numeric ones of --train.
        images: where relative image paths are; else beside the records.
        uncertain: what labels of -1 become.
        fractions: shares of the labels.
        seeds: how often each share below 1 is cut anew.
        finetune: a recipe of `mrm finetune`, to fine-tune each unit too; its runs are kept under OUT/runs.
        max_steps: squeeze each fine-tuning into so many steps.
        draws: bootstrap resamples, by patient where patients are known.
    """
    from mrm import runs

    runs.probe(
        runs.ProbeConfig(
            model,
            train,
            val,
            test,
            out,
            against,
            classes,
            images,
            uncertain,
            fractions,
            seeds,
            finetune,
            max_steps,
            draws,
        )
    )
    print(f"open {out / 'index.html'}")


def benchmark(
    suite: str,
    /,
    out: Path,
    data: Path | None = None,
    models: tuple[str, ...] = (),
    images: Path | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    only: tuple[str, ...] = (),
    modern: bool = False,
    max_steps: int | None = None,
    draws: int = 2000,
) -> None:
    """Fine-tune and test by a suite's published recipes, and write the reproduction ledger.

    SUITE is nih, chexpert, rsna, covid, siim or phantom. The ledger has the published number, ours with its 95 %
    interval over patients and seeds, the gap, the command of every run, fingerprints of the data, and what the model had
    seen of its test set. The same command goes on where it was stopped and tries again what failed; exit status 1 if
    something did.

    Args:
        suite: which one.
        out: folder for the runs, ledger.json, ledger.md and ledger.html.
        data: the corpus as `mrm prepare` writes it, or its published lists; phantom draws its own.
        models: what to fine-tune: runs, model folders, MRM.pth; `scratch` is the first one's shape with random weights.
        images: where relative image paths are; else beside the lists.
        seeds: one fine-tuning each.
        only: entries of the suite, nih-1 say; else all.
        modern: by the recipes NAME-modern instead of the published ones.
        max_steps: squeeze every run into so many steps: a rehearsal, which the ledger then says it is.
        draws: bootstrap resamples.
    """
    from mrm import runs

    made = runs.benchmark(runs.BenchmarkConfig(suite, out, data, models, images, seeds, only, modern, max_steps, draws))
    print((out / "ledger.md").read_text())
    if any(cell["status"] != "done" for row in made["rows"] for cell in row["cells"]):
        sys.exit(1)


COMMANDS = commands(evaluate, calibrate, compare, probe, benchmark)
