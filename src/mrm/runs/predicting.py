"""A model's findings of images, as a table; a segmenter's masks go to `outlining`."""

# Shapes: B images of a batch, K values of an image
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.finding_files import records_at
from mrm.data.records import Records
from mrm.inference.decisions import DecisionRules
from mrm.inference.dicom_objects import Origin
from mrm.inference.predict import feature_shape, with_mirrored
from mrm.inference.prediction_table import KNOWN, NOTES, finding_columns, finding_row
from mrm.inference.predictor import Predictor
from mrm.inference.studies import Pool, note_unstated
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.runs.dicom_delivery import Delivery, Reports
from mrm.runs.guessed_views import digest_of, require_frontal, with_guessed_views
from mrm.runs.output_lock import alone_in, alone_on
from mrm.runs.reading_options import Reading, placed, require_single_images, require_target
from mrm.runs.run_folder import spare_inputs, warn_of
from mrm.runs.study_rows import frontal_row, study_columns, study_rows
from mrm.runs.work import VIEW, Work
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
    dicom_sr: Path | None = None,
    store: bool = False,
    deidentified: bool = False,
) -> Written:
    """Predict images: with a classifier a table of findings, with a segmenter a folder of masks."""
    if model_folder.kind_at(model) == "segmenter":
        from mrm.runs.outlining import outline

        require_single_images(reading, model)
        if dicom_sr:
            raise RunError(f"{model}: is a segmenter, which writes DICOM Segmentations; leave out --dicom-sr")
        return outline(model, paths, out, slide, dicom_seg, reading, store, deidentified)
    if slide:
        raise RunError(
            f"{model}: is a classifier, which sees the whole image at once; --slide is for segmenters, leave it out"
        )
    return predict_table(model, paths, out, reading, dicom_sr, store, deidentified)


@alone_on("out", share="reading.share")
@alone_in("dicom_sr", share="reading.share")
def predict_table(
    model: Path,
    paths: Sequence[Path | str],
    out: Path,
    reading: Reading = Reading(),
    dicom_sr: Path | None = None,
    store: bool = False,
    deidentified: bool = False,
) -> Written:
    """Probabilities, thresholds and decisions, a row for each image, as CSV, JSON, JSON lines or Parquet.

    `dicom_sr` is a folder for a DICOM report of each DICOM image, or of each study; with `store` the reports go into the
    archive that the images come from, and with `deidentified` there is none of an image that may name a person. A row counts as
    done when its report is there. Raises RunError for another kind of model or where no image can be read, PredictError for
    classes that cannot be columns, RecordError for paths and tables that cannot be used.
    """
    check_suffix(Path(out))
    require_frontal(reading)
    predictor = Predictor(
        placed(model_folder.load_as(model, Classifier), reading),
        precision=reading.precision,
        crop_borders=reading.crop_borders,
    )
    rules = predictor.rules
    require_target(rules.target, reading, (), model)
    if processes().is_main_process:
        warn_of(uncertain_thresholds(predictor.model.card.calibration))
        warn_of(other_unit(predictor.model.card.calibration, reading))
    records = with_guessed_views(records_at(paths, reading.images), reading)
    spare_inputs(paths, records, [Path(out)])
    options = {"by_study": reading.by_study, "views": reading.views, "flip": reading.flip, "guess": digest_of(reading)}
    width = len(rules.classes) + feature_width(predictor) if reading.by_study else 0
    finding_columns(rules)  # refuses names of classes before the work
    delivery = Delivery(Path(dicom_sr) if dicom_sr else None, store, deidentified)
    delivery.check(records)
    reports = reports_of(predictor, model, records, reading, delivery) if delivery else None
    settings = {**options, "dicom_sr": dicom_sr and str(dicom_sr), "store": store, "deidentified": deidentified}
    work = Work("predicting", predictor.model, model, records, Path(out), reading, settings, width)
    compute = with_mirrored(predictor.compute) if reading.flip else predictor.compute
    work.run(partial(add_findings, rules), compute, reports.of_image if reports and not reading.by_study else None)
    if reading.by_study:
        pool = reading.by_study
        return work.finish(lambda rows: write_studies(work, list(rows()), rules, pool, reports))
    return work.finish(lambda rows: write_images(work, rows(), rules))


def reports_of(predictor: Predictor, model: Path, records: Records, reading: Reading, delivery: Delivery) -> Reports:
    """How the DICOM reports of a prediction are made, and where they go. Raises MaskError where highdicom is missing."""
    settings = {
        "pooled by study": reading.by_study,
        "averaged with mirror images": reading.flip,
        "crop borders": reading.crop_borders,
        "precision": None if reading.precision == "fp32" else reading.precision,
    }
    origin = Origin.of(model, predictor.model.card)
    return Reports(records, predictor.rules, origin, settings, delivery, reading.views)


def write_images(work: Work, rows: Iterator[Row], rules: DecisionRules) -> Path:
    """Write the table by image."""
    columns = {**KNOWN, **finding_columns(rules), **NOTES}
    keep = work.reading.views
    views: list[str] = []  # of the images that could be read

    def shown() -> Iterator[Row]:
        for row in rows:
            view = row.get(VIEW, "")
            views.extend([] if "error" in row else [view])
            yield frontal_row(row, view, keep)

    out = write_table(work.out, columns, shown(), work.facts())
    warn_of(note_unstated(views, keep))
    return out


def other_unit(calibration: Mapping[str, Any], reading: Reading) -> list[str]:
    """A sentence where thresholds were chosen by image and are used by study, or the other way round."""
    chosen, used = calibration.get("by_study"), reading.by_study
    if not calibration or chosen == used:
        return []
    words = {None: "by image", "mean": "by study (mean)", "max": "by study (max)"}
    return [
        f"the thresholds of this model were chosen {words.get(chosen, chosen)} and are used {words[used]}; calibrate it in the "
        "same way, or do not rely on the decisions"
    ]


def feature_width(predictor: Predictor) -> int:
    """The number of features that are computed of an image beside its logits."""
    return feature_shape(predictor.model, "pooled")[0] if predictor.rules.outliers else 0


def write_studies(
    work: Work, rows: Sequence[Row], rules: DecisionRules, pool: Pool, reports: Reports | None = None
) -> None:
    """Write the table by study, and the reports. Warns of images that state no study, each of which is one of its own."""
    if alone := sum(not row["study_id"] for row in rows):
        warn_of([f"{alone:,} of {len(rows):,} images state no study, so each of these counts as a study of its own"])
    values_NK = np.stack(list(work.values()))
    views = [row.get(VIEW, "") for row in rows]
    warn_of(note_unstated([row.get(VIEW, "") for row in rows if "error" not in row], work.reading.views))
    made = []
    for study, row in study_rows(rows, values_NK, views, rules, pool, work.reading.views):
        if reports and study.used and (reason := reports.of_study(row, study.used)):
            row["warning"] = "; ".join(filter(None, [row["warning"], reason]))
        made.append(row)
    warn_of([f"left out {row['error']}" for row in made if row.get("error")])
    write_table(work.out, study_columns(rules), made, work.facts())


def add_findings(rules: DecisionRules, rows: Sequence[Row], values_BK: np.ndarray) -> None:
    """Write into the rows what is decided by the values that the predictor computes of each image."""
    decisions = rules.decide(values_BK)
    for number, row in enumerate(rows):
        row |= finding_row(rules, decisions, number)
