"""What two sets of records share: patients, studies, file names, images, and images that look alike.

`audit` compares any number of sets and gives a `AuditReport` to print, store and act on. `compare` does it for
two sets of which only the fingerprints are at hand, such as the training records of a published model.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import NamedTuple

import numpy as np

from mrm.audit.fingerprints import DEPTH, Fingerprints, fingerprint
from mrm.audit.perceptual_hashes import THRESHOLD, near_pairs
from mrm.data.records import Records
from mrm.system import hardware
from mrm.system.errors import RecordError
from mrm.system.journal import Journal

KINDS = ("patient", "study", "file", "image", "similar image")


@dataclass(frozen=True)
class Overlap:
    """What one set shares with another, or, under one name, contains twice.

    `count` is the number of distinct patients, studies, names or images of the second set that the first
    has too, and within one set the number of pairs; `records` how many records of each set they concern.
    An image counts as similar only if no exact twin was found. Several images of one patient within one
    set are a `series`: no fault, but a reason to split by patient.
    """

    first: str
    second: str
    kind: str  # one of KINDS
    count: int
    records: tuple[int, int]
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def series(self) -> bool:
        return self.kind == "patient" and self.first == self.second

    def __str__(self) -> str:
        if self.first == self.second:
            return f"{self.first}: {self.records[1]:,} records share a {self.kind} with another record"
        return f"{self.records[1]:,} records of {self.second} share a {self.kind} with {self.first}"


class _Shared(NamedTuple):
    """Records of both sides that share something, how many distinct things, and index pairs as examples."""

    first: np.ndarray
    second: np.ndarray
    distinct: int
    pairs: np.ndarray


def compare(
    first: Fingerprints,
    second: Fingerprints,
    names: tuple[str, str] = ("training", "test"),
    kinds: Collection[str] = KINDS,
    threshold: int = THRESHOLD,
    examples: int = 5,
) -> list[Overlap]:
    """Every kind of overlap that occurs between two sets; an empty list if none does."""
    finders: dict[str, Callable[[], _Shared]] = {
        "patient": lambda: _shared_keys(first.patients, second.patients),
        "study": lambda: _shared_keys(first.studies, second.studies),
        "file": lambda: _shared_names(first, second),
        "image": lambda: _shared_keys(first.exact, second.exact),
        "similar image": lambda: _similar(first, second, threshold),
    }
    found = [(kind, finders[kind]()) for kind in KINDS if kind in kinds]
    return [
        Overlap(
            *(*names, kind, shared.distinct, (int(shared.first.sum()), int(shared.second.sum()))),
            tuple((first.name(i), second.name(j)) for i, j in shared.pairs[:examples]),
        )
        for kind, shared in found
        if shared.distinct
    ]


def repeats(
    prints: Fingerprints,
    name: str,
    kinds: Collection[str] = KINDS,
    threshold: int = THRESHOLD,
    examples: int = 5,
) -> list[Overlap]:
    """Files, images and similar images that one set holds twice, and its series of one patient."""
    alike = _alike_within(prints, threshold) if "similar image" in kinds else np.zeros((0, 2), np.int64)
    found = {
        "patient": _chains(prints.patients),
        "file": _chains(prints.names[:, -1]),
        "image": _chains(prints.exact),
        "similar image": alike,
    }
    overlaps = []
    for kind, pairs in found.items():
        if kind in kinds and len(pairs):
            involved = len(np.unique(pairs))
            shown = tuple((prints.name(i), prints.name(j)) for i, j in pairs[:examples])
            overlaps.append(Overlap(name, name, kind, len(pairs), (involved, involved), shown))
    return overlaps


def _shared_keys(first: np.ndarray, second: np.ndarray) -> _Shared:
    common, at_first, at_second = np.intersect1d(first, second, return_indices=True)
    known = common > 0
    pairs = np.stack([at_first[known], at_second[known]], axis=1)
    return _Shared(np.isin(first, common[known]), np.isin(second, common[known]), int(known.sum()), pairs)


def _shared_names(first: Fingerprints, second: Fingerprints) -> _Shared:
    """Two files have one name if they agree in as many parts as each set needs to tell its files apart."""
    in_first, in_second = np.zeros(len(first), bool), np.zeros(len(second), bool)
    pairs = []
    for depth in range(1, DEPTH + 1):
        mine = np.where(first.depths <= depth, first.names[:, depth - 1], 0)
        theirs = np.where(second.depths <= depth, second.names[:, depth - 1], 0)
        shared = _shared_keys(mine, theirs)
        pairs.append(shared.pairs[~in_second[shared.pairs[:, 1]]])
        in_first, in_second = in_first | shared.first, in_second | shared.second
    return _Shared(in_first, in_second, len(np.unique(second.names[in_second, -1])), np.concatenate(pairs))


def _similar(first: Fingerprints, second: Fingerprints, threshold: int) -> _Shared:
    mine, my_row, my_hash = _distinct(first)
    theirs, their_row, their_hash = _distinct(second)
    near = near_pairs(mine, theirs, threshold, hardware.cores())
    in_first = np.isin(my_hash, near[:, 0])
    in_second = np.isin(their_hash, near[:, 1]) & ~np.isin(second.exact, first.exact)
    nearest = near[np.argsort(near[:, 2], kind="stable")]
    pairs = np.stack([my_row[nearest[:, 0]], their_row[nearest[:, 1]]], axis=1)
    pairs = pairs[in_second[pairs[:, 1]]]
    return _Shared(in_first, in_second, len(np.unique(second.exact[in_second])), pairs)


def _alike_within(prints: Fingerprints, threshold: int) -> np.ndarray:
    """(P, 2) pairs of different images that look alike, the most alike first."""
    hashes, row, which = _distinct(prints)
    same = _chains(np.where(which >= 0, which + 1, 0))
    near = near_pairs(hashes, None, threshold, hardware.cores())
    near = near[np.argsort(near[:, 2], kind="stable")]
    pairs = np.concatenate([same, row[near[:, :2]]])
    return pairs[prints.exact[pairs[:, 0]] != prints.exact[pairs[:, 1]]]


def _distinct(prints: Fingerprints) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct perceptual hashes, the first record of each, and each record's hash (-1 if it has none)."""
    rows = np.flatnonzero(prints.perceptual.any(axis=1))
    hashes, first, which = np.unique(prints.perceptual[rows], axis=0, return_index=True, return_inverse=True)
    of_record = np.full(len(prints), -1, np.int64)
    of_record[rows] = which.reshape(-1)
    return hashes, rows[first], of_record


def _chains(keys: np.ndarray) -> np.ndarray:
    """(P, 2) pairs of neighbours among the records of one key: k records give k - 1 pairs. 0 is no key."""
    order = np.argsort(keys, kind="stable")
    same = (keys[order][1:] == keys[order][:-1]) & (keys[order][1:] > 0)
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


# ---- verdict -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """How much of a set could be compared at all."""

    records: int
    patients: int  # records of known patient
    inferred: int  # of these, known by the file name only
    images: int  # images read
    blank: int  # of these, too even to have a perceptual hash
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class AuditReport:
    """The overlaps between sets, and what was compared to find them."""

    overlaps: tuple[Overlap, ...]
    sets: Mapping[str, Coverage] = field(default_factory=dict)
    compared: bool = True  # False for a single set that was not searched for repeats

    @property
    def clean(self) -> bool:
        """Whether nothing overlaps but series within a set. What could not be compared, `notes` tells."""
        return all(o.series for o in self.overlaps)

    @property
    def notes(self) -> list[str]:
        """What the verdict rests on and what it does not cover, a sentence each."""
        concerned: dict[str, list[str]] = {}
        for name, coverage in self.sets.items():
            for sentence, count in _notes(coverage):
                concerned.setdefault(sentence, []).append(f"{name} ({count:,})" if count else name)
        unreadable = [f"{name}: {reason}" for name, c in self.sets.items() for reason in c.unreadable]
        return [f"{sentence}: {', '.join(where)}" for sentence, where in concerned.items()] + unreadable

    def between(self, first: str, second: str) -> list[Overlap]:
        """The overlaps of two sets, in either order."""
        return [o for o in self.overlaps if {o.first, o.second} == {first, second}]

    def table(self) -> str:
        """The verdict for a person to read."""
        sizes = [[name, f"{c.records:,}", f"{c.patients:,}", f"{c.images:,}"] for name, c in self.sets.items()]
        parts = [_aligned([["set", "records", "patient known", "images read"], *sizes])]
        if self.overlaps:
            parts.append(_aligned([["first", "second", "same", "count", "records"], *map(_row, self.overlaps)]))
            pairs = [f"  {o.kind}: {a} = {b}" for o in self.overlaps for a, b in o.examples]
            parts += ["\n".join(["examples", *pairs])] if pairs else []
        parts += ["\n".join(f"note: {note}" for note in self.notes)] if self.notes else []
        parts.append(self._conclusion())
        return "\n\n".join(parts)

    def _conclusion(self) -> str:
        if not self.clean:
            return "NOT clean: the sets overlap"
        if not self.compared:
            return "nothing was compared: it takes two sets, or a look within one"
        return "clean: nothing that was compared overlaps"

    def to_json(self) -> str:
        """The whole verdict; `from_json` reads it back."""
        return json.dumps({"clean": self.clean, **asdict(self), "notes": self.notes}, indent=2, ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> "AuditReport":
        """Read what `to_json` wrote. Raises RecordError for anything else."""
        try:
            content = json.loads(text)
            sets = {name: Coverage(**c | {"unreadable": tuple(c["unreadable"])}) for name, c in content["sets"].items()}
            return AuditReport(tuple(_overlap(o) for o in content["overlaps"]), sets, content.get("compared", True))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"no verdict of an audit, or damaged ({error!r}); run mrm audit again") from None


def audit(
    sets: Mapping[str, Records],
    images: bool = True,
    within: bool = False,
    kinds: Collection[str] = KINDS,
    threshold: int = THRESHOLD,
    examples: int = 5,
    workers: int | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
    journal: Journal | None = None,
) -> AuditReport:
    """Compare all pairs of sets and, with `within`, look for repeats in each.

    `progress` is called with the name of each set, and what it gives with (images done, images in all); an open
    `journal` keeps the hashes of images.
    """
    prints = {}
    for name, records in sets.items():
        report = progress(name) if progress else None
        prints[name] = fingerprint(records, images, workers, report, journal)
    return judge(prints, within, kinds, threshold, examples)


def judge(
    prints: Mapping[str, Fingerprints],
    within: bool = False,
    kinds: Collection[str] = KINDS,
    threshold: int = THRESHOLD,
    examples: int = 5,
) -> AuditReport:
    """The verdict on sets of which the fingerprints are at hand, such as a model's training records."""
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"kinds {sorted(unknown)}: the kinds of overlap are {', '.join(KINDS)}")
    found: list[Overlap] = []
    for a, b in combinations(prints, 2):
        found += compare(prints[a], prints[b], (a, b), kinds, threshold, examples)
    for name in prints if within else ():
        found += repeats(prints[name], name, kinds, threshold, examples)
    return AuditReport(tuple(found), {name: _coverage(p) for name, p in prints.items()}, within or len(prints) > 1)


def _coverage(prints: Fingerprints) -> Coverage:
    read = prints.exact > 0
    return Coverage(
        records=len(prints),
        patients=int((prints.patients > 0).sum()),
        inferred=prints.inferred,
        images=int(read.sum()),
        blank=int((read & ~prints.perceptual.any(axis=1)).sum()),
        unreadable=prints.unreadable,
    )


def _notes(c: Coverage) -> list[tuple[str, int]]:
    """(sentence, number of records where not all) of one set."""
    absent = bool(c.records and not c.images and not c.unreadable)
    unknown = c.records - c.patients
    notes = [
        ("patients not compared, for none is known", 0, unknown and not c.patients),
        ("records of unknown patient", unknown, unknown and c.patients),
        ("patients taken from file names", c.inferred, c.inferred),
        ("images not compared, only names and ids", 0, absent),
        ("blank images, compared by exact content only", c.blank, c.blank),
        ("images that cannot be read, not compared", len(c.unreadable), c.unreadable),
    ]
    return [(sentence, count) for sentence, count, applies in notes if applies]


def _row(o: Overlap) -> list[str]:
    return [o.first, o.second, o.kind, f"{o.count:,}", f"{o.records[0]:,} and {o.records[1]:,}"]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _overlap(o: Mapping) -> Overlap:
    examples = tuple((a, b) for a, b in o["examples"])
    return Overlap(**{**o, "records": tuple(o["records"]), "examples": examples})
