"""Learning from trained models: the story of `mrm finetune --teacher`.

Every teacher scores the training images once, whole, before the first step. The mean of their logits, at their temperatures,
gives a soft label for each class (Hinton et al. 2015, arXiv:1503.02531). A stated label becomes the mean of the two,
`--teacher-share` being the teacher's part; an image without a label gets the teacher's. What the teachers said is kept in
`teacher.npz`, so that a run resumes on the same labels.
"""

# Shapes: N records, C classes, T teachers
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrm.data.records import Records
from mrm.inference import predict
from mrm.inference.decisions import DecisionRules
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.recipes import FinetuneConfig
from mrm.runs.kept_models import read_arrays, write_arrays
from mrm.system import hardware
from mrm.system.errors import RunError
from mrm.targets.target import Target
from mrm.training.trainer import processes

FILE = "teacher.npz"  # of a run: logits (N, C) of the training records, and what they were computed from


def teachers_of(config: FinetuneConfig, target: Target) -> list[Classifier]:
    """The models of `--teacher`. Raises RunError for one of other classes or of another target."""
    teachers = [model_folder.load_as(path, Classifier) for path in config.teacher]
    for path, teacher in zip(config.teacher, teachers, strict=True):
        if teacher.config.target != target.name:
            raise RunError(
                f"--teacher {path}: was trained with --target {teacher.config.target}, this run is {target.name}"
            )
        if set(teacher.config.classes) != set(target.classes):
            raise RunError(
                f"--teacher {path}: knows {', '.join(teacher.config.classes)}, and this run learns "
                f"{', '.join(target.classes)}; a teacher has the same classes"
            )
    return teachers


def taught(config: FinetuneConfig, target: Target, train: Records, teachers: Sequence[Classifier]) -> Records:
    """The training records with labels that the teachers have a part in. Raises RunError where they can read none."""
    if not teachers:
        return train
    logits_NC = kept_logits(config, target, train, teachers)
    readable_N = ~np.isnan(logits_NC).any(axis=1)
    values_NC = np.full(logits_NC.shape, np.nan)
    values_NC[readable_N] = target.values(logits_NC[readable_N])
    labels_NC, share = train.labels_NC, config.teacher_share
    mixed_NC = share * values_NC + (1 - share) * labels_NC
    soft_NC = np.where(np.isnan(mixed_NC), np.where(np.isnan(labels_NC), values_NC, labels_NC), mixed_NC)
    return train.with_labels(soft_NC, kind="shares" if target.probabilistic else "numbers")


def kept_logits(config: FinetuneConfig, target: Target, train: Records, teachers: Sequence[Classifier]) -> np.ndarray:
    """Mean logits (N, C) of the teachers, NaN for images that cannot be read; computed once and kept in the run."""
    file = Path(config.out) / FILE
    made_of = np.array([train.fingerprint(), *(model_folder.weights_digest(path) for path in config.teacher)])
    with processes().main_process_first():
        if not file.is_file():
            logits_NC = np.mean([_logits(config, target, train, teacher) for teacher in teachers], axis=0)
            if processes().is_main_process:
                write_arrays(file, {"logits": logits_NC, "made_of": made_of})
        kept = read_arrays(file)
    if kept["made_of"].tolist() != made_of.tolist():
        raise RunError(
            f"{file}: was made by other teachers, or of other records; choose another --out, or the same --teacher"
        )
    if np.isnan(kept["logits"]).all():
        raise RunError(f"{config.train}: the teachers could read none of the {len(train):,} images")
    return kept["logits"]


def _logits(config: FinetuneConfig, target: Target, train: Records, teacher: Classifier) -> np.ndarray:
    """A teacher's logits (N, C) at its temperatures, in the order and on the scale of the run's own."""
    classes = teacher.config.classes
    device = hardware.best_device()
    scores = predict.classify(teacher.to(device), train, workers=config.training.workers)
    rules = DecisionRules.of(teacher.card, classes)
    logits_NC = rules.tempered(scores.logits_NC)[:, [classes.index(name) for name in target.classes]]
    if not target.spread:
        return logits_NC
    values_NC = rules.target.values(logits_NC)
    return (values_NC - np.array(target.centre)) / np.array(target.spread)
