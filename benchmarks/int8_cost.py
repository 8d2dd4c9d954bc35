"""What `--precision int8` changes on real radiographs: AUROC, probabilities and decisions of the same classifiers; and its time.

    OMP_NUM_THREADS=1 python benchmarks/int8_cost.py --data DIR --out int8_cost.json --init MODEL

DIR has `pneumonia-cxr` and `tuberculosis`, as tests use them. The recipe `cpu` fine-tunes MODEL on each for `--budget`, and both classifiers
are tested in fp32 and in int8 on held-out patients: pneumonia on the patients of another time (see `time_budget.py`), tuberculosis
on three tenths drawn at random. A MODEL whose layers are so small that `mrm predict` refuses int8, since it would not be faster, is
computed in 8 bits here all the same.

Times are those of the processor, in turns, for a forward pass of ViT-S and ViT-B with random weights by one thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import time_budget
import torch

import mrm
from mrm import recipes, runs
from mrm.data.records import Records
from mrm.evaluation.predictions import read_predictions
from mrm.inference.predict import require_precision, values_of
from mrm.models import model_folder
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.system import int8_products
from mrm.system.errors import ConfigError
from mrm.system.files import write_json
from mrm.system.hardware import Precision, keep_freed_memory

FINDINGS = ("pneumonia", "tuberculosis")
TIMED = ("vit_small_patch16_224", "vit_base_patch16_224")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
BATCH, TURNS = 8, 7


def main() -> None:
    """Train each model, test it twice, and write the numbers as JSON after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True, help="a pre-trained model")
    parser.add_argument("--budget", default="4m", help="of each training")
    options = parser.parse_args()
    keep_freed_memory(torch.device("cpu"))
    report: dict[str, Any] = {"mrm": mrm.__version__, "torch": torch.__version__, "budget": options.budget}
    report["time of int8 over fp32"] = {encoder: turns(encoder) for encoder in TIMED}
    with tempfile.TemporaryDirectory() as folder:
        for finding in FINDINGS:
            place = Path(folder) / finding
            place.mkdir()
            parts = divided(options.data, finding, place)
            config = recipes.FINETUNE["cpu"].make(
                *parts[:2], options.init, place / "run", budget=options.budget, floors=False, audit="names"
            )
            config = replace(config, training=replace(config.training, workers=0, threads=1))
            report[f"{finding}, pre-trained"] = measured(runs.finetune(config), parts[-1], finding, place)
            write_json(options.out, report)
    print(json.dumps(report, indent=1))


def divided(data: Path, finding: str, folder: Path) -> list[Path]:
    """Training, validation and test records in files, no patient in two of them."""
    if finding == "pneumonia":
        return time_budget.split(Records.load(data / "pneumonia-cxr" / "labels.csv", (finding,)), folder)
    parts = Records.load(data / finding / "records.csv", (finding,)).split({"train": 0.6, "val": 0.1, "test": 0.3}, 0)
    return [records.to_csv(folder / f"{name}.csv") for name, records in parts.items()]


def measured(run: Path, test: Path, finding: str, folder: Path) -> dict[str, Any]:
    """The same model in both precisions on the same records."""
    config = model_folder.read_card(model_folder.find_model(run)).architecture
    refused = refusal(run)
    results = {}
    for precision in PRECISIONS:
        with mock.patch.object(int8_products, "LEAST_WEIGHTS", 1 if refused else int8_products.LEAST_WEIGHTS):
            reading = runs.Reading(workers=0, precision=precision)
            results[precision] = runs.evaluate(run, test, folder / precision, reading)["classes"][finding]
    compared = runs.compare(folder / "int8", folder / "fp32", folder / "compared")[finding]["auroc"].to_dict()
    fp32_N, int8_N = (read_predictions(folder / name / "predictions.csv").probabilities_NC[:, 0] for name in PRECISIONS)
    changes_N = np.abs(int8_N - fp32_N)
    return {
        "encoder": config["encoder"],
        "encoder options": config["encoder_options"],
        "image size": config["image_size"],
        "refused by mrm predict": refused,
        "auroc": {name: result["auroc"] for name, result in results.items()},
        "int8 less fp32": compared["difference"],
        "change of a probability": {"mean": float(changes_N.mean()), "largest": float(changes_N.max())},
        "spread of the probabilities": float(fp32_N.std()),
        "decisions at 0.5 that change": [int(((int8_N >= 0.5) != (fp32_N >= 0.5)).sum()), len(int8_N)],
    }


def refusal(run: Path) -> str:
    """Why the product refuses int8 for this model; empty if it does not."""
    try:
        require_precision(mrm.load(run), "int8")
    except ConfigError as error:
        return str(error)
    return ""


def turns(encoder: str) -> dict[str, Any]:
    """A forward pass of images of noise in both precisions, in turns: the median ratio, the least and the greatest."""
    torch.set_num_threads(1)
    model = Classifier(ClassifierConfig(("finding",), encoder)).eval()
    side = model.config.image_size
    image_BHW = torch.randint(0, 256, (BATCH, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    ratios = []
    for number in range(TURNS + 1):
        fp32, int8 = (seconds(lambda p=p: values_of(model, image_BHW, model, p)) for p in PRECISIONS)  # type: ignore[misc]
        ratios += [int8 / fp32] if number else []  # the first turn warms up
    return {"median": float(np.median(ratios)), "least": min(ratios), "greatest": max(ratios), "turns": len(ratios)}


def seconds(work: Callable[[], Any]) -> float:
    """Seconds of the processor."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
