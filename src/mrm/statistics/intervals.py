"""How sure a number is: values with their 95 % intervals over patients.

A number that the data cannot support is NaN with its reason, never a guess; a single patient has no interval.

The bootstrap draws patients with replacement (radiographs of one patient are not independent). A draw is a column
of counts, how often each patient came up.

Shapes: N records, G patients (or records, where no patients are given), K values of a record, D bootstrap draws.
"""

import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

CELLS = 1_500_000  # numbers in one (patients or levels) x draws array, so that memory stays below 200 MB


@dataclass(frozen=True)
class Estimate:
    """A number with what it rests on.

    `value` is NaN where the data cannot give one; `low` and `high` are NaN where they cannot give an
    interval. `n` counts the records used and `positives` the positive ones among them (None where nothing
    is known to be positive). `note` gives the reason for what is undefined, or how the interval was made.
    """

    value: float
    low: float
    high: float
    n: int
    positives: int | None
    note: str = ""

    @classmethod
    def undefined(cls, n: int, positives: int | None, why: str) -> "Estimate":
        return cls(math.nan, math.nan, math.nan, n, positives, why)

    @property
    def defined(self) -> bool:
        return math.isfinite(self.value)

    def __str__(self) -> str:
        if not self.defined:
            return f"undefined ({self.note}, n={self.n:,})" if self.note else f"undefined (n={self.n:,})"
        span = f"{self.low:.3f}–{self.high:.3f}" if math.isfinite(self.low) else self.note or "no interval"
        return f"{self.value:.3f} ({span}), {self.size}"

    @property
    def size(self) -> str:
        """'n=812, 94 positive'"""
        return f"n={self.n:,}" if self.positives is None else f"n={self.n:,}, {self.positives:,} positive"

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Plain values for JSON; what is undefined is None, since JSON has no NaN."""
        return {key: finite_or_none(value) for key, value in asdict(self).items()}


def finite_or_none(value: float | int | str | None) -> float | int | str | None:
    """None for a NaN or infinite float, anything else as it is."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def group_indices(groups: Iterable[Hashable] | None, n: int) -> NDArray[np.intp]:
    """Patients (N,), of any hashable kind, as numbers 0 to G-1 in order of appearance.

    None: each record is its own. Raises ValueError where there are not `n`, or where one is missing (None,
    NaN or empty).
    """
    if groups is None:
        return np.arange(n)
    named = list(groups)
    if len(named) != n:
        raise ValueError(f"{n:,} records, but {len(named):,} groups (one patient per record is needed)")
    missing = [i for i, group in enumerate(named) if group is None or group == "" or group != group]
    if missing:
        raise ValueError(f"{len(missing):,} records have no group; the first is index {missing[0]}")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in named], dtype=np.intp)


@dataclass(frozen=True)
class Bootstrap:
    """Draws patients with replacement, and turns what the draws gave into an `Estimate`.

    The draws follow from `seed` and the number of patients alone. Percentile intervals; Efron 1979,
    doi:10.1214/aos/1176344552. Raises ValueError for groups, draws or a level that are wrong.
    """

    group_N: NDArray[np.intp]  # the patient of each record, 0 to G-1
    unit: str  # what is drawn: 'patients', or 'records' where no patients are given
    draws: int = 2000  # 0: values without intervals
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.draws < 0 or not 0 < self.level < 1:
            raise ValueError(f"draws must be >= 0 and 0 < level < 1, not {self.draws} and {self.level}")

    @classmethod
    def from_groups(
        cls, groups: Iterable[Hashable] | None, n: int, draws: int = 2000, seed: int = 0, level: float = 0.95
    ) -> "Bootstrap":
        """Draws from the patients of `n` records, `groups` (N,), or from the records where that is None."""
        unit = "records" if groups is None else "patients"
        return cls(group_indices(groups, n), unit, draws, seed, level)

    @property
    def size(self) -> int:
        return int(self.group_N.max(initial=-1)) + 1

    def weights(self, rows: int = 0) -> Iterator[Array]:
        """Yields weights_GD, how often each patient is in each draw, chunk by chunk until all draws are done.

        A chunk has so few draws that an array of (max(G, rows), D) holds at most `CELLS` numbers.
        """
        rng, size = np.random.default_rng(self.seed), self.size
        step = max(1, min(self.draws, CELLS // max(size, rows, 1)))
        for start in range(0, self.draws, step):
            d = min(step, self.draws - start)
            cells = rng.integers(size, size=(d, size)) * d + np.arange(d)[:, None]
            yield np.bincount(cells.ravel(), minlength=size * d).reshape(size, d).astype(np.float64)

    def sums(self, values_NK: Array) -> Array:
        """Sums (K, D), over the records of each draw, of values (N, K): what means and ratios are made of."""
        sums_KG = np.stack([np.bincount(self.group_N, values_N, self.size) for values_N in values_NK.T])
        if not self.size or not self.draws:
            return np.zeros((len(sums_KG), self.draws))
        return np.hstack([sums_KG @ weights_GD for weights_GD in self.weights()])

    def means(self, values_N: Array, used_N: Mask) -> Array:
        """Means (D,), over those records of each draw that a mask (N,) has, of values (N,); NaN where it has none."""
        sums_D, counts_D = self.sums(np.stack([np.where(used_N, values_N, 0.0), used_N], axis=1))
        return np.divide(sums_D, counts_D, out=np.full(len(sums_D), np.nan), where=counts_D > 0)

    def patients(self, mask_N: Mask) -> int:
        """How many patients have a record in the mask (N,)."""
        return len(np.unique(self.group_N[mask_N]))

    def drawn_from(self, used_N: Mask) -> str:
        """'by 812 patients', or 'of 1,020 records'"""
        return f"{'of' if self.unit == 'records' else 'by'} {self.patients(used_N):,} {self.unit}"

    def doubt(self, used_N: Mask, what: str = "") -> str:
        """Why records (N,) of too few patients have no interval; '' where they can have one."""
        if not self.draws:
            return "no interval asked for"
        many = self.patients(used_N) > 1
        return "" if many else f"interval undefined: one {what}{self.unit.removesuffix('s')} only"

    def estimate(
        self,
        value: float,
        values_D: Array,
        used_N: Mask,
        positives: int | None,
        *remarks: str,
        doubt: str = "",
    ) -> Estimate:
        """The value, with the percentile interval of its draws (D,), NaN where a draw leaves it undefined.

        `used_N` masks the records that count. Draws without a value are left out, and the note tells their
        share above 1 %. There is no interval for a `doubt`, for one patient, where half of the draws have no
        value, or where all agree (a perfect ranking): then it would be far too narrow.
        """
        n, low, high = int(used_N.sum()), math.nan, math.nan
        usable_D = values_D[np.isfinite(values_D)]
        lost = 1 - len(usable_D) / max(self.draws, 1)
        doubt = self.doubt(used_N) or doubt
        if not doubt and lost > 0.5:
            doubt = f"interval undefined: {lost:.0%} of resamples have no value"
        if not doubt and np.ptp(usable_D) < 1e-12:
            doubt = "interval undefined: every resample gave the same value"
        how = f"bootstrap {self.drawn_from(used_N)}"
        if not doubt:
            low, high = np.quantile(usable_D, [(1 - self.level) / 2, (1 + self.level) / 2]).tolist()
        span = "" if self.level == 0.95 else f"{self.level:.4g} interval"
        left_out = f"{lost:.1%} of resamples left out" if lost > 0.01 else ""
        notes = [doubt, *remarks] if doubt else [span, how, left_out, *remarks]
        return Estimate(value, low, high, n, positives, "; ".join(filter(None, notes)))


def proportion(
    hits: ArrayLike, positives: int, groups: Iterable[Hashable] | None = None, level: float = 0.95
) -> Estimate:
    """The share of records (N,) that hit, with its Wilson interval; `positives` is passed on.

    Sound near 0 and 1, where the bootstrap is not. Wilson 1927, doi:10.1080/01621459.1927.10502953. With
    `groups`, records count as the number of independent ones with the same variance (design effect; Rao and
    Scott 1992, doi:10.2307/2532311), or, where all or none hit, as one per patient.
    Raises ValueError for groups or a level that are wrong.
    """
    hits_N = np.asarray(hits, dtype=np.float64)
    n, group_N = len(hits_N), Bootstrap.from_groups(groups, len(hits_N), level=level).group_N
    if not n:
        return Estimate.undefined(0, positives, "no record")
    share, patients = hits_N.mean(), len(np.unique(group_N))
    correction = (patients / max(patients - 1, 1)) / (n / max(n - 1, 1))  # 1 where each record is a patient
    spread = (np.bincount(group_N, hits_N - share) ** 2).sum() / n**2 * correction
    worth = min(n, share * (1 - share) / spread) if patients > 1 and spread > 1e-15 else patients
    z = ndtri((1 + level) / 2)
    middle = (share + z * z / (2 * worth)) / (1 + z * z / worth)
    half = z / (1 + z * z / worth) * math.sqrt(share * (1 - share) / worth + z * z / (4 * worth**2))
    how = f"Wilson of {n:,} records" if groups is None else f"Wilson by {patients:,} patients"
    low, high = max(0.0, float(middle - half)), min(1.0, float(middle + half))
    return Estimate(float(share), low, high, n, positives, how)
