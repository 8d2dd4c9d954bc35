"""Predictions of a test as files: what `mrm evaluate` writes for each record, read back, and paired with another model's."""

# Shapes: N records, C classes
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrm.data.patients import patients_of
from mrm.statistics.dice import PixelCounts
from mrm.system.errors import RecordError
from mrm.system.files import write_csv
from mrm.system.tables import read_csv_rows, stated


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of records it could read: labels and probabilities (N, C), row by row."""

    names: list[str]
    patients: list[str]  # "" where unknown
    classes: tuple[str, ...]
    labels_NC: np.ndarray
    probabilities_NC: np.ndarray


def write_predictions(path: Path, p: Predictions) -> Path:
    """A `predictions.csv`: name, patient, a label and a probability column for each class."""
    header = ["name", "patient_id", *(f"{c} label" for c in p.classes), *p.classes]
    rows = []
    for i, name in enumerate(p.names):
        labels = ["" if math.isnan(label) else f"{label:g}" for label in p.labels_NC[i]]
        rows.append([name, p.patients[i], *labels, *map(repr, p.probabilities_NC[i].tolist())])
    return write_csv(path, header, rows)


def read_predictions(path: Path) -> Predictions:
    """The predictions in a `predictions.csv`. Raises RecordError for another table and for values out of range."""
    header, lines = read_csv_rows(path)
    classes = tuple(h.removesuffix(" label") for h in header if h.endswith(" label"))
    if header[:2] != ["name", "patient_id"] or not classes or len(header) != 2 + 2 * len(classes):
        raise RecordError(f"{path}: not a predictions.csv of `mrm evaluate`; its columns are {', '.join(header)}")
    rows = list(lines)
    if not rows:
        raise RecordError(f"{path}: no predictions in it")
    for number, row in rows:
        if len(row) != len(header):
            raise RecordError(f"{path}: line {number}: {len(row)} fields, the header has {len(header)}")
    numbers = np.array([[_number(v, path, n, row[0]) for v in row[2:]] for n, row in rows])
    labels_NC, probabilities_NC = np.hsplit(numbers, 2)
    for what, wrong_NC in (
        ("label {:g} is not 1, 0 or empty (not stated)", ~(np.isnan(labels_NC) | np.isin(labels_NC, (0, 1)))),
        ("probability {:g} is outside 0 to 1 (is it a logit?)", ~((probabilities_NC >= 0) & (probabilities_NC <= 1))),
    ):
        if wrong_NC.any():
            i, c = np.argwhere(wrong_NC)[0]
            value = (labels_NC if what.startswith("label") else probabilities_NC)[i, c]
            raise RecordError(
                f"{path}: line {rows[i][0]}: {rows[i][1][0]}, {classes[c]}: {what.format(value)}"
                + (f"; {wrong_NC.sum():,} such values in all" if wrong_NC.sum() > 1 else "")
            )
    names = [row[0] for _, row in rows]
    patients = patients_of(names, [stated(row[1]) for _, row in rows]).names
    return Predictions(names, patients, classes, labels_NC, probabilities_NC)


def _number(text: str, path: Path, line: int, name: str) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        raise RecordError(f"{path}: line {line}: {name}: {text!r} is not a number") from None


@dataclass(frozen=True)
class ImageDice:
    """The Dice of the images of one class: of images with a lesion (else NaN), and as published."""

    names: list[str]
    patients: list[str]  # "" where unknown
    positive_N: np.ndarray
    published_N: np.ndarray


def read_dice(path: Path) -> dict[str, ImageDice]:
    """The Dice of every class in an `images.csv`. Raises RecordError for another table."""
    by_class: dict[str, list[tuple[str, str, float, float]]] = {}
    for number, row in _rows_of_images(path, ("name", "class", "patient_id", "predicted", "true", "dice")):
        name = row["name"]
        predicted, true, dice = (_number(row[c], path, number, name) for c in ("predicted", "true", "dice"))
        if dice < 0 or dice > 1 or (true > 0) == math.isnan(dice):
            raise RecordError(f"{path}: line {number}: {name}: Dice {row['dice'] or 'empty'} with {true:g} true pixels")
        published = dice if true > 0 else float(predicted == 0)
        by_class.setdefault(row["class"], []).append((name, stated(row["patient_id"]), dice, published))
    found = {}
    for label, rows in by_class.items():
        names, patients = [row[0] for row in rows], [row[1] for row in rows]
        positive_N, published_N = (np.array([row[column] for row in rows]) for column in (2, 3))
        found[label] = ImageDice(names, patients_of(names, patients).names, positive_N, published_N)
    return found


def read_counts(path: Path) -> dict[str, PixelCounts]:
    """The pixel counts of every class in an `images.csv`, in the order of its images. Raises RecordError for another table."""
    counted = ("intersection", "predicted", "true", "pixels")
    by_class: dict[str, list[list[float]]] = {}
    for number, row in _rows_of_images(path, ("name", "class", *counted)):
        counts = [_number(row[column], path, number, row["name"]) for column in counted]
        by_class.setdefault(row["class"], []).append(counts)
    try:
        return {label: PixelCounts(*np.array(rows).T) for label, rows in by_class.items()}
    except ValueError as error:
        raise RecordError(f"{path}: {error}") from error


def _rows_of_images(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of each line of an `images.csv`, and its cells of these columns. Raises RecordError for another table."""
    header, lines = read_csv_rows(path)
    if any(column not in header for column in columns):
        raise RecordError(f"{path}: not an images.csv of `mrm evaluate`; its columns are {', '.join(header)}")
    at = {column: header.index(column) for column in columns}
    for number, row in lines:
        if len(row) != len(header):
            raise RecordError(f"{path}: line {number}: {len(row)} fields, the header has {len(header)}")
        yield number, {column: row[place] for column, place in at.items()}


# Two sets of predictions of the same records -----------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """Two classifiers' predictions of the same records, in the same order, for the classes of both."""

    names: list[str]
    patients: list[str]  # "" where both leave it unknown
    classes: tuple[str, ...]
    labels_NC: np.ndarray
    first_NC: np.ndarray
    second_NC: np.ndarray
    left_out: tuple[str, ...]  # classes that one of them lacks


def pair(first: Predictions, second: Predictions, names: tuple[str, str]) -> Paired:
    """Two sets of predictions side by side. `names` are what errors call them.

    Raises RecordError where they do not cover the same records, a record occurs twice, their labels or patients
    differ, or they have no class in common.
    """
    order = same_order(first.names, second.names, names)
    classes = tuple(c for c in first.classes if c in second.classes)
    if not classes:
        raise RecordError(f"{names[0]} and {names[1]} have no class in common: {first.classes} and {second.classes}")
    a, b = ([one.classes.index(c) for c in classes] for one in (first, second))
    labels_NC, others_NC = first.labels_NC[:, a], second.labels_NC[order][:, b]
    differ_NC = ~((labels_NC == others_NC) | (np.isnan(labels_NC) & np.isnan(others_NC)))
    if differ_NC.any():
        i, c = np.argwhere(differ_NC)[0]
        raise RecordError(
            f"{differ_NC.sum():,} labels differ between {names[0]} and {names[1]}; the first is {classes[c]} of "
            f"{first.names[i]}: {labels_NC[i, c]:g} and {others_NC[i, c]:g}; test both on the same labels"
        )
    patients = same_patients(first.names, first.patients, [second.patients[i] for i in order], names)
    left_out = tuple(sorted(set(first.classes) ^ set(second.classes)))
    return Paired(
        first.names, patients, classes, labels_NC, first.probabilities_NC[:, a],
        second.probabilities_NC[order][:, b], left_out,
    )  # fmt: skip


def same_patients(
    records: Sequence[str], first: Sequence[str], second: Sequence[str], names: tuple[str, str]
) -> list[str]:
    """The patient of each record, as either table states it. Raises RecordError where the two state different ones."""
    for record, one, other in zip(records, first, second, strict=True):
        if one and other and one != other:
            raise RecordError(
                f"{names[0]} and {names[1]} name different patients for the same records; the first is {record}: "
                f"{one} and {other}"
            )
    return [one or other for one, other in zip(first, second, strict=True)]


def same_order(first: Sequence[str], second: Sequence[str], names: tuple[str, str]) -> list[int]:
    """The place in `second` of each record of `first`. Raises RecordError unless both have the same records, once each."""
    for source, listed in zip(names, (first, second), strict=True):
        if twice := [name for name, n in Counter(listed).items() if n > 1]:
            raise RecordError(f"{source}: {len(twice):,} records occur more than once, the first is {twice[0]}")
    places = {name: i for i, name in enumerate(second)}
    only = [n for n in first if n not in places], [n for n in second if n not in set(first)]
    if any(only):
        differences = "; ".join(
            f"{len(lone):,} of {len(listed):,} only in {source} (first: {lone[0]})"
            for source, listed, lone in zip(names, (first, second), only, strict=True)
            if lone
        )
        raise RecordError(
            f"the two do not cover the same records: {differences}; test both models on the same file of records"
        )
    return [places[name] for name in first]
