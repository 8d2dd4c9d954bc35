"""What tags say: true chest radiographs get no false warning, and what is stated to be something else gets one."""

import warnings

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from mrm.data import images
from tests.support.dicom_files import dataset, saved

PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8)


def doubts(**tags) -> list[str]:
    made = dataset(PIXELS, **{"BodyPartExamined": "", **tags})
    return images.doubts(images.open_image(saved(made)))


def coded(meaning: str, value: str = "1") -> Dataset:
    code = Code(value, "SCT", meaning)
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


@pytest.mark.parametrize(
    "part",
    [
        *(
            "CHEST",
            "THORAX",
            "LUNG",
            "HEART",
            "RIBCAGE",
            "RIB",
            "Chest",
            " THORAX ",
            "TORAX",
            "PORT CHEST",
            "LUNGS/HEART",
        ),
        *("CHEST ABDOMEN", "CHESTABDPELVIS", "CHEST AND SHOULDER", "", None),
        *("BRUSTKORB", "POUMON", "PECHO", "XR1", "?"),
    ],
)
def test_chests_get_no_warning_whatever_they_are_called(part):
    assert doubts(BodyPartExamined=part) == []


@pytest.mark.parametrize("encoding", ["utf-8", "cp1251"])
def test_a_chest_in_cyrillic_gets_no_warning(encoding):
    """As exports write it, which pydicom would not: the element allows ASCII only."""
    text = "ГРУДНАЯ КЛЕТКА".encode(encoding)
    text += b" " * (len(text) % 2)
    data = saved(dataset(PIXELS, BodyPartExamined="x" * len(text))).replace(b"x" * len(text), text)
    assert images.doubts(images.open_image(data)) == []


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"BodyPartExamined": "KNEE"}, "body part is KNEE, not CHEST"),
        ({"BodyPartExamined": "LSPINE"}, "body part is LSPINE"),
        ({"BodyPartExamined": "Thoracic Spine"}, "body part is THORACIC SPINE"),
        ({"BodyPartExamined": "left hand"}, "body part is LEFT HAND"),
        ({"BodyPartExamined": "SKULL_AP"}, "body part is SKULL_AP"),
        ({"BodyPartExamined": "BREAST"}, "body part is BREAST"),
        ({"BodyPartExamined": "PHANTOM"}, "body part is PHANTOM"),
        ({"AnatomicRegionSequence": [coded("Mandible")]}, "anatomic region is MANDIBLE"),
        ({"SeriesDescription": "MODALITYLUT - TEETH"}, "the series is called MODALITYLUT - TEETH"),
        ({"ProtocolName": "panoramic"}, "the series is called PANORAMIC"),
        ({"SeriesDescription": "SMPTE test pattern"}, "the series is called SMPTE TEST PATTERN"),
        ({"Modality": "MG"}, "modality is MG"),
        ({"Modality": "PX"}, "modality is PX"),
        ({"Modality": "IO"}, "modality is IO"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2"}, "stored as a Digital Mammography X-Ray Image"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.3"}, "stored as a Digital Intra-Oral X-Ray Image"),
        ({"Modality": "CR", "ViewPosition": "MLO"}, "view is MLO, that of a mammogram"),
        ({"PatientSpeciesDescription": "Canine"}, "the patient is an animal"),
        ({"PatientSpeciesCodeSequence": [coded("Felis catus", "448169003")]}, "the patient is an animal"),
        ({"PatientBreedDescription": "Beagle", "BodyPartExamined": "THORAX"}, r"an animal \(BEAGLE\)"),
        ({"ResponsiblePersonRole": "OWNER", "BodyPartExamined": "CHEST"}, "an animal"),
        ({"QualityControlImage": "YES"}, "a quality control image"),
        ({"PresentationLUTShape": "INVERSE"}, "MONOCHROME2 and the presentation shape INVERSE contradict"),
    ],
)
def test_what_is_stated_to_be_something_else_gets_a_warning(tags, message):
    made = dataset(PIXELS, **{"BodyPartExamined": "", **tags})
    with pytest.warns(UserWarning, match=message):
        np.testing.assert_array_equal(images.read(saved(made)), PIXELS)


@pytest.mark.parametrize(
    "tags",
    [
        {"AnatomicRegionSequence": [coded("Thorax")]},
        {"AnatomicRegionSequence": []},
        {"BodyPartExamined": "CHEST", "SeriesDescription": "HAND CARRIED"},  # the body part counts
        {"SeriesDescription": "CHEST PA, ARMS UP"},
        {"ProtocolName": "W033 Thorax pa/Hand"},
        {
            "PatientSpeciesDescription": "Homo sapiens",
            "PatientSpeciesCodeSequence": [coded("homo sapiens", "337915000")],
        },
        {"ResponsiblePersonRole": "PARENT", "QualityControlImage": "NO", "ViewPosition": "LL"},
        {"PresentationLUTShape": "IDENTITY"},
        {"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1", "Modality": "DX"},
        {"SOPClassUID": "1.2.3.4"},
    ],
)
def test_what_speaks_for_a_chest_or_says_nothing_gets_none(tags):
    assert doubts(**tags) == []


def test_real_files(shared_data):
    """Of the dog nothing in the header tells; of the teeth only the name of the series."""
    folder = shared_data / "dicom"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("RG1_J2KI.dcm", "RG1_JLSN.dcm", "dx_image.dcm", "Fake_MONOHR1.dcm"):
            images.read(folder / name)
    with pytest.warns(UserWarning, match="the series is called MODALITYLUT - TEETH"):
        images.read(folder / "CR-ModalitySequenceLUT.dcm")
