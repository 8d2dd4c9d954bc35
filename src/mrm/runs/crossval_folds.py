"""One fold of a cross-validation: a model fine-tuned on the others and tested on it, and the floors on the same records."""

# Shapes: N records, C classes, F features
from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mrm.data.records import Records
from mrm.evaluation import floors
from mrm.inference import predict
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.recipes import FinetuneConfig
from mrm.runs.crossval_plan import CrossvalConfig, Fold, Parts
from mrm.runs.finetuning import finetune
from mrm.runs.kept_models import (
    is_only_model,
    read_arrays,
    remove_checkpoints,
    with_small_batch,
    write_arrays,
    write_list,
)
from mrm.runs.reading_options import device_named
from mrm.runs.run_folder import warn_of
from mrm.statistics import ranking
from mrm.system.errors import ProbeError, RunError
from mrm.targets.target import Target

NETWORK = "network"  # the name of the fine-tuned model's scores


def unit_file(config: CrossvalConfig, fold: Fold) -> Path:
    """The file with the scores of a fold."""
    return Path(config.out) / "units" / f"{fold.name}.npz"


def run_of(config: CrossvalConfig, fold: Fold) -> Path:
    """The run folder of a fold's fine-tuning."""
    return Path(config.out) / "runs" / fold.name


def scores_of(
    config: CrossvalConfig,
    settings: FinetuneConfig,
    fold: Fold,
    target: Target,
    records: Records,
    folds_RN: np.ndarray,
    features: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The scores of a fold's test records by the network and by each floor, and the AUROC in the fold; kept in a file."""
    file = unit_file(config, fold)
    arrays = read_arrays(file) if file.is_file() else {}
    parts = Parts.of(config, fold, records, folds_RN)
    if NETWORK not in arrays or (config.ensemble and not is_only_model(run_of(config, fold))):
        arrays |= tested(config, settings, fold, target, parts.records(records))
        write_arrays(file, arrays)
    if missing := [name for name in features if name not in arrays]:
        arrays |= {name: of_floor(features[name], parts, records) for name in missing}
        write_arrays(file, arrays)
    if config.ensemble:
        remove_checkpoints(run_of(config, fold))
    else:
        shutil.rmtree(run_of(config, fold), ignore_errors=True)
    return arrays


def tested(
    config: CrossvalConfig, settings: FinetuneConfig, fold: Fold, target: Target, sets: Mapping[str, Records]
) -> dict[str, np.ndarray]:
    """Fine-tune on a fold's training records and test on the fold: logits (N, C), NaN for images that cannot be read."""
    run = run_of(config, fold)
    made, note = with_small_batch(settings, len(sets["train"]), config.workers)
    made = replace(
        made,
        train=write_list(config.out, f"{fold.name}-train", target.as_stated(sets["train"])),
        val=write_list(config.out, f"{fold.name}-val", target.as_stated(sets["val"])),
        init=config.init,
        out=run,
        classes=target.columns,
        images=None,
        scratch=config.scratch or settings.scratch,
        max_steps=config.max_steps,
        seed=config.seed + 1_000 * fold.repeat + fold.fold,
        on_error="skip",
        floors=False,  # they are fitted beside, on the records of the fold
        audit="images" if config.ensemble else "names",  # members are tested on other records later
    )
    if not is_only_model(run):
        finetune(made)
    network = model_folder.load_as(run, Classifier).to(device_named(config.device))
    scores = predict.classify(network, sets["test"], workers=config.workers, complete=True)
    warn_of([f"{fold.name}: left out {reason}" for reason in scores.unreadable.values()])
    logits_NC = scores.logits_NC
    readable_N = ~np.isnan(logits_NC).any(axis=1)
    if not readable_N.any():
        raise RunError(f"{config.records}: none of the {len(logits_NC)} images of {fold.name} could be read")
    pairs = zip(sets["test"].labels_NC[readable_N].T, target.scores(logits_NC[readable_N]).T, strict=True)
    per_class = np.array([ranking.auroc(*pair) for pair in pairs])
    defined = per_class[~np.isnan(per_class)]
    step = model_folder.read_card(model_folder.find_model(run)).origin.get("step", math.nan)
    return {
        NETWORK: logits_NC,
        "auroc": np.array(defined.mean() if len(defined) else math.nan),
        "step": np.array(step),
        "note": np.array(note),
        "sizes": np.array([len(sets[name]) for name in ("train", "val", "test")]),
    }


def of_floor(features_NF: np.ndarray, parts: Parts, records: Records) -> np.ndarray:
    """A floor's scores (N, C) of a fold's test records; 0 for a class that it could not learn."""
    readable_N = ~np.isnan(features_NF).any(axis=1)
    indices = {name: part[readable_N[part]] for name, part in vars(parts).items()}
    scores_NC = np.full((len(parts.test), len(records.classes)), np.nan)
    sets = {name: records.select(part) for name, part in indices.items()}
    try:
        fitted = floors.fitted({name: features_NF[part] for name, part in indices.items()}, sets).scores_NC
    except ProbeError:  # the labels of these records teach nothing: every record gets the same score
        fitted = np.zeros((len(indices["test"]), len(records.classes)))
    scores_NC[readable_N[parts.test]] = fitted
    return scores_NC
