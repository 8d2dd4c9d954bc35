"""Tags and corners that may name a person, one at a time; placeholders, markers of side and plain radiographs that do not."""

import cv2
import numpy as np
import pydicom
import pytest

from mrm.data import images
from mrm.data.personal_marks import in_corners, looks_like_a_name, marks
from tests.support.dicom_files import dicom_bytes
from tests.support.paths import SHARED


def dataset_with(**elements) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def marks_of(**elements) -> list[str]:
    return marks(images.open_image(dicom_bytes(np.full((64, 64), 90, np.uint8), **elements)))


@pytest.mark.parametrize(
    ("elements", "mark"),
    [
        ({"PatientName": "Müller^Hans"}, "PatientName looks like a name"),
        ({"OperatorsName": "Smith"}, "OperatorsName looks like a name"),
        ({"PatientBirthDate": "19540312"}, "PatientBirthDate is filled in"),
        ({"PatientAddress": "1 High Street"}, "PatientAddress is filled in"),
        ({"InstitutionName": "St. Elsewhere"}, "InstitutionName is filled in"),
        ({"OtherPatientIDs": "4711"}, "OtherPatientIDs is filled in"),
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation is YES"),
        (
            {"RequestAttributesSequence": [dataset_with(ScheduledPerformingPhysicianName="Doe^Jane")]},
            "ScheduledPerformingPhysicianName looks like a name",
        ),
    ],
)
def test_a_tag_that_names_somebody_is_named_without_its_value(elements, mark):
    assert marks_of(**elements) == [mark]


def test_a_name_in_a_private_element_is_seen():
    block = pydicom.Dataset()
    block.private_block(0x0011, "VENDOR", create=True).add_new(1, "LO", "DOE^JANE")
    opened = images.open_image(dicom_bytes(np.full((64, 64), 90, np.uint8)))
    opened.dataset.update(block)
    assert any("private element (0011,1001) looks like a name" in mark for mark in marks(opened))


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"PatientName": ""},
        {"PatientName": "ANONYMOUS"},
        {"PatientName": "P0-000123", "PatientID": "P0-000123"},
        {"PatientBirthDate": "19540101", "InstitutionName": "REDACTED"},
        {"BurnedInAnnotation": "NO"},
    ],
)
def test_what_deidentification_leaves_is_no_mark(elements):
    assert marks_of(**elements) == []


@pytest.mark.parametrize(("text", "expected"), [("Doe^Jane", True), ("O'Neill", True), ("A17", False), ("X", False), ("anon", False)])  # fmt: skip
def test_what_looks_like_a_name(text, expected):
    assert looks_like_a_name(text) is expected


def with_text(text: str, at: tuple[int, int], grey: int = 255, ground: int = 20) -> np.ndarray:
    image = np.full((1000, 800), ground, np.uint8)
    cv2.ellipse(image, (400, 500), (300, 420), 0, 0, 360, 150, -1)
    return cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 1.0, grey, 2, cv2.LINE_AA)


@pytest.mark.parametrize(
    ("image", "corners"),
    [
        (with_text("MUELLER HANS", (10, 40)), ["top left"]),
        (with_text("MUELLER HANS", (560, 40)), ["top right"]),
        (with_text("12.03.1955", (10, 980)), ["bottom left"]),
        (with_text("SMITH JOHN", (590, 980), grey=0, ground=200), ["bottom right"]),
        (with_text("L", (760, 40)), []),
        (with_text("AP", (740, 40)), []),
        (with_text("", (0, 0)), []),
        (np.zeros((40, 40), np.uint8), []),
        (np.zeros((1, 1), np.uint8), []),
    ],
)
def test_text_in_a_corner(image, corners):
    assert in_corners(image) == [f"what looks like text in the corner at the {corner}" for corner in corners]


def test_real_radiographs_without_text_pass():
    folder = SHARED / "data" / "tuberculosis" / "images"
    if not folder.is_dir():
        pytest.skip("the public images are not here")
    for file in sorted(folder.iterdir())[:20]:
        assert in_corners(images.read(file)) == [], file.name
