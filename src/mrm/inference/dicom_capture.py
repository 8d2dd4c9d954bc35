"""A heat map over its radiograph as a DICOM Secondary Capture, which every viewer shows. Extra `seg`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mrm.inference import dicom_objects
from mrm.inference.dicom_objects import NOTICE, Origin

if TYPE_CHECKING:
    import pydicom

WHAT = "DICOM Secondary Capture"
SERIES = 1002
STRIP = 24  # the strip with the text has at least 1 / STRIP of the image's width as its height
LEAST_STRIP = 14  # pixels, so that the text can be read


def capture(
    source: pydicom.Dataset | None,
    name: str,
    overlay_HW3: np.ndarray,
    title: str,
    origin: Origin,
    settings: tuple[str, ...],
    number: int,
) -> pydicom.Dataset:
    """An overlay (H, W, 3) of the radiograph `source`, below a strip that says what it is and that it is not for clinical use.

    `name` is that of the radiograph in messages; `settings` tell apart the captures of one radiograph, of which this has
    the instance number `number`. Raises MaskError where highdicom is missing, or cannot refer to this radiograph.
    """
    dicom_objects.require_highdicom("leave out --dicom")
    import highdicom as hd

    known = dicom_objects.source_of(source, name, WHAT)
    with dicom_objects.named_failures(name, WHAT), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about patient names, which are passed on unchanged
        made = hd.sc.SCImage.from_ref_dataset(
            known,
            pixel_array=titled(overlay_HW3, f"{title}. {NOTICE}"),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "F"),  # replaced below by what the radiograph states
            series_instance_uid=origin.uid("capture series", str(known.StudyInstanceUID)),
            series_number=SERIES,
            sop_instance_uid=origin.uid("capture", str(known.SOPInstanceUID), *settings),
            instance_number=number,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            specific_character_set="ISO_IR 192",  # names of findings may be in any script
            **origin.equipment("classifier"),
        )
        made["PatientOrientation"].value = known.get("PatientOrientation") or None
        made.Laterality = known.get("Laterality") or ""
        made.Modality, made.BurnedInAnnotation = "OT", "NO"  # the text names no patient
        made.ImageComments = title
        made.DerivationDescription = f"Heat map of {origin.model} over the radiograph"
        made.SourceImageSequence = [_reference(known)]
    return dicom_objects.finish(made, "mrm heat maps")


def titled(image_HW3: np.ndarray, text: str) -> np.ndarray:
    """The image below a black strip with a text in white, which is as large as the strip allows."""
    width = image_HW3.shape[1]
    strip = max(LEAST_STRIP, width // STRIP)
    size = next((s for s in range(strip - 4, 5, -1) if ImageFont.load_default(s).getlength(text) <= width - 4), 5)
    drawn = Image.new("RGB", (width, strip))
    ImageDraw.Draw(drawn).text((2, 1), text, (255, 255, 255), ImageFont.load_default(size))
    return np.concatenate([np.asarray(drawn), image_HW3])


def _reference(source: pydicom.Dataset) -> pydicom.Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return item
