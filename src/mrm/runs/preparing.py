"""Preparing a public corpus: from its download to records, label lists and facts, and an audit of its sets."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from mrm import corpora
from mrm.audit.fingerprints import fingerprint
from mrm.audit.hash_keeping import HashKeeper
from mrm.audit.kept_hashes import KeptHashes
from mrm.audit.overlaps import AuditReport, audit
from mrm.corpora.custom.description import FILE as DESCRIPTION
from mrm.corpora.options import Options
from mrm.corpora.preparing import examine, preview
from mrm.corpora.splits import LISTS
from mrm.corpora.writing import AUDIT
from mrm.data.records import Records
from mrm.runs.output_lock import alone_in
from mrm.system.errors import RecordError
from mrm.system.files import write_whole
from mrm.system.journal import file_state
from mrm.system.lock import OPENING, in_turn
from mrm.system.output_folder import writing
from mrm.system.progress import Progress
from mrm.system.shares import WHOLE, Share, torchrun_rank

FACTS = "corpus.json"  # which is there once the records are


@alone_in("out", share="share")
def prepare(
    name: str, source: Path, out: Path, options: Options | None = None, share: Share = WHOLE
) -> AuditReport | None:
    """Write records, label lists and facts of a public corpus from its download, and audit its sets. Returns the audit.

    Both parts resume where they were stopped: `corpus.json` is written last by the first, `audit.json` by the second. A
    process that does one `share` of the work reads and hashes its part of the images; it returns None while other
    shares have images to read, or if one of them has put the results together.
    """
    out, options, share = Path(out), options or Options(), share.among(*torchrun_rank())
    if options.images and share != WHOLE:
        raise RecordError("--images: images of an object store are prepared by one process; leave out --share")
    if share == WHOLE:
        return _prepared(name, source, out, options)
    before = file_state(out / FACTS)
    left = _examined(name, source, out, options, share)
    with in_turn(out / OPENING):
        if file_state(out / FACTS) != before:
            print(share.is_merged(out))
            return None
        if not left:
            return _prepared(name, source, out, options)
    print(share.is_done(out, left, "images"))
    return None


def _prepared(name: str, source: Path, out: Path, options: Options) -> AuditReport:
    corpus = corpora.prepare(name, source, out, options)
    with writing(out):
        hashes = KeptHashes(out)
        report = audit_splits(corpus.splits, HashKeeper(hashes, beside=False), True)
        hashes.settle()
        if report.compared:
            write_whole(out / AUDIT, report.to_json().encode())
    print(report.table())
    return report


def _examined(name: str, source: Path, out: Path, options: Options, share: Share) -> int:
    """Inspect and then hash the images of a share. Returns the number of images that no share has hashed yet."""
    records, own = examine(name, source, out, options, share)
    with writing(out):
        keeper = HashKeeper(KeptHashes(out, share), beside=False)
        with Progress("hashing images") as progress:
            fingerprint(own, workers=options.workers or None, progress=progress, hashes=keeper, kept=True)
        hashes = KeptHashes(out, share)
        keys_N = hashes.keys([record.image for record in records])
    return int((~hashes.tried(keys_N[keys_N > 0])).sum())


def preview_preparation(
    name: str,
    source: Path,
    options: Options | None = None,
    out: Path | None = None,
    write_description: Path | None = None,
) -> str:
    """How a corpus is understood and which sets would come, for the terminal. Nothing is written but the description.

    Headers that an earlier preparation kept in `out` are not read again.
    """
    text, files = preview(name, source, options, out)
    if not write_description:
        return f"{text}\nnothing was written"
    if DESCRIPTION not in files:
        raise RecordError(
            f"--write-description: {name} without a table has no description; give a table with --table FILE"
        )
    with writing(write_description):
        write_whole(write_description, files[DESCRIPTION].encode())
    return f"{text}\nnext: mrm prepare {name} --source {source} --config {write_description} --out DIR"


def audit_splits(splits: Mapping[str, Records], hashes: HashKeeper, complete: bool = False) -> AuditReport:
    """Audit train, val and test against each other; of a corpus with several tasks (`covid1/train`), within each task.

    `hashes` keeps those of the images. A `complete` audit raises UnreachableError for an image that cannot be reached.
    """
    tasks: dict[str, dict[str, Records]] = {}
    for name, records in splits.items():
        task, _, part = name.rpartition("/")
        if part in LISTS:  # shares such as train_10 are part of train
            tasks.setdefault(task, {})[name] = records
    with ExitStack() as lines:
        reports = [
            audit(sets, progress=lambda name: lines.enter_context(Progress(name)), hashes=hashes, complete=complete)
            for sets in tasks.values()
        ]
    covered = {name: coverage for report in reports for name, coverage in report.sets.items()}
    overlaps = tuple(overlap for report in reports for overlap in report.overlaps)
    related = tuple(note for report in reports for note in report.related)
    return AuditReport(overlaps, covered, any(report.compared for report in reports), related)
