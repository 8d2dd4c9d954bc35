"""What two sets of records share: patients, studies, file names, images, and images that look alike.

`audit` compares any number of sets and returns an `AuditReport` to print, store and act on. `compare` works on
two sets whose fingerprints are all that is left, such as the training records of a published model.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mrm.audit.fingerprints import DEPTH, Fingerprints, comparable, fingerprint
from mrm.audit.hash_keeping import HashKeeper
from mrm.audit.perceptual_hashes import THRESHOLD, near_pairs
from mrm.audit.related_corpora import related
from mrm.data.records import Records
from mrm.system import hardware
from mrm.system.errors import RecordError
from mrm.system.files import as_json, parse_json

KINDS = ("patient", "study", "file", "image", "similar image")
IMAGE_KINDS = ("image", "similar image")  # those that can be compared whatever the site key


@dataclass(frozen=True)
class Overlap:
    """What one set shares with another, or, if both names are the same, what it contains twice.

    `count` is the number of distinct patients, studies, names or images of the second set that are also in the
    first; within one set it is the number of pairs. `records` is the number of records of each set involved.
    An image counts as similar only if it has no exact duplicate. Several images of one patient within one
    set are a `series`: not an error, but a reason to split by patient.
    """

    first: str
    second: str
    kind: str  # one of KINDS
    count: int
    records: tuple[int, int]
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def series(self) -> bool:
        """Whether these are several images of one patient within one set."""
        return self.kind == "patient" and self.first == self.second

    def __str__(self) -> str:
        kind = f"an {self.kind}" if self.kind == "image" else f"a {self.kind}"
        if self.first == self.second:
            return f"{self.first}: {self.records[1]:,} records share {kind} with another record"
        return f"{self.records[1]:,} records of {self.second} share {kind} with {self.first}"


class _Shared(NamedTuple):
    """What two sets have in common. Shapes: N and M records, P pairs."""

    first: np.ndarray  # (N,) bool: records of the first set involved
    second: np.ndarray  # (M,) bool
    distinct: int  # number of distinct keys that are shared
    pairs: np.ndarray  # (P, 2) indices of records that match


def compare(
    first: Fingerprints,
    second: Fingerprints,
    names: tuple[str, str] = ("training", "test"),
    kinds: Collection[str] = KINDS,
    threshold: int = THRESHOLD,
    examples: int = 5,
) -> list[Overlap]:
    """Every kind of overlap that occurs between two sets; an empty list if there is none.

    Only images are compared if the other identities were hashed with different site keys (see `comparable`).
    """
    overlaps = []
    alike = comparable(first, second)
    first, second = alike or (first, second)
    for kind in KINDS if alike else IMAGE_KINDS:
        if kind not in kinds:
            continue
        shared = _shared(kind, first, second, threshold)
        if shared.distinct:
            records = int(shared.first.sum()), int(shared.second.sum())
            pairs = tuple((first.name(i), second.name(j)) for i, j in shared.pairs[:examples])
            overlaps.append(Overlap(*names, kind, shared.distinct, records, pairs))
    return overlaps


def _shared(kind: str, first: Fingerprints, second: Fingerprints, threshold: int) -> _Shared:
    if kind == "file":
        return _shared_names(first, second)
    if kind == "similar image":
        return _similar(first, second, threshold)
    field_name = {"patient": "patients", "study": "studies", "image": "exact"}[kind]
    return _shared_keys(getattr(first, field_name), getattr(second, field_name))


def repeats(
    prints: Fingerprints,
    name: str,
    kinds: Collection[str] = KINDS,
    threshold: int = THRESHOLD,
    examples: int = 5,
) -> list[Overlap]:
    """Files, images and similar images that occur twice in one set, and its series of images of one patient."""
    similar_P2 = _similar_within(prints, threshold) if "similar image" in kinds else np.zeros((0, 2), np.int64)
    repeated = {
        "patient": _neighbours(prints.patients),
        "file": _neighbours(prints.names[:, -1]),
        "image": _neighbours(prints.exact),
        "similar image": similar_P2,
    }
    overlaps = []
    for kind, pairs_P2 in repeated.items():
        if kind in kinds and len(pairs_P2):
            records = len(np.unique(pairs_P2))
            pairs = tuple((prints.name(i), prints.name(j)) for i, j in pairs_P2[:examples])
            overlaps.append(Overlap(name, name, kind, len(pairs_P2), (records, records), pairs))
    return overlaps


def _shared_keys(first: np.ndarray, second: np.ndarray) -> _Shared:
    common, at_first, at_second = np.intersect1d(first, second, return_indices=True)
    known = common > 0
    pairs = np.stack([at_first[known], at_second[known]], axis=1)
    return _Shared(np.isin(first, common[known]), np.isin(second, common[known]), int(known.sum()), pairs)


def _shared_names(first: Fingerprints, second: Fingerprints) -> _Shared:
    """Two files have the same name if they agree in as many path parts as each set needs to tell its files apart."""
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
    in_second = np.isin(their_hash, near[:, 1]).any(axis=1) & ~np.isin(second.exact, first.exact)
    near = near[np.isin(near[:, 1], their_hash[in_second])]
    in_first = np.asarray(np.isin(my_hash, near[:, 0]).any(axis=1))
    nearest = near[np.argsort(near[:, 2], kind="stable")]
    pairs = _each_once(np.stack([my_row[nearest[:, 0]], their_row[nearest[:, 1]]], axis=1))
    pairs = pairs[in_second[pairs[:, 1]]]
    return _Shared(in_first, in_second, len(np.unique(second.exact[in_second])), pairs)


def _similar_within(prints: Fingerprints, threshold: int) -> np.ndarray:
    """(P, 2) pairs of different images that look alike, the most similar first."""
    hashes, row, which = _distinct(prints)
    same = _neighbours((which + 1).ravel()) // 2  # two hashes a record
    near = near_pairs(hashes, None, threshold, hardware.cores())
    near = near[np.argsort(near[:, 2], kind="stable")]
    pairs = _each_once(np.sort(np.concatenate([same, row[near[:, :2]]]), axis=1))
    return pairs[prints.exact[pairs[:, 0]] != prints.exact[pairs[:, 1]]]


def _each_once(pairs_P2: np.ndarray) -> np.ndarray:
    """The pairs without repetitions, in the order in which each comes first."""
    _, first = np.unique(pairs_P2, axis=0, return_index=True)
    return pairs_P2[np.sort(first)]


def _distinct(prints: Fingerprints) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct perceptual hashes, the first record of each, and the two hashes (N, 2) of each record, -1 for none."""
    every_M4 = prints.perceptual.reshape(-1, 4)
    places = np.flatnonzero(every_M4.any(axis=1))
    hashes, first, which = np.unique(every_M4[places], axis=0, return_index=True, return_inverse=True)
    of_record = np.full(len(every_M4), -1, np.int64)
    of_record[places] = which.reshape(-1)
    return hashes, places[first] // 2, of_record.reshape(-1, 2)


def _neighbours(keys: np.ndarray) -> np.ndarray:
    """(P, 2) pairs of records with the same key: k records give k - 1 pairs of neighbours. A key of 0 is unknown."""
    order = np.argsort(keys, kind="stable")
    same = (keys[order][1:] == keys[order][:-1]) & (keys[order][1:] > 0)
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


# ---- report ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coverage:
    """How much of a set could be compared."""

    records: int
    patients: int  # records whose patient is known
    inferred: int  # of these, known from the file name only
    images: int  # images that were read
    blank: int  # of these, too uniform to have a perceptual hash
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class AuditReport:
    """The overlaps between sets, and what was compared to find them."""

    overlaps: tuple[Overlap, ...]
    sets: Mapping[str, Coverage] = field(default_factory=dict)
    compared: bool = True  # False for a single set that was not searched for duplicates
    related: tuple[str, ...] = ()  # sentences on corpora of which one took its images from the other

    @property
    def clean(self) -> bool:
        """Whether nothing overlaps, apart from series within a set. `notes` lists what could not be compared."""
        return all(o.series for o in self.overlaps)

    @property
    def notes(self) -> list[str]:
        """The limits of the audit: what could not be compared, in one sentence each."""
        sets_by_note: dict[str, list[str]] = {}
        for name, coverage in self.sets.items():
            for sentence, count in _notes(coverage):
                sets_by_note.setdefault(sentence, []).append(f"{name} ({count:,})" if count else name)
        unreadable = [f"{name}: {reason}" for name, c in self.sets.items() for reason in c.unreadable]
        limits = [f"{sentence}: {', '.join(names)}" for sentence, names in sets_by_note.items()]
        return [*self.related, *limits, *unreadable]

    def between(self, first: str, second: str) -> list[Overlap]:
        """The overlaps of two sets, named in either order."""
        return [o for o in self.overlaps if {o.first, o.second} == {first, second}]

    def table(self) -> str:
        """The report as text for a terminal."""
        sizes = [[name, f"{c.records:,}", f"{c.patients:,}", f"{c.images:,}"] for name, c in self.sets.items()]
        parts = [_aligned([["set", "records", "patient known", "images read"], *sizes])]
        if self.overlaps:
            parts.append(_aligned([["first", "second", "same", "count", "records"], *map(_row, self.overlaps)]))
        if pairs := [f"  {o.kind}: {a} = {b}" for o in self.overlaps for a, b in o.examples]:
            parts.append("\n".join(["examples", *pairs]))
        if self.notes:
            parts.append("\n".join(f"note: {note}" for note in self.notes))
        parts.append(self._conclusion())
        return "\n\n".join(parts)

    def _conclusion(self) -> str:
        if not self.clean:
            return "NOT clean: the sets overlap"
        if not self.compared:
            return "nothing was compared: name two sets, or search one for duplicates with --within"
        return "clean: nothing that was compared overlaps"

    def to_json(self) -> str:
        """The whole report; `from_json` reads it back."""
        return as_json({"clean": self.clean, **asdict(self), "notes": self.notes})

    @staticmethod
    def load(path: Path) -> "AuditReport":
        """Read a file that holds what `to_json` wrote. Raises RecordError for anything else."""
        try:
            return AuditReport.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RecordError(f"{path}: {error}") from error

    @staticmethod
    def from_json(text: str) -> "AuditReport":
        """Read what `to_json` wrote. Raises RecordError for anything else."""
        try:
            content = parse_json(text)
            sets = {name: Coverage(**c | {"unreadable": tuple(c["unreadable"])}) for name, c in content["sets"].items()}
            overlaps = tuple(_overlap(o) for o in content["overlaps"])
            return AuditReport(overlaps, sets, content["compared"], tuple(content["related"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordError(f"not an audit report, or damaged ({error!r}); run mrm audit again") from None


def audit(
    sets: Mapping[str, Records],
    images: bool = True,
    within: bool = False,
    kinds: Collection[str] = KINDS,
    threshold: int = THRESHOLD,
    examples: int = 5,
    workers: int | None = None,
    progress: Callable[[str], Callable[[int, int], None]] | None = None,
    hashes: HashKeeper | None = None,
    complete: bool = False,
) -> AuditReport:
    """Compare all pairs of sets and, with `within`, search each for duplicates.

    `progress` is called with the name of each set, and returns a function that is called with (images done, images in
    all). `hashes` keeps those of images, so that an interrupted audit resumes and a later one reads no image. A `complete`
    audit raises UnreachableError for an image that cannot be reached.
    """
    prints = {}
    for name, records in sets.items():
        show = progress(name) if progress else None
        prints[name] = fingerprint(records, images, workers, show, hashes, kept=complete)
    return audit_fingerprints(prints, within, kinds, threshold, examples)


def audit_fingerprints(
    prints: Mapping[str, Fingerprints],
    within: bool = False,
    kinds: Collection[str] = KINDS,
    threshold: int = THRESHOLD,
    examples: int = 5,
) -> AuditReport:
    """`audit` for sets whose fingerprints are already computed, such as a model's training records."""
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"unknown kinds of overlap {sorted(unknown)}; choose from {', '.join(KINDS)}")
    overlaps: list[Overlap] = []
    for a, b in combinations(prints, 2):
        overlaps += compare(prints[a], prints[b], (a, b), kinds, threshold, examples)
    for name in prints if within else ():
        overlaps += repeats(prints[name], name, kinds, threshold, examples)
    covered = {name: _coverage(p) for name, p in prints.items()}
    told = tuple(related({name: p.plain_names for name, p in prints.items()}))
    return AuditReport(tuple(overlaps), covered, within or len(prints) > 1, told)


def _coverage(prints: Fingerprints) -> Coverage:
    read = prints.exact > 0
    return Coverage(
        records=len(prints),
        patients=int((prints.patients > 0).sum()),
        inferred=prints.inferred,
        images=int(read.sum()),
        blank=int((read & ~prints.perceptual.any(axis=(1, 2))).sum()),
        unreadable=prints.unreadable,
    )


def _notes(c: Coverage) -> list[tuple[str, int]]:
    """(sentence, number of records) of one set; the number is 0 where the sentence concerns all of them."""
    absent = bool(c.records and not c.images and not c.unreadable)
    unknown = c.records - c.patients
    notes = [
        ("patients not compared, because none is known", 0, unknown and not c.patients),
        ("records of unknown patient", unknown, unknown and c.patients),
        ("patients taken from file names", c.inferred, c.inferred),
        ("images not compared, only names and ids", 0, absent),
        ("blank images, compared by exact content only", c.blank, c.blank),
        ("unreadable images, not compared", len(c.unreadable), c.unreadable),
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
