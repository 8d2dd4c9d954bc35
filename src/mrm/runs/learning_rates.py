"""A learning rate chosen by short runs: the story of `mrm finetune --lr auto`.

Five rates, from a tenth to ten times that of the recipe, each train a copy of the model for a tenth of the run's steps, along
a whole schedule of its own. The one with the highest AUROC on the validation records is the rate of the run. What was tried
is in `learning-rates.json`; each short run resumes where it was stopped, and is not repeated once its result is there.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mrm.data import sampling
from mrm.data.samples import Data
from mrm.system.errors import RunError, TrainingError, first_line
from mrm.system.files import read_json, write_json
from mrm.system.output_folder import make_folder
from mrm.system.text_table import text_table
from mrm.training.config import TrainConfig
from mrm.training.tasks import Task
from mrm.training.trainer import Trainer, Validate, processes

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the recipe's rate
SHARE, LEAST = 0.1, 20  # of the run's steps, for each rate; and the fewest
RESULTS = "learning-rates.json"


def with_best_rate(
    training: TrainConfig,
    task: Task,
    data: Data,
    out: Path,
    validate: Validate,
    order: sampling.Order,
    write_model: Callable[[Path, Any, int], None],
    seed: int,
) -> TrainConfig:
    """The training with the best of the rates that were tried; `task` is left as it is.

    Raises RunError where none of them gives an AUROC.
    """
    file = out / RESULTS
    tried: list[dict[str, Any]] = read_json(file)["tried"] if file.is_file() else []
    total = training.plan(sampling.epoch_length(order, data))[0]
    short = short_run(training, total)
    for factor in FACTORS[len(tried) :]:
        lr, folder = training.lr * factor, make_folder(out / "learning-rates" / f"{factor:g}")
        trial = Trainer(
            copy.deepcopy(task), data, replace(short, lr=lr), folder, write_model, seed, validate=validate, order=order
        )
        tried.append({"lr": trial.config.peak(), "steps": short.steps, **result_of(trial)})
        if processes().is_main_process:
            write_json(file, {"tried": tried, "chosen": None})
            remove_checkpoints(folder)
        processes().wait_for_everyone()
    best = best_of(tried, out)
    if processes().is_main_process:
        write_json(file, {"tried": tried, "chosen": tried[best]["lr"]})
        print(table(tried, best))
    return replace(training, lr=training.lr * FACTORS[best])


def short_run(training: TrainConfig, total: int) -> TrainConfig:
    """The training in a tenth of its steps, validated at the end, without what needs many steps or keeps records."""
    steps = min(total, max(LEAST, round(SHARE * total)))
    short = training.shortened(steps)
    return replace(short, ema=None, validate_every=steps, validate_epochs=None, trackers=())


def result_of(trial: Trainer) -> dict[str, Any]:
    """The validation AUROC at the end of a short run; None, with the reason, where there is none."""
    try:
        trial.fit()
    except TrainingError as error:
        return {"val_auroc": None, "why": first_line(error)}
    if not math.isfinite(trial.best):
        return {"val_auroc": None, "why": "the logits are not finite"}
    return {"val_auroc": trial.best}


def best_of(tried: list[dict[str, Any]], out: Path) -> int:
    """The number of the rate with the highest AUROC, of equal ones the lowest. Raises RunError if none has one."""
    numbers = [number for number, trial in enumerate(tried) if trial["val_auroc"] is not None]
    if not numbers:
        raise RunError(
            f"{out / RESULTS}: no learning rate gave an AUROC ({tried[0]['why']}); choose one with --training.lr and leave "
            "out --lr auto"
        )
    return max(numbers, key=lambda number: (tried[number]["val_auroc"], -number))


def table(tried: list[dict[str, Any]], best: int) -> str:
    """The rates as a table to print."""
    rows = [
        [
            f"{trial['lr']:.2e}",
            f"{trial['steps']:,}",
            "none" if trial["val_auroc"] is None else f"{trial['val_auroc']:.3f}",
            "chosen" if number == best else trial.get("why", ""),
        ]
        for number, trial in enumerate(tried)
    ]
    return text_table(("learning rate", "steps", "val_auroc", ""), rows)


def remove_checkpoints(run: Path) -> None:
    """Keep the log and the validation of a short run, and nothing else."""
    for name in ("last", "best"):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
