"""What the header of a DICOM file says against its being a chest radiograph that is shown the right way round.

Tags tell modality, body part, species, mammographic views and quality control images where they are filled in. They cannot
tell a chest that is shown as a negative, an animal or a dental image whose tags are empty or wrong: for those there is the
outlier score of a calibrated model (`mrm.inference.outliers`). A body part in other words than those of the standard, or in
another script, says nothing here, so that a true chest radiograph gets no false warning.
"""

import re

import pydicom

RADIOGRAPHS = {"CR", "DX", "RG"}
TOLERATED = {"", "OT", "SC"}  # captures and converted files, which do not state what they show
CHEST = ("CHEST", "THORAX", "TORAX", "LUNG", "HEART", "RIB", "CXR")  # anywhere in the text
# Body parts of PS3.16, annex L, that are not the chest, and what test images are called; as whole words
OTHERS = {
    *(
        "ABDOMEN",
        "ANKLE",
        "ANUS",
        "ARM",
        "BLADDER",
        "BRAIN",
        "BREAST",
        "BUTTOCK",
        "CALCANEUS",
        "CALF",
        "CERVIX",
        "CHEEK",
    ),
    *(
        "COCCYX",
        "COLON",
        "CSPINE",
        "CTSPINE",
        "DENTAL",
        "DUODENUM",
        "EAR",
        "ELBOW",
        "EXTREMITY",
        "EYE",
        "FACE",
        "FEMUR",
    ),
    *(
        "FINGER",
        "FOOT",
        "FOREARM",
        "GALLBLADDER",
        "HAND",
        "HEAD",
        "HEADNECK",
        "HIP",
        "HUMERUS",
        "ILEUM",
        "JAW",
        "JAWREGION",
    ),
    *(
        "KIDNEY",
        "KNEE",
        "LARYNX",
        "LEG",
        "LIVER",
        "LSPINE",
        "LSSPINE",
        "MAMMOGRAM",
        "MANDIBLE",
        "MAXILLA",
        "MOUTH",
        "NECK",
    ),
    *("NOSE", "ORBIT", "OVARY", "PANCREAS", "PANORAMIC", "PATELLA", "PELVIS", "PENIS", "PHARYNX", "PROSTATE", "RADIUS"),
    *("RECTUM", "SACRUM", "SCAPULA", "SCROTUM", "SHOULDER", "SINUS", "SINUSES", "SKULL", "SPINE", "SPLEEN", "SSPINE"),
    *("STIFLE", "STOMACH", "TEETH", "TESTIS", "THIGH", "THUMB", "TIBIA", "TLSPINE", "TMJ", "TOE", "TONGUE", "TOOTH"),
    *("TSPINE", "UTERUS", "VAGINA", "VERTEBRA", "WHOLEBODY", "WRIST", "ZYGOMA"),
    *("PHANTOM", "TESTPATTERN", "SMPTE", "TG18", "FLATFIELD"),
}
MAMMOGRAPHIC_VIEWS = {"MLO", "LMO", "CC", "XCC", "XCCL", "XCCM", "RMLO", "LMLO", "RCC", "LCC"}
HUMAN = {"HOMO SAPIENS", "HUMAN", "337915000", "L-85B00"}  # names, and codes of SNOMED CT and SNOMED RT


def doubts(dataset: pydicom.Dataset) -> list[str]:
    """Reasons in the header to doubt that a model of chest radiographs sees what it knows, as sentences."""
    differences = [*_kind(dataset), *_part(dataset), *_subject(dataset)]
    sentences = []
    if differences:
        sentences.append(f"{' and '.join(differences)}; the output of a chest radiograph model is meaningless for it")
    shape = _text(dataset, "PresentationLUTShape")
    if shape == "INVERSE" and _text(dataset, "PhotometricInterpretation") == "MONOCHROME2":
        sentences.append(
            "MONOCHROME2 and the presentation shape INVERSE contradict each other; it may be read as a negative"
        )
    return sentences


def _kind(dataset: pydicom.Dataset) -> list[str]:
    """What the modality, the SOP class or the view says."""
    modality, stored_as = _text(dataset, "Modality"), str(getattr(dataset.get("SOPClassUID"), "name", ""))
    if modality not in RADIOGRAPHS | TOLERATED:
        return [f"modality is {modality}, not CR, DX or RG"]
    if "Mammography" in stored_as or "Intra-Oral" in stored_as:
        return [f"it is stored as a {stored_as.split(' - ')[0].removesuffix(' Storage')}"]
    view = _text(dataset, "ViewPosition")
    return [f"view is {view}, that of a mammogram"] if view in MAMMOGRAPHIC_VIEWS else []


def _part(dataset: pydicom.Dataset) -> list[str]:
    """What the body part says; where it is empty, the anatomic region or the name of the series."""
    regions = list(dataset.get("AnatomicRegionSequence") or [])
    region = _text(regions[0], "CodeMeaning") if regions else ""
    for name, part in (("body part", _text(dataset, "BodyPartExamined")), ("anatomic region", region)):
        if part:
            return [f"{name} is {part}, not CHEST"] if _is_other(part) else []
    for name in ("SeriesDescription", "ProtocolName"):
        if _is_other(text := _text(dataset, name)):
            return [f"the series is called {text}"]
    return []


def _subject(dataset: pydicom.Dataset) -> list[str]:
    """An animal, or a test object."""
    codes = dataset.get("PatientSpeciesCodeSequence") or ()
    species = {_text(dataset, "PatientSpeciesDescription"), *(_text(code, "CodeValue") for code in codes)} - {""}
    breed = _text(dataset, "PatientBreedDescription")
    if (species and not species & HUMAN) or breed or _text(dataset, "ResponsiblePersonRole") == "OWNER":
        return [f"the patient is an animal ({breed or ', '.join(sorted(species)) or 'it has an owner'})"]
    return ["it is a quality control image"] if _text(dataset, "QualityControlImage") == "YES" else []


def _is_other(text: str) -> bool:
    """Whether the words name another part of the body, and not the chest as well."""
    words = set(re.split(r"[^A-Z0-9]+", text))
    spine = bool(words & {"SPINE", "VERTEBRA"})
    return bool(words & OTHERS) and (spine or not any(word in text for word in CHEST))


def _text(dataset: pydicom.Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip().upper()
