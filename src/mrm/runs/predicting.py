"""A model's findings of images, as a table; a segmenter's masks go to `outlining`."""

# Shapes: B images of a batch, K values of an image
from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mrm.data.finding_files import records_at
from mrm.inference.decisions import DecisionRules
from mrm.inference.prediction_table import KNOWN, NOTES, finding_columns, finding_row
from mrm.inference.predictor import Predictor
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.runs.output_lock import alone_on
from mrm.runs.reading_options import Reading, device_of
from mrm.runs.run_folder import spare_inputs, warn_of
from mrm.runs.work import Work
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

    Raises RunError for another kind of model or where no image can be read, PredictError for classes that cannot be
    columns, RecordError for paths and tables that cannot be used.
    """
    check_suffix(Path(out))
    predictor = Predictor(
        model_folder.load_as(model, Classifier).to(device_of(reading)),
        precision=reading.precision,
        crop_borders=reading.crop_borders,
    )
    rules = predictor.rules
    if processes().is_main_process:
        warn_of(uncertain_thresholds(predictor.model.card.calibration))
    columns = {**KNOWN, **finding_columns(rules), **NOTES}
    records = records_at(paths, reading.images)
    spare_inputs(paths, records, [Path(out)])
    work = Work("predicting", predictor.model, model, records, Path(out), reading)
    work.run(partial(add_findings, rules), predictor.compute)
    return work.finish(lambda rows: write_table(Path(out), columns, rows(), work.facts()))


def add_findings(rules: DecisionRules, rows: Sequence[Row], values_BK: np.ndarray) -> None:
    """Write into the rows what is decided by the values that the predictor computes of each image."""
    decisions = rules.decide(values_BK)
    for number, row in enumerate(rows):
        row |= finding_row(rules, decisions, number)
