"""Commands about the machine: doctor."""

from __future__ import annotations

from pathlib import Path

from mrm.cli.command import commands


def doctor(
    records: Path,
    recipe: str = "mimic",
    /,
    init: Path | None = None,
    images: Path | None = None,
    batch: int | None = None,
    sample: int = 32,
    steps: int = 3,
    price_per_hour: float | None = None,
    json: Path | None = None,
) -> None:
    """Measure reading and training on this machine: what bounds a run, what to change, how long it would take.

    Reads, decodes and augments some of the images and trains for a few steps; nothing is written but --json.

    Args:
        records: what `mrm pretrain --records` takes, a folder of shards too.
        recipe: a pre-training recipe (`mrm recipes`), or the config.yaml of a run.
        init: weights to start from, as in `mrm pretrain`.
        images: where relative image paths are; else beside the records.
        batch: images of a micro-batch; else the recipe's, on a CPU 8 at the most.
        sample: how many of the images are read, evenly from first to last.
        steps: measured, after one to warm up.
        price_per_hour: of this machine, in any currency; adds the cost of the recipe.
        json: also write the measurements to this file.
    """
    from mrm import runs
    from mrm.system.files import write_json

    found = runs.examine(records, recipe, init, images, batch, sample, steps, price_per_hour)
    print(found.table())
    if json:
        write_json(json, found.to_dict())


COMMANDS = commands(doctor)
