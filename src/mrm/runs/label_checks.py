"""How well labels agree with those given by hand: `mrm label check`."""

# Shapes: N records that both files have, C classes
from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from mrm.data.record import RESERVED, Record
from mrm.data.records import Records, resolve_uncertain
from mrm.data.table_records import ATTRIBUTES
from mrm.runs.label_samples import WEIGHT
from mrm.runs.labelling import sentences_beside
from mrm.runs.output_lock import alone_in
from mrm.statistics.agreement import MEASURES, agreement
from mrm.statistics.intervals import Estimate
from mrm.system.errors import RecordError
from mrm.system.files import write_csv, write_json
from mrm.system.output_folder import writing
from mrm.system.tables import read_csv_rows
from mrm.system.text_table import text_table

VALUES = {"1", "0", "-1", "1.0", "0.0", "-1.0", ""}
COLUMNS = ("image_path", "patient_id", "study_id", "finding", "truth", "label", "sentence", "report_content")

Agreement = dict[str, dict[str, Estimate]]  # class: measure: estimate


@alone_in("out")
def check_labels(
    labelled: Path,
    truth: Path,
    out: Path | None = None,
    uncertain: Literal["ignore", "ones", "zeros"] = "ignore",
    draws: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Compare the labels of records with those given by hand; a label that is empty counts as absent in both.

    Records are joined by image, else by study. Rows of `truth` without any label are left out. A column `sampling_weight`, as
    `sample_labels` writes it, is used. With `out`, writes `agreement.json` and `disagreements.csv` with the sentences that
    decided. Returns the measures of each finding and their means, under "mean". Raises RecordError.
    """
    tables = [Records.load(path) for path in (labelled, truth)]
    classes = _common_classes(*tables)
    by_machine, by_hand = (_with_labels(table, classes) for table in tables)
    filled = by_hand.where(lambda row: any(value == value for value in row.labels))
    if not filled:
        raise RecordError(f"{truth}: none of its {len(by_hand):,} records has a label yet; fill in 1, 0 or -1")
    pairs = _pairs(by_machine, filled)
    _warn_of_missing(by_hand, filled, pairs, labelled)
    truth_NC, labels_NC = (_values(rows, classes, uncertain) for rows in zip(*pairs, strict=True))
    weights_N = _weights(truth, [hand for hand, _ in pairs])
    patients = replace(by_hand, rows=[hand for hand, _ in pairs]).patients
    report = agreement(truth_NC, labels_NC, classes, patients, weights_N, draws, seed)
    if out:
        facts = {
            "labelled": str(labelled),
            "truth": str(truth),
            "n": len(pairs),
            "uncertain": uncertain,
            "draws": draws,
            "seed": seed,
        }
        measures = {name: {m: e.to_dict() for m, e in by.items()} for name, by in report.items()}
        with writing(out):
            write_json(out / "agreement.json", {**facts, "findings": measures})
            write_csv(out / "disagreements.csv", COLUMNS, _disagreements(pairs, classes, labelled))
    print(_table(report))
    return report


# Two files of labels ------------------------------------------------------------------------------------


def _common_classes(labelled: Records, truth: Records) -> tuple[str, ...]:
    """The columns that hold labels in both files. Raises RecordError if there is none."""
    columns = [_label_columns(records) for records in (labelled, truth)]
    classes = tuple(name for name in columns[0] if name in columns[1])
    if not classes:
        raise RecordError(
            f"{truth.source}: has no column of labels that {labelled.source} has too; there: "
            f"{', '.join(columns[0]) or 'none'}; here: {', '.join(columns[1]) or 'none'}"
        )
    return classes


def _label_columns(records: Records) -> list[str]:
    """The columns of a table whose cells are all 1, 0, -1 or empty."""
    names = dict.fromkeys(name for row in records for name in row.extra)
    candidates = [n for n in names if n not in (*RESERVED, WEIGHT) and n.lower() not in ATTRIBUTES]
    return [n for n in candidates if all(row.extra.get(n, "") in VALUES for row in records)]


def _with_labels(records: Records, classes: tuple[str, ...]) -> Records:
    """The records with these columns, which are all 1, 0, -1 or empty, as their labels."""
    labels = [[float(row.extra.get(name) or "nan") for name in classes] for row in records]
    return records.with_labels(np.array(labels), classes)


def _pairs(by_machine: Records, by_hand: Records) -> list[tuple[Record, Record]]:
    """(by hand, by machine) of each record that both have, by image, else by study. Raises RecordError if there is none."""
    images = {_place(row): row for row in by_machine}
    studies = {row.study: row for row in by_machine if row.study}
    pairs = [
        (row, other) for row in by_hand if (other := images.get(_place(row)) or studies.get(row.study)) is not None
    ]
    if not pairs:
        raise RecordError(
            f"{by_hand.source}: none of its records is in {by_machine.source}, by image_path or study_id; first: "
            f"{by_hand.rows[0].name}"
        )
    return pairs


def _place(row: Record) -> str:
    return os.path.abspath(row.image) if isinstance(row.image, Path) else row.name


def _warn_of_missing(by_hand: Records, filled: Records, pairs: Sequence[object], labelled: Path) -> None:
    if blank := len(by_hand) - len(filled):
        warnings.warn(
            f"{by_hand.source}: {blank:,} of {len(by_hand):,} records have no label yet; left out", stacklevel=3
        )
    if missing := len(filled) - len(pairs):
        warnings.warn(
            f"{by_hand.source}: {missing:,} of {len(filled):,} records are not in {labelled}; left out", stacklevel=3
        )


def _values(rows: Sequence[Record], classes: tuple[str, ...], uncertain: str) -> np.ndarray:
    """Labels (N, C): empty is absent, uncertain as asked for."""
    stated = Records(rows, classes)
    return resolve_uncertain(stated.with_labels(np.nan_to_num(stated.labels_NC)), uncertain).labels_NC


def _weights(truth: Path, rows: Sequence[Record]) -> np.ndarray | None:
    """The sampling weights (N,); None if the table has none. Raises RecordError for one that is no number above 0."""
    texts = [row.extra.get(WEIGHT, "") for row in rows]
    if not any(texts):
        return None
    weights = []
    for row, text in zip(rows, texts, strict=True):
        try:
            weight = float(text)
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf"):
            raise RecordError(
                f"{truth}: {row.name}: {text!r} in column {WEIGHT} is no number above 0; keep what was drawn"
            )
        weights.append(weight)
    return np.array(weights)


# What is shown ------------------------------------------------------------------------------------------


def _disagreements(
    pairs: Sequence[tuple[Record, Record]], classes: Sequence[str], labelled: Path
) -> list[dict[str, object]]:
    """A row for each label that differs, with the sentence that decided it where its table is beside the records."""
    sentences = _sentences(sentences_beside(labelled))
    rows: list[dict[str, object]] = []
    for hand, machine in pairs:
        for c, name in enumerate(classes):
            true, value = (0.0 if v != v else v for v in (hand.labels[c], machine.labels[c]))
            if true != value:
                said = sentences.get((machine.patient, machine.study or machine.name, name), "")
                known = {"image_path": hand.name, "patient_id": hand.patient, "study_id": hand.study, "finding": name}
                rows.append(
                    {
                        **known,
                        "truth": f"{true:g}",
                        "label": f"{value:g}",
                        "sentence": said,
                        "report_content": hand.report,
                    }
                )
    return rows


def _sentences(table: Path) -> Mapping[tuple[str, str, str], str]:
    """The deciding sentence of each study and finding; none where the table is not there."""
    if not table.is_file():
        return {}
    header, lines = read_csv_rows(table)
    rows = [dict(zip(header, fields, strict=False)) for _, fields in lines]
    return {
        (r.get("patient_id", ""), r.get("study_id") or r.get("image_path", ""), r.get("finding", "")): r.get(
            "sentence", ""
        )
        for r in rows
    }


def _table(report: Agreement) -> str:
    rows = []
    for name, by in report.items():
        positives = by["f1"].positives
        rows.append([name, "" if positives is None else f"{positives:,}", *(_cell(by[m]) for m in MEASURES)])
    return text_table(["finding", "present", *(f"{m} (95 %)" for m in MEASURES)], rows)


def _cell(estimate: Estimate) -> str:
    if not estimate.defined:
        return "undefined"
    if not np.isfinite(estimate.low):
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} {estimate.low:.2f}-{estimate.high:.2f}"
