"""The command that measures this machine: doctor."""

from __future__ import annotations

from pathlib import Path

from mrm.cli.command import commands
from mrm.cli.shared_options import Images
from mrm.recipes import FINETUNE, PRETRAIN, find


def doctor(
    records: Path,
    recipe: str = "mimic",
    /,
    images: Images = None,
    init: Path | None = None,
    finetune: str = "",
    image_size: int | None = None,
    batch: int | None = None,
    sample: int = 32,
    steps: int = 3,
    price_per_hour: float | None = None,
    json: Path | None = None,
) -> None:
    """Measure what limits a training run on this machine, and how long it would take.

    The output also says what to change, and how many images fit into memory. Some of the images are read, decoded and augmented, and a few steps are
    trained. Nothing is written but --json.

    Example:
        mrm doctor training.csv mimic --price-per-hour 2.5
        mrm doctor train.csv --finetune nih-1 --init MRM.pth --image-size 512

    Data:
        records: what `mrm pretrain --records` takes, including a packed folder.

    What is trained:
        recipe: a pre-training recipe (see `mrm recipes`), or the config.yaml of a run.
        init: weights to start from, as in `mrm pretrain` and `mrm finetune`.
        finetune: a recipe of `mrm finetune` to measure in place of a pre-training; the records then have labels.
        image_size: side of its images in pixels, such as 384; by default that of --init.

    Measurement:
        batch: images of a micro-batch; by default the recipe's, on a CPU at most 8.
        sample: how many images are read, evenly spaced from first to last.
        steps: steps measured, after one to warm up.
        price_per_hour: of this machine, in any currency; adds the cost of the recipe.
        json: also write the measurements to this file.
    """
    if not Path(recipe).is_file():
        find(PRETRAIN, recipe)  # refuses an unknown one at once
    if finetune:
        find(FINETUNE, finetune)
    from mrm import runs
    from mrm.system.files import write_json

    diagnosis = runs.examine(records, recipe, init, images, batch, sample, steps, price_per_hour, finetune, image_size)
    print(diagnosis.table())
    if json:
        write_json(json, diagnosis.to_dict())


COMMANDS = commands(doctor)
