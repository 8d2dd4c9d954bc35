"""The table of a classifier's findings: its columns, a row for each image, and a whole table in memory.

`mrm predict` writes the same columns and rows that `mrm.Predictor` returns.
"""

# Shapes: N images, C classes
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from mrm.data.records import Record
from mrm.inference import neighbours
from mrm.inference.decisions import DecisionRules, Decisions
from mrm.system.errors import PredictError
from mrm.system.files import write_csv
from mrm.system.output_folder import writing
from mrm.system.partial_results import Row

if TYPE_CHECKING:
    import pandas

KNOWN: dict[str, type] = dict.fromkeys(neighbours.NAMED, str)  # the first columns of every table of images
NOTES: dict[str, type] = {"warning": str, "error": str}  # the last columns of every table of images


def finding_columns(rules: DecisionRules) -> dict[str, type]:
    """The columns of a classifier's findings: probability; threshold and decision, and the set, where it has them.

    Before them the class or level of a model that predicts one; of a regression the numbers alone.

    Raises PredictError where a class has the name of another column.
    """
    columns: dict[str, type] = dict(rules.target.answer)
    for name in rules.classes:
        columns[name] = float
        if name in rules.thresholds:
            columns |= {f"{name} threshold": float, f"{name} decision": int}
        if name in rules.sets:
            columns[f"{name} set"] = str
    if rules.outliers:
        columns |= {"outlier": float, "abstain": int}
    count = (
        len(rules.target.answer)
        + len(rules.classes)
        + 2 * len(rules.thresholds)
        + len(rules.sets)
        + 2 * bool(rules.outliers)
    )
    if len(columns) < count or columns.keys() & {*KNOWN, *NOTES}:
        every = ", ".join([*KNOWN, *columns, *NOTES])
        raise PredictError(f"a class of this model has the name of another column; the columns are {every}")
    return columns


def finding_row(rules: DecisionRules, decisions: Decisions, number: int) -> Row:
    """What is said of image `number`, by the columns of `finding_columns`."""
    row: Row = dict(zip(rules.target.answer, rules.target.answers(decisions.probability_BC[[number]]), strict=False))
    row |= zip(rules.classes, decisions.probability_BC[number].tolist(), strict=True)
    if decisions.outlier_B is not None and decisions.abstain_B is not None:
        row |= {"outlier": float(decisions.outlier_B[number]), "abstain": int(decisions.abstain_B[number])}
    thresholds = rules.thresholds
    for name, decision in zip(rules.classes, decisions.decision_BC[number].tolist(), strict=True):
        if name in thresholds:
            row[f"{name} threshold"] = thresholds[name]
        if not math.isnan(decision):
            row[f"{name} decision"] = int(decision)
        if name in rules.sets and not row.get("abstain"):
            row[f"{name} set"] = rules.set_of(name, row[name])
    return row


def known_row(name: str, record: Record | None, header: Mapping[str, str]) -> Row:
    """The first columns of an image's row: its name, and whose it is.

    What its record states takes precedence over the header of its file (`mrm.data.images.identity`).
    """
    stated = {"patient_id": record.patient, "study_id": record.study, **record.extra} if record else {}
    return {**{column: stated.get(column) or header.get(column) or None for column in KNOWN}, "path": name}


@dataclass(frozen=True, repr=False)
class Predictions(Sequence[Row]):
    """What a classifier says of images, in their order. It is a sequence of rows, as `mrm predict` writes them.

    An image that could not be read has NaN everywhere, and its reason in `errors`; `warnings` are about images that were
    read. Both are by position.
    """

    rules: DecisionRules
    known: Sequence[Row]  # what was known of each image beforehand: its name as `path`, its patient and study
    decisions: Decisions
    warnings: Mapping[int, str] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """The findings."""
        return self.rules.classes

    @property
    def names(self) -> list[str]:
        """The name of each image."""
        return [row["path"] for row in self.known]

    @property
    def probabilities_NC(self) -> np.ndarray:
        """Probabilities (N, C) at the model's temperatures."""
        return self.decisions.probability_BC

    @property
    def decisions_NC(self) -> np.ndarray:
        """1 where a probability reaches its threshold, 0 where not, NaN where there is no decision: (N, C)."""
        return self.decisions.decision_BC

    @property
    def outliers_N(self) -> np.ndarray | None:
        """How unlike the model's known images each one is (N,); None for a model that cannot tell."""
        return self.decisions.outlier_B

    @cached_property
    def columns(self) -> dict[str, type]:
        """The columns of the table, and their types."""
        return {**KNOWN, **finding_columns(self.rules), **NOTES}

    def __len__(self) -> int:
        return len(self.known)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        numbers = range(len(self))[index]
        return [self._row(number) for number in numbers] if isinstance(numbers, range) else self._row(numbers)

    def _row(self, number: int) -> Row:
        """Every column, None where there is no value."""
        said = {} if number in self.errors else finding_row(self.rules, self.decisions, number)
        notes = {"warning": self.warnings.get(number), "error": self.errors.get(number)}
        return {**dict.fromkeys(self.columns), **self.known[number], **said, **notes}

    def __iter__(self) -> Iterator[Row]:
        return (self._row(number) for number in range(len(self)))

    def __repr__(self) -> str:
        unread = f", {len(self.errors)} of which could not be read" if self.errors else ""
        return f"<Predictions of {', '.join(self.classes)} for {len(self)} images{unread}>"

    def to_csv(self, path: Path | str) -> Path:
        """Write the table as `mrm predict` does. Returns `path`. Raises OutputError."""
        with writing(Path(path)):
            return write_csv(Path(path), self.columns, self)

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a pandas DataFrame; whole numbers that may be missing are of pandas' type Int64.

        Raises PredictError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise PredictError("to_pandas() needs pandas: pip install 'mrm-radiograph[pandas]'") from None
        kinds: dict[type, Any] = {str: object, float: "float64", int: "Int64"}
        frame = pandas.DataFrame(list(self), columns=list(self.columns))
        return frame.astype({name: kinds[kind] for name, kind in self.columns.items()})
