"""Names of findings in the vocabularies of the phantoms, NIH ChestX-ray14, CheXpert, MIMIC-CXR-JPG and TorchXRayVision.

The table is that of `mrm.data.vocabulary`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from mrm.data.vocabulary import names_in, plain, table
from mrm.system.errors import ConfigError

Vocabulary = Literal["mrm", "nih", "chexpert", "mimic", "torchxrayvision"]
VOCABULARIES: tuple[str, ...] = get_args(Vocabulary)
COLUMN = {name: name for name in VOCABULARIES} | {"mimic": "chexpert"}  # MIMIC was labelled by CheXpert's program


def names_of(vocabulary: Vocabulary) -> tuple[str, ...]:
    """All names of a vocabulary. Raises ConfigError for an unknown one."""
    return tuple(name for row in table() if (name := row[_column(vocabulary)]))


def translate(names: Iterable[str], to: Vocabulary) -> tuple[str | None, ...]:
    """The names of findings in another vocabulary; None where it has no name for the same finding.

    A name may be of any vocabulary; capitals, spaces, hyphens and underscores make no difference. Raises ConfigError for an
    unknown vocabulary.
    """
    column = _column(to)
    rows = {plain(name): row for row in table() for name in names_in(row)}
    return tuple((row[column] or None) if (row := rows.get(plain(name))) else None for name in names)


def _column(vocabulary: str) -> str:
    if vocabulary not in COLUMN:
        raise ConfigError(f"unknown vocabulary {vocabulary!r}; choose from {', '.join(VOCABULARIES)}")
    return COLUMN[vocabulary]
