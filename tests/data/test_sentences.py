"""Reports as sentences: full stops that end none, lists, wrapped lines, and lines without full stops."""

import pytest

from mrm.data.sentences import LONGEST, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Heart normal. No effusion.", ["Heart normal.", "No effusion."]),
        ("A 1.5 cm nodule. Clear otherwise!", ["A 1.5 cm nodule.", "Clear otherwise!"]),
        ("A cavity in the apex.There is scarring.", ["A cavity in the apex.", "There is scarring."]),
        ("Seen by Dr. Smith. No change.", ["Seen by Dr. Smith.", "No change."]),
        ("V. a. Pneumonie. Kein Erguss.", ["V. a. Pneumonie.", "Kein Erguss."]),
        ("1. Effusion. 2. No pneumothorax.", ["Effusion.", "No pneumothorax."]),
        ("1) Effusion\n2) No pneumothorax", ["Effusion", "No pneumothorax"]),
        ("- Effusion\n- Cardiomegaly", ["Effusion", "Cardiomegaly"]),
        ("Heart normal\nNo effusion", ["Heart normal", "No effusion"]),
        (
            "There is a small pleural effusion on the right side, with\nadjacent atelectasis. Heart normal.",
            ["There is a small pleural effusion on the right side, with adjacent atelectasis.", "Heart normal."],
        ),
        ("There is a small pleural effusion on the right side, too.\n\nHeart normal", ["There is a small pleural effusion on the right side, too.", "Heart normal"]),
        ("Herz vergro\u0308\u00dfert", ["Herz vergrößert"]),  # an umlaut of two characters
        ("", []),
        ("... -- .\n\n", []),
    ],
)  # fmt: skip
def test_sentences(text, expected):
    assert sentences(text, {"dr"}) == expected


def test_text_without_full_stops_is_cut_and_nothing_is_lost():
    parts = sentences("no effusion " * 1000)
    assert max(map(len, parts)) <= LONGEST
    assert "".join(parts) == ("no effusion " * 1000).strip()
