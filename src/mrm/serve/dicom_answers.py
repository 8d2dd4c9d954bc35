"""Answers as DICOM objects, as `mrm predict` writes them: a structured report of a study, a segmentation of an image.

Their identifiers are those that the command gives them, so that an archive holds no answer twice. Extra `seg`.
"""

# Shapes: N images, K values of an image, H W pixels
from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mrm.inference import dicom_seg, dicom_sr
from mrm.inference.prediction_table import finding_row
from mrm.inference.studies import Pool, pooled
from mrm.serve.admission import Refused
from mrm.serve.models import Models
from mrm.serve.uploads import DecodedImage
from mrm.system.errors import MaskError

if TYPE_CHECKING:
    import pydicom

MEDIA_TYPE = "application/dicom"


def is_available() -> bool:
    """Whether the library that makes them is installed."""
    return importlib.util.find_spec("highdicom") is not None


def report(
    models: Models,
    values_NK: np.ndarray,
    sent: Sequence[tuple[DecodedImage, pydicom.Dataset]],
    pool: Pool,
) -> bytes:
    """The report of a study from what `classify` returned for its N images that are used, of those that were sent.

    Each was sent with what its file states beside its pixels. Raises Refused (422).
    """
    headers = [header for upload, header in sent if not upload.left_out]
    studies = {str(header.get("StudyInstanceUID")) for header in headers}
    if len(studies) > 1:
        raise Refused(
            422, f"the images are of {len(studies)} studies, and a report is about one; send those of one study"
        )
    said = [
        text for upload, _ in sent for text in ([f"an image {upload.left_out}"] if upload.left_out else upload.warnings)
    ]
    settings = f"pooled by study: {pool}" if len(headers) > 1 else ""
    return _file(lambda: study_report(models, values_NK, headers, said, pool, settings))


def study_report(
    models: Models,
    values_NK: np.ndarray,
    headers: Sequence[pydicom.Dataset],
    said: Sequence[str],
    pool: Pool,
    settings: str,
) -> pydicom.Dataset:
    """The report of a study as a dataset, with the warnings `said` and the `settings` by which it was computed.

    Raises MaskError for images that no report can refer to.
    """
    rules = models.predictor.rules
    row = finding_row(rules, rules.decide(pooled(values_NK, len(rules.classes), pool)[None]), 0)
    row["warning"] = "; ".join(dict.fromkeys(said))
    return dicom_sr.report(headers, rules, row, models.origin, settings)


def segmentation(models: Models, upload: DecodedImage, header: pydicom.Dataset) -> bytes:
    """The outlines of a segmenter as a segmentation of the image. Raises Refused (422)."""
    mask_HW = models.predictor.outline(upload.image_HW).mask_HW
    return _file(lambda: dicom_seg.segmentation(header, "the image", mask_HW, models.classes, models.origin, ""))


def _file(make: Callable[[], pydicom.Dataset]) -> bytes:
    """The file of the object that `make` returns."""
    try:
        made = make()
    except MaskError as error:
        raise Refused(422, str(error)) from None
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()
