"""Testing a classifier: its predictions of records, what they show, and what the model folder keeps of the test."""

# Shapes: N records, C classes, D features
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrm.audit.fingerprints import Fingerprints, OtherVersionError, comparable, fingerprint
from mrm.audit.hash_keeping import HashKeeper
from mrm.audit.overlaps import compare
from mrm.data import sampling
from mrm.data.patients import patients_of
from mrm.data.records import Records
from mrm.evaluation import results
from mrm.evaluation.predictions import Predictions, write_predictions
from mrm.inference import predict
from mrm.inference.decisions import DecisionRules
from mrm.models.card import Card
from mrm.models.classifier import Classifier
from mrm.statistics import calibration, intervals
from mrm.statistics.calibration import OperatingPoint, Reliability
from mrm.statistics.conformal import Cuts, SetCoverage, set_coverage
from mrm.statistics.few_labels import uncertain_thresholds
from mrm.statistics.intervals import Estimate
from mrm.statistics.subgroups import Subgroups, age_in_years, subgroups, values_of
from mrm.system import hardware
from mrm.system.errors import RunError, UnreachableError
from mrm.system.files import write_json
from mrm.system.progress import Progress
from mrm.targets import target_of

CALIBRATED_ON = "calibrated-on"  # folder of a model: fingerprints of the records that its calibration saw


def labelled_records(model: Classifier, path: Path, images: Path | None) -> Records:
    """The records at `path`, with a label for each of the model's outputs and its policy for uncertain labels."""
    return target_of(model.card.architecture).read(path, images, model.config.uncertain)


def overlaps(
    seen: Path,
    records: Records,
    name: str,
    also: Path | None = None,
    prints: Fingerprints | None = None,
    hashes: HashKeeper | None = None,
) -> list[str]:
    """What a model has seen of these records: a line for each kind of overlap with each set it was trained on.

    `seen` is the folder of that name in a run or a model folder; where it is missing, or was made by another version of mrm or with
    the key of another site, a line says so. `also` is a folder of further sets. Images are read once for all sets, and not at all if
    `prints`, the fingerprints of the records, are given; `hashes` keeps what is read.
    """
    files, more = sorted(seen.glob("*.npz")), sorted(also.glob("*.npz")) if also else []
    unknown = "the training records of this model are unknown, so overlap with them cannot be ruled out"
    lines, known = [] if files else [unknown], []
    for file in (*files, *more):
        try:
            known.append((file.stem, Fingerprints.load(file)))
        except OtherVersionError:
            lines.append(
                f"{file}: fingerprints of another version of mrm, so overlap with these records cannot be ruled out"
            )
    if known:
        prints = prints or fingerprint(records, images=any(k.read for _, k in known), hashes=hashes)
        lines += [str(o) for stage, k in known for o in compare(k, prints, (stage, name))]
        if foreign := [(stage, k) for stage, k in known if comparable(k, prints) is None]:
            lines.append(_only_images([stage for stage, _ in foreign], all(k.read for _, k in foreign)))
    return lines


def _only_images(stages: Sequence[str], read: bool) -> str:
    """The line about sets whose ids another site's key hides."""
    compared = "only images were compared" if read else "their images are unknown, too, so that nothing was compared"
    return (
        f"patients, studies and file names of the records of {', '.join(stages)} cannot be compared, because they were "
        f"hashed with a site key that is not the one here; {compared}, so overlap cannot be ruled out"
    )


@dataclass(frozen=True)
class Scored:
    """Records that could be read, with their logits (N, C) and pooled features (N, D); and why others could not."""

    records: Records
    logits_NC: np.ndarray
    features_ND: np.ndarray
    unreadable: dict[str, str]
    out_of_reach: tuple[str, ...] = ()  # those of the unreadable that may be there later


def scored(
    model: Classifier,
    records: Records,
    path: Path,
    workers: int | None = None,
    batch: int = 64,
    precision: hardware.Precision = "fp32",
    crop_borders: bool = False,
    flip: bool = False,
) -> Scored:
    """Logits and features from one pass over the images. Raises RunError if none of them can be read."""
    classes = len(model.config.classes)
    values_NK = np.full((len(records), classes + predict.feature_shape(model, "pooled")[0]), np.nan)
    unreadable: dict[str, str] = {}
    out_of_reach: list[str] = []
    compute = predict.scores_and_features(model)
    compute = predict.with_mirrored(compute) if flip else compute
    batches = sampling.in_order(len(records), batch)
    with Progress("testing", len(records)) as progress:
        for computed in predict.compute_over(model, records, compute, batches, workers, precision, crop_borders):
            values_NK[computed.index_B] = computed.values
            unreadable |= {record.name: record.reason for record in computed.skipped}
            out_of_reach += [record.name for record in computed.skipped if record.again]
            progress.add(len(computed.index_B) + len(computed.skipped))
    read = np.flatnonzero(~np.isnan(values_NK).any(axis=1))
    if not len(read):
        reason = next(iter(unreadable.values()), "the model's output is not finite for any of them")
        kind = UnreachableError if out_of_reach else RunError
        raise kind(f"{path}: none of the {len(records)} images could be read; first error: {reason}")
    logits_NC, features_ND = np.split(values_NK[read], [classes], axis=1)
    return Scored(records.select(read), logits_NC, features_ND, unreadable, tuple(out_of_reach))


def predictions_of(rules: DecisionRules, scores: Scored) -> Predictions:
    """The predictions of scored records, at the model's temperatures."""
    records, probabilities_NC = scores.records, rules.probabilities(scores.logits_NC)
    return Predictions(
        [r.name for r in records], records.patients, records.classes, records.labels_NC, probabilities_NC
    )


# What a test shows besides the ranking -----------------------------------------------------------------


@dataclass(frozen=True)
class Calibrated:
    """How reliable the probabilities of a class are: at the model's temperature, and before calibration."""

    reliability: Reliability
    brier: Estimate
    calibration_error: Estimate
    brier_before: Estimate
    calibration_error_before: Estimate
    temperature: float | None  # None: never calibrated

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        estimates = {k: v.to_dict() for k, v in vars(self).items() if isinstance(v, Estimate)}
        diagram = {k: v.tolist() for k, v in vars(self.reliability).items()}
        return {**estimates, "temperature": self.temperature, "reliability": diagram}


@dataclass(frozen=True)
class Evidence:
    """What a test shows besides the ranking; what the model or the records do not state is empty."""

    calibrated: dict[str, Calibrated] = field(default_factory=dict)
    points: dict[str, OperatingPoint] = field(default_factory=dict)  # at the model's thresholds
    groups: tuple[Subgroups, ...] = ()
    outliers: Estimate | None = None  # the share of records that `predict` abstains on
    people: dict[str, str] = field(default_factory=dict)  # "Sex": "52 F, 48 M", as far as known
    sets: dict[str, SetCoverage] = field(default_factory=dict)  # of classes with cuts

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "calibration": {c: one.to_dict() for c, one in self.calibrated.items()},
            "operating_points": {c: point.to_dict() for c, point in self.points.items()},
            "subgroups": [one.to_dict() for one in self.groups],
            "abstained": self.outliers.to_dict() if self.outliers else None,
            "people": self.people,
            "sets": {c: one.to_dict() for c, one in self.sets.items()},
        }


def evidence(card: Card, scores: Scored, by: Sequence[str], draws: int, seed: int) -> Evidence:
    """What scored records show: calibration, operating points, groups of the columns `by`, share of outliers.

    Of a regression only who was tested, and outliers. Raises RecordError for columns that cannot be grouped by.
    """
    records, patients = scores.records, scores.records.patients
    rules = DecisionRules.of(card, records.classes)
    outliers, outlier_N = None, rules.outlier_scores(scores.features_ND)
    if outlier_N is not None:
        outliers = replace(intervals.proportion(rules.abstains(outlier_N), 0, patients), positives=None)
    if not rules.target.probabilistic:
        return Evidence(outliers=outliers, people=people(records))
    p = predictions_of(rules, scores)
    raw_NC = rules.target.values(scores.logits_NC)  # without temperatures: what the network itself says
    points = {
        name: calibration.operating_point(p.labels_NC[:, c], p.probabilities_NC[:, c], rules.thresholds[name], patients)
        for c, name in enumerate(p.classes)
        if name in rules.thresholds
    }
    groups = tuple(
        subgroups(column, values_of(records, column), p.labels_NC, p.probabilities_NC, p.classes, patients, draws, seed)
        for column in by
    )
    sets = {
        name: set_coverage(
            p.labels_NC[:, c],
            p.probabilities_NC[:, c],
            Cuts(card.sets[name].present_from, card.sets[name].absent_to),
            patients,
        )
        for c, name in enumerate(p.classes)
        if name in card.sets
    }
    return Evidence(_calibrated(card, p, raw_NC, draws, seed), points, groups, outliers, people(records), sets)


def _calibrated(card: Card, p: Predictions, raw_NC: np.ndarray, draws: int, seed: int) -> dict[str, Calibrated]:
    """Calibration of every class, at the model's temperatures and before; the same numbers if it has none."""
    after = calibration.calibration_report(
        p.labels_NC, p.probabilities_NC, p.classes, p.patients, draws=draws, seed=seed
    )
    before = after
    if card.temperatures:
        before = calibration.calibration_report(p.labels_NC, raw_NC, p.classes, p.patients, draws=draws, seed=seed)
    return {
        name: Calibrated(
            calibration.reliability(p.labels_NC[:, c], p.probabilities_NC[:, c], spacing="mass"),
            after[name]["brier"],
            after[name]["calibration_error"],
            before[name]["brier"],
            before[name]["calibration_error"],
            card.temperatures.get(name),
        )
        for c, name in enumerate(p.classes)
    }


def people(records: Records) -> dict[str, str]:
    """Who was tested, in words: sex, age and view, each with how many records do not state it; nothing if none does."""
    columns = {name.lower(): name for record in records for name in record.extra}
    sexes = [record.extra.get(columns.get("sex", ""), "").strip() for record in records]
    ages = [age_in_years(record.extra.get(columns.get("age", ""), "")) for record in records]
    texts = {
        "Sex": _counted(sexes),
        "View": _counted([record.view.strip() for record in records]),
        "Age": _age_range(ages),
    }
    return {title: text for title, text in texts.items() if text}


def _counted(values: Sequence[str], most_common: int = 6) -> str:
    """How often each value comes, the frequent ones by name; "" where no record states one."""
    counts = Counter(values)
    missing = counts.pop("", 0)
    if not counts:
        return ""
    named = counts.most_common(most_common)
    others = sum(counts.values()) - sum(count for _, count in named)
    parts = [f"{count:,} {value}" for value, count in named]
    if others:
        parts.append(f"{others:,} other")
    if missing:
        parts.append(f"{missing:,} not stated")
    return ", ".join(parts)


def _age_range(ages: Sequence[float]) -> str:
    """Median and quartiles of the ages; "" where no record states one."""
    known = [age for age in ages if not math.isnan(age)]
    if not known:
        return ""
    low, middle, high = np.quantile(known, [0.25, 0.5, 0.75])
    text = f"median {middle:.0f} years, middle half {low:.0f}–{high:.0f}"
    missing = len(ages) - len(known)
    return f"{text}; {missing:,} not stated" if missing else text


def summary(
    model: Path,
    card: Card,
    path: Path,
    tested: Records,
    predictions: Predictions,
    report: results.Report,
    unreadable: dict[str, str],
    overlap: list[str],
    evidence: Evidence = Evidence(),
) -> dict[str, Any]:
    """What was tested, on whom, and how it went: the content of `results.json`."""
    return {
        **evidence.to_dict(),
        **results.summary(model, card, path, tested.fingerprint(), len(predictions.names), report, overlap),
        **patients_of(predictions.names, predictions.patients).facts(),
        "unreadable": unreadable,
        "uncertain_thresholds": uncertain_thresholds(card.calibration),
        "calibrated_on": {k: v for k, v in card.calibration.items() if k in ("records", "fingerprint", "n", "goal")},
    }


def write_results(out: Path, summarised: dict[str, Any], predictions: Predictions) -> None:
    """`results.json` and `predictions.csv`."""
    write_json(Path(out) / "results.json", summarised)
    write_predictions(Path(out) / "predictions.csv", predictions)


def note_test(path: Path, summarised: dict[str, Any]) -> None:
    """Write into the model folder which records it was tested on, and how it did in the mean of its classes."""
    means = {"mean of classes": summarised["classes"]["mean"]}
    results.note_test(path, summarised, Path(summarised["records"]).name, means)
