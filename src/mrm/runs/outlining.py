"""A segmenter's masks of images, as PNG and as DICOM Segmentation."""

# Shapes: H W pixels
from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mrm.data import images, masks
from mrm.data.archive import ArchivedImage
from mrm.data.blank_images import warn_of_blank
from mrm.data.display import class_colour
from mrm.data.finding_files import records_at
from mrm.data.headers import kind_of, load
from mrm.data.records import Record, Records
from mrm.inference import dicom_objects, dicom_seg
from mrm.inference.dicom_objects import Origin
from mrm.inference.prediction_table import KNOWN, NOTES
from mrm.inference.predictor import Predictor
from mrm.models import model_folder
from mrm.models.segmenter import Segmenter
from mrm.runs.dicom_delivery import Delivery
from mrm.runs.output_lock import alone_in
from mrm.runs.reading_options import Reading, placed
from mrm.runs.run_folder import spare_inputs
from mrm.runs.work import Work
from mrm.runs.written import Written
from mrm.system.errors import ImageError, MaskError, RunError
from mrm.system.files import write_by
from mrm.system.output_folder import make_folder, writing
from mrm.system.partial_results import Row
from mrm.system.table_files import write_table


@alone_in("out", share="reading.share")
def outline(
    model: Path,
    paths: Sequence[Path | str],
    out: Path,
    slide: bool = False,
    dicom: bool = True,
    reading: Reading = Reading(),
    store: bool = False,
    deidentified: bool = False,
) -> Written:
    """Write NAME.png for each image, with class numbers at the image's size and a palette; for DICOM also NAME.seg.dcm.

    `masks.csv` in the same folder has a row for each image, with the share of it that each class covers. With `store` the
    DICOM Segmentations also go into the archive that the images come from; with `deidentified` there is none of an image that
    may name a person. Raises
    RunError for another kind of model, names that collide, or where no image could be outlined; MaskError where
    DICOM Segmentations are asked for but highdicom is not installed.
    """
    if reading.crop_borders:
        raise RunError("a mask covers the whole image, so --crop-borders is for classifiers only; leave it out")
    records = records_at(paths, reading.images, Path(out))
    names = mask_names(records)
    spare_inputs(paths, records, [Path(out) / f"{n}{end}" for n in names for end in (".png", ".seg.dcm")])
    delivery = Delivery(Path(out), store, deidentified)
    delivery.check(records)
    if store and not dicom:
        raise RunError("--store is for DICOM Segmentations, which --no-dicom-seg leaves out; give one of the two")
    if dicom and any(is_dicom(r) for r in records):
        dicom_objects.require_highdicom("write PNG only with --no-dicom-seg")
    network = placed(model_folder.load_as(model, Segmenter), reading)
    predictor = Predictor(network, precision=reading.precision)
    settings = {"slide": slide, "dicom_seg": dicom, "store": store, "deidentified": deidentified}
    work = Work("outlining", network, model, records, make_folder(Path(out)), reading, settings)
    origin = Origin.of(model, network.card, work.settings["model"]) if dicom else None
    work.run_singly(
        lambda index: outline_one(predictor, records[index], work.out / names[index], slide, delivery, origin)
    )
    columns = {**KNOWN, "mask": str, **{f"{c} area": float for c in predictor.classes}, **NOTES}
    return work.finish(lambda rows: write_table(work.out / "masks.csv", columns, rows()))


def outline_one(
    predictor: Predictor, record: Record, stem: Path, slide: bool, delivery: Delivery, origin: Origin | None
) -> tuple[dict[str, str], Row]:
    """Write STEM.png, and for a DICOM file deliver STEM.seg.dcm, if the `origin` of segmentations is given.

    Returns what the header says of patient and study, and the row of the image. Raises ImageError, OSError.
    """
    classes = predictor.classes
    opened = images.open_image(record.image)
    image_HW = images.read(opened)
    warn_of_blank(image_HW, record.name)
    mask_HW = predictor.outline(image_HW, slide).mask_HW
    file = stem.with_name(f"{stem.name}.png")
    with writing(stem.parent):  # so that a full disk stops the run, and is not noted as an unreadable image
        write_by(file, partial(write_mask, mask_HW))
    if origin and opened.dataset is not None:
        settings = "sliding windows" if slide else ""
        try:
            delivery.refuse_persons(opened, record.name)
            made = dicom_seg.segmentation(opened.dataset, record.name, mask_HW, classes, origin, settings)
        except MaskError as error:  # the mask has been written, and is worth keeping
            warnings.warn(f"{error}; only the PNG is written", stacklevel=1)
        else:
            delivery.send(made, f"{stem.name}.seg.dcm", record)
    areas = {f"{c} area": float((mask_HW == k).mean()) for k, c in enumerate(classes, 1)}
    return images.identity(opened), {"mask": file.name, **areas}


def mask_names(records: Records) -> list[str]:
    """The name of each image's mask: that of its file, without suffix. Raises RunError if two are the same."""
    images_by_name: dict[str, str] = {}
    for record in records:
        name = masks.stem(Path(record.name).name)
        if name in images_by_name:
            raise RunError(
                f"{record.name} and {images_by_name[name]} would both be written as {name}.png; predict them separately"
            )
        images_by_name[name] = record.name
    return list(images_by_name)


def is_dicom(record: Record) -> bool:
    """Whether a record's image is a DICOM file, by its first bytes; an image in an archive is one."""
    if isinstance(record.image, ArchivedImage):
        return True
    try:
        return isinstance(record.image, Path) and kind_of(load(record.image, 1024), record.name) == "dicom"
    except ImageError:
        return False


def write_mask(mask_HW: np.ndarray, path: Path) -> None:
    """Write class numbers as a PNG with a palette: viewers show colours, `mrm.data.masks` reads the numbers."""
    image = Image.fromarray(mask_HW, mode="P")
    colours = [(0, 0, 0), *(class_colour(number) for number in range(1, 256))]
    image.putpalette([value for colour in colours for value in colour])
    image.save(path, format="PNG")
