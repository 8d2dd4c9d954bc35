"""Masks as DICOM Segmentation objects, which viewers overlay on the radiograph they refer to. Extra `seg`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mrm.inference import dicom_objects
from mrm.inference.dicom_objects import Origin

if TYPE_CHECKING:
    import pydicom

# SNOMED CT category and type of a class, by a word in its name; others are called lesions
CODES = {
    "lung": (("123037004", "Anatomical Structure"), ("39607008", "Lung")),
    "heart": (("123037004", "Anatomical Structure"), ("80891009", "Heart")),
    "pneumothorax": (("49755003", "Morphologically Abnormal Structure"), ("36118008", "Pneumothorax")),
    "": (("49755003", "Morphologically Abnormal Structure"), ("52988006", "Lesion")),
}

WHAT = "DICOM Segmentation"
SERIES = 1000


def segmentation(
    source: pydicom.Dataset | None,
    name: str,
    mask_HW: np.ndarray,
    classes: Sequence[str],
    origin: Origin,
    settings: str,
) -> pydicom.Dataset:
    """Class numbers (H, W) as a segmentation of the radiograph `source`, a segment for each class.

    `name` is that of the radiograph in messages; `settings` say how the mask was computed, beyond the model. Raises
    MaskError where highdicom is missing, or cannot refer to this radiograph.
    """
    dicom_objects.require_highdicom("write PNG only with --no-dicom-seg")
    import highdicom as hd

    known = dicom_objects.source_of(source, name, WHAT)
    masks_1HWC = np.stack([mask_HW == k for k in range(1, len(classes) + 1)], axis=-1)[None].astype(np.uint8)
    with dicom_objects.named_failures(name, WHAT), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about patient names, which are passed on unchanged
        made = hd.seg.Segmentation(
            source_images=[known],
            pixel_array=masks_1HWC,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_segment(i, name, origin.version) for i, name in enumerate(classes, 1)],
            series_instance_uid=origin.uid("segmentation series", str(known.StudyInstanceUID)),
            series_number=SERIES,
            sop_instance_uid=origin.uid("segmentation", str(known.SOPInstanceUID), settings),
            instance_number=1,
            omit_empty_frames=False,
            **origin.equipment("segmenter"),
        )
        _drop_measures_without_thickness(made)
        if "PatientOrientation" not in made:  # wanted where no plane has a position (PS3.3, C.7.6.1)
            made.PatientOrientation = known.get("PatientOrientation") or None
    return dicom_objects.finish(made, "mrm outlines")


def _segment(number: int, name: str, version: str):
    """The description of a segment of that class, made by this software."""
    import highdicom as hd

    category, kind = next(codes for word, codes in CODES.items() if word in name.lower())
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=hd.sr.CodedConcept(category[0], "SCT", category[1]),
        segmented_property_type=hd.sr.CodedConcept(kind[0], "SCT", kind[1]),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="mrm", version=version, family=hd.sr.CodedConcept("123109", "DCM", "Artificial Intelligence")
        ),
    )


def _drop_measures_without_thickness(segmentation: pydicom.Dataset) -> None:
    """Drop pixel measures without a slice thickness, which highdicom's reader refuses; the radiograph has them."""
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    if "PixelMeasuresSequence" in shared and "SliceThickness" not in shared.PixelMeasuresSequence[0]:
        del shared.PixelMeasuresSequence
