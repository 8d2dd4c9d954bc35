"""Commands that measure a model: evaluate."""

from __future__ import annotations

from pathlib import Path

from mrm.cli.command import commands


def evaluate(
    model: Path,
    /,
    records: Path,
    out: Path,
    images: Path | None = None,
    draws: int = 2000,
    seed: int = 0,
    split: str = "test",
    slide: bool = False,
) -> None:
    """Test a classifier or a segmenter: every metric with its interval, and one page.

    Args:
        model: a model folder or a run.
        records: a label list or CSV with the model's classes; for a segmenter a segmentation folder.
        out: folder for results.json, a CSV with a line for each picture, and index.html.
        images: where relative picture paths are; else beside the records.
        draws: bootstrap resamples, by patient where patients are known.
        seed: of the bootstrap.
        split: of the segmentation folder: training, validation or test.
        slide: outline by sliding windows, finer and slower than the whole picture at once.
    """
    from mrm import runs

    runs.evaluate(model, records, out, images, draws, seed, split=split, slide=slide)
    print(f"open {out / 'index.html'}")


COMMANDS = commands(evaluate)
