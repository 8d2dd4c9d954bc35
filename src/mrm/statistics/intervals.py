"""Values with their 95 % intervals over patients.

A number that the data cannot support is NaN with a reason, never a guess. A single patient has no interval. A record of
unknown patient counts as a patient of its own, and the note of the interval says how many there are.

The bootstrap draws patients with replacement, because radiographs of one patient are not independent. A draw is a column
of counts: how often each patient was drawn.

Shapes: N records, G patients (or records, if no patients are given), K values of a record, D bootstrap draws.
"""

import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtrit

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

CELLS = 1_500_000  # numbers in one (patients or levels) x draws array, so that memory stays below 200 MB


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and sample size.

    `value` is NaN if the data cannot support one; `low` and `high` are NaN if they cannot support an interval. `n`
    counts the records used and `positives` the positive ones among them (None if the records have no labels).
    `note` is the reason for what is undefined, or the method of the interval.
    """

    value: float
    low: float
    high: float
    n: int
    positives: int | None
    note: str = ""

    @classmethod
    def undefined(cls, n: int, positives: int | None, reason: str) -> "Estimate":
        """An estimate without a value."""
        return cls(math.nan, math.nan, math.nan, n, positives, reason)

    @property
    def defined(self) -> bool:
        """Whether there is a value."""
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
        """Plain values for JSON; undefined ones are None, since JSON has no NaN."""
        return {key: finite_or_none(value) for key, value in asdict(self).items()}


def finite_or_none(value: float | int | str | None) -> float | int | str | None:
    """None for a NaN or infinite float, anything else as it is."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def group_indices(groups: Iterable[Hashable] | None, n: int) -> NDArray[np.intp]:
    """Patients (N,), of any hashable type, as indices 0 to G-1 in order of appearance.

    With None, each record is a group of its own, and so is each record whose patient is unknown (None, NaN or empty).
    Raises ValueError unless there are `n`.
    """
    if groups is None:
        return np.arange(n)
    if isinstance(groups, np.ndarray) and groups.dtype.kind in "iu" and groups.shape == (n,):  # none is unknown
        _, first_G, sorted_N = np.unique(groups, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first_G))[sorted_N]
    names = list(groups)
    if len(names) != n:
        raise ValueError(f"{n:,} records, but {len(names):,} groups (one patient per record is needed)")
    indices: dict[Hashable, int] = {}
    keys = [(i, "unknown") if is_unknown(group) else group for i, group in enumerate(names)]
    return np.array([indices.setdefault(key, len(indices)) for key in keys], dtype=np.intp)


def is_unknown(group: Hashable) -> bool:
    """Whether a record's patient is not stated."""
    return group is None or group == "" or (isinstance(group, float) and math.isnan(group))


@dataclass(frozen=True)
class Bootstrap:
    """Draws patients with replacement, and turns the values of the draws into an `Estimate`.

    The draws follow from `seed` and the number of patients alone. Percentile intervals; Efron 1979,
    doi:10.1214/aos/1176344552. Raises ValueError for wrong groups, draws or level.
    """

    group_N: NDArray[np.intp]  # the patient of each record, 0 to G-1
    unknown_N: Mask  # records of unknown patient, each of which is a group of its own
    draws: int  # 0: values without intervals
    seed: int
    level: float

    def __post_init__(self) -> None:
        if self.draws < 0 or not 0 < self.level < 1:
            raise ValueError(f"draws must be >= 0 and 0 < level < 1, not {self.draws} and {self.level}")

    @classmethod
    def from_groups(
        cls, groups: Iterable[Hashable] | None, n: int, draws: int = 2000, seed: int = 0, level: float = 0.95
    ) -> "Bootstrap":
        """A bootstrap over the patients of `n` records, `groups` (N,), or over the records if that is None."""
        names = None if groups is None else list(groups)
        unknown_N = np.array([True] * n if names is None else [is_unknown(name) for name in names], dtype=bool)
        return cls(group_indices(names, n), unknown_N, draws, seed, level)

    def of(self, mask_N: Mask) -> "Bootstrap":
        """A bootstrap over the patients of the masked records alone."""
        return replace(
            self, group_N=np.unique(self.group_N[mask_N], return_inverse=True)[1], unknown_N=self.unknown_N[mask_N]
        )

    @property
    def unit(self) -> str:
        """What is drawn: 'patients', or 'records' if no patient is known."""
        return "records" if self.unknown_N.all() else "patients"

    @property
    def size(self) -> int:
        """The number of groups: patients, and records of unknown patient."""
        return int(self.group_N.max(initial=-1)) + 1

    def weights(self, rows: int = 0) -> Iterator[Array]:
        """Yield weights_GD, how often each patient is in each draw, in chunks of draws.

        The chunks are small enough that an array (max(G, rows), D) has at most `CELLS` numbers.
        """
        rng, size = np.random.default_rng(self.seed), self.size
        step = max(1, min(self.draws, CELLS // max(size, rows, 1)))
        for start in range(0, self.draws, step):
            d = min(step, self.draws - start)
            cells = rng.integers(size, size=(d, size)) * d + np.arange(d)[:, None]
            yield np.bincount(cells.ravel(), minlength=size * d).reshape(size, d).astype(np.float64)

    def sums(self, values_NK: Array) -> Array:
        """Sums (K, D) of values (N, K) over the records of each draw, from which means and ratios follow."""
        sums_KG = np.stack([np.bincount(self.group_N, values_N, self.size) for values_N in values_NK.T])
        if not self.size or not self.draws:
            return np.zeros((len(sums_KG), self.draws))
        return np.hstack([sums_KG @ weights_GD for weights_GD in self.weights()])

    def means(self, values_N: Array, used_N: Mask) -> Array:
        """Means (D,) of values (N,) over the masked records of each draw; NaN for a draw without any."""
        sums_D, counts_D = self.sums(np.stack([np.where(used_N, values_N, 0.0), used_N], axis=1))
        return np.divide(sums_D, counts_D, out=np.full(len(sums_D), np.nan), where=counts_D > 0)

    def patients(self, mask_N: Mask) -> int:
        """The number of groups with a record in the mask (N,): patients, and records of unknown patient."""
        return len(np.unique(self.group_N[mask_N]))

    def degrees(self, *masks_N: Mask) -> float:
        """How many patients the masked records are worth when it is asked how uncertain their spread is.

        It is (sum m^2)^2 / sum m^4 for patients of m records: Satterthwaite's degrees of freedom of a variance over
        clusters (Bell and McCaffrey 2002, Survey Methodology 28:169-181). 3,000 patients with 1 to 184 images, as in NIH,
        are worth about 30, because the few with most images decide. Several masks, such as positives and negatives, are
        the parts of one variance, of which each has sum m^2 / (sum m)^2. Infinite where each patient has one record.
        """
        total = spread = 0.0
        for mask_N in masks_N:
            sizes_G = np.bincount(self.group_N[mask_N]).astype(np.float64)
            if len(sizes_G):
                part = (sizes_G**2).sum() / sizes_G.sum() ** 2
                total += part
                spread += part**2 * (sizes_G**4).sum() / (sizes_G**2).sum() ** 2 if (sizes_G > 1).any() else 0.0
        return float(total**2 / spread) if spread else math.inf

    def tail(self, degrees: float) -> float:
        """The share of draws below the interval, and above it, for so many degrees of freedom.

        Without it, 95 % intervals over few patients hold the truth less often than that. Expanded percentile interval;
        Hesterberg 2015, doi:10.1080/00031305.2015.1089789, section 4.4, with the patients that count in place of all.
        """
        if math.isinf(degrees):
            return (1 - self.level) / 2
        n = max(degrees, 3.0)
        return float(ndtr(-math.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 + self.level) / 2)))

    def drawn_from(self, used_N: Mask) -> str:
        """'by 812 patients', 'by 812 patients and 30 records of unknown patient', or 'of 1,020 records'"""
        unknown = int((used_N & self.unknown_N).sum())
        if self.unit == "records":
            return f"of {unknown:,} records"
        known = f"by {self.patients(used_N) - unknown:,} patients"
        return f"{known} and {unknown:,} record{'s' * (unknown > 1)} of unknown patient" if unknown else known

    def no_interval(self, used_N: Mask, what: str = "") -> str:
        """The reason why the records in the mask (N,) can have no interval; '' if they can have one."""
        if not self.draws:
            return "no interval requested"
        if self.patients(used_N) > 1:
            return ""
        return f"interval undefined: only one {what}{self.unit.removesuffix('s')}"

    def estimate(
        self,
        value: float,
        values_D: Array,
        used_N: Mask,
        positives: int | None,
        *remarks: str,
        no_interval: str = "",
        degrees: float | None = None,
    ) -> Estimate:
        """The value with the percentile interval of its draws (D,), which are NaN where they have no value.

        `used_N` masks the records used, and `degrees` are those of them unless others are given. Draws without a value are left out, and the note states their share if it is
        above 1 %. There is no interval for a reason in `no_interval`, for a single patient, if half of the draws have
        no value, or if all agree (a perfect ranking), because it would be far too narrow.
        """
        n, low, high = int(used_N.sum()), math.nan, math.nan
        usable_D = values_D[np.isfinite(values_D)]
        undefined = 1 - len(usable_D) / max(self.draws, 1)
        no_interval = self.no_interval(used_N) or no_interval
        if not no_interval and undefined > 0.5:
            no_interval = f"interval undefined: {undefined:.0%} of resamples have no value"
        if not no_interval and np.ptp(usable_D) < 1e-12:
            no_interval = "interval undefined: every resample gave the same value"
        method = f"bootstrap {self.drawn_from(used_N)}"
        if not no_interval:
            tail = self.tail(self.degrees(used_N) if degrees is None else degrees)
            low, high = np.quantile(usable_D, [tail, 1 - tail]).tolist()
        span = "" if self.level == 0.95 else f"{self.level:.4g} interval"
        left_out = f"{undefined:.1%} of resamples left out" if undefined > 0.01 else ""
        notes = [no_interval, *remarks] if no_interval else [span, method, left_out, *remarks]
        return Estimate(value, low, high, n, positives, "; ".join(filter(None, notes)))


def mean(values_N: Array, bootstrap: Bootstrap) -> Estimate:
    """The mean of values (N,) with its interval over patients. Undefined for no values."""
    if not len(values_N):
        return Estimate.undefined(0, None, "no records")
    every_N = np.ones(len(values_N), dtype=bool)
    return bootstrap.estimate(float(values_N.mean()), bootstrap.means(values_N, every_N), every_N, None)


def proportion(
    hits: ArrayLike, positives: int, groups: Iterable[Hashable] | None = None, level: float = 0.95
) -> Estimate:
    """The share of hits (N,) among records, with its Wilson interval; `positives` is passed on.

    Reliable near 0 and 1, where the bootstrap is not. Wilson 1927, doi:10.1080/01621459.1927.10502953. With
    `groups`, the effective number of records is that of independent ones with the same variance (design effect; Rao and
    Scott 1992, doi:10.2307/2532311), or one per patient if all or none are hits.
    Raises ValueError for wrong groups or level.
    """
    hits_N = np.asarray(hits, dtype=np.float64)
    return wilson(hits_N, positives, Bootstrap.from_groups(groups, len(hits_N), level=level))


def wilson(hits_N: Array, positives: int, bootstrap: Bootstrap, weights_N: Array | None = None) -> Estimate:
    """`proportion` of hits (N,) by the patients of a bootstrap, which is not drawn from.

    Records that were drawn with unequal chances have weights (N,), the inverse of these.
    """
    n, patient_N = len(hits_N), bootstrap.group_N
    if not n:
        return Estimate.undefined(0, positives, "no records")
    weights_N = np.ones(n) if weights_N is None else weights_N
    share, patients = np.average(hits_N, weights=weights_N), bootstrap.size
    correction = (patients / max(patients - 1, 1)) / (n / max(n - 1, 1))  # 1 where each record is a patient
    spread = (np.bincount(patient_N, weights_N * (hits_N - share)) ** 2).sum() / weights_N.sum() ** 2 * correction
    mean_weight_G = np.bincount(patient_N, weights_N) / np.bincount(patient_N)
    # Kish 1965: one per patient, less for unequal weights
    unanimous_n = mean_weight_G.sum() ** 2 / (mean_weight_G**2).sum()
    effective_n = min(n, share * (1 - share) / spread) if patients > 1 and spread > 1e-15 else unanimous_n
    z = ndtri((1 + bootstrap.level) / 2)
    middle = (share + z * z / (2 * effective_n)) / (1 + z * z / effective_n)
    half = z / (1 + z * z / effective_n) * math.sqrt(share * (1 - share) / effective_n + z * z / (4 * effective_n**2))
    method = f"Wilson {bootstrap.drawn_from(np.ones(n, dtype=bool))}"
    low, high = max(0.0, float(middle - half)), min(1.0, float(middle + half))
    return Estimate(float(share), low, high, n, positives, method)
