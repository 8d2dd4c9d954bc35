"""Calibrating a classifier: temperatures, thresholds, and a reference that tells known images from outliers.

Everything is fitted on validation records and kept in the model folder. `mrm evaluate` measures it on a test set,
`mrm predict` uses it.
"""

# Shapes: N records, C classes, D features
from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrm.audit import site_key
from mrm.audit.fingerprints import Fingerprints, fingerprint
from mrm.audit.hash_keeping import HashKeeper
from mrm.evaluation.classifier_test import CALIBRATED_ON, Scored, labelled_records, overlaps
from mrm.evaluation.repeats import repeats
from mrm.inference import outliers
from mrm.interop.hub_folder import readme_kept_true
from mrm.models import model_folder
from mrm.models.card import OutlierReference, SetCuts
from mrm.models.classifier import Classifier
from mrm.runs.evaluating import score
from mrm.runs.guessed_views import require_frontal
from mrm.runs.output_lock import held_folder
from mrm.runs.reading_options import Reading, placed
from mrm.runs.run_folder import warn_of
from mrm.statistics import calibration, conformal
from mrm.statistics.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, OperatingPoint
from mrm.statistics.few_labels import uncertain_thresholds
from mrm.statistics.intervals import Bootstrap, finite_or_none
from mrm.system.errors import RunError, UnreachableError
from mrm.system.output_folder import writing
from mrm.system.progress import Progress
from mrm.system.text_table import estimate_cells, text_table
from mrm.targets import target_of

STAGE = "calibration"
REDRAWS = 500  # resamples for the interval of a threshold


@dataclass(frozen=True)
class Goal:
    """What a threshold should reach: a sensitivity, a specificity, or with neither the largest sum of both (Youden)."""

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
    reading: Reading = Reading(),
    train: Path | None = None,
    known: float = 0.99,
    outliers: bool = True,
    seed: int = 0,
    coverage: float = 0.9,
) -> dict[str, Any]:
    """Fit temperatures, thresholds, sets and the outlier reference on `val`, and write them into the model folder.

    Sets hold the truth for a share `coverage` of the patients with a finding, and of those without it. The outlier reference is learned from the records `train`, or from those of `val` if there are none. Returns what
    the card keeps under "calibration". Raises RunError if no class has both label values.
    """
    if not 0 < coverage < 1:
        raise RunError(f"--coverage must be above 0 and below 1, not {coverage:g}")
    require_frontal(reading)
    network, folder = placed(model_folder.load_as(model, Classifier), reading), model_folder.find_model(model)
    target_of(network.card.architecture).require_independent(
        f"{model}: calibrating, with a threshold for each finding,"
    )
    with held_folder(folder):
        summary, reference = _calibrated(network, folder, val, goal, reading, train, known, outliers, seed, coverage)
    print(table(summary, reference))
    warn_of(uncertain_thresholds(summary))
    return summary


def _calibrated(
    network: Classifier,
    folder: Path,
    val: Path,
    goal: Goal,
    reading: Reading,
    train: Path | None,
    known: float,
    outliers: bool,
    seed: int,
    coverage: float,
) -> tuple[dict[str, Any], OutlierReference | None]:
    """What `calibrate` fits and writes into the model's folder: the summary, and the outlier reference if asked for."""
    records = labelled_records(network, val, reading.images)
    site_key.load_or_make()  # a problem with it must show before the work, at whose end it is needed
    with Progress(f"fingerprinting the {STAGE} records") as progress:
        prints = fingerprint(records, progress=progress, hashes=HashKeeper(), kept=True)
    leaks = overlaps(folder / "seen", records, STAGE, prints=prints)
    warn_of([*leaks, *repeats(records, prints, "the validation set")])
    scores = complete(score(network, records, val, reading), val)
    fitted = fit(scores, goal, val, coverage)
    summary = report(scores, fitted, goal, seed)
    summary |= {"records": Path(val).name, "fingerprint": records.fingerprint()}
    summary |= {"n": len(scores.records), "overlap": leaks}
    summary |= {"by_study": reading.by_study, "views": reading.views, "flip": reading.flip}
    reference = outlier_reference(network, scores, train, reading, known, seed) if outliers else None
    with writing(folder), readme_kept_true(folder):
        note_calibrated(folder, prints)
        write_calibration(folder, fitted, reference, summary)
    return summary, reference


def complete(scores: Scored, path: Path) -> Scored:
    """The scores. Raises UnreachableError if images were out of reach: the model keeps what is fitted on the others."""
    if scores.out_of_reach:
        first = scores.unreadable[scores.out_of_reach[0]]
        raise UnreachableError(
            f"{path}: {len(scores.out_of_reach)} images could not be reached, so nothing was fitted; first error: {first}. "
            "Run the same command again when they are there, or leave them out of the file"
        )
    return scores


@dataclass(frozen=True)
class Fitted:
    """A temperature for each class, NaN where its records have one label value, and the operating points of the others."""

    classes: tuple[str, ...]
    temperatures_C: np.ndarray
    probabilities_NC: np.ndarray  # of the records it was fitted on, at these temperatures
    points: dict[str, OperatingPoint]
    sets: dict[str, SetCuts]


def fit(scores: Scored, goal: Goal, val: Path, coverage: float) -> Fitted:
    """Temperatures of the classes, and the thresholds that reach the goal. Raises RunError if nothing can be fitted."""
    classes, patients = scores.records.classes, scores.records.patients
    labels_NC, logits_NC = scores.records.labels_NC, scores.logits_NC
    temperatures_C = calibration.fit_temperatures(labels_NC, logits_NC)
    check_fitted(temperatures_C, classes, val)
    probabilities_NC = calibration.calibrated_probabilities(logits_NC, temperatures_C)
    points, sets = {}, {}
    for c, name in enumerate(classes):
        if not math.isnan(temperatures_C[c]):
            labels_N, probabilities_N = labels_NC[:, c], probabilities_NC[:, c]
            threshold = goal.threshold(labels_N, probabilities_N)
            points[name] = calibration.operating_point(labels_N, probabilities_N, threshold, patients)
            cuts = conformal.fit_cuts(labels_N, probabilities_N, patients, coverage)
            sets[name] = SetCuts(cuts.present_from, cuts.absent_to, coverage)
    return Fitted(classes, temperatures_C, probabilities_NC, points, sets)


def write_calibration(
    folder: Path, fitted: Fitted, reference: OutlierReference | None, summary: dict[str, Any]
) -> None:
    """Put what was fitted on the model's card."""
    pairs = zip(fitted.classes, fitted.temperatures_C, strict=True)
    changes: dict[str, Any] = {
        "temperatures": {name: float(t) for name, t in pairs if not math.isnan(t)},
        "thresholds": {name: point.threshold for name, point in fitted.points.items()},
        "outliers": reference,
        "sets": fitted.sets,
        "calibration": summary,
    }
    model_folder.change_card(folder, lambda card: replace(card, **changes))


def check_fitted(temperatures_C: np.ndarray, classes: Sequence[str], val: Path) -> None:
    """Warn of classes that could not be fitted well. Raises RunError if no class could be fitted."""
    missing = [name for name, t in zip(classes, temperatures_C, strict=True) if math.isnan(t)]
    if len(missing) == len(classes):
        raise RunError(f"{val}: no class has both positives and negatives, so nothing can be calibrated on it")
    if missing:
        warnings.warn(
            f"{val}: {', '.join(missing)}: only one label value; no temperature and no threshold", stacklevel=4
        )
    at_limit = [
        f"{name} ({t:.3g})"
        for name, t in zip(classes, temperatures_C, strict=True)
        if t < MIN_TEMPERATURE * 1.01 or t > MAX_TEMPERATURE / 1.01
    ]
    if at_limit:
        warnings.warn(
            f"{val}: {', '.join(at_limit)}: the temperature reached its limit. The records are ranked perfectly or "
            "at random, or are too few to calibrate on; do not trust these probabilities",
            stacklevel=4,
        )


def report(scores: Scored, fitted: Fitted, goal: Goal, seed: int) -> dict[str, Any]:
    """What was fitted for each class, and how good it is on the records that it was fitted on."""
    labels_NC, patients = scores.records.labels_NC, scores.records.patients
    uncalibrated_C = np.full(len(fitted.classes), math.nan)
    before_NC = calibration.calibrated_probabilities(scores.logits_NC, uncalibrated_C)
    before = calibration.calibration_report(labels_NC, before_NC, fitted.classes, patients, draws=0)
    after = calibration.calibration_report(labels_NC, fitted.probabilities_NC, fitted.classes, patients, draws=0)
    per_class: dict[str, dict[str, Any]] = {}
    for c, name in enumerate(fitted.classes):
        per_class[name] = {"temperature": finite_or_none(float(fitted.temperatures_C[c]))}
        for measure, value in after[name].items():
            values = {"before": before[name][measure].value, "after": value.value}
            per_class[name][measure] = {when: finite_or_none(v) for when, v in values.items()}
        if name in fitted.points:
            span = threshold_interval(labels_NC[:, c], fitted.probabilities_NC[:, c], patients, goal, seed)
            per_class[name] |= {"operating_point": fitted.points[name].to_dict(), "threshold_interval": span}
            per_class[name]["set"] = asdict(fitted.sets[name])
    return {"goal": str(goal), "classes": per_class}


def threshold_interval(
    labels_N: np.ndarray, scores_N: np.ndarray, patients: Sequence[Hashable] | None, goal: Goal, seed: int
) -> list[float] | None:
    """The 95 % interval of the threshold when patients are resampled; None with fewer than two patients of either label.

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
    tail = bootstrap.tail(bootstrap.degrees(labels_N == 1, labels_N == 0))
    low, high = np.nanquantile(chosen, [tail, 1 - tail]).tolist()
    return [low, high]


def outlier_reference(
    network: Classifier, scores: Scored, train: Path | None, reading: Reading, known: float, seed: int
) -> OutlierReference:
    """The reference learned from validation features; or from those of `train`, with validation held out."""
    if train is None:
        return outliers.reference(scores.features_ND, scores.records.patients, share=known, seed=seed)
    train_scores = complete(score(network, labelled_records(network, train, reading.images), train, reading), train)
    return outliers.reference(train_scores.features_ND, held_out_ND=scores.features_ND, share=known)


def note_calibrated(folder: Path, prints: Fingerprints) -> None:
    """Keep fingerprints of the records in the model folder, since a test on the same records would be too optimistic."""
    prints.save(folder / CALIBRATED_ON / f"{STAGE}.npz")


def table(summary: dict[str, Any], reference: OutlierReference | None) -> str:
    """What was fitted, as text to print."""
    lines = [_temperature_table(summary["classes"]), "", _threshold_table(summary["classes"]), ""]
    lines += [_set_table(summary["classes"]), ""]
    lines.append(
        f"Fitted and measured on the same {summary['n']:,} records of {summary['records']}, goal {summary['goal']};"
    )
    lines.append("run `mrm evaluate` on a test set to see how good it is on other records.")
    if reference:
        lines.append(
            f"Images with an outlier score above {reference.threshold:.3f} get no decision: about 1 in "
            f"{1 / (1 - reference.share):.0f} known images (chosen on {reference.chosen_on})."
        )
    return "\n".join(lines)


def _temperature_table(classes: dict[str, Any]) -> str:
    rows = []
    for name, fitted in classes.items():
        if fitted["temperature"] is None:
            rows.append([name, "none: one label value", "", "", "", ""])
            continue
        scores = [f"{fitted[k][when]:.3f}" for k in ("brier", "calibration_error") for when in ("before", "after")]
        rows.append([name, f"{fitted['temperature']:.3f}", *scores])
    return text_table(("finding", "temperature", "Brier before", "after", "calibration error before", "after"), rows)


def _threshold_table(classes: dict[str, Any]) -> str:
    """What the thresholds reach; records with a finding are the n of the sensitivity, the others that of the specificity."""
    rows = []
    for name, fitted in classes.items():
        point = fitted.get("operating_point")
        if point:
            sensitivity, specificity = (estimate_cells(point[k])[:2] for k in ("sensitivity", "specificity"))
            positives, negatives = (point[k]["n"] for k in ("sensitivity", "specificity"))
            threshold, n = f"{point['threshold']:.4g}", f"{positives + negatives:,}"
            rows.append([name, threshold, *sensitivity, *specificity, n, f"{positives:,}"])
    head = ("finding", "threshold", "sensitivity", "95 % interval", "specificity", "95 % interval", "n", "positives")
    return text_table(head, rows)


def _set_table(classes: dict[str, Any]) -> str:
    """From which probability a finding cannot be excluded, and up to which it cannot be assumed; and for which share."""
    rows = []
    for name, fitted in classes.items():
        if cuts := fitted.get("set"):
            needed = conformal.fewest_patients(cuts["coverage"])
            open_ends = [
                kind
                for kind, cut, end in (("positive", "present_from", 0), ("negative", "absent_to", 1))
                if cuts[cut] == end
            ]
            few = f"fewer than {needed} {' and '.join(open_ends)} patients: nothing excluded" if open_ends else ""
            values = f"{cuts['present_from']:.4g}", f"{cuts['absent_to']:.4g}", f"{cuts['coverage']:.0%}"
            rows.append([name, *values, few])
    return text_table(("finding", "present from", "absent up to", "coverage", "note"), rows)
