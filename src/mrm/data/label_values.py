"""The values that labels may have, and a label from the text of a table."""

from __future__ import annotations

import math
from typing import Literal

from mrm.system.errors import RecordError
from mrm.system.tables import stated

UNCERTAIN = -1.0  # CheXpert's "may be present"; a policy turns it into 1, 0 or NaN before training
LabelKind = Literal["findings", "shares", "numbers"]
ALLOWED: dict[str, str] = {"findings": "1, 0, -1 (uncertain)", "shares": "a share from 0 to 1", "numbers": "a number"}


def is_label(value: float, kind: LabelKind) -> bool:
    """Whether a stated label is one of this kind."""
    if kind == "findings":
        return value in (0.0, 1.0, UNCERTAIN)
    return math.isfinite(value) and (kind == "numbers" or 0 <= value <= 1)


def label_of(text: str, name: str, column: str, kind: LabelKind) -> float:
    """The label in a cell; NaN where nothing is stated. Raises RecordError for what is no label of this kind."""
    text = stated(text)
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = float("inf")
    if not math.isnan(value) and not is_label(value, kind):
        raise RecordError(
            f"{name}: {text!r} in column {column} is not {ALLOWED[kind]} or empty; "
            "if the column is not a class, name the classes with --classes"
        )
    return value
