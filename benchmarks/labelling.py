"""How well labels are read from reports: against an independent reading of Open-i, and against phantoms, whose truth is known.

    python benchmarks/labelling.py --reports openi/reports.csv --part own
    python benchmarks/labelling.py --reports openi/reports.csv --part medspacy --part negspacy

REPORTS has a line for each of the 3,955 reports of Open-i, with its sections and `mesh`, the headings that human coders gave it.
The headings list what a report states and know neither denial nor doubt, so `MESH` below translates them to findings, and an
uncertain label is left out, or counted as absent (`zeros`). The English finding file was written while looking at one half of the
reports, by a hash of their number; both halves are shown, and the other half is the test. `medspacy` and `negspacy` replace
what decides on a mention: they get the same sentences and the same mentions, and their own rules of English. They need
`pip install medspacy negspacy`, in an environment of their own. Adds its part to `benchmarks/results/labelling.json`.
"""

# Shapes: N reports, C findings
from __future__ import annotations

import argparse
import csv
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrm.corpora.phantoms.phantom import FINDINGS, phantom
from mrm.data import report_labels
from mrm.data.finding_rules import Rules, read_rules
from mrm.data.report_labels import Decision, ReportLabeller
from mrm.pages.crossval import estimate
from mrm.statistics.agreement import agreement
from mrm.system.files import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "labelling.json"
SECTIONS = ("comparison", "indication", "findings", "impression")
PHANTOMS = 400
HAZE = ("Opacity", "Infiltrate", "Airspace Disease", "Consolidation", "Pulmonary Atelectasis", "Pneumonia")
DEVICES = (
    *("Catheters, Indwelling", "Surgical Instruments", "Implanted Medical Device", "Tube, Inserted", "Stents"),
    *("Medical Device", "Spinal Fusion", "Sutures", "Breast Implants"),
)
PHANTOM_CLASSES = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Support Devices"),
    *("Pleural Effusion", "Lung Lesion", "Edema", "Pneumothorax"),
)

Judge = Callable[[str, list[tuple[int, int]]], list[float | None]]  # a sentence, mentions: 1, 0, -1, or None for none


def _any_of(*heads: str) -> Callable[[str, str], bool]:
    return lambda head, rest: head in heads


MESH: dict[str, Callable[[str, str], bool]] = {  # from the first word of a heading, and the rest
    "Enlarged Cardiomediastinum": lambda head, rest: (
        (head == "Mediastinum" and any(w in rest for w in ("enlarged", "prominent")) and "lymph" not in rest)
        or (head == "Mass" and rest.startswith("mediastinum"))
    ),
    "Cardiomegaly": lambda head, rest: (
        head == "Cardiomegaly"
        or (head == "Cardiac Shadow" and any(w in rest for w in ("enlarged", "borderline", "prominent")))
        or (head == "Heart Ventricles" and "enlarged" in rest)
    ),
    "Lung Opacity": lambda head, rest: (
        head in (*HAZE, "Pulmonary Fibrosis", "Lung Diseases, Interstitial")
        or (head in ("Cicatrix", "Markings", "Density") and rest.startswith("lung"))
        or (head == "Lung" and rest.startswith("interstitial"))
    ),
    "Lung Lesion": lambda head, rest: (
        head in ("Nodule", "Mass") or (head in ("Opacity", "Density") and "round" in rest)
    ),
    "Edema": _any_of("Pulmonary Edema", "Pulmonary Congestion", "Heart Failure"),
    "Consolidation": _any_of("Consolidation"),
    "Pneumonia": _any_of("Pneumonia"),
    "Atelectasis": _any_of("Pulmonary Atelectasis", "Volume Loss"),
    "Pneumothorax": _any_of("Pneumothorax", "Hydropneumothorax", "Hemopneumothorax"),
    "Pleural Effusion": _any_of("Pleural Effusion", "Hydropneumothorax", "Hemothorax", "Hemopneumothorax"),
    "Pleural Other": lambda head, rest: head in ("Thickening", "Cicatrix", "Calcinosis") and rest.startswith("pleura"),
    "Fracture": _any_of("Fractures, Bone"),
    "Support Devices": _any_of(*DEVICES),
}


# What decides on a mention ------------------------------------------------------------------------------


def medspacy_judge() -> Judge:
    """ConText with the rules that medspaCy brings."""
    import spacy
    from medspacy.context import ConText

    nlp = spacy.blank("en")
    context = ConText(nlp)

    def judge(sentence: str, spans: list[tuple[int, int]]) -> list[float | None]:
        doc = _one_sentence(nlp, sentence, spans)
        context(doc)
        return [_value(e._.is_negated, e._.is_uncertain, e._.is_historical or e._.is_hypothetical) for e in doc.ents]

    return judge


def negspacy_judge() -> Judge:
    """NegEx with the clinical English terms that negspaCy brings; it knows no doubt."""
    import spacy
    from negspacy.negation import Negex
    from negspacy.termsets import termset

    nlp = spacy.blank("en")
    terms = termset("en_clinical").get_patterns()
    negex = Negex(nlp, "negex", neg_termset=terms, ent_types=[], extension_name="negex", chunk_prefix=[])

    def judge(sentence: str, spans: list[tuple[int, int]]) -> list[float | None]:
        doc = _one_sentence(nlp, sentence, spans)
        negex(doc)
        return [_value(e._.negex, False, False) for e in doc.ents]

    return judge


def _one_sentence(nlp: Any, sentence: str, spans: list[tuple[int, int]]) -> Any:
    """A document of spaCy that is one sentence, with its mentions as entities."""
    from spacy.util import filter_spans

    doc = nlp(sentence)
    for token in doc:
        token.is_sent_start = token.i == 0
    doc.ents = filter_spans([doc.char_span(*span, label="F", alignment_mode="expand") for span in spans])
    return doc


def _value(negated: bool, uncertain: bool, other: bool) -> float | None:
    if other:
        return None
    return 0.0 if negated else -1.0 if uncertain else 1.0


class JudgedLabeller(ReportLabeller):
    """The labeller with another way to decide on the mentions of a finding in a sentence."""

    def __init__(self, rules: Rules, judge: Judge) -> None:
        super().__init__(rules)
        self.judge = judge

    def decisions(self, sentence: str) -> dict[str, Decision]:
        """The decisions of a sentence by finding."""
        decided: dict[str, Decision] = {}
        for finding in self.rules.file.findings:
            mentions = report_labels.mentions(self.rules, finding, sentence)
            named = [span for span, normal in mentions if not normal]
            values = [0.0 for _, normal in mentions if normal] + [
                v for v in self.judge(sentence, named) if v is not None
            ]
            for value in values:
                decided[finding] = report_labels.weightier(decided.get(finding, report_labels.SILENT), Decision(value))
        return decided


# What is measured ---------------------------------------------------------------------------------------


def in_development(row: dict[str, str]) -> bool:
    """Whether a report is in the half that the rules were written on."""
    return int(hashlib.sha256(f"labelling:{row['uid']}".encode()).hexdigest(), 16) % 2 == 0


def truth_of(row: dict[str, str], finding: str) -> float:
    """What the headings of a report say of a finding."""
    headings = [heading.strip().partition("/") for heading in row["mesh"].split(";")]
    return float(any(MESH[finding](head, rest) for head, _, rest in headings))


def measured(labeller: ReportLabeller, rows: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Agreement with the headings of Open-i, uncertain labels left out and counted as absent; processor seconds."""
    start = time.process_time()
    texts = ["\n".join(f"{name.upper()}: {row[name]}" for name in SECTIONS if row[name]) for row in rows]
    decided = [labeller.labels(text) for text in texts]
    seconds = time.process_time() - start
    truth_NC = np.array([[truth_of(row, finding) for finding in MESH] for row in rows])
    labels_NC = np.array([[d[finding].value for finding in MESH] for d in decided])
    uncertain_NC = labels_NC == -1
    present_NC = (labels_NC == 1).astype(float)
    groups = [row["uid"] for row in rows]
    return {
        "reports": len(rows),
        "seconds": round(seconds, 1),
        "uncertain": {finding: int(n) for finding, n in zip(MESH, uncertain_NC.sum(0), strict=True)},
        "ignore": _agreement(truth_NC, np.where(uncertain_NC, math.nan, present_NC), list(MESH), groups),
        "zeros": _agreement(truth_NC, present_NC, list(MESH), groups),
    }


def on_phantoms(labeller: ReportLabeller, count: int) -> dict[str, Any]:
    """Agreement with the findings that phantoms were drawn with."""
    studies = [phantom(1, index, 32) for index in range(count)]
    decided = [labeller.labels(study.report) for study in studies]
    truth_NC = np.array([study.labels for study in studies])
    labels_NC = np.array([[float(d[name].value == 1) for name in PHANTOM_CLASSES] for d in decided])
    assert len(PHANTOM_CLASSES) == len(FINDINGS)
    return {"reports": count, "zeros": _agreement(truth_NC, labels_NC, PHANTOM_CLASSES, [s.patient for s in studies])}


def _agreement(
    truth_NC: np.ndarray, labels_NC: np.ndarray, classes: Sequence[str], groups: Sequence[str]
) -> dict[str, Any]:
    report = agreement(truth_NC, labels_NC, classes, groups)
    return {name: {m: e.to_dict() for m, e in by.items()} for name, by in report.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=Path, required=True)
    parser.add_argument("--part", action="append", choices=["own", "medspacy", "negspacy"], required=True)
    parser.add_argument("--phantoms", type=int, default=PHANTOMS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    with open(args.reports, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["findings"] or row["impression"]]
    rules = read_rules("english")
    for part in args.part:
        judges = {"medspacy": medspacy_judge, "negspacy": negspacy_judge}
        labeller = ReportLabeller(rules) if part == "own" else JudgedLabeller(rules, judges[part]())
        result = {
            "development": measured(labeller, [row for row in rows if in_development(row)]),
            "test": measured(labeller, [row for row in rows if not in_development(row)]),
            "phantoms": on_phantoms(labeller, args.phantoms),
        }
        whole = read_json(args.out) if args.out.is_file() else {}
        write_json(args.out, {**whole, part: result})
        for name, by in result["test"]["ignore"].items():
            print(f"{part:10} {name:28} F1 {estimate(by['f1'])}")
        print(f"{part:10} phantoms, mean F1 {estimate(result['phantoms']['zeros']['mean']['f1'])}")


if __name__ == "__main__":
    main()
