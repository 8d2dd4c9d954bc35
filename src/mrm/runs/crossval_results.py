"""What a cross-validation shows: AUROC with one interval over patients and folds, the floors beside it, and what to do next."""

# Shapes: N records, C classes, R repeats
from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.records import Records
from mrm.evaluation.predictions import Predictions, write_predictions
from mrm.recipes import FinetuneConfig
from mrm.runs.crossval_folds import NETWORK, unit_file
from mrm.runs.crossval_plan import CrossvalConfig, Fold, Parts
from mrm.runs.kept_models import read_arrays
from mrm.statistics.cross_validation import cross_validated_auroc
from mrm.system.errors import RunError
from mrm.system.files import write_csv
from mrm.system.text_table import WIDTH, estimate_cells, text_table
from mrm.system.yaml_files import to_dict
from mrm.targets.target import Target

INTERVAL = (
    "95 %, for models trained on so many records and tested on new patients: a positive is compared with the negatives of "
    "its own fold, and the variance over patients is widened by what the choice of training records adds."
)


@dataclass(frozen=True)
class Pooled:
    """Out-of-fold scores (R, N, C) of the network and of each floor, and which records (N,) all of them have."""

    scores: Mapping[str, np.ndarray]
    readable_N: np.ndarray
    fold_aurocs: Sequence[float]
    notes: Sequence[str]


def pooled(config: CrossvalConfig, folds: Sequence[Fold], records: Records, folds_RN: np.ndarray) -> Pooled:
    """The scores of all folds side by side."""
    arrays = {fold: read_arrays(unit_file(config, fold)) for fold in folds}
    first = arrays[folds[0]]
    names = [NETWORK, *(name for name in first if first[name].ndim == 2 and name != NETWORK and config.floors)]
    shape = (config.repeats, len(records), len(records.classes))
    scores = {name: np.full(shape, np.nan) for name in names}
    for fold, one in arrays.items():
        test = Parts.of(config, fold, records, folds_RN).test
        for name in names:
            scores[name][fold.repeat, test] = one[name]
    readable_N = np.all([~np.isnan(values_RNC).any(axis=(0, 2)) for values_RNC in scores.values()], axis=0)
    if not readable_N.any():
        raise RunError(f"{config.records}: no image could be read in every repeat, so there is nothing to pool")
    notes = sorted({str(one["note"]) for one in arrays.values()} - {""})
    return Pooled(scores, readable_N, [float(one["auroc"]) for one in arrays.values()], notes)


def summarise(
    config: CrossvalConfig,
    settings: FinetuneConfig,
    target: Target,
    records: Records,
    folds_RN: np.ndarray,
    pool: Pooled,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """The content of `crossval.json`."""
    tested = records.select(np.flatnonzero(pool.readable_N))
    folds, labels_NC = folds_RN[:, pool.readable_N], tested.labels_NC
    scores = {name: values_RNC[:, pool.readable_N] for name, values_RNC in pool.scores.items()}
    scores[NETWORK] = np.stack([target.scores(logits_NC) for logits_NC in scores[NETWORK]])
    common = (folds, tested.classes, tested.patients)
    network = cross_validated_auroc(labels_NC, scores[NETWORK], *common)
    classes: dict[str, Any] = {name: {"auroc": e.to_dict(), "floors": {}} for name, e in network.items()}
    for floor in [name for name in scores if name != NETWORK]:
        alone = cross_validated_auroc(labels_NC, scores[floor], *common)
        gap = cross_validated_auroc(labels_NC, scores[NETWORK], *common, against=scores[floor])
        for name, one in classes.items():
            one["floors"][floor] = {"auroc": alone[name].to_dict(), "network_less_this": gap[name].to_dict()}
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}
    results: dict[str, Any] = {
        "settings": plain,
        "fine_tuning": to_dict(settings),
        "records": str(config.records),
        "fingerprint": records.fingerprint(),
        "n": len(records),
        "tested": len(tested),
        "patients": records.known_patients.count,
        "patients_unknown": records.known_patients.unknown,
        "unreadable": [r.name for r, ok in zip(records, pool.readable_N, strict=True) if not ok],
        "warnings": list(warnings),
        "notes": list(pool.notes),
        "fold_aurocs": [value if math.isfinite(value) else None for value in pool.fold_aurocs],
        "interval": INTERVAL,
        "classes": classes,
    }
    return results | {"next": advice(config, results)}


def advice(config: CrossvalConfig, results: Mapping[str, Any]) -> list[str]:
    """What to do next, in sentences: what the floors say, and the command that uses the result."""
    mean = results["classes"]["mean"]
    lines = []
    for floor, values in mean["floors"].items():
        gap = values["network_less_this"]
        if gap["low"] is None or gap["value"] is None:
            continue
        if gap["low"] > 0:
            lines.append(f"The network ranks better than logistic regression on {floor}.")
        elif gap["high"] < 0:
            lines.append(
                f"Logistic regression on {floor} ranks better than the network: start from a pre-trained model, train "
                "longer, or use no network here."
            )
        else:
            lines.append(f"These records do not show the network to be better than logistic regression on {floor}.")
    options = ["--val VAL.csv", f"--init {config.init}" if config.init else "", "--scratch" if config.scratch else ""]
    options += [f"--budget {config.budget}" if config.budget else ""]
    options += [f"--image-size {config.image_size}" if config.image_size else ""]
    lines.append(
        f"next: mrm finetune {config.recipe} --train {config.records} {' '.join(filter(None, options))} --out RUN, and test "
        "it on records that were never used"
    )
    return lines


def write_tables(config: CrossvalConfig, target: Target, records: Records, folds_RN: np.ndarray, pool: Pooled) -> None:
    """`predictions.csv`, with the network's logits averaged over repeats; and `folds.csv`: who was in which fold."""
    tested = records.select(np.flatnonzero(pool.readable_N))
    logits_NC = pool.scores[NETWORK].mean(axis=0)[pool.readable_N]
    probabilities_NC = target.values(logits_NC)
    names = [record.name for record in tested]
    write_predictions(
        Path(config.out) / "predictions.csv",
        Predictions(names, tested.patients, tested.classes, tested.labels_NC, probabilities_NC),
    )
    columns = ["name", "patient_id", *(f"repeat {repeat + 1}" for repeat in range(len(folds_RN)))]
    rows = [
        [record.name, patient, *(int(fold) + 1 for fold in of_record)]
        for record, patient, of_record in zip(records, records.patients, folds_RN.T, strict=True)
    ]
    write_csv(Path(config.out) / "folds.csv", columns, rows)


def table(results: Mapping[str, Any]) -> str:
    """AUROC of the network and of the floors by class, and what to do next, as text to print."""
    rows = []
    for name, one in results["classes"].items():
        rows.append([name, NETWORK, *estimate_cells(one["auroc"])[:2], "", "", *estimate_cells(one["auroc"])[2:]])
        for floor, values in one["floors"].items():
            rows.append(["", floor, *estimate_cells(values["auroc"])[:2], *_gap(values["network_less_this"]), "", ""])
    head = ("finding", "method", "AUROC", "95 % interval", "network less this", "95 % interval", "n", "positives")
    if len(results["classes"]) == 2:  # the mean of one class is the class
        rows = rows[len(rows) // 2 :]
    settings = results["settings"]
    size = (
        f"{settings['folds']} folds, {settings['repeats']} repeats, {results['tested']:,} of {results['n']:,} records"
    )
    note = textwrap.fill(f"{size}; intervals: {results['interval']}", WIDTH)
    return "\n".join([text_table(head, rows, text_columns=2), note, *results["next"]])


def _gap(gap: Mapping[str, Any]) -> list[str]:
    """A paired difference as two cells."""
    if gap["value"] is None or gap["low"] is None:
        return ["", ""]
    return [f"{gap['value']:+.3f}", f"{gap['low']:+.3f} to {gap['high']:+.3f}"]
