"""Heat maps of a classifier's findings, as files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mrm.data import images
from mrm.data.finding_files import records_at
from mrm.data.records import Record
from mrm.inference import heat_maps as maps
from mrm.inference.decisions import DecisionRules
from mrm.inference.heat_maps import Method
from mrm.models import model_folder
from mrm.models.classifier import Classifier
from mrm.pages import sheets
from mrm.runs.run_folder import output_names, plain, spare_inputs
from mrm.system.errors import ImageError, RunError
from mrm.system.files import write_csv, write_whole
from mrm.system.hardware import best_device
from mrm.system.output_folder import make_folder
from mrm.system.progress import Progress

COLUMNS = ("image", "finding", "probability", "method", "overlay", "array", "sheet", "error")


def explain(
    model: Path,
    paths: Sequence[Path],
    out: Path,
    findings: Sequence[str] = (),
    method: Method = "gradcam",
    opacity: float = 0.5,
    folder: Path | None = None,
) -> Path:
    """Write heat maps of images: for each finding an overlay and an array, for each image a sheet of all.

    Returns `maps.csv`, with a line for each map, and for each image that could not be read. `folder` is where relative
    names of lists are. Raises RunError for a finding that the model does not have, or where no image could be read.
    """
    network = model_folder.load_as(model, Classifier).to(best_device())
    numbers = finding_numbers(network, findings)
    records, out = records_at(paths, folder, Path(out)), make_folder(Path(out))
    rows: list[dict[str, Any]] = []
    names = output_names([r.name for r in records])
    spare_inputs(paths, records, [out / "maps.csv"])
    with Progress("explaining", len(records)) as progress:
        for record, name in progress.over(zip(records, names, strict=True)):
            try:
                rows += explain_one(network, record, name, out, numbers, method, opacity)
            except (ImageError, OSError) as error:
                rows.append({"image": record.name, "method": method, "error": str(error)})
                warnings.warn(f"left out {record.name}: {error}", stacklevel=2)
    table = write_csv(out / "maps.csv", COLUMNS, rows)
    if all(row.get("error") for row in rows):
        raise RunError(f"not one of {len(records)} images could be read; the first: {rows[0]['error']}")
    return table


def explain_one(
    model: Classifier,
    record: Record,
    name: str,
    out: Path,
    numbers: Sequence[int],
    method: Method,
    opacity: float,
) -> list[dict[str, Any]]:
    """The maps of one image, written; a row for each. Raises ImageError and OSError."""
    image_HW = images.read(record.image)
    probability_C = probabilities(model, image_HW)
    sheet, rows, drawn = f"{name}.sheet.png", [], []
    for number in numbers:
        finding = model.config.classes[number]
        heat_HW = maps.heat_map(model, image_HW, number, method)
        drawn.append(maps.overlay(image_HW, heat_HW, opacity))
        file = f"{name}.{plain(finding)}"
        write_whole(out / f"{file}.png", encode_rgb(drawn[-1]))
        write_whole(out / f"{file}.npy", encode_array(heat_HW))
        rows.append(
            {
                "image": record.name,
                "finding": finding,
                "probability": f"{probability_C[number]:.6f}",
                "method": method,
                "overlay": f"{file}.png",
                "array": f"{file}.npy",
                "sheet": sheet,
            }
        )
    titles = [f"{row['finding']}  {float(row['probability']):.2f}" for row in rows]
    heading = f"{Path(record.name).name}: {method} and probabilities. Research software, not for clinical use"
    write_whole(out / sheet, sheets.heat_sheet(image_HW, drawn, titles, heading, opacity))
    return rows


def finding_numbers(model: Classifier, findings: Sequence[str]) -> list[int]:
    """The numbers of the findings named, of all where none is. Raises RunError."""
    classes = model.config.classes
    if unknown := [name for name in findings if name not in classes]:
        raise RunError(f"the model has no finding {unknown[0]!r}; it has {', '.join(classes)}")
    return [classes.index(name) for name in findings or classes]


@torch.inference_mode()
def probabilities(model: Classifier, image_HW: np.ndarray) -> np.ndarray:
    """The probability (C,) of each finding, at the model's temperatures."""
    image_1CHW, _ = maps.test_view(model, image_HW)
    rules = DecisionRules.of(model.card, model.config.classes)
    return rules.probabilities(model(image_1CHW).float().cpu().numpy())[0]


def encode_rgb(image_HW3: np.ndarray) -> bytes:
    """A colour image as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image_HW3).save(file, format="PNG")
    return file.getvalue()


def encode_array(heat_HW: np.ndarray) -> bytes:
    """An array as an NPY file, in float16: three digits, and half of the space."""
    file = io.BytesIO()
    np.save(file, heat_HW.astype(np.float16))
    return file.getvalue()
