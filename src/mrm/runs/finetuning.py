"""Learning findings from labels, from a pre-trained encoder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from mrm.audit.hash_keeping import HashKeeper
from mrm.audit.kept_hashes import KeptHashes
from mrm.data.eval_view import EvalView
from mrm.data.label_values import UNCERTAIN, LabelKind
from mrm.data.record_sources import Labels
from mrm.data.records import Records, resolve_uncertain
from mrm.data.samples import LabelData
from mrm.data.sampling import epoch_length, order_of
from mrm.evaluation import floors
from mrm.evaluation.classifier_test import overlaps
from mrm.evaluation.repeats import repeats
from mrm.inference import linear_head, predict
from mrm.models import model_folder
from mrm.models.bare_encoder import BareEncoderConfig
from mrm.models.card import Card
from mrm.models.classifier import Classifier, ClassifierConfig
from mrm.models.limits import as_levels
from mrm.recipes import FinetuneConfig
from mrm.runs.first_rank import first_rank_first
from mrm.runs.learning_rates import with_best_rate
from mrm.runs.output_lock import alone_in
from mrm.runs.run_folder import (
    CONFIG,
    learning_alike,
    model_writer,
    note_seen,
    on_encoder,
    open_run,
    origin,
    print_best,
    prints_of,
    require_same_data,
    run_hashes,
    warn_of,
)
from mrm.runs.run_records import fingerprinted, mapped_set, removed_if_refused
from mrm.runs.same_records import require_same_records
from mrm.runs.teaching import taught, teachers_of
from mrm.runs.time_budget import keep_plan, within_budget
from mrm.statistics.few_labels import few_labels
from mrm.system import hardware
from mrm.system.errors import ConfigError, ImageError, ProbeError, RunError
from mrm.system.files import read_json, write_json
from mrm.targets import TARGETS
from mrm.targets.target import Target
from mrm.training.losses import LabelLoss
from mrm.training.patience import Patience
from mrm.training.tasks import ClassifyTask
from mrm.training.trainer import Trainer, processes
from mrm.training.tuning import choose_trained

DATA = (
    "train",
    "val",
    "classes",
    "list_classes",
    "soft_labels",
    "target",
    "on_error",
)  # which records a run reads, and how
FLOOR_RECORDS = 5_000  # of a training set are enough to compare with logistic regressions, and read in a minute


@alone_in("config.out")
def finetune(config: FinetuneConfig) -> Path:
    """Learn findings from labels, from a pre-trained encoder. Returns the run's folder; `best` is in it."""
    require_same_data(config, DATA)
    with removed_if_refused(Path(config.out), CONFIG):
        return _finetune(config)


def _finetune(config: FinetuneConfig) -> Path:
    stated = train, val = label_records(config)
    policy = uncertain_policy(config, train)
    target = TARGETS[config.target].of_training(resolve_uncertain(train, policy))
    train, val = (target.labels(resolve_uncertain(records, policy)) for records in stated)
    require_variety(target, val, config.val)
    order = order_of(train, config.site_weights)
    teachers = teachers_of(config, target)
    sets = train, epoch_length(order, train), len(val)
    config, plan = within_budget(learning_alike(config), start_of(config), *sets, Path(config.out) / CONFIG)
    model = classifier(config, target, policy)
    print(choose_trained(model, config.tune, config.lora, config.seed))
    config = open_run(config)  # from here on it writes
    if plan:
        keep_plan(plan, config.out)
    require_same_records(config.out, {"training": (config.train, stated[0]), "validation": (config.val, stated[1])})
    train = fingerprinted(config, train, "training", f"{stated[0].fingerprint()} {policy} {target}")
    taught_train = taught(config, target, train, teachers)
    del teachers  # their memory is for the training
    data = LabelData(
        taught_train, EvalView.of(model.config), config.crop, seed=config.seed, on_error=config.on_error, augment=config.augment
    )  # fmt: skip
    facts = origin(config, train, config.train) | {"tune": config.tune, "loss": config.loss, "target": config.target}
    card = Card("classifier", asdict(model.config), facts)
    hashes = run_hashes(config)
    seen = note_seen(config, "fine-tuning", train, hashes)
    warn_of_shared(config, seen, val, hashes)
    del hashes  # which the training does not need
    if config.probe_first and not (Path(config.out) / "last").exists():
        linear_head.fit_head(model.eval(), train, workers=config.training.workers)
    loss = LabelLoss(config.loss, taught_train.labels_NC, target.error)
    task, training = ClassifyTask(model, loss), config.training
    training, validate = training.shortened(config.max_steps), validation(config, target, val)
    if config.lr == "auto":
        writer = model_writer(card, seen)
        training = with_best_rate(training, task, data, Path(config.out), validate, order, writer, config.seed)
    card = replace(card, origin=facts | {"lr": training.peak()})
    trainer = Trainer(
        task,
        data,
        training,
        config.out,
        write_model=model_writer(card, seen),
        seed=config.seed,
        validate=validate,
        order=order,
        patience=Patience(config.patience, config.patience_gain),
    )
    run = trainer.fit()
    print_best(run, len(val), int((val.labels_NC == 1).sum()) if target.probabilistic else None)
    if config.floors and target.probabilistic and processes().is_main_process:
        print(floors_beside(train, val, config.seed, config.training.workers, trainer.best))
    return run


def floors_beside(train: Records, val: Records, seed: int, workers: int | None, network: float) -> str:
    """What logistic regressions without a network reach on the same validation records, and whether the network beats them.

    `network` is the best validation AUROC of the run. Of a large training set `FLOOR_RECORDS` records are used. What goes wrong here costs the run nothing: the line says it.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(train))[:FLOOR_RECORDS])
    used = {"train": train.select(chosen), "val": val}
    fitted_on = (
        f"{len(chosen):,} of {len(train):,} training records" if len(chosen) < len(train) else "the same records"
    )
    try:
        features = {name: floors.features(part, workers)[0] for name, part in used.items()}
        reached = {}
        for floor in floors.FLOORS:
            readable = {name: ~np.isnan(values[floor]).any(axis=1) for name, values in features.items()}
            rows = {name: features[name][floor][readable[name]] for name in used}
            parts = {name: part.select(np.flatnonzero(readable[name])) for name, part in used.items()}
            fitted = floors.fitted(rows | {"test": rows["val"]}, parts | {"test": parts["val"]})
            reached[floor] = fitted.val_auroc
    except (ImageError, ProbeError) as error:
        return f"Logistic regressions without a network could not be fitted to compare with: {error}"
    texts = [f"{floor} {auroc:.3f}" for floor, auroc in reached.items()]
    better = [floor for floor, auroc in reached.items() if auroc >= network]
    verdict = (
        f"it does not beat {' and '.join(better)}: give it more time, more labels or a pre-trained start, or use no network"
        if better
        else "it beats them"
    )
    return (
        f"Logistic regressions without a network, fitted on {fitted_on}, reach a validation AUROC of {', '.join(texts)} "
        f"there. The network reaches {network:.3f}: {verdict}. Leave this out with --no-floors."
    )


def label_records(config: FinetuneConfig) -> tuple[Records, Records]:
    """Training and validation records with the same classes."""
    kind = TARGETS[config.target].kind
    soft: LabelKind = "shares" if config.soft_labels else kind
    stated = Labels(tuple(config.classes) or None, soft, tuple(config.list_classes))
    train = mapped_set(config, config.train, "training", stated)
    return train, mapped_set(config, config.val, "validation", Labels(train.classes, kind))


def warn_of_shared(config: FinetuneConfig, seen: Path, val: Records, hashes: HashKeeper) -> None:
    """Let the first rank say what validation shares with the records that the model sees, and what it has twice.

    It finds that out at the first start, and keeps it for others; `hashes` keeps those of the images.
    """
    file = Path(config.out) / "doubts.json"
    with first_rank_first(config.out):
        if processes().is_main_process:
            if not file.is_file():
                prints = prints_of(config, val, "the validation records", hashes)
                shared = overlaps(seen, val, "validation", prints=prints)
                write_json(file, [*shared, *repeats(val, prints, "the validation set")])
                KeptHashes(config.out).forget()
            warn_of([str(line) for line in read_json(file)])


def uncertain_policy(config: FinetuneConfig, records: Records) -> dict[str, str]:
    """What uncertain labels of each class become. Raises RunError for a policy of an unknown class, if it could matter."""
    unknown = set(config.uncertain_by_class) - set(records.classes)
    if unknown and (records.labels_NC == UNCERTAIN).any():
        raise RunError(
            f"{config.train}: --uncertain-by-class names {', '.join(sorted(unknown))}; "
            f"the classes are {', '.join(records.classes)}"
        )
    return {c: config.uncertain_by_class.get(c, config.uncertain) for c in records.classes}


def require_variety(target: Target, val: Records, path: Path) -> None:
    """Raises RunError where validation cannot choose a checkpoint; warns where it can do so with little certainty only."""
    target.require_variety(val)
    if target.probabilistic:
        require_both_values(val, path)
        warn_of(few_labels(val.labels_NC, val.classes, str(path)))


def require_both_values(val: Records, path: Path) -> None:
    """Raises RunError if no class of the validation set has both label values: AUROC chooses the best checkpoint."""
    labels_NC = val.labels_NC
    both = [(labels_NC[:, c] == 0).any() and (labels_NC[:, c] == 1).any() for c in range(len(val.classes))]
    if not any(both):
        counts = ", ".join(
            f"{c}: {int((labels_NC[:, i] == 1).sum())} positive and {int((labels_NC[:, i] == 0).sum())} negative"
            for i, c in enumerate(val.classes)
        )
        raise RunError(
            f"{path}: AUROC is undefined for every class ({counts}); validate on records with positives and negatives"
        )
    undefined = [name for name, ok in zip(val.classes, both, strict=True) if not ok]
    if undefined:
        warnings.warn(
            f"{path}: AUROC is undefined for {', '.join(undefined)}; the other classes choose the best checkpoint",
            stacklevel=4,
        )


def start_of(config: FinetuneConfig) -> Any:
    """The architecture of the model at `--init`; without one, that of `--encoder` with random weights.

    Raises ConfigError where random weights are not to be trained as a whole.
    """
    if config.init is not None:
        return model_folder.architecture(config.init)
    if config.tune != "full" or config.probe_first:
        raise ConfigError(
            "without --init all weights are random and have to be trained: give --init, or leave out --tune and --probe-first"
        )
    return BareEncoderConfig(config.encoder, config.encoder_options)


def classifier(config: FinetuneConfig, target: Target, policy: dict[str, str]) -> Classifier:
    """A classifier with the encoder of `--init` and its weights; with `--scratch` or without `--init` they are random."""
    source = start_of(config)
    shape = ClassifierConfig(
        classes=target.classes,
        encoder=source.encoder,
        encoder_options=source.encoder_options,
        image_size=source.image_size if config.image_size is None else config.image_size,
        mean=as_levels(config.mean) if config.mean else source.mean,
        std=as_levels(config.std) if config.std else source.std,
        drop_path=config.drop_path,
        pooling=config.pooling,
        view=config.view,
        resize=config.resize,
        crop_borders=config.crop_borders,
        greys=config.greys,
        uncertain=policy if target.kind == "findings" else {},
        target=config.target,
        centre=target.centre,
        spread=target.spread,
    )
    return on_encoder(Classifier, shape, config)


def validation(
    config: FinetuneConfig, target: Target, val: Records
) -> Callable[[Any, int, Accelerator], dict[str, float]]:
    """The validation of fine-tuning: the measures of the target, whose score chooses the best checkpoint."""

    def validate(model: Any, step: int, state: Accelerator) -> dict[str, float]:
        scores = predict.classify(
            model,
            val,
            workers=config.training.workers,
            rank=state.process_index,
            world_size=state.num_processes,
            precision=hardware.settled(config.training.precision, state.device),
        )
        if scores.unreadable and config.on_error == "stop":
            name, reason = next(iter(scores.unreadable.items()))
            raise RunError(
                f"{config.val}: {len(scores.unreadable)} images cannot be read; first error: {name}: {reason}"
            )
        logits = state.reduce(torch.from_numpy(scores.logits_NC).to(state.device), "sum").cpu().numpy()
        readable = ~np.isnan(logits).any(axis=1)
        return target.validated(val.labels_NC[readable], logits[readable])

    return validate
