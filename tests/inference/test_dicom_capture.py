"""A heat map as Secondary Capture: its pixels, what it refers to, and what it says."""

import numpy as np
import pydicom
import pytest

from mrm.inference import dicom_capture
from mrm.inference.dicom_objects import Origin
from tests.support.dicom_files import dataset
from tests.support.dicom_tools import faults, output_of

pytest.importorskip("highdicom")

ORIGIN = Origin("nih-1", "0123456789abcdef")


def test_a_capture_holds_the_overlay_below_what_it_says_and_keeps_the_standard(tmp_path):
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5"}
    source = dataset(np.zeros((64, 300), np.uint8), PatientID="p1", PatientOrientation=["L", "F"], StudyID="1", **uids)
    overlay_HW3 = np.random.default_rng(0).integers(0, 256, (64, 300, 3)).astype(np.uint8)
    made = dicom_capture.capture(source, "a", overlay_HW3, "Erguß 73 %, gradcam", ORIGIN, ("Erguß", "gradcam"), 1)
    made.save_as(tmp_path / "a.dcm")
    assert faults(tmp_path / "a.dcm") == []
    back = pydicom.dcmread(tmp_path / "a.dcm")
    strip = back.Rows - 64
    np.testing.assert_array_equal(back.pixel_array[strip:], overlay_HW3)
    assert back.pixel_array[:strip].max() == 255, "the text"
    assert (back.StudyInstanceUID, back.PatientID, back.ImageComments) == ("1.2.3", "p1", "Erguß 73 %, gradcam")
    assert back.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.5"
    assert "not for clinical use" in back.SeriesDescription
    assert "SecondaryCapture" in output_of("dcmdump", tmp_path / "a.dcm")


def test_the_text_fits_into_a_narrow_image():
    drawn = dicom_capture.titled(np.zeros((20, 400, 3), np.uint8), "W" * 40)
    assert not drawn[:-20, -2:].any()
    assert drawn.any()
