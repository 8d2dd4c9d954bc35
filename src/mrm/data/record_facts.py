"""What a run needs to know of its records as a whole: how many there are, how many have reports, and their fingerprints.

All of it is computed in one pass over the records, of which none has to stay in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from mrm.data.record import Record

WORD = 1 << 128  # digests are added modulo this


@dataclass(frozen=True)
class Facts:
    """Counts and fingerprints of a set of records. `patients` is None where no patient is known.

    The fingerprints are "" where they are not known.
    """

    n: int
    with_report: int
    patients: int | None
    fingerprint: str
    unordered: str  # a fingerprint that does not depend on the order of the records


class Fingerprint:
    """Two fingerprints of records with these classes, computed as the records come."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._ordered = hashlib.blake2b(repr(tuple(classes)).encode(), digest_size=8)
        self._sum = 0

    def add(self, record: Record) -> None:
        """Let the fingerprints depend on a record's name, report, patient, study, view and labels."""
        facts = (record.name, record.report, record.patient, record.study, record.view)
        labels = ", ".join([_label(value) if value == value else "nan" for value in record.labels])
        comma = "," if len(record.labels) == 1 else ""
        content = f"({repr(facts)[1:-1]}, ({labels}{comma}))".encode()
        self._ordered.update(content)
        self._sum += int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")

    @property
    def ordered(self) -> str:
        """Sixteen hex digits that also depend on the classes and the order of the records."""
        return self._ordered.hexdigest()

    @property
    def unordered(self) -> str:
        """Thirty-two hex digits: the sum of a digest of each record."""
        return f"{self._sum % WORD:032x}"


@lru_cache(1024)
def _label(value: float) -> str:
    """A label as a tuple of numbers shows it, 0.0 for -0.0 too. Few values occur, and many times."""
    return repr(float(value) + 0.0)


def fingerprints_of(records: Iterable[Record], classes: Sequence[str]) -> tuple[str, str]:
    """The fingerprint of records that depends on their order, and the one that does not."""
    fingerprint = Fingerprint(classes)
    for record in records:
        fingerprint.add(record)
    return fingerprint.ordered, fingerprint.unordered


class FactsInPassing:
    """Facts about records that pass by on their way somewhere else."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.n = self.with_report = 0
        self.every_patient_stated = True
        self._ids: set[str] = set()
        self._fingerprint = Fingerprint(classes)

    def over(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records as they are."""
        for record in records:
            self.n += 1
            self.with_report += bool(record.report)
            self.every_patient_stated &= bool(record.patient)
            self._ids.add(record.patient)
            self._fingerprint.add(record)
            yield record

    def facts(self, count_patients: Callable[[], int | None]) -> Facts:
        """The facts about the records so far; their patients are counted by the function where not all are stated."""
        patients = len(self._ids) or None if self.every_patient_stated else count_patients()
        return Facts(self.n, self.with_report, patients, self._fingerprint.ordered, self._fingerprint.unordered)
