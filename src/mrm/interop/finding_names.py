"""One finding, many names: those of the phantoms, of NIH ChestX-ray14, CheXpert, MIMIC-CXR-JPG and TorchXRayVision.

Only names that mean the same finding stand in one row. CheXpert's "Lung Lesion" is a nodule or a mass, and its "Pleural Other"
is more than thickening: these have no counterpart, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from mrm.system.errors import ConfigError

Vocabulary = Literal["mrm", "nih", "chexpert", "mimic", "torchxrayvision"]
VOCABULARIES: tuple[str, ...] = get_args(Vocabulary)
FINDINGS: tuple[tuple[str | None, ...], ...] = (  # mrm (the phantoms), NIH, CheXpert and MIMIC, TorchXRayVision
    ("atelectasis", "Atelectasis", "Atelectasis", "Atelectasis"),
    ("cardiomegaly", "Cardiomegaly", "Cardiomegaly", "Cardiomegaly"),
    ("consolidation", "Consolidation", "Consolidation", "Consolidation"),
    ("devices", None, "Support Devices", None),
    ("effusion", "Effusion", "Pleural Effusion", "Effusion"),
    ("nodule", "Nodule", None, "Nodule"),
    ("oedema", "Edema", "Edema", "Edema"),
    ("pneumothorax", "Pneumothorax", "Pneumothorax", "Pneumothorax"),
    (None, "Infiltration", None, "Infiltration"),
    (None, "Mass", None, "Mass"),
    (None, "Pneumonia", "Pneumonia", "Pneumonia"),
    (None, "Emphysema", None, "Emphysema"),
    (None, "Fibrosis", None, "Fibrosis"),
    (None, "Pleural_Thickening", None, "Pleural_Thickening"),
    (None, "Hernia", None, "Hernia"),
    (None, None, "Enlarged Cardiomediastinum", "Enlarged Cardiomediastinum"),
    (None, None, "Lung Opacity", "Lung Opacity"),
    (None, None, "Lung Lesion", "Lung Lesion"),
    (None, None, "Pleural Other", None),
    (None, None, "Fracture", "Fracture"),
    (None, None, "No Finding", None),
)
COLUMN = {
    "mrm": 0,
    "nih": 1,
    "chexpert": 2,
    "mimic": 2,
    "torchxrayvision": 3,
}  # MIMIC was labelled by CheXpert's program


def names_of(vocabulary: Vocabulary) -> tuple[str, ...]:
    """All names of a vocabulary. Raises ConfigError for an unknown one."""
    return tuple(name for row in FINDINGS if (name := row[_column(vocabulary)]) is not None)


def translate(names: Iterable[str], to: Vocabulary) -> tuple[str | None, ...]:
    """The names of findings in another vocabulary; None where it has no name for the same finding.

    A name may be of any vocabulary; capitals, spaces, hyphens and underscores make no difference. Raises ConfigError for an
    unknown vocabulary.
    """
    column = _column(to)
    rows = {_plain(name): row for row in FINDINGS for name in row if name is not None}
    return tuple(row[column] if (row := rows.get(_plain(name))) else None for name in names)


def _column(vocabulary: str) -> int:
    if vocabulary not in COLUMN:
        raise ConfigError(f"unknown vocabulary {vocabulary!r}; choose from {', '.join(VOCABULARIES)}")
    return COLUMN[vocabulary]


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
