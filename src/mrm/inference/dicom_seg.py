"""Masks as DICOM Segmentation objects, which viewers overlay on the radiograph they refer to. Extra `seg`."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrm.system.errors import MaskError

if TYPE_CHECKING:
    import pydicom

# SNOMED CT category and type of a class, by a word in its name; others are called lesions
CODES = {
    "lung": (("123037004", "Anatomical Structure"), ("39607008", "Lung")),
    "heart": (("123037004", "Anatomical Structure"), ("80891009", "Heart")),
    "pneumothorax": (("49755003", "Morphologically Abnormal Structure"), ("36118008", "Pneumothorax")),
    "": (("49755003", "Morphologically Abnormal Structure"), ("52988006", "Lesion")),
}

# Elements of the patient and the study that a segmentation repeats, which must be present but may be empty
TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)


def require_highdicom() -> None:
    """Raises MaskError, with how to install it, where highdicom is missing."""
    if importlib.util.find_spec("highdicom") is None:
        raise MaskError(
            "DICOM Segmentations need highdicom, which is not installed: pip install 'mrm-radiograph[seg]', "
            "or write PNG only with --no-dicom-seg"
        )


def write(path: Path, source: Path, mask_HW: np.ndarray, classes: Sequence[str], version: str) -> Path:
    """Write class numbers (H, W) as a segmentation of the DICOM file `source`, a segment for each class.

    Raises MaskError where highdicom is missing, or cannot refer to this file, and ImageError if it is not an image.
    """
    require_highdicom()
    import highdicom as hd

    masks_1HWC = np.stack([mask_HW == k for k in range(1, len(classes) + 1)], axis=-1)[None].astype(np.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about patient names, which are passed on unchanged
            segmentation = hd.seg.Segmentation(
                source_images=[_source(source)],
                pixel_array=masks_1HWC,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[_segment(i, name, version) for i, name in enumerate(classes, 1)],
                series_instance_uid=hd.UID(),
                series_number=1000,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="mrm",
                manufacturer_model_name="mrm segmenter",
                software_versions=version,
                device_serial_number="0",
                omit_empty_frames=False,
            )
            _drop_measures_without_thickness(segmentation)
            segmentation.save_as(path)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MaskError(
            f"{source}: no DICOM Segmentation can refer to it ({error}); only the PNG is written"
        ) from error
    return path


def _source(path: Path) -> pydicom.Dataset:
    """The parsed radiograph, with empty values for what de-identification has removed or made unreadable.

    The standard wants type 2 elements present, if empty (PS3.5, 7.4.3). Raises ImageError.
    """
    from pydicom.valuerep import DA, TM

    from mrm.data import dicom, images

    dataset = images.open_image(path).dataset
    if dataset is None:
        raise MaskError(f"{path}: not DICOM, so no DICOM Segmentation can refer to it; only the PNG is written")
    dicom.transfer_syntax(dataset)
    for keyword in TYPE_2:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(dataset[keyword].value or None)
        except ValueError:
            setattr(dataset, keyword, "")
    return dataset


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
