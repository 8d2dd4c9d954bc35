"""The table of `mrm predict` by study: a row for each study, from the rows and values of its images."""

# Shapes: N images, K values of an image
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mrm.inference.decisions import DecisionRules
from mrm.inference.prediction_table import finding_columns, finding_row
from mrm.inference.studies import (
    GUESSED_LATERAL,
    ONLY_LATERAL,
    Pool,
    Study,
    Views,
    is_lateral,
    note_of_view,
    pooled,
    studies_of,
    study_key,
)
from mrm.system.partial_results import Row

WHOSE = ("patient_id", "study_id")
MADE_OF: dict[str, type] = {"images": int, "used": str, "left_out": str}


def study_columns(rules: DecisionRules) -> dict[str, type]:
    """The columns: whose study it is, the number of images used and their names, those left out, the findings."""
    notes: dict[str, type] = {"warning": str, "error": str}
    return {**dict.fromkeys(WHOSE, str), **MADE_OF, **finding_columns(rules), **notes}


def study_rows(
    rows: Sequence[Row], values_NK: np.ndarray, views: Sequence[str], rules: DecisionRules, pool: Pool, keep: Views
) -> Iterator[tuple[Study, Row]]:
    """Each study with its row. One whose images cannot be read, or are all left out as lateral, has the reason as its error."""
    keys = [study_key(row["patient_id"], row["study_id"], row["path"]) for row in rows]
    for study in studies_of(keys, views, ["error" not in row for row in rows], keep):
        first = rows[study.images[0]]
        row: Row = {name: first[name] for name in WHOSE}
        row |= {"images": len(study.used), "used": _names(rows, study.used) or None}
        row["left_out"] = "; ".join(_left_out(rows, views, study)) or None
        warned = dict.fromkeys(w for n in study.used if (w := rows[n].get("warning")))
        notes = [f"{rows[n]['path']} {note}" for n in study.used if (note := note_of_view(views[n], keep))]
        row["warning"] = "; ".join([*warned, *notes]) or None
        if study.used:
            values_K = pooled(values_NK[list(study.used)], len(rules.classes), pool)
            yield study, row | finding_row(rules, rules.decide(values_K[None]), 0)
        else:
            reason = rows[study.unreadable[0]]["error"] if study.unreadable else ONLY_LATERAL
            yield study, row | {"error": f"study {first['study_id'] or first['path']}: {reason}"}


def frontal_row(row: Row, view: str, keep: Views) -> Row:
    """The row of an image in a table by image; of a lateral one that is left out, what is known and why.

    One that states no view has a warning where laterals are left out.
    """
    if keep == "all" or "error" in row:
        return row
    if note := note_of_view(view, keep):
        return row | {"warning": "; ".join(filter(None, [row.get("warning"), note]))}
    if not is_lateral(view):
        return row
    known = {name: row.get(name) for name in (*WHOSE, "path")}
    what = "taken for a lateral image by --view-classifier" if view == GUESSED_LATERAL else "a lateral image"
    return known | {"error": f"{row['path']}: {what}, which --views frontal leaves out"}


def _names(rows: Sequence[Row], numbers: Sequence[int]) -> str:
    return "; ".join(str(rows[n]["path"]) for n in numbers)


def _left_out(rows: Sequence[Row], views: Sequence[str], study: Study) -> Iterator[str]:
    """The images that do not count, each with the reason."""
    for n in study.lateral:
        yield f"{rows[n]['path']} (lateral{', guessed' if views[n] == GUESSED_LATERAL else ''})"
    yield from (f"{rows[n]['path']} (not read)" for n in study.unreadable)
