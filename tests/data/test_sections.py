"""Sections: every real Open-i report comes back from every way of writing it, and prose opens nothing."""

import csv
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrm.data.sections import TITLES, sections, select_sections, split_report
from mrm.data.sections import select_sections as as_reports_give_it
from mrm.system.errors import ReportError

COLUMNS = ("indication", "comparison", "findings", "impression")
MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___ year old woman with ?pleural effusion  // ?pleural effusion
 
 TECHNIQUE:  Chest PA and lateral
 
 COMPARISON:  ___
 
 FINDINGS: 
 
 Cardiac size cannot be evaluated, with the following
 findings: a small nodule, seen by Dr. ___ at 10:32 a.m.
 
 IMPRESSION: 
 
 1.  Large left pleural effusion.
 2.  NG tube: in the stomach.
 
 RECOMMENDATION(S):  CT.
 
 NOTIFICATION:  Telephoned by Dr. ___.
"""
WET = """WET READ: ___ ___ 10:32 PM
 No acute process.
______________________________________________________________________________
                                 FINAL REPORT
 CHEST RADIOGRAPHS
 
 HISTORY:  Cough.
 
 COMPARISONS:  ___.
 
 CHEST, PA AND LATERAL:  The lungs are clear.
 
 FINDINGS/ IMPRESSION:  Normal.
"""


@pytest.fixture(scope="module")
def openi(shared_data) -> list[dict[str, str]]:
    file = shared_data / "openi" / "reports.csv"
    if not file.is_file():
        pytest.skip(f"no {file}")
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def mimic_style(row, rng) -> str:
    return "                 FINAL REPORT\n" + "".join(f" {k.upper()}:  \n \n {v}\n \n" for k, v in row.items())


def one_line(row, rng) -> str:
    return " ".join(f"{k.upper()}: {v}" for k, v in row.items())


def sentence_case(row, rng) -> str:
    return "\n".join(f"{k.capitalize()}: {v}" for k, v in row.items())


def without_colons(row, rng) -> str:
    return "\n".join(f"{k.upper()}\n{v}\n" for k, v in row.items())


def synonyms(row, rng) -> str:
    return "\n".join(f"{rng.choice(TITLES[k]).upper()} : {v}" for k, v in row.items())


@pytest.mark.parametrize("style", [mimic_style, one_line, sentence_case, without_colons, synonyms])
def test_every_real_report_comes_back_whole(openi, style):
    """All 3,955; only the few whose own columns hold titles (uid 676: `INDICATION: PAIN`) split further."""
    assert len(openi) == 3955
    rng, different = random.Random(7), []
    for row in openi:
        wanted = {k: row[k] for k in COLUMNS if row[k]}
        text = style(wanted, rng)
        assert "".join(p.title + p.text for p in split_report(text)) == text
        if sections(text) != {k: v.strip() for k, v in wanted.items()}:
            different.append(row)
    for row in different:
        assert any(part.title for k in COLUMNS for part in split_report(row[k])), row
    assert len(different) <= 15


def test_real_columns_hold_few_titles_of_their_own(openi):
    found = [p.title for row in openi for k in COLUMNS for p in split_report(row[k]) if p.title]
    assert len(found) == 15
    assert sum("INDICATION" in title for title in found) == 10


def test_mimic_layout():
    parts = sections(MIMIC)
    assert list(parts) == [
        *("examination", "indication", "technique", "comparison", "findings"),
        *("impression", "recommendation", "notification"),
    ]
    assert parts["comparison"] == "___"
    assert parts["findings"].endswith("Dr. ___ at 10:32 a.m.")
    assert parts["impression"].endswith("NG tube: in the stomach.")


def test_wet_read_final_report_and_a_title_of_radiographs():
    assert sections(WET) == {
        "wet read": "___ ___ 10:32 PM\n No acute process.",
        "preamble": "CHEST RADIOGRAPHS",
        "history": "Cough.",
        "comparison": "___.",
        "examination": "CHEST, PA AND LATERAL",
        "findings": "The lungs are clear.",
        "findings and impression": "Normal.",
    }


def test_a_title_of_radiographs_without_text_is_the_examination():
    assert sections("CHEST, PA LATERAL:\n\nINDICATION: cough") == {
        "examination": "CHEST, PA LATERAL",
        "indication": "cough",
    }
    assert sections("IMPRESSION:\nCHEST: clear") == {"impression": "CHEST: clear"}


@pytest.mark.parametrize(
    ("title", "name"),
    [
        *[
            ("FINDINGS AND IMPRESSION:", "findings and impression"),
            ("FINDINGS & IMPRESSION:", "findings and impression"),
        ],
        *[("REASON FOR EXAM:", "indication"), ("REASON FOR THIS EXAMINATION:", "indication")],
        *[
            ("CLINICAL HISTORY:", "history"),
            ("TYPE OF EXAMINATION:", "examination"),
            ("REFERENCE EXAM:", "comparison"),
        ],
        *[
            ("ADDITIONAL FINDINGS:", "findings"),
            ("WET READ VERSION #2 ", "wet read"),
            ("FINAL ADDENDUM\n", "addendum"),
        ],
        *[("IMPRESSON:", "impression"), ("FINDNGS:", "findings"), ("NDICATION:", "indication")],
        *[("COMPARISIONS:", "comparison"), ("FINIDNGS :", "findings"), ("Impresion:", "impression")],
        *[("CONCLUSION:", "impression"), ("IMPRESSION -", "impression"), ("IMPRESSION\n", "impression")],
    ],
)
def test_spellings(title, name):
    assert sections(f"Portable chest radiograph.\n{title} all of the rest") == {
        "preamble": "Portable chest radiograph.",
        name: "all of the rest",
    }


@pytest.mark.parametrize(
    "prose",
    [
        *[
            "An incidental finding: a nodule.",
            "Incidental finding: a nodule.",
            "With these\nfindings: a nodule",
        ],
        *[
            "The history of finding: a nodule.",
            "Compared to prior: no change.",
            "Right knee: Normal.",
            "At 10:32 PM.",
        ],
        *[
            "There is no comparison available",
            "FINDINGS of note are none",
            "Dr. ___ : ___",
            ":",
            "Finding a nodule",
        ],
    ],
)
def test_prose_opens_no_section(prose):
    assert sections(prose) == {"preamble": prose}


def test_small_letters_open_sections_only_in_a_report_without_capitals():
    assert sections("findings: clear\nimpression: normal") == {"findings": "clear", "impression": "normal"}


def test_a_section_given_twice_is_joined_and_an_empty_one_kept():
    assert sections("FINDINGS: a\nIMPRESSION:\nFINDINGS: b") == {"findings": "a b", "impression": ""}


def test_selection():
    assert select_sections(MIMIC, ["comparison", "recommendation"]) == "___ CT."
    assert select_sections(WET, ["findings", "impression"]) == "The lungs are clear. Normal."
    assert select_sections("No titles here", ["findings"]) == "No titles here"
    assert select_sections(MIMIC, []) == MIMIC
    with pytest.raises(ReportError, match=r"unknown section finding; choose from findings, impression"):
        select_sections(MIMIC, ["finding"])
    assert as_reports_give_it is select_sections


@given(
    st.lists(
        st.sampled_from(
            [
                *(f"{t.upper()}:" for ts in TITLES.values() for t in ts),
                "a b.",
                "Note",
                "\n",
                " ",
                "_" * 12,
                "é:-",
            ]
        )
    )
)
def test_cutting_never_loses_a_character(pieces):
    report = "".join(pieces)
    assert "".join(p.title + p.text for p in split_report(report)) == report
