"""A model's findings of images, as a table; a segmenter's masks go to `outlining`."""

# Shapes: B images of a batch, C classes, K values of an image
from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mrm.data.finding_files import records_at
from mrm.inference.decisions import DecisionRules
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.runs.output_lock import alone_on
from mrm.runs.reading_options import Reading, device_of
from mrm.runs.run_folder import spare_inputs, warn_of
from mrm.runs.work import KNOWN, NOTES, Work
from mrm.runs.written import Written
from mrm.statistics.few_labels import uncertain_thresholds
from mrm.system.errors import RunError
from mrm.system.partial_results import Row
from mrm.system.table_files import check_suffix, write_table
from mrm.training.trainer import processes


def predict(
    model: Path,
    paths: Sequence[Path | str],
    out: Path,
    reading: Reading = Reading(),
    slide: bool = False,
    dicom_seg: bool = True,
) -> Written:
    """Predict images: with a classifier a table of findings, with a segmenter a folder of masks."""
    if model_folder.kind_at(model) == "segmenter":
        from mrm.runs.outlining import outline

        return outline(model, paths, out, slide, dicom_seg, reading)
    if slide:
        raise RunError(
            f"{model}: is a classifier, which sees the whole image at once; --slide is for segmenters, leave it out"
        )
    return predict_table(model, paths, out, reading)


@alone_on("out")
def predict_table(model: Path, paths: Sequence[Path | str], out: Path, reading: Reading = Reading()) -> Written:
    """Probabilities, thresholds and decisions, a row for each image, as CSV, JSON, JSON lines or Parquet.

    Raises RunError for another kind of model or where no image can be read, RecordError for paths and tables that
    cannot be used.
    """
    check_suffix(Path(out))
    network = model_folder.load_as(model, Classifier).to(device_of(reading))
    rules = DecisionRules.of(network.card, network.config.classes)
    if processes().is_main_process:
        warn_of(uncertain_thresholds(network.card.calibration))
    columns = {**KNOWN, **finding_columns(rules), **NOTES}
    if len(columns) < len(KNOWN) + len(finding_columns(rules)) + len(NOTES):
        raise RunError(f"{model}: a class has the name of another column; the columns are {', '.join(columns)}")
    records = records_at(paths, reading.images)
    spare_inputs(paths, records, [Path(out)])
    work = Work("predicting", network, model, records, Path(out), reading)
    work.run(partial(add_findings, rules), rules.needed_from(network))
    return work.finish(lambda rows: write_table(Path(out), columns, rows(), work.facts()))


def finding_columns(rules: DecisionRules) -> dict[str, type]:
    """The columns of a classifier's findings: probability; threshold and decision where it has a threshold."""
    columns: dict[str, type] = {}
    for name in rules.classes:
        columns[name] = float
        if name in rules.thresholds:
            columns |= {f"{name} threshold": float, f"{name} decision": int}
    if rules.outliers:
        columns |= {"outlier": float, "abstain": int}
    return columns


def add_findings(rules: DecisionRules, rows: Sequence[Row], values_BK: np.ndarray) -> None:
    """Write into the rows what is decided by the values that `rules.needed_from` computes of each image."""
    decisions = rules.decide(values_BK)
    for number, row in enumerate(rows):
        row |= dict(zip(rules.classes, decisions.probability_BC[number].tolist(), strict=True))
        if decisions.outlier_B is not None and decisions.abstain_B is not None:
            row |= {"outlier": float(decisions.outlier_B[number]), "abstain": int(decisions.abstain_B[number])}
        for name, decision in zip(rules.classes, decisions.decision_BC[number].tolist(), strict=True):
            if name in rules.thresholds:
                row[f"{name} threshold"] = rules.thresholds[name]
            if not math.isnan(decision):
                row[f"{name} decision"] = int(decision)
