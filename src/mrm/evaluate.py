"""Testing a classifier: predictions of records, as files, and what the model folder remembers of the test."""

# Shapes: N records, C classes
from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrm import checkpoint
from mrm.audit import compare
from mrm.checkpoint import Card
from mrm.classifier import Classifier
from mrm.fingerprints import Fingerprints, fingerprint
from mrm.metrics import Estimate
from mrm.predict import Scores
from mrm.records import RecordError, Records, read_csv_rows, resolve_uncertain, write_whole


class RunError(ValueError):
    """A run or a test that cannot start. The message says why, and what to do."""


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of records it could read: labels and probabilities (N, C), row by row."""

    names: list[str]
    patients: list[str] | None
    classes: tuple[str, ...]
    labels_NC: np.ndarray
    probabilities_NC: np.ndarray


def load_classifier(path: Path) -> Classifier:
    """The classifier at `path`. Raises RunError for another kind of model."""
    model = checkpoint.load(path)
    if not isinstance(model, Classifier):
        raise RunError(
            f"{path}: a {checkpoint.kind_of(model)}, not a classifier; fine-tune it first with `mrm finetune`"
        )
    return model


def test_records(model: Classifier, path: Path, images: Path | None) -> Records:
    """Records to test on, with the model's classes and its policy for uncertain labels."""
    records = Records.load(path, model.config.classes, images)
    return resolve_uncertain(records, model.config.uncertain or dict.fromkeys(records.classes, "ignore"))


def overlaps(seen: Path, records: Records, name: str) -> list[str]:
    """What a model has seen of these records: a line for each kind of overlap with each set it was trained on.

    `seen` is the folder of that name in a run or a model folder. A model without one says so.
    """
    files = sorted(seen.glob("*.npz"))
    if not files:
        return ["it is not known which records this model was trained on, so overlap with them cannot be ruled out"]
    trained = {file.stem: Fingerprints.load(file) for file in files}
    prints = fingerprint(records, pictures=any(t.read for t in trained.values()))
    return [str(o) for stage, t in trained.items() for o in compare(t, prints, (stage, name))]


def readable(records: Records, scores: Scores, path: Path) -> Predictions:
    """The predictions of the pictures that could be read. Raises RunError if there is none."""
    read = np.flatnonzero(~np.isnan(scores.logits_NC).any(axis=1))
    if not len(read):
        reason = next(iter(scores.unreadable.values()))
        raise RunError(f"{path}: not one of {len(records)} pictures could be read; the first: {reason}")
    kept = records.select(read)
    names = [r.name for r in kept]
    return Predictions(names, kept.patients, kept.classes, kept.labels_NC, scores.probabilities_NC[read])


def summary(
    model: Path,
    card: Card,
    path: Path,
    tested: Records,
    predictions: Predictions,
    report: dict[str, dict[str, Estimate]],
    unreadable: dict[str, str],
    overlap: list[str],
) -> dict[str, Any]:
    """What was tested, on whom, and how it went: the content of `results.json`."""
    return {
        "model": str(model),
        "records": str(path),
        "fingerprint": tested.fingerprint(),
        "n": len(predictions.names),
        "patients": len(set(predictions.patients)) if predictions.patients else None,
        "unreadable": unreadable,
        "overlap": overlap,
        "classes": {c: {m: e.to_dict() for m, e in per.items()} for c, per in report.items()},
        "origin": card.origin,
    }


def write_results(out: Path, results: dict[str, Any], predictions: Predictions) -> None:
    """`results.json` and `predictions.csv`: name, patient, a label and a probability column for each class."""
    write_whole(Path(out) / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    p = predictions
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "patient_id", *(f"{c} label" for c in p.classes), *p.classes])
    for i, name in enumerate(p.names):
        labels = ["" if v != v else f"{v:g}" for v in p.labels_NC[i]]
        writer.writerow(
            [name, p.patients[i] if p.patients else "", *labels, *map(repr, p.probabilities_NC[i].tolist())]
        )
    write_whole(Path(out) / "predictions.csv", text.getvalue().encode())


def read_predictions(path: Path) -> Predictions:
    """The predictions in a `predictions.csv`. Raises RecordError for another table."""
    header, lines = read_csv_rows(path)
    classes = tuple(h.removesuffix(" label") for h in header if h.endswith(" label"))
    if header[:2] != ["name", "patient_id"] or not classes or len(header) != 2 + 2 * len(classes):
        raise RecordError(f"{path}: not a predictions.csv of `mrm evaluate`; its columns are {', '.join(header)}")
    rows = [row for _, row in lines]
    numbers = np.array([[float(v or "nan") for v in row[2:]] for row in rows]).reshape(len(rows), -1)
    patients = [row[1] for row in rows]
    labels_NC, probabilities_NC = np.hsplit(numbers, 2)
    return Predictions(
        [row[0] for row in rows], patients if all(patients) else None, classes, labels_NC, probabilities_NC
    )


def note_test(path: Path, results: dict[str, Any]) -> None:
    """Write into the model folder what it was tested on, and how it did."""
    folder = checkpoint.find_model(Path(path))
    card = checkpoint.read_card(folder)
    entry = {
        "records": Path(results["records"]).name,
        "fingerprint": results["fingerprint"],
        "n": results["n"],
        "overlap": results["overlap"],
        "mean": results["classes"]["mean"],
    }
    others = [t for t in card.tested if t["fingerprint"] != entry["fingerprint"]]
    checkpoint.write_card(folder, replace(card, tested=[*others, entry]))
