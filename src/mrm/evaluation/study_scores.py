"""Scores of images as scores of studies, for a test and for a calibration by study."""

# Shapes: N images, S studies, C classes, D features
from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from mrm.data.records import Record
from mrm.evaluation.classifier_test import Scored
from mrm.inference.studies import (
    ONLY_LATERAL,
    Pool,
    Views,
    is_lateral,
    note_unstated,
    pooled,
    studies_of,
    study_key,
)
from mrm.system.errors import RunError
from mrm.targets.target import Target


def of_studies(scores: Scored, pool: Pool | None, views: Views, target: Target) -> Scored:
    """One record for each study of scored images, named by its images; with `pool` None the images, without laterals.

    The target says what the label of a study is: it has a finding if any of its images is labelled with it, and lacks it if
    any is labelled without it and none with it. A study that has only lateral images, with views "frontal", is named as
    unreadable. Raises RunError where nothing is left.
    """
    records = scores.records
    for note in note_unstated([record.view for record in records], views):
        warnings.warn(note, stacklevel=3)
    if pool is None:
        kept = [i for i, r in enumerate(records) if views == "all" or not is_lateral(r.view)]
        if len(kept) < len(records):
            warnings.warn(f"left out {len(records) - len(kept):,} lateral images (--views frontal)", stacklevel=3)
        return _select(scores, kept)
    if not any(record.study for record in records):
        raise RunError(
            f"{records.source}: no record states its study, so --by-study cannot group images; add a column study_id"
        )
    keys = [study_key(p, r.study, r.name) for p, r in zip(records.patients, records, strict=True)]
    values_NK = np.concatenate([scores.logits_NC, scores.features_ND], axis=1)
    rows: list[Record] = []
    values: list[np.ndarray] = []
    lateral_only: dict[str, str] = {}
    for study in studies_of(keys, [r.view for r in records], [True] * len(records), views):
        first = records[study.images[0]]
        if not study.used:
            lateral_only[f"study {first.study or first.name}"] = ONLY_LATERAL
            continue
        labels_NC = records.labels_NC[list(study.images)]
        name = first.name if len(study.used) == 1 else " + ".join(records[i].name for i in study.used)
        rows.append(replace(first, labels=tuple(target.of_study(labels_NC).tolist()), name=name))
        values.append(pooled(values_NK[list(study.used)], len(records.classes), pool))
    for name, reason in lateral_only.items():
        warnings.warn(f"left out {name}: {reason}", stacklevel=3)
    if not rows:
        raise RunError(f"{records.source}: every study has {ONLY_LATERAL}")
    logits_SC, features_SD = np.split(np.stack(values), [len(records.classes)], axis=1)
    unreadable = {**scores.unreadable, **lateral_only}
    return replace(
        scores, records=replace(records, rows=rows), logits_NC=logits_SC, features_ND=features_SD, unreadable=unreadable
    )


def _select(scores: Scored, kept: list[int]) -> Scored:
    if not kept:
        raise RunError(f"{scores.records.source}: has only lateral images, which --views frontal leaves out")
    return replace(
        scores,
        records=scores.records.select(kept),
        logits_NC=scores.logits_NC[kept],
        features_ND=scores.features_ND[kept],
    )
