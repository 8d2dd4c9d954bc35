"""DICOM Segmentations read back by highdicom: each pixel where it was, each class its segment, the radiograph named."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from mrm.data import images
from mrm.inference import dicom_objects, dicom_seg
from mrm.inference.dicom_objects import Origin
from mrm.system.errors import MaskError
from tests.support.dicom_files import write_dicom
from tests.support.dicom_tools import faults

hd = pytest.importorskip("highdicom")


ORIGIN = Origin("a segmenter", "0123456789abcdef")


def write(file: Path, source: Path, mask_HW, classes, settings: str = "") -> Path:
    """Write the segmentation of a radiograph."""
    dataset = images.open_image(source).dataset
    dicom_seg.segmentation(dataset, str(source), mask_HW, classes, ORIGIN, settings).save_as(file)
    return file


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
    file = write(tmp_path / "a.seg.dcm", radiograph, mask_HW, ("left lung", "nodule"))
    made, source = hd.seg.segread(file), pydicom.dcmread(radiograph)
    back_1HW = made.get_pixels_by_source_instance([source.SOPInstanceUID], combine_segments=True)
    assert (back_1HW[0] == mask_HW).all()
    assert [made.get_segment_description(k).segment_label for k in (1, 2)] == ["left lung", "nodule"]
    assert [made.get_segment_description(k).segmented_property_type.meaning for k in (1, 2)] == ["Lung", "Lesion"]
    assert (made.PatientID, made.StudyInstanceUID) == ("p1", source.StudyInstanceUID)
    assert faults(file) == []


MASK_HW = np.pad(np.ones((10, 10), np.uint8), ((4, 10), (3, 7)))


def segmented(source: Path) -> pydicom.Dataset:
    """The segmentation of a radiograph of 24 x 20 pixels, read back by highdicom."""
    file = write(source.with_suffix(".seg.dcm"), source, MASK_HW, ("lung",))
    made = hd.seg.segread(file)
    back_1HW = made.get_pixels_by_source_instance(
        [pydicom.dcmread(source, force=True).SOPInstanceUID], combine_segments=True
    )
    assert (back_1HW[0] == MASK_HW).all()
    return made


UIDS = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}


def test_what_de_identification_removed_is_written_as_empty(tmp_path):
    """Every type 2 element of the patient and the study is absent."""
    write_dicom(tmp_path / "bare.dcm", 1, **UIDS)
    made = segmented(tmp_path / "bare.dcm")
    for keyword in dicom_objects.TYPE_2:
        assert keyword in made
        assert not made[keyword].value


def test_each_type_2_element_may_be_absent_and_the_others_stay(tmp_path):
    known = {"PatientID": "p1", "PatientName": "A^B", "PatientSex": "F", "AccessionNumber": "7", "StudyID": "s"}
    known |= {
        "PatientBirthDate": "19500101",
        "StudyDate": "20200101",
        "StudyTime": "101010",
        "ReferringPhysicianName": "C^D",
    }
    assert known.keys() == set(dicom_objects.TYPE_2)
    for absent in known:
        write_dicom(tmp_path / "a.dcm", 1, **UIDS, **{key: value for key, value in known.items() if key != absent})
        made = segmented(tmp_path / "a.dcm")
        kept = {key: str(made[key].value) for key in known if key not in (absent, "ReferringPhysicianName")}
        assert kept == {key: known[key] for key in kept}
        assert not made[absent].value


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_dates_that_are_none_are_written_as_empty(tmp_path):
    write_dicom(tmp_path / "a.dcm", 1, **UIDS)
    source = pydicom.dcmread(tmp_path / "a.dcm")
    with pydicom.config.disable_value_validation():
        source.PatientBirthDate, source.StudyDate, source.StudyTime = "00000000", "removed", "removed"
        source.save_as(tmp_path / "a.dcm")
    made = segmented(tmp_path / "a.dcm")
    assert not made.PatientBirthDate
    assert not made.StudyDate


def test_a_source_without_preamble(tmp_path):
    write_dicom(tmp_path / "a.dcm", 1, **UIDS)
    whole = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[whole.index(b"\x08\0\x16\0") :])
    assert segmented(tmp_path / "a.dcm").StudyInstanceUID == "1.2.3"


def test_a_radiograph_without_a_study_is_named(tmp_path):
    write_dicom(tmp_path / "bare.dcm", 1)
    with pytest.raises(MaskError, match=r"bare.dcm: no DICOM Segmentation can refer to it, because it has no Series"):
        write(tmp_path / "x.seg.dcm", tmp_path / "bare.dcm", np.ones((24, 20), np.uint8), ("a",))
    assert not (tmp_path / "x.seg.dcm").exists()


def test_identifiers_follow_from_the_radiograph_the_model_and_the_settings(radiograph, tmp_path):
    mask_HW = np.zeros((48, 30), np.uint8)
    made = [write(tmp_path / f"{i}.dcm", radiograph, mask_HW, ("lung",), s) for i, s in enumerate(("", "", "slide"))]
    first, again, slide = map(pydicom.dcmread, made)
    assert first.SOPInstanceUID == again.SOPInstanceUID != slide.SOPInstanceUID
    assert first.SeriesInstanceUID == slide.SeriesInstanceUID
    assert "not for clinical use" in first.SeriesDescription
