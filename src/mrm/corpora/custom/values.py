"""What the words in the cells of labels and splits mean, in English, German, French, Spanish, Italian and Portuguese."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mrm.data.label_values import UNCERTAIN
from mrm.system.errors import RecordError
from mrm.system.tables import stated

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NOT_STATED = float("nan")
EMPTY = "empty"  # stands for cells without a word, in `--values`
VALUES = {
    **dict.fromkeys(
        (
            *(
                "1",
                "1.0",
                "1,0",
                "yes",
                "y",
                "true",
                "positive",
                "pos",
                "present",
                "ja",
                "j",
                "wahr",
                "positiv",
                "vorhanden",
            ),
            *("oui", "vrai", "positif", "présent", "si", "sí", "verdadero", "positivo", "presente", "vero", "sim"),
        ),
        1.0,
    ),
    **dict.fromkeys(
        (
            *("0", "0.0", "0,0", "no", "n", "false", "negative", "neg", "absent", "nein", "falsch", "negativ"),
            *("nicht vorhanden", "non", "faux", "négatif", "falso", "negativo", "ausente", "assente", "não"),
        ),
        0.0,
    ),
    **dict.fromkeys(
        (
            *("-1", "-1.0", "-1,0", "uncertain", "equivocal", "indeterminate", "unklar", "unsicher", "fraglich"),
            *("incertain", "douteux", "incierto", "dudoso", "incerto", "dubbio"),
        ),
        UNCERTAIN,
    ),
    **dict.fromkeys(
        ("k.a.", "k. a.", "keine angabe", "unbekannt", "inconnu", "non renseigné", "desconocido", "sconosciuto"),
        NOT_STATED,
    ),
}
SIGNS = {"+": 1.0, "-": 0.0}  # of a column that has no other words
CROSS = {"x": 1.0}  # likewise
MEANINGS = {"1": 1.0, "0": 0.0, "-1": UNCERTAIN, "": NOT_STATED}
NORMAL = frozenset(  # that no finding is there, in a column that names findings
    (
        *(
            "no finding",
            "no findings",
            "normal",
            "healthy",
            "unremarkable",
            "kein befund",
            "keine befunde",
            "ohne befund",
        ),
        *(
            "o.b.",
            "o. b.",
            "o.b",
            "unauffällig",
            "gesund",
            "aucune anomalie",
            "sans anomalie",
            "normale",
            "sain",
            "sin hallazgos",
        ),
        *("sin alteraciones", "sano", "nessun reperto", "sem achados"),
    )
)


def plain(word: str) -> str:
    """A word as it is compared: in small letters, with one kind of minus, and single blanks."""
    return re.sub(r"\s+", " ", re.sub("[–—−]", "-", word)).strip().casefold()


def declared(values: Mapping[str, str]) -> dict[str, float]:
    """The meaning of each word of `--values`: 1, 0, -1 uncertain, or NaN for nothing. Raises RecordError for others."""
    meanings = {}
    for word, meaning in values.items():
        if meaning.strip() not in MEANINGS:
            raise RecordError(
                f"values: {word!r} cannot mean {meaning!r}; choose 1 (present), 0 (absent), -1 (uncertain) or nothing (not "
                "stated), such as ja=1,nein=0,unklar=-1"
            )
        meanings[plain(word)] = MEANINGS[meaning.strip()]
    return meanings


def value_of(word: str, words: Mapping[str, float]) -> float | None:
    """The value of a cell: as in `words`, else as in `VALUES`; NaN if nothing is stated, None if it is not understood."""
    if (value := words.get(plain(word))) is not None:
        return value
    if not stated(word):
        return words.get(EMPTY, NOT_STATED)
    return VALUES.get(plain(word))
