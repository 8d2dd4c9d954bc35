"""DICOM Segmentations read back by highdicom: each pixel where it was, each class its segment, the radiograph named."""

import numpy as np
import pydicom
import pytest

from mrm.inference import dicom_seg
from mrm.system.errors import MaskError
from tests.support.dicom_files import write_dicom

hd = pytest.importorskip("highdicom")


@pytest.fixture
def radiograph(tmp_path):
    """Taller than wide, so that no axis can be taken for the other."""
    study, series = (pydicom.uid.generate_uid(entropy_srcs=[kind]) for kind in ("a study", "a series"))
    known = {"PatientID": "p1", "PatientName": "A^B", "PatientBirthDate": "", "PatientSex": "F", "AccessionNumber": ""}
    dates = {"StudyID": "", "StudyDate": "20200101", "StudyTime": "", "ReferringPhysicianName": ""}
    file = tmp_path / "a.dcm"
    write_dicom(file, 1, 48, 30, **known, **dates, StudyInstanceUID=study, SeriesInstanceUID=series)
    return file


def test_an_asymmetric_mask_of_two_classes_comes_back_as_it_was(radiograph, tmp_path):
    mask_HW = np.zeros((48, 30), np.uint8)
    mask_HW[2:9, 20:29], mask_HW[30:47, 1:4] = 1, 2
    file = dicom_seg.write(tmp_path / "a.seg.dcm", radiograph, mask_HW, ("left lung", "nodule"), "1")
    made, source = hd.seg.segread(file), pydicom.dcmread(radiograph)
    back_1HW = made.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=True)
    assert (back_1HW[0] == mask_HW).all()
    assert [made.get_segment_description(k).segment_label for k in (1, 2)] == ["left lung", "nodule"]
    assert [made.get_segment_description(k).segmented_property_type.meaning for k in (1, 2)] == ["Lung", "Lesion"]
    assert (made.PatientID, made.StudyInstanceUID) == ("p1", source.StudyInstanceUID)


def test_a_radiograph_without_a_study_is_named(tmp_path):
    write_dicom(tmp_path / "bare.dcm", 1)
    with pytest.raises(MaskError, match=r"bare.dcm: no DICOM Segmentation can refer to it"):
        dicom_seg.write(tmp_path / "x.seg.dcm", tmp_path / "bare.dcm", np.ones((24, 20), np.uint8), ("a",), "1")
    assert not (tmp_path / "x.seg.dcm").exists()
