"""Tuberculosis on the Shenzhen radiographs by five-fold cross-validation: `mrm crossval cpu`, the whole encoder trained.

    OMP_NUM_THREADS=1 python benchmarks/shenzhen_crossval.py --data DIR --work DIR --out shenzhen_crossval.json --init MODEL

DIR has `tuberculosis`, as tests use it. Three arms on the same folds: MODEL, its architecture with random weights in exactly as
many steps, and the encoder that the recipe `cpu` takes without a model in the same time. The paired difference of the first
two is what pre-training gains. Repeat the command to resume.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import mrm
from mrm import recipes, runs
from mrm.data.folds import folds_of
from mrm.data.records import Records
from mrm.recipes import FinetuneConfig
from mrm.runs.crossval_plan import CrossvalConfig, Fold
from mrm.runs.crossval_results import pooled
from mrm.runs.crossvalidating import PLANNED as PLANNED_SETTINGS
from mrm.runs.time_budget import PLANNED
from mrm.statistics.cross_validation import cross_validated_auroc
from mrm.system.files import write_json

FINDING = "tuberculosis"
PRETRAINED, RANDOM, RECIPE = "pre-trained", "the same encoder, random weights", "the recipe's encoder, random weights"


def main() -> None:
    """Cross-validate the arms, compare them, and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of the cross-validations")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True, help="a pre-trained model")
    parser.add_argument("--budget", default="2m", help="of each fine-tuning")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    arms = arms_of(options)
    report: dict[str, Any] = {"budget": options.budget, "repeats": options.repeats, "mrm": mrm.__version__, "arms": {}}
    for name, config in arms.items():
        if config.settings:
            same_steps(arms[PRETRAINED], config.settings)
        results = runs.crossval(config)
        report["arms"][name] = {
            "n": results["tested"],
            "fold_aurocs": results["fold_aurocs"],
            "image_size": results["fine_tuning"]["image_size"],
            "steps": results["fine_tuning"]["training"]["steps"],
            **results["classes"][FINDING],
        }
        write_json(options.out, report)
    scores = [scores_of(config) for config in (arms[PRETRAINED], arms[RANDOM])]
    report["pre-training gains"] = gain(arms[PRETRAINED], *scores)
    write_json(options.out, report)
    print(json.dumps(report, indent=1))


def arms_of(options: argparse.Namespace) -> dict[str, CrossvalConfig]:
    """The settings of every arm by its name."""
    base = CrossvalConfig(
        "cpu", options.data / FINDING / "records.csv", options.init, options.work / "pre-trained",
        repeats=options.repeats, classes=(FINDING,), budget=options.budget, workers=0,
    )  # fmt: skip
    return {
        PRETRAINED: base,
        RANDOM: replace(
            base,
            scratch=True,
            floors=False,
            out=options.work / "random",
            budget=None,
            settings=options.work / "random.yaml",
        ),
        RECIPE: replace(base, init=None, out=options.work / "recipe"),
    }


def same_steps(like: CrossvalConfig, file: Path) -> None:
    """Write the settings that train random weights as the plan of another arm says; no rate differs from layer to layer."""
    planned = recipes.read_yaml(FinetuneConfig, like.out / PLANNED_SETTINGS)
    training = {name: getattr(planned.training, name) for name in PLANNED} | {"layer_decay": None}
    file.write_text(yaml.safe_dump({"budget": None, "image_size": planned.image_size, "training": training}))


def scores_of(config: CrossvalConfig) -> np.ndarray:
    """The out-of-fold logits (R, N, 1) of an arm's network."""
    folds = [Fold(repeat, fold) for repeat in range(config.repeats) for fold in range(config.folds)]
    pool = pooled(config, folds, *divided(config))
    return next(iter(pool.scores.values()))


def divided(config: CrossvalConfig) -> tuple[Records, np.ndarray]:
    """The records and their folds (R, N), which are the same in every arm."""
    records = Records.load(config.records, config.classes)
    return records, folds_of(records, config.folds, config.repeats, config.seed)


def gain(config: CrossvalConfig, first_RNC: np.ndarray, second_RNC: np.ndarray) -> dict[str, Any]:
    """The paired difference of two arms."""
    records, folds_RN = divided(config)
    common = (records.labels_NC, first_RNC, folds_RN, records.classes, records.patients)
    return cross_validated_auroc(*common, against=second_RNC)[FINDING].to_dict()


if __name__ == "__main__":
    main()
