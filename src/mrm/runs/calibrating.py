"""Make a classifier's probabilities mean what they say, choose where to cut them, and learn what it knows.

Everything is fitted on validation records and kept in the model folder: `evaluate` reports it on a test set, `predict`
uses it.
"""

# Shapes: N records, C classes, D features
from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrm.audit.fingerprints import fingerprint
from mrm.data.records import Records
from mrm.evaluation.classifier_test import CALIBRATED_ON, overlaps, scored, test_records
from mrm.evaluation.predictions import Predictions
from mrm.inference import outliers
from mrm.models import model_folder
from mrm.models.card import OutlierReference
from mrm.models.classifier import Classifier
from mrm.runs.run_folder import warn_of
from mrm.statistics import calibration
from mrm.statistics.calibration import MAX_TEMPERATURE, OperatingPoint
from mrm.statistics.intervals import Bootstrap, finite_or_none
from mrm.system.errors import RunError
from mrm.system.hardware import best_device
from mrm.system.progress import Progress

STAGE = "calibration"
REDRAWS = 500  # resamples for the interval of a threshold


@dataclass(frozen=True)
class Goal:
    """Where to cut probabilities: at a sensitivity, a specificity, or (neither) where their sum is largest (Youden)."""

    sensitivity: float | None = None
    specificity: float | None = None

    def __post_init__(self) -> None:
        if self.sensitivity is not None and self.specificity is not None:
            raise RunError("give --sensitivity or --specificity, not both")
        for name, value in vars(self).items():
            if value is not None and not 0 < value <= 1:
                raise RunError(f"--{name} must be above 0 and at most 1, not {value:g}")

    def __str__(self) -> str:
        chosen = [f"{name} {value:g}" for name, value in vars(self).items() if value is not None]
        return chosen[0] if chosen else "Youden"

    def threshold(self, labels_N: np.ndarray, scores_N: np.ndarray) -> float:
        """The threshold that reaches the goal on these records; NaN where they have one label value."""
        return calibration.choose_threshold(labels_N, scores_N, **vars(self))


def calibrate(
    model: Path,
    val: Path,
    goal: Goal = Goal(),
    images: Path | None = None,
    train: Path | None = None,
    known: float = 0.99,
    outliers: bool = True,
    seed: int = 0,
    workers: int | None = None,
) -> dict[str, Any]:
    """Fit temperatures, thresholds and the reference for outliers, and write them into the model folder.

    `train` are records to learn from what known images look like, else those of `val`. Returns what the card keeps of
    it under "calibration". Raises RunError where no class has both label values.
    """
    network, folder = model_folder.load_as(model, Classifier), model_folder.find_model(model)
    classes = network.config.classes
    records = test_records(network, val, images)
    leaks = overlaps(folder / "seen", records, STAGE)
    warn_of(leaks)
    found = scored(network.to(best_device()), records, val, workers)
    labels_NC, patients = found.records.labels_NC, found.records.patients
    temperatures_C = calibration.fit_temperatures(labels_NC, found.logits_NC)
    check_fitted(temperatures_C, calibration.lowest_temperature(found.logits_NC), classes, val)
    after_NC = calibration.calibrated_probabilities(found.logits_NC, temperatures_C)
    before_NC = calibration.calibrated_probabilities(found.logits_NC, np.full(len(classes), math.nan))
    points = {
        name: calibration.operating_point(
            labels_NC[:, c], after_NC[:, c], goal.threshold(labels_NC[:, c], after_NC[:, c]), patients
        )
        for c, name in enumerate(classes)
        if not math.isnan(temperatures_C[c])
    }
    names = [r.name for r in found.records]
    told = report(
        Predictions(names, patients, classes, labels_NC, after_NC), before_NC, temperatures_C, points, goal, seed
    )
    told |= {"records": Path(val).name, "fingerprint": records.fingerprint(), "n": len(found.records), "overlap": leaks}
    reference = None
    if outliers:
        reference = outlier_reference(network, found.features_ND, patients, train, images, known, seed, workers)
    card = model_folder.read_card(folder)
    fitted = {name: float(t) for name, t in zip(classes, temperatures_C, strict=True) if not math.isnan(t)}
    thresholds = {name: point.threshold for name, point in points.items()}
    note_calibrated(folder, records)
    model_folder.write_card(
        folder, replace(card, temperatures=fitted, thresholds=thresholds, outliers=reference, calibration=told)
    )
    print(table(told, reference))
    return told


def check_fitted(temperatures_C: np.ndarray, coldest_C: np.ndarray, classes: Sequence[str], val: Path) -> None:
    """Say what could not be fitted. Raises RunError where nothing could."""
    missing = [name for name, t in zip(classes, temperatures_C, strict=True) if math.isnan(t)]
    if len(missing) == len(classes):
        raise RunError(f"{val}: no class has both positives and negatives, so nothing can be calibrated on it")
    if missing:
        warnings.warn(
            f"{val}: {', '.join(missing)}: only one label value; no temperature and no threshold", stacklevel=3
        )
    fitted = zip(classes, temperatures_C, coldest_C, strict=True)
    at_end = [f"{name} ({t:.3g})" for name, t, least in fitted if t < least * 1.01 or t > MAX_TEMPERATURE / 1.01]
    if at_end:
        warnings.warn(
            f"{val}: {', '.join(at_end)}: the temperature ended at its limit: records ranked "
            "perfectly, or at random, are too few to calibrate on; do not trust these probabilities",
            stacklevel=3,
        )


def report(
    p: Predictions,
    before_NC: np.ndarray,
    temperatures_C: np.ndarray,
    points: dict[str, OperatingPoint],
    goal: Goal,
    seed: int,
) -> dict[str, Any]:
    """What was fitted, class by class, and how it does on the records that it was fitted on."""
    after, before = (
        calibration.calibration_report(p.labels_NC, scores_NC, p.classes, p.patients, draws=0)
        for scores_NC in (p.probabilities_NC, before_NC)
    )
    per_class: dict[str, dict[str, Any]] = {}
    for c, name in enumerate(p.classes):
        values = {k: {"before": before[name][k].value, "after": after[name][k].value} for k in after[name]}
        per_class[name] = {
            "temperature": finite_or_none(float(temperatures_C[c])),
            **{k: {when: finite_or_none(v) for when, v in pair.items()} for k, pair in values.items()},
        }
        if name in points:
            span = threshold_interval(p.labels_NC[:, c], p.probabilities_NC[:, c], p.patients, goal, seed)
            per_class[name] |= {"operating_point": points[name].to_dict(), "threshold_interval": span}
    return {"goal": str(goal), "classes": per_class}


def threshold_interval(
    labels_N: np.ndarray, scores_N: np.ndarray, patients: Sequence[Hashable] | None, goal: Goal, seed: int
) -> list[float] | None:
    """Where 95 % of the thresholds lie that the goal gives on resampled patients; None for one patient.

    Percentile bootstrap, as in `intervals.Bootstrap`; resamples with one label value are left out.
    """
    bootstrap = Bootstrap.from_groups(patients, len(labels_N), REDRAWS, seed)
    if bootstrap.patients(labels_N == 1) < 2 or bootstrap.patients(labels_N == 0) < 2:
        return None
    chosen = []
    for weights_GD in bootstrap.weights():
        for weights_G in weights_GD.T:
            times_N = weights_G[bootstrap.group_N].astype(np.intp)
            chosen.append(goal.threshold(np.repeat(labels_N, times_N), np.repeat(scores_N, times_N)))
    low, high = np.nanquantile(chosen, [0.025, 0.975]).tolist()
    return [low, high]


def outlier_reference(
    network: Any,
    features_ND: np.ndarray,
    patients: Sequence[Hashable] | None,
    train: Path | None,
    images: Path | None,
    known: float,
    seed: int,
    workers: int | None,
) -> OutlierReference:
    """`outliers.reference` of validation features, or of the training records' with validation held out."""
    if train is None:
        return outliers.reference(features_ND, patients, share=known, seed=seed)
    seen = scored(network, test_records(network, train, images), train, workers)
    return outliers.reference(seen.features_ND, held_out_ND=features_ND, share=known)


def note_calibrated(folder: Path, records: Records) -> None:
    """Keep fingerprints of the records in the model folder: tested on them, the model would look better than it is."""
    place = folder / CALIBRATED_ON
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    fingerprint(records, progress=Progress("looking at " + STAGE)).save(place / f"{STAGE}.npz")


def table(told: dict[str, Any], reference: OutlierReference | None) -> str:
    """What was fitted, to print."""
    lines = [
        f"{'finding':24} {'temperature':>11} {'Brier':>15} {'calibration error':>17} {'threshold':>9} "
        f"{'sensitivity':>20} {'specificity':>20}"
    ]
    for name, one in told["classes"].items():
        if one["temperature"] is None:
            lines.append(f"{name:24} not calibrated: one label value only")
            continue
        changes = [f"{one[k]['before']:.3f} to {one[k]['after']:.3f}" for k in ("brier", "calibration_error")]
        point = one["operating_point"]
        shares = [_share(point[k]) for k in ("sensitivity", "specificity")]
        lines.append(
            f"{name:24} {one['temperature']:11.3f} {changes[0]:>15} {changes[1]:>17} {point['threshold']:9.4g} "
            f"{shares[0]:>20} {shares[1]:>20}"
        )
    lines.append(f"on {told['n']:,} records of {told['records']}, goal {told['goal']}; of the same records, so look at")
    lines.append("`mrm evaluate` on a test set for what it does elsewhere")
    if reference:
        lines.append(
            f"images whose outlier score is above {reference.threshold:.3f} get no decision: 1 in "
            f"{1 / (1 - reference.share):.0f} of known ones (chosen on {reference.chosen_on})"
        )
    return "\n".join(lines)


def _share(e: dict[str, Any]) -> str:
    return f"{e['value']:.3f} ({e['low']:.3f}-{e['high']:.3f})"
