"""What in an image file looks like a person: names and addresses in the tags of DICOM, and text burned into the corners.

A check before files leave a site, not a de-identification: it changes nothing, and what it does not find may still be there. Tags
are those of the Basic Application Level Confidentiality Profile (DICOM PS3.15, table E.1-1) that name people and places, and any
other element that holds the name of a person, private ones too. Text is found by its contrast and its arrangement, five
signs or more in a row; it is not read, so it may be anything, and handwriting or faint text is not found.
"""

# Shapes: H W pixels
from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
import pydicom

from mrm.data import images
from mrm.data.images import ImageFile
from mrm.data.patients import PLACEHOLDER

# Elements that the profile removes or replaces because they tell who or where somebody is; dates and UIDs are not among them
DIRECT = frozenset(
    (
        *("PatientAddress", "PatientBirthName", "PatientMotherBirthName", "PatientTelephoneNumbers", "OtherPatientIDs"),
        *("OtherPatientNames", "MilitaryRank", "BranchOfService", "PatientInsurancePlanCodeSequence", "PatientBirthDate"),
        *("CountryOfResidence", "RegionOfResidence", "Occupation", "PatientReligiousPreference", "MedicalRecordLocator"),
        *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "ReferringPhysicianAddress"),
        *("ReferringPhysicianTelephoneNumbers", "PersonAddress", "PersonTelephoneNumbers", "PatientTelecomInformation"),
        *("ResponsibleOrganization", "CurrentPatientLocation", "PatientInstitutionResidence", "PatientComments"),
        *("OtherPatientIDsSequence", "IssuerOfPatientID", "AdmissionID", "AdditionalPatientHistory", "SourceApplicationEntityTitle"),
    )
)  # fmt: skip
SIGNS = 5  # in a row, from which they are text; markers of side and view (R, PA, AP SUPINE apart) are shorter
CORNER = (0.2, 0.45)  # shares of height and width that a corner takes
HEIGHTS = (0.008, 0.06)  # shares of the image's height that a sign takes
LEAST = 6  # pixels of height that a sign has
CONTRAST = 90  # grey levels between a sign and what surrounds it
ROUND_DATE = re.compile(r"0{4,8}|\d{4}0101|1900\d{4}")  # of birth, as de-identification leaves it


def marks(image: ImageFile) -> list[str]:
    """Why an image should not leave the site: each tag that names somebody, and text in its corners. Raises ImageError."""
    found = list(dict.fromkeys(_in_tags(image.dataset))) if image.dataset is not None else []
    return found + in_corners(images.read(image))


# Tags ---------------------------------------------------------------------------------------------------


def _in_tags(dataset: pydicom.Dataset) -> Iterator[str]:
    """The elements that name somebody, also inside sequences; values are not repeated, since messages are kept in logs."""
    for element in dataset.iterall():
        name = element.keyword or str(element.tag)
        texts = [str(text) for text in (element.value if element.VM > 1 else [element.value])] if element.value else []
        if element.VR == "PN" and any(map(looks_like_a_name, texts)):
            yield f"{name} looks like a name"
        elif element.keyword == "PatientBirthDate" and all(ROUND_DATE.fullmatch(text) for text in texts):
            continue
        elif element.keyword in DIRECT and any(_says_something(text) for text in texts):
            yield f"{name} is filled in"
        elif element.tag.is_private and any("^" in text and looks_like_a_name(text) for text in texts):
            yield f"the private element {element.tag} looks like a name"
    if str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
        yield "BurnedInAnnotation is YES"


def looks_like_a_name(text: str) -> bool:
    """Whether a part of a name of a person is a word of letters alone; a pseudonym such as P-0012 or ANONYMOUS is none."""
    parts = [part for part in re.split(r"[\^=\s,]+", text) if part]
    return any(
        len(part) > 1 and all(c.isalpha() or c in "-'’." for c in part) and not PLACEHOLDER.fullmatch(part.casefold())
        for part in parts
    )


def _says_something(text: str) -> bool:
    return bool(text.strip(" ^")) and not PLACEHOLDER.fullmatch(text.strip().casefold())


# Corners ------------------------------------------------------------------------------------------------


def in_corners(image_HW: np.ndarray) -> list[str]:
    """The corners of an image (H, W) uint8 in which signs stand in a row as text does."""
    height, width = image_HW.shape
    rows, columns = max(1, round(CORNER[0] * height)), max(1, round(CORNER[1] * width))
    corners = {
        "top left": image_HW[:rows, :columns],
        "top right": image_HW[:rows, -columns:],
        "bottom left": image_HW[-rows:, :columns],
        "bottom right": image_HW[-rows:, -columns:],
    }
    return [
        f"what looks like text in the corner at the {name}" for name, part in corners.items() if has_text(part, height)
    ]


def has_text(part_HW: np.ndarray, image_height: int) -> bool:
    """Whether five signs or more of one size stand in a row, brighter or darker than what surrounds them."""
    low, high = max(LEAST, HEIGHTS[0] * image_height), max(LEAST, HEIGHTS[1] * image_height)
    size = 2 * round(high) + 1
    kernel = np.ones((size, size), np.uint8)
    hats = (
        cv2.morphologyEx(part_HW, cv2.MORPH_TOPHAT, kernel),
        cv2.morphologyEx(part_HW, cv2.MORPH_BLACKHAT, kernel),
    )
    return any(_row_of_signs((hat > CONTRAST).astype(np.uint8), low, high) for hat in hats)


def _row_of_signs(mask_HW: np.ndarray, low: float, high: float) -> bool:
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask_HW, connectivity=8)
    left, top, width, height, area = stats[1:].T
    sign = (height >= low) & (height <= high) & (width <= 1.6 * height) & (area >= 0.12 * width * height)
    boxes = sorted(
        zip(left[sign].tolist(), top[sign].tolist(), width[sign].tolist(), height[sign].tolist(), strict=True)
    )
    return any(_signs_from(boxes, i) >= SIGNS for i in range(len(boxes)))


def _signs_from(boxes: list[tuple[int, int, int, int]], first: int) -> int:
    """How many signs follow each other on the line of the first, each near the one before and of about its height."""
    line = [boxes[first]]
    for box in boxes[first + 1 :]:
        x, y, _, h = box
        before_x, before_y, before_w, before_h = line[-1]
        gap = x - (before_x + before_w)
        if gap > 1.6 * before_h:
            if len(line) >= SIGNS:
                break
            continue
        level = abs((y + h) - (before_y + before_h)) <= 0.3 * before_h
        if gap >= -0.2 * before_h and level and 0.65 <= h / before_h <= 1.5:
            line.append(box)
    return len(line) if all(b[0] >= a[0] for a, b in pairwise(line)) else 0
