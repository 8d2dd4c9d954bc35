"""Heat maps of a classifier's findings, as files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mrm.data.finding_files import records_at
from mrm.data.records import Record
from mrm.inference import dicom_capture, dicom_objects
from mrm.inference import heat_maps as maps
from mrm.inference.dicom_objects import Origin
from mrm.inference.heat_maps import Method
from mrm.inference.predictor import Predictor
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.pages import sheets
from mrm.runs.dicom_delivery import Delivery
from mrm.runs.one_by_one import Rows, write_rows
from mrm.runs.output_lock import alone_in
from mrm.runs.reading_options import device_named
from mrm.runs.run_folder import output_names, plain, spare_inputs
from mrm.runs.written import Written
from mrm.system.errors import ImageError, RunError, UnreachableError
from mrm.system.files import write_whole
from mrm.system.output_folder import make_folder, writing

COLUMNS = ("image", "finding", "probability", "method", "overlay", "array", "sheet", "error")


@alone_in("out")
def explain(
    model: Path,
    paths: Sequence[Path],
    out: Path,
    findings: Sequence[str] = (),
    method: Method = "gradcam",
    opacity: float = 0.5,
    folder: Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    dicom: bool = False,
    store: bool = False,
    deidentified: bool = False,
) -> Written:
    """Write heat maps of images: for each finding an overlay and an array, for each image a sheet of all.

    `maps.csv` has a row for each map and for each image that could not be read. Relative paths in lists start
    from `folder`; `workers` read images ahead. With `dicom` each overlay of a DICOM image is also a Secondary Capture,
    which `store` puts into the archive that the images come from; with `deidentified` not of an image that may name a person.
    Raises RunError for a finding that the model does not have, or where no image can be read, ExplainError where captum is
    needed and MaskError where DICOM is asked for, if they are not installed.
    """
    maps.require_library(method)
    predictor = Predictor(model_folder.load_as(model, Classifier).to(device_named(device)))
    check_findings(predictor, findings)
    if dicom or store:
        dicom_objects.require_highdicom("leave out --dicom")
    records, out = records_at(paths, folder, Path(out)), make_folder(Path(out))
    delivery = Delivery(out if dicom else None, store, deidentified)
    delivery.check(records)
    captures = Captures(Origin.of(model, predictor.model.card), delivery, method, opacity) if delivery else None
    table, names = out / "maps.csv", output_names([r.name for r in records])
    spare_inputs(paths, records, [table])

    def draw(record: Record, name: str, image_HW: np.ndarray) -> Rows:
        shown = findings or predictor.classes
        return explain_one(predictor, record, name, image_HW, out, shown, method, opacity, captures)

    return write_rows(table, COLUMNS, "explaining", records, names, draw, workers, method=method)


def explain_one(
    predictor: Predictor,
    record: Record,
    name: str,
    image_HW: np.ndarray,
    out: Path,
    findings: Sequence[str],
    method: Method,
    opacity: float,
    captures: Captures | None = None,
) -> Rows:
    """Write the heat maps of one image. Returns a row for each. Raises OutputError."""
    probability_C = predictor.probabilities(image_HW)
    rows, overlays = [], []
    for finding in findings:
        file = f"{name}.{plain(finding)}"
        heat_HW = predictor.heat_map(image_HW, finding, method)
        overlays.append(maps.overlay(image_HW, heat_HW, opacity))
        with writing(out):
            write_whole(out / f"{file}.png", encode_rgb(overlays[-1]))
            write_whole(out / f"{file}.npy", encode_array(heat_HW))
        row = {
            "image": record.name,
            "finding": finding,
            "probability": f"{probability_C[predictor.classes.index(finding)]:.6f}",
        }
        row |= {"overlay": f"{file}.png", "array": f"{file}.npy", "sheet": f"{name}.sheet.png"}
        rows.append(row)
    if captures:
        captures.send(record, name, overlays, rows)
    titles = [f"{row['finding']}  {float(row['probability']):.2f}" for row in rows]
    heading = f"{Path(record.name).name}: {method} and probabilities. Research software, not for clinical use"
    with writing(out):
        write_whole(out / f"{name}.sheet.png", sheets.heat_sheet(image_HW, overlays, titles, heading, opacity))
    return rows


@dataclass(frozen=True)
class Captures:
    """The heat maps of DICOM images as Secondary Captures, called NAME.FINDING.dcm."""

    origin: Origin
    delivery: Delivery
    method: str
    opacity: float

    def send(self, record: Record, name: str, overlays: Sequence[np.ndarray], rows: Rows) -> None:
        """Send one for each overlay. Warns, and sends none, where the image is not DICOM. Raises OutputError, ArchiveError."""
        from mrm.data.dicom import header as read_header

        try:
            self.delivery.refuse_persons(record.image, record.name)
            source = read_header(record.image, record.name)
            for number, (overlay_HW3, row) in enumerate(zip(overlays, rows, strict=True), 1):
                finding = row["finding"]
                title = f"{finding} {100 * float(row['probability']):.0f} %, {self.method}"
                settings = finding, self.method, f"{self.opacity:g}"
                made = dicom_capture.capture(source, record.name, overlay_HW3, title, self.origin, settings, number)
                self.delivery.send(made, f"{name}.{plain(finding)}.dcm", record)
        except UnreachableError:
            raise
        except ImageError as error:  # the overlays have been written, and are worth keeping
            warnings.warn(f"{error}; only PNG is written", stacklevel=4)


def check_findings(predictor: Predictor, findings: Sequence[str]) -> None:
    """Raises RunError for a finding that the model does not have."""
    if unknown := [name for name in findings if name not in predictor.classes]:
        raise RunError(f"unknown finding {unknown[0]!r}; choose from {', '.join(predictor.classes)}")


def encode_rgb(image_HW3: np.ndarray) -> bytes:
    """A colour image as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image_HW3).save(file, format="PNG")
    return file.getvalue()


def encode_array(heat_HW: np.ndarray) -> bytes:
    """An array as an NPY file in float16, which keeps three digits and takes half the space of float32."""
    file = io.BytesIO()
    np.save(file, heat_HW.astype(np.float16))
    return file.getvalue()
