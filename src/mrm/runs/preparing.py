"""Records, label lists and facts of a public corpus, from its download."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mrm import corpora
from mrm.audit.overlaps import AuditReport, audit
from mrm.corpora.options import Options
from mrm.corpora.splits import LISTS
from mrm.corpora.writing import AUDIT
from mrm.data.records import Records
from mrm.system.files import write_whole
from mrm.system.journal import Journal
from mrm.system.output_folder import writing
from mrm.system.progress import Progress


def prepare(name: str, source: Path, out: Path, options: Options | None = None) -> AuditReport:
    """Records, label lists and facts of a public corpus, from its download; and an audit of its sets.

    Interrupted, each of the two goes on where it was: `corpus.json` ends the first, `audit.json` the second.
    """
    corpus = corpora.prepare(name, source, out, options)
    with writing(out), Journal(Path(out) / ".audited.jsonl") as journal:
        verdict = audit_splits(corpus.splits, journal)
        if verdict.compared:
            write_whole(Path(out) / AUDIT, verdict.to_json().encode())
        journal.forget()
    print(verdict.table())
    return verdict


def audit_splits(splits: Mapping[str, Records], journal: Journal | None = None) -> AuditReport:
    """Audit train, val and test; where a corpus has several tasks (`covid1/train`), within each of them."""
    tasks: dict[str, dict[str, Records]] = {}
    for name, records in splits.items():
        task, _, part = name.rpartition("/")
        if part in LISTS:  # shares such as train_10 lie within train
            tasks.setdefault(task, {})[name] = records
    verdicts = [audit(sets, progress=Progress, journal=journal) for sets in tasks.values()]
    covered = {name: coverage for v in verdicts for name, coverage in v.sets.items()}
    overlaps = tuple(overlap for v in verdicts for overlap in v.overlaps)
    return AuditReport(overlaps, covered, any(v.compared for v in verdicts))
