"""How well a recipe does on few labels: the story of `mrm crossval`.

The patients are divided into folds, anew for every repeat. For each fold a model is fine-tuned on the others, of which a
part is held out to choose its checkpoint, and tested on the fold. So every record is tested once in each repeat, by a model
that has not seen its patient. Logistic regressions on pixels and on oriented gradients are fitted beside, on the same
records. Each fold leaves its scores in a file of its own, so the same command resumes where it was stopped.
"""

# Shapes: N records, C classes, R repeats
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mrm import recipes
from mrm.audit.fingerprints import fingerprint
from mrm.audit.hash_keeping import HashKeeper
from mrm.data.folds import folds_of
from mrm.data.records import Records, resolve_uncertain
from mrm.data.sampling import epoch_length, order_of
from mrm.evaluation import floors
from mrm.evaluation.classifier_test import overlaps
from mrm.evaluation.repeats import repeats
from mrm.models import model_folder
from mrm.pages.crossval import write_crossval_page
from mrm.recipes import FinetuneConfig
from mrm.runs.crossval_folds import run_of, scores_of
from mrm.runs.crossval_plan import CrossvalConfig, Fold, Parts
from mrm.runs.crossval_results import pooled, summarise, table, write_tables
from mrm.runs.ensembling import ensemble
from mrm.runs.finetuning import start_of
from mrm.runs.kept_models import read_arrays, write_arrays
from mrm.runs.output_lock import alone_in
from mrm.runs.probe_plan import one_label_only
from mrm.runs.run_folder import warn_of
from mrm.runs.time_budget import keep_plan, within_budget
from mrm.system.errors import RecordError, RunError
from mrm.system.files import read_json, write_json, write_whole
from mrm.system.output_folder import json_settings, open_folder
from mrm.system.progress import Progress
from mrm.system.yaml_files import to_dict
from mrm.targets import TARGETS
from mrm.targets.target import Target

PLANNED = "fine-tuning.yaml"  # the settings of every fine-tuning, once a budget has been planned


@alone_in("config.out")
def crossval(config: CrossvalConfig) -> dict[str, Any]:
    """Cross-validate a fine-tuning recipe. Returns the results.

    Writes `crossval.json`, `index.html`, `predictions.csv` (probabilities averaged over repeats), `folds.csv` and `units/`.
    Raises RecordError for records that cannot be divided so, ConfigError for an unknown recipe or setting.
    """
    settings = fine_tuning(config)
    target, records = labelled_records(config, settings)
    folds_RN = folds_of(records, config.folds, config.repeats, config.seed)
    folds = [Fold(repeat, fold) for repeat in range(config.repeats) for fold in range(config.folds)]
    require_both_labels(config, folds, records, folds_RN)
    open_crossval(config, settings, records)
    settings = planned(config, settings, records, folds_RN)
    warnings = doubts(config, records)
    warn_of(warnings)
    floor_features = read_floors(config, records) if config.floors else {}
    for number, fold in enumerate(folds, 1):
        arrays = scores_of(config, settings, fold, target, records, folds_RN, floor_features)
        print(f"{number}/{len(folds)}: {fold.name}: AUROC {float(arrays['auroc']):.3f}", flush=True)
    if config.ensemble:
        keep_ensemble(config, [run_of(config, fold) for fold in folds])
    scores = pooled(config, folds, records, folds_RN)
    results = summarise(config, settings, target, records, folds_RN, scores, warnings)
    write_tables(config, target, records, folds_RN, scores)
    write_json(Path(config.out) / "crossval.json", results)
    write_crossval_page(config.out, results)
    print(f"{table(results)}\nopen {Path(config.out) / 'index.html'}")
    return results


def keep_ensemble(config: CrossvalConfig, members: Sequence[Path]) -> None:
    """Write the models of all folds as one, unless that is done."""
    folder = Path(config.out) / "ensemble"
    done = (folder / "config.json").is_file() and model_folder.read_card(folder).origin.get("members")
    if done != [str(member) for member in members]:
        ensemble(members, folder)


def fine_tuning(config: CrossvalConfig) -> FinetuneConfig:
    """The settings of every fine-tuning; lists and folders are set fold by fold. Raises ConfigError, RunError."""
    if not 0 < config.val_share < 1:
        raise RunError(f"--val-share is a share of the records, above 0 and below 1, not {config.val_share:g}")
    made = recipes.find(recipes.FINETUNE, config.recipe).make(config.records, config.records, config.init, config.out)
    if config.settings is not None:
        made = recipes.read_yaml(FinetuneConfig, config.settings, f"--settings {config.settings}", made)
    stated = {"budget": config.budget, "image_size": config.image_size, "target": config.target}
    made = replace(made, **{name: value for name, value in stated.items() if value is not None})
    if made.target == "regression":
        raise RunError(
            "mrm crossval measures AUROC, which numbers do not have; hold out a test set, and use mrm evaluate"
        )
    if made.teacher or made.soft_labels:
        raise RunError(
            "mrm crossval tests on the labels that it trains on, which must be those of the table: leave out teacher and "
            "soft_labels"
        )
    return made


def planned(config: CrossvalConfig, settings: FinetuneConfig, records: Records, folds_RN: np.ndarray) -> FinetuneConfig:
    """The settings that fill the budget of each fine-tuning: planned once, on the first fold, and kept in PLANNED."""
    if settings.budget is None:
        return settings
    parts, file = Parts.of(config, Fold(0, 0), records, folds_RN).records(records), Path(config.out) / PLANNED
    training = replace(settings.training, workers=config.workers) if config.workers is not None else settings.training
    settings = replace(settings, init=config.init, training=training)
    epoch = epoch_length(order_of(parts["train"], settings.site_weights), parts["train"])
    filled, plan = within_budget(settings, start_of(settings), parts["train"], epoch, len(parts["val"]), file)
    if plan:
        keep_plan(plan, config.out)
        write_whole(file, recipes.to_yaml(filled).encode())
    return replace(filled, budget=None)


def labelled_records(config: CrossvalConfig, made: FinetuneConfig) -> tuple[Target, Records]:
    """The target, and the records with its labels; those without any stated label are left out, with a warning."""
    kind = TARGETS[made.target]
    loaded = Records.load(
        config.records,
        config.classes or made.classes or None,
        config.images,
        list_classes=made.list_classes,
        kind=kind.kind,
    )
    resolved = resolve_uncertain(loaded, config.uncertain)
    target = kind.of_training(resolved)
    records = target.labels(resolved)
    stated = records.select(np.flatnonzero(~np.isnan(records.labels_NC).all(axis=1)))
    if len(stated) < len(records):
        warn_of([f"{config.records}: left out {len(records) - len(stated):,} records without a stated label"])
    if not len(stated):
        raise RunError(f"{config.records}: no record has a stated label of {', '.join(records.classes)}")
    return target, stated


def require_both_labels(config: CrossvalConfig, folds: Sequence[Fold], records: Records, folds_RN: np.ndarray) -> None:
    """Raises RecordError for a fold in which no class can be learned and validated; warns of classes absent in a fold."""
    absent = []
    for fold in folds:
        parts = Parts.of(config, fold, records, folds_RN).records(records)
        lacking = {part: {records.classes[c] for c in one_label_only(rows.labels_NC)} for part, rows in parts.items()}
        if not set(records.classes) - lacking["train"] - lacking["val"]:
            raise RecordError(
                f"{config.records}: {fold.name}: no class has positives and negatives both among the "
                f"{len(parts['train']):,} training and the {len(parts['val']):,} validation records; take fewer --folds, "
                "another --val-share, or add labels"
            )
        absent += [f"{name} in {fold.name}" for name in records.classes if name in lacking["test"]]
    if absent:
        some = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        warn_of([f"{config.records}: only one label value of {some}; these folds do not count for it"])


def open_crossval(config: CrossvalConfig, settings: FinetuneConfig, records: Records) -> None:
    """Make the folder, or resume what it holds. Raises OutputError if it holds something else."""
    facts: Mapping[str, Any] = {
        "model": model_folder.weights_digest(config.init) if config.init else None,
        "records": records.fingerprint(),
        "recipe": to_dict(replace(settings, images=None)) | dict.fromkeys(("out", "init", "train", "val")),
        "folds": config.folds,
        "val_share": config.val_share,
        "scratch": config.scratch,
        "max_steps": config.max_steps,
        "seed": config.seed,
    }
    open_folder(Path(config.out), json_settings("cross-validation", "crossvalidating.json", dict(facts)))


def doubts(config: CrossvalConfig, records: Records) -> list[str]:
    """Images that are there more than once, and records that the initial model was trained on; found out once, and kept."""
    file = Path(config.out) / "doubts.json"
    if file.is_file():
        return [str(line) for line in read_json(file)]
    with Progress("fingerprinting the records") as progress:
        prints = fingerprint(records, progress=progress, hashes=HashKeeper(), kept=True)
    lines = repeats(records, prints, "the records")
    if config.init and not config.scratch and (seen := model_folder.seen_at(config.init)):
        lines += [f"{Path(config.init).name}: {line}" for line in overlaps(seen, records, "records", prints=prints)]
    write_json(file, lines)
    return lines


def read_floors(config: CrossvalConfig, records: Records) -> dict[str, np.ndarray]:
    """The features of the floors, NaN where an image cannot be read; computed once and kept in a file."""
    file = Path(config.out) / "features" / "floors.npz"
    if not file.is_file():
        features, unreadable = floors.features(records, config.workers)
        if len(unreadable) == len(records):
            first, reason = next(iter(unreadable.items()))
            raise RunError(f"{config.records}: none of the {len(records)} images could be read; first error: {first}: {reason}")  # fmt: skip
        write_arrays(file, features)
    return read_arrays(file)
