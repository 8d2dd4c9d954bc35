"""The records of a run, mapped from the folder of the run that keeps them (`mrm.data.record_cache`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mrm.data.mapped_rows import MappedRows
from mrm.data.record_cache import mapped_records
from mrm.data.record_sources import UNLABELLED, Labels
from mrm.data.records import Records
from mrm.runs.first_rank import first_rank_first
from mrm.system.files import read_json, write_json
from mrm.system.output_folder import writing
from mrm.training.trainer import processes

LABELS = "labels.json"  # in the folder of a set: the fingerprints of its records with the labels that are learned
FOLDER = "records"  # of a run: its records, and the tokens of their reports, in the form in which they are mapped


def mapped_set(config: Any, table: Path, name: str, labels: Labels = UNLABELLED) -> Records:
    """The records of a table, mapped from the folder of the run that keeps them, `records/NAME`."""
    folder, prepares = Path(config.out) / FOLDER / name, processes().is_main_process
    with first_rank_first(config.out):
        return mapped_records(table, folder, config.images, config.on_error, prepares, labels)


def fingerprinted(config: Any, records: Records, name: str, made_of: str) -> Records:
    """Mapped records whose labels were made of others, with their fingerprints, which the run keeps for its next start.

    `made_of` says what the labels were made of, and how.
    """
    rows = records.rows
    if not isinstance(rows, MappedRows) or not rows.facts or rows.facts.fingerprint:
        return records
    file = Path(config.out) / FOLDER / name / LABELS
    with first_rank_first(config.out):
        if processes().is_main_process and _kept(file, made_of) is None:
            prints = Fingerprints(records.fingerprint(), records.fingerprint_unordered())
            with writing(Path(config.out)):
                write_json(file, {"made_of": made_of, **prints._asdict()})
    prints = _kept(file, made_of) or Fingerprints(records.fingerprint(), records.fingerprint_unordered())
    return replace(records, rows=rows.with_fingerprints(*prints))


class Fingerprints(NamedTuple):
    """That of records in their order, and that of records in any order."""

    fingerprint: str
    unordered: str


def _kept(file: Path, made_of: str) -> Fingerprints | None:
    """What a file keeps of records that were made so; None for other records and for a damaged file."""
    try:
        kept = read_json(file)
        return Fingerprints(str(kept["fingerprint"]), str(kept["unordered"])) if kept["made_of"] == made_of else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def removed_if_refused(out: Path, record: str) -> Iterator[None]:
    """Remove the records that were converted inside the block if it fails before the run has its file `record`."""
    try:
        yield
    except BaseException:
        if processes().is_main_process and not (out / record).exists():
            shutil.rmtree(out / FOLDER, ignore_errors=True)
        raise
