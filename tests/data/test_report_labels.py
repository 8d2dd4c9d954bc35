"""Labels from reports: what a sentence states, denies, doubts or leaves open, by hand for sentences of both languages."""

import math
from functools import cache

import pytest

from mrm.corpora.phantoms.phantom import FINDINGS
from mrm.data.finding_rules import read_rules
from mrm.data.records import Records
from mrm.data.report_labels import ReportLabeller

CLASS_OF = dict(
    zip(
        FINDINGS,
        (
            *("Atelectasis", "Cardiomegaly", "Consolidation", "Support Devices"),
            *("Pleural Effusion", "Lung Lesion", "Edema", "Pneumothorax"),
        ),
        strict=True,
    )
)


@cache
def labeller(language: str) -> ReportLabeller:
    return ReportLabeller(read_rules(language))


def values(language: str, report: str) -> dict[str, float]:
    """The labels that a report states, without that of no finding."""
    decisions = labeller(language).labels(report)
    return {
        k: d.value for k, d in decisions.items() if not math.isnan(d.value) and k not in ("No Finding", "Lung Opacity")
    }


EFFUSION, PTX, PNEUMONIA, HEART = "Pleural Effusion", "Pneumothorax", "Pneumonia", "Cardiomegaly"


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("Small left pleural effusion.", {EFFUSION: 1}),
        ("No pleural effusion or pneumothorax.", {EFFUSION: 0, PTX: 0}),
        ("No focal consolidation, pleural effusion, or pneumothorax.", {"Consolidation": 0, EFFUSION: 0, PTX: 0}),
        ("No pneumothorax, but a small pleural effusion.", {PTX: 0, EFFUSION: 1}),
        ("No pneumothorax; small effusion.", {PTX: 0, EFFUSION: 1}),
        ("There is no pneumothorax and there is a small effusion.", {PTX: 0, EFFUSION: 1}),
        ("A pneumothorax is not seen.", {PTX: 0}),
        ("Pneumothorax has resolved.", {PTX: 0}),
        ("No change in the small effusion.", {EFFUSION: 1}),
        ("Opacity may represent pneumonia.", {PNEUMONIA: -1}),
        ("Pneumonia cannot be excluded.", {PNEUMONIA: -1}),
        ("Superimposed infection cannot be entirely excluded.", {PNEUMONIA: -1}),
        ("No pneumothorax, possible small effusion.", {PTX: 0, EFFUSION: -1}),
        ("Patchy opacity concerning for atelectasis versus pneumonia.", {"Atelectasis": -1, PNEUMONIA: -1}),
        ("Possibly due to atelectasis.", {"Atelectasis": -1}),
        ("History of pneumonia. Evaluate for effusion.", {}),
        ("Pericardial effusion.", {}),
        ("Heart size is normal.", {HEART: 0}),
        ("The heart is mildly enlarged.", {HEART: 1}),
        ("The heart is not enlarged.", {HEART: 0}),
        ("Heart and mediastinum are within normal limits.", {HEART: 0, "Enlarged Cardiomediastinum": 0}),
        ("No evidence of pneumonia. Right lower lobe pneumonia.", {PNEUMONIA: 1}),
        ("Possible pneumonia. No pneumonia.", {PNEUMONIA: -1}),
        ("INDICATION: pneumonia.\nFINDINGS: No effusion.", {EFFUSION: 0}),
        ("FINDINGS: Clear.\nRECOMMENDATION: CT to exclude pneumonia.", {}),
        ("Left chest wall pacemaker in place. Median sternotomy wires.", {"Support Devices": 1}),
        ("Old rib fractures. Biapical pleural thickening.", {"Fracture": 1, "Pleural Other": 1}),
        ("Spiculated mass in the left upper lobe.", {"Lung Lesion": 1}),
        ("Residuals of granulomatous infection. Calcified nodules.", {}),
    ],
)
def test_english_sentences(report, expected):
    assert values("english", report) == expected


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("Kein Pleuraerguss, kein Pneumothorax.", {EFFUSION: 0, PTX: 0}),
        ("Weder Erguss noch Pneumothorax.", {EFFUSION: 0, PTX: 0}),
        ("Ein Pneumothorax ist nicht nachweisbar.", {PTX: 0}),
        ("Kein Pneumothorax, aber Rippenfraktur links.", {PTX: 0, "Fracture": 1}),
        ("Noch kleiner Erguss rechts.", {EFFUSION: 1}),
        ("Randwinkelergüsse bds.", {EFFUSION: 1}),
        ("Randwinkelergu\u0308sse bds.", {EFFUSION: 1}),
        ("Randwinkelerguesse bds.", {EFFUSION: 1}),
        ("Keine wesentliche Änderung des Pleuraergusses links.", {EFFUSION: 1}),
        ("V.a. Pneumonie im rechten Unterfeld, DD Atelektase.", {PNEUMONIA: -1, "Atelectasis": -1}),
        ("Eine Pneumonie kann nicht sicher ausgeschlossen werden.", {PNEUMONIA: -1}),
        ("Kein Nachweis pneumonischer Infiltrate. Keine Stauungszeichen.", {PNEUMONIA: 0, "Edema": 0}),
        ("Z.n. Pneumonie. ZVK von rechts mit Spitze in der VCS.", {"Support Devices": 1}),
        ("Herz nicht vergrößert.", {HEART: 0}),
        ("Das Herz ist linksbetont vergrößert.", {HEART: 1}),
        ("Normal großes Herz. Regelrechter Herz-Mediastinal-Schatten.", {HEART: 0}),
        ("Klinische Angaben: Pneumonie?\nBefund: Kein Erguss.\nBeurteilung: Unauffällig.", {EFFUSION: 0}),
        ("Herzschrittmacher in situ. Pleuraschwiele rechts.", {"Support Devices": 1, "Pleural Other": 1}),
    ],
)
def test_german_sentences(report, expected):
    assert values("german", report) == expected


def test_every_decision_shows_its_sentence_the_words_and_the_cue():
    decision = labeller("english").labels("Heart normal. There is no large pleural effusion.")["Pleural Effusion"]
    assert decision == (0.0, "There is no large pleural effusion.", "pleural effusion", "no")


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("Lungs are clear. Heart size is normal.", 1),
        ("Normal chest.", 1),
        ("Left pacemaker. No pneumothorax.", 1),  # a device is no finding
        ("Small effusion. Heart size is normal.", 0),
        ("Possible pneumonia.", math.nan),
    ],
)
def test_no_finding(report, expected):
    value = labeller("english").labels(report)["No Finding"].value
    assert value == expected or (math.isnan(value) and math.isnan(expected))


def test_phantoms_are_labelled_as_they_were_drawn(phantoms):
    """F1 of each finding; the reports of phantoms are written from the findings that are drawn."""
    records = Records.load(phantoms / "records.csv", FINDINGS)
    decided = [labeller("english").labels(row.report) for row in records]
    for finding, name in CLASS_OF.items():
        true = [row.labels[FINDINGS.index(finding)] == 1 for row in records]
        read = [decisions[name].value == 1 for decisions in decided]
        hits = sum(t and r for t, r in zip(true, read, strict=True))
        assert 2 * hits / (sum(true) + sum(read)) >= 0.98, finding


@pytest.mark.parametrize(
    ("language", "report", "doubt"),
    [
        ("english", "", "empty report"),
        ("english", "--- 12 . \n", "empty report"),
        ("english", "INDICATION: cough", "no sentence about what the image shows"),
        (
            "english",
            "Kein Nachweis eines Pleuraergusses. Das Herz ist nicht vergrößert.",
            "another language: 0% of 9 words",
        ),
        ("german", "The heart is normal in size. There is no pleural effusion.", "another language"),
        ("german", "Kein PleuraerguÃŸ, das Herz ist nicht vergrÃ¶Ã\u009fert.", "damaged characters"),
        ("german", "Kein Pleuraergu\ufffd, das Herz ist normal.", "damaged characters"),
        ("german", "Kein Pleuraerguss. Das Herz ist nicht vergrößert.", ""),
        ("english", "The heart is normal in size. There is no pleural effusion.", ""),
        ("english", "Fibrosis.", ""),  # too short to tell
    ],
)
def test_reports_that_cannot_be_labelled_say_why(language, report, doubt):
    assert labeller(language).doubt(report).startswith(doubt)
    assert bool(doubt) == bool(labeller(language).doubt(report))
