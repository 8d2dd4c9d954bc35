"""Labels from reports: `mrm label` reads each report, and writes records with labels and the sentences that decided them."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mrm.corpora.writing import class_counts
from mrm.data import finding_rules
from mrm.data.finding_rules import Rules, read_rules
from mrm.data.record import RESERVED, Record
from mrm.data.records import Records
from mrm.data.report_labels import ABSENT, UNREADABLE, Decision, ReportLabeller
from mrm.runs.output_lock import alone_on
from mrm.runs.run_folder import spare_inputs
from mrm.system.errors import RecordError, ReportError
from mrm.system.files import write_csv
from mrm.system.output_folder import writing
from mrm.system.progress import Progress
from mrm.system.table_files import check_suffix
from mrm.system.text_table import text_table

SUFFIXES = (".csv", ".parquet")
SENTENCES = ".sentences.csv"  # in place of the suffix of the labelled records
COLUMNS = ("image_path", "patient_id", "study_id", "finding", "label", "sentence", "words", "cue", "note")
FOREIGN = 0.5  # share of the reports in another language or encoding, from which none is labelled

Labelled = dict[str, dict[str, Decision]]  # report: class: decision


@alone_on("out", dict.fromkeys(SUFFIXES, (SENTENCES,)))
def label(
    records: Path,
    findings: Path | str,
    out: Path,
    not_mentioned: Literal["empty", "absent"] = "empty",
    images: Path | None = None,
) -> Records:
    """Label records by their reports, with the rules of a finding file or the name of a ready one (`english`, `german`).

    Writes the records with a column for each finding to `out`, and each decision with its sentence to a table beside it. A
    finding that a report does not mention is empty, or 0 with `not_mentioned="absent"`. A report that is empty, damaged or in
    another language gets no labels. Raises ReportError if this is so for half of the reports, RecordError, ConfigError.
    """
    check_suffix(out, SUFFIXES)
    rules = read_rules(findings)
    loaded = Records.load(records, images=images)
    spare_inputs([records, finding_rules.path_of(findings)], loaded, [out, sentences_beside(out)])
    _check_columns(loaded, rules)
    labeller = ReportLabeller(rules)
    notes = {report: labeller.doubt(report) for report in dict.fromkeys(row.report for row in loaded)}
    _refuse_foreign(loaded, rules, notes, str(findings))
    with Progress("labelling", len(notes)) as progress:
        decided = {r: labeller.labels(r) for r in progress.over(notes) if not notes[r]}
    rows = [replace(row, labels=_values(decided.get(row.report), rules, not_mentioned)) for row in loaded]
    labelled = Records(rows, rules.classes, str(out))
    with writing(out):
        write_csv(sentences_beside(out), COLUMNS, _sentence_rows(loaded, decided, notes))
        labelled.to_csv(out) if out.suffix == ".csv" else labelled.to_parquet(out)
    _warn_of_notes(loaded, notes)
    print(_summary(labelled))
    return labelled


def sentences_beside(labelled: Path) -> Path:
    """The table of sentences beside labelled records."""
    return labelled.with_suffix(SENTENCES)


def _check_columns(records: Records, rules: Rules) -> None:
    """Raises RecordError for records without reports, and where a label would have the name of another column."""
    present = {*RESERVED, *(name for row in records for name in row.extra)}
    if taken := [name for name in rules.classes if name in present]:
        raise RecordError(
            f"{records.source}: has a column {taken[0]} already, as a finding is called; remove it, or label the records that it "
            "was added to"
        )
    if not any(row.report for row in records):
        raise RecordError(
            f"{records.source}: has no reports; a column report_content is expected, which `mrm prepare custom` writes"
        )


def _values(
    decisions: Mapping[str, Decision] | None, rules: Rules, not_mentioned: Literal["empty", "absent"]
) -> tuple[float, ...]:
    if decisions is None:
        return tuple(math.nan for _ in rules.classes)
    silent = ABSENT if not_mentioned == "absent" else math.nan
    return tuple(
        silent if math.isnan(value := decisions[name].value) and name in rules.file.findings else value
        for name in rules.classes
    )


# What cannot be read ------------------------------------------------------------------------------------


def _refuse_foreign(records: Records, rules: Rules, notes: Mapping[str, str], findings: str) -> None:
    """Raises ReportError where half of the reports are in another language or encoding than the rules."""
    reports = [report for report, note in notes.items() if not note or note.startswith(UNREADABLE)]
    foreign = [report for report in reports if notes[report]]
    if not foreign or len(foreign) < FOREIGN * len(reports):
        return
    first = next(row.name for row in records if row.report == foreign[0])
    raise ReportError(
        f"{records.source}: {len(foreign):,} of {len(reports):,} reports cannot be labelled with {findings}; first: {first}: "
        f"{notes[foreign[0]]}. {_advice(reports, rules)}"
    )


def _advice(reports: Sequence[str], rules: Rules) -> str:
    """The share of the words that these rules know, and those of the ready ones that know more."""
    text = " ".join(reports[:200])
    share = rules.known_share(text)[0]
    others = {name: read_rules(name).known_share(text)[0] for name in finding_rules.ready()}
    better = max(others, key=lambda name: others[name], default="")
    known = f"Of all their words {share:.0%} are known"
    if better and others[better] > max(2 * share, 0.2):
        return f"{known}, and {others[better]:.0%} to the finding file {better}: give --findings {better}"
    return f"{known}; give a finding file in their language, or read their table with the right encoding"


def _warn_of_notes(records: Records, notes: Mapping[str, str]) -> None:
    counts = Counter(notes[row.report].partition(" (")[0].partition(":")[0] for row in records if notes[row.report])
    for reason, count in counts.most_common():
        first = next(row.name for row in records if notes[row.report].startswith(reason))
        warnings.warn(
            f"{count:,} of {len(records):,} records have no labels, because of their report: {reason}; first: {first}",
            stacklevel=3,
        )


# What is written ----------------------------------------------------------------------------------------


def _sentence_rows(records: Records, decided: Labelled, notes: Mapping[str, str]) -> Iterator[dict[str, object]]:
    """A row for each decision on each report. The images of a study that share a report have one row between them."""
    for row in rows_as_reports(records):
        known: dict[str, object] = {"image_path": row.name, "patient_id": row.patient, "study_id": row.study}
        if note := notes[row.report]:
            yield known | {"note": note}
        for finding, decision in decided.get(row.report, {}).items():
            if not math.isnan(decision.value):
                yield known | _row(finding, decision)


def _row(finding: str, decision: Decision) -> dict[str, object]:
    note = "" if decision.sentence else "no finding is mentioned"
    return {"finding": finding, "label": f"{decision.value:g}", "note": note} | {
        name: getattr(decision, name) for name in ("sentence", "words", "cue")
    }


def _summary(labelled: Records) -> str:
    counts = class_counts(labelled)
    rows = [[name, *(f"{n:,}" for n in numbers.values())] for name, numbers in counts.items()]
    return text_table(["finding", "present", "absent", "uncertain", "not stated"], rows)


def rows_as_reports(records: Records) -> list[Record]:
    """One record for each report, which may be empty: the first image of each study, or of each record of unknown study."""
    first: dict[tuple[str, str, str], Record] = {}
    for row in records:
        first.setdefault((row.patient, row.study or row.name, row.report), row)
    return list(first.values())
