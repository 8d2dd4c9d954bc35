"""Are the intervals and p values of `mrm` what they claim to be? Known values, identities, and 1,000 simulated sets.

`python benchmarks/coverage.py` prints a table and writes `benchmarks/coverage.json`; about ten minutes on one core.
Exit status 1 if a check fails. The intervals by patient were designed on the sets with seeds below 1,000, so that the
simulation begins at another seed.

Known values: the CT ratings of Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747, table I (58 normal and 51
abnormal; area 0.893), for which Stata's manual prints DeLong's standard error and interval ([R] roctab, `webuse
hanley`: area 0.8932, standard error 0.0307, 95 % interval 0.83295 to 0.95339). The paper's own standard error, 0.032,
counts ties differently from DeLong. Identities: AUROC against SciPy's Mann-Whitney U, and DeLong's
covariance against the definition of its components, pair by pair (DeLong et al. 1988, doi:10.2307/2531595, equations
4 to 6). Simulation: scores are normal in both label values, so that the true AUROC is known.
"""

# Shapes: N records, G patients, S seeds, D features
from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri
from scipy.stats import mannwhitneyu, norm

from mrm.inference import outliers
from mrm.statistics import comparison, dice, intervals, ranking, seeds
from mrm.statistics.intervals import Bootstrap, Estimate
from mrm.system.files import write_json

NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)  # ratings 1 to 5, Hanley and McNeil 1982, table I
PRINTED = {"area": 0.8932, "standard error": 0.0307, "low": 0.83295, "high": 0.95339}  # Stata, [R] roctab
RESAMPLES = 1_000
AUROC = 0.8
APART = ndtri(AUROC) * math.sqrt(2)  # between the means of unit normals


# Known values and identities ------------------------------------------------------------------------------


def known_values() -> dict[str, float]:
    """AUROC, DeLong's standard error and normal interval of the ratings of Hanley and McNeil, as computed here."""
    ratings_N = np.concatenate([np.repeat(np.arange(1.0, 6), counts) for counts in (NORMAL, ABNORMAL)])
    labels_N = np.repeat([0.0, 1.0], [sum(NORMAL), sum(ABNORMAL)])
    areas, covariance = comparison.delong(labels_N, ratings_N[:, None])
    area, error = float(areas[0]), math.sqrt(covariance[0, 0])
    half = float(ndtri(0.975)) * error
    return {"area": area, "standard error": error, "low": area - half, "high": area + half}


def pair_by_pair(labels_N: np.ndarray, scores_NM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's AUROCs and covariance as they are defined, from the comparison of every positive with every negative."""
    x_PM, y_QM = scores_NM[labels_N == 1], scores_NM[labels_N == 0]
    wins_PQM = (x_PM[:, None] > y_QM[None]) + 0.5 * (x_PM[:, None] == y_QM[None])
    by_positive, by_negative = wins_PQM.mean(axis=1), wins_PQM.mean(axis=0)
    covariance = np.cov(by_positive.T) / len(x_PM) + np.cov(by_negative.T) / len(y_QM)
    return wins_PQM.mean(axis=(0, 1)), covariance


def identities(sets: int = 200) -> dict[str, float]:
    """The largest differences over sets of 10 to 120 records with ties."""
    rng, worst = np.random.default_rng(0), {"mann_whitney": 0.0, "delong_area": 0.0, "delong_covariance": 0.0}
    for _ in range(sets):
        n = int(rng.integers(10, 120))
        labels_N = np.append([0.0, 0, 1, 1], rng.integers(0, 2, n))
        scores_NM = np.round(rng.normal(size=(n + 4, 2)) + labels_N[:, None], 1)
        areas, covariance = comparison.delong(labels_N, scores_NM)
        direct, direct_covariance = pair_by_pair(labels_N, scores_NM)
        positive, negative = scores_NM[labels_N == 1, 0], scores_NM[labels_N == 0, 0]
        u = mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
        for name, gap in (
            ("mann_whitney", abs(u - ranking.auroc(labels_N, scores_NM[:, 0]))),
            ("delong_area", np.abs(areas - direct).max()),
            ("delong_covariance", np.abs(covariance - direct_covariance).max()),
        ):
            worst[name] = max(worst[name], float(gap))
    return worst


# Simulated sets -------------------------------------------------------------------------------------------


def few_each(rng: np.random.Generator, patients: int, largest: int) -> np.ndarray:
    """The numbers of radiographs of patients, 1 to `largest`, all equally likely."""
    return rng.integers(1, largest + 1, patients)


def as_nih(rng: np.random.Generator, patients: int) -> np.ndarray:
    """The numbers of radiographs of patients as in NIH ChestX-ray14: 1 to 184, in proportion to 1 / k^2.

    That gives 61 % of the patients one image and a mean of 3.5; in NIH 57 % have one, and the mean is 3.64.
    """
    counts = np.arange(1, 185)
    return rng.choice(counts, patients, p=1 / counts**2 / (1 / counts**2).sum())


def radiographs(rng: np.random.Generator, sizes_G: np.ndarray, prevalence: float = 0.3, models: int = 1):
    """Labels (N,), scores (N, M) of true AUROC 0.8 and patients (N,), of whom each has so many radiographs.

    A patient's radiographs share half of the variance of the label's liability, of the score and of each model's own error.
    """
    patients = len(sizes_G)
    groups_N = np.repeat(np.arange(patients), sizes_G)

    def shared() -> np.ndarray:
        return (rng.normal(size=patients)[groups_N] + rng.normal(size=len(groups_N))) / math.sqrt(2)

    labels_N = (shared() > norm.isf(prevalence)).astype(float)
    case_N = shared()
    scores = [APART * labels_N + (case_N + shared()) / math.sqrt(2) for _ in range(models)]
    return labels_N, np.stack(scores, axis=1), groups_N


def interval_rows(seed: int) -> dict[str, tuple[Estimate, float]]:
    """One simulated set for every interval: the estimate, and the true value that it should hold."""
    rows: dict[str, tuple[Estimate, float]] = {}
    rng = np.random.default_rng([1, seed])
    labels_N, scores_N1, _ = radiographs(rng, few_each(rng, 200, 1))
    single = scores_N1[:, 0]
    rows["AUROC, bootstrap, 200 patients of one radiograph"] = (
        ranking.interval(labels_N, single, draws=RESAMPLES, seed=seed),
        AUROC,
    )
    rows["AUROC, DeLong, 200 patients of one radiograph"] = comparison.delong_interval(labels_N, single), AUROC
    labels_N, scores_N2, groups_N = radiographs(rng, few_each(rng, 150, 4), models=2)
    scores_N = scores_N2[:, 0]
    rows["AUROC, bootstrap by patient, 150 of 1 to 4 radiographs"] = (
        ranking.interval(labels_N, scores_N, groups=groups_N, draws=RESAMPLES, seed=seed), AUROC,
    )  # fmt: skip
    rows["AUROC, DeLong by patient, 150 of 1 to 4 radiographs"] = (
        comparison.delong_interval(labels_N, scores_N, groups_N),
        AUROC,
    )
    rows[IGNORED] = comparison.delong_interval(labels_N, scores_N), AUROC
    test = comparison.bootstrap_test(labels_N, *scores_N2.T, groups=groups_N, draws=RESAMPLES, seed=seed)
    rows["difference of two models, bootstrap by patient"] = test.difference, 0.0
    rows["difference of two models, DeLong by patient"] = (
        comparison.delong_test(labels_N, *scores_N2.T, groups=groups_N).difference, 0.0,
    )  # fmt: skip
    called_N = scores_N > 1.0
    yes = labels_N == 1
    rows["sensitivity, Wilson by patient"] = (
        intervals.proportion(called_N[yes], int(yes.sum()), groups_N[yes]), float(norm.sf(1.0 - APART)),
    )  # fmt: skip
    rows[SEEDS] = seeds_row(rng, seed)
    return rows


def nih_rows(seed: int) -> dict[str, tuple[Estimate, float]]:
    """One simulated set of 3,000 patients with 1 to 184 radiographs, one in ten of which shows the finding."""
    rng = np.random.default_rng([4, seed])
    labels_N, scores_N2, groups_N = radiographs(rng, as_nih(rng, 3_000), prevalence=0.1, models=2)
    scores_N, arguments = scores_N2[:, 0], {"draws": RESAMPLES, "seed": seed}
    every, yes = np.ones(len(labels_N), dtype=bool), labels_N == 1
    bootstrap = Bootstrap.from_groups(groups_N, len(labels_N), RESAMPLES, seed)
    share_G, own_N = rng.normal(size=3_000), rng.normal(size=len(groups_N))
    dice_N = norm.cdf((share_G[groups_N] + own_N) / math.sqrt(2))  # uniform, so its mean is 0.5
    unknown = rng.random(len(groups_N)) < 0.1
    some = ["" if lost else str(group) for lost, group in zip(unknown, groups_N, strict=True)]
    true_sensitivity = float(norm.sf(1.0 - APART))
    return {
        f"AUROC, bootstrap by patient, {NIH}": (ranking.interval(labels_N, scores_N, groups=groups_N, **arguments), AUROC),
        f"AUROC, DeLong by patient, {NIH}": (comparison.delong_interval(labels_N, scores_N, groups_N), AUROC),
        f"difference of two models, bootstrap by patient, {NIH}": (
            comparison.bootstrap_test(labels_N, *scores_N2.T, groups=groups_N, **arguments).difference, 0.0,
        ),
        f"sensitivity, Wilson by patient, {NIH}": (
            intervals.proportion((scores_N > 1.0)[yes], int(yes.sum()), groups_N[yes]), true_sensitivity,
        ),
        f"mean Dice, bootstrap by patient, {NIH}": (dice.mean_over(dice_N, every, every, bootstrap), 0.5),
        NIH_SOME: (ranking.interval(labels_N, scores_N, groups=some, **arguments), AUROC),
        NIH_IGNORED: (ranking.interval(labels_N, scores_N, **arguments), AUROC),
        f"(for comparison) mean Dice, patients ignored, {NIH}": (
            dice.mean_over(dice_N, every, every, Bootstrap.from_groups(None, len(dice_N), RESAMPLES, seed)), 0.5,
        ),
    }  # fmt: skip


def seeds_row(rng: np.random.Generator, seed: int, spread: float = 0.15) -> tuple[Estimate, float]:
    """Three models whose separation differs by the labels they happened to be trained on, tested on the same 200 records."""
    labels_N = (rng.random(200) < 0.3).astype(float)
    common_N = rng.normal(size=200)
    apart_S = APART + spread * rng.normal(size=3)
    scores_SN1 = np.stack([
        a * labels_N + (common_N + rng.normal(size=200)) / math.sqrt(2) for a in apart_S
    ])[:, :, None]  # fmt: skip
    combined = seeds.auroc_over_seeds(labels_N[:, None], scores_SN1, ["x"], draws=RESAMPLES, seed=seed)
    return combined["x"], float(norm.cdf(APART / math.sqrt(2 + spread**2)))  # mean AUROC over separations


def p_values(seed: int) -> dict[str, float]:
    """P values of two models that are equally good, one simulated set each."""
    rng = np.random.default_rng([2, seed])
    labels_N, scores_N2, _ = radiographs(rng, few_each(rng, 200, 1), models=2)
    p_by_test = {
        "DeLong test, 200 patients of one radiograph": comparison.delong_test(labels_N, *scores_N2.T).p,
        "bootstrap test, 200 patients of one radiograph": comparison.bootstrap_test(
            labels_N, *scores_N2.T, draws=RESAMPLES, seed=seed
        ).p,
    }
    labels_N, scores_N2, groups_N = radiographs(rng, few_each(rng, 150, 4), models=2)
    p_by_test["DeLong test by patient, 150 of 1 to 4 radiographs"] = comparison.delong_test(
        labels_N, *scores_N2.T, groups=groups_N
    ).p
    p_by_test["bootstrap test by patient, 150 of 1 to 4 radiographs"] = comparison.bootstrap_test(
        labels_N, *scores_N2.T, groups=groups_N, draws=RESAMPLES, seed=seed
    ).p
    hard_N = rng.normal(size=60)
    dice_N2 = 1 / (1 + np.exp(-(1 + hard_N[:, None] + rng.normal(size=(60, 2)))))
    p_by_test["sign-flip test of Dice, 60 images"] = comparison.sign_flip_test(*dice_N2.T, draws=RESAMPLES, seed=seed).p
    return p_by_test


def abstained(seed: int) -> float:
    """The share of new images of the known kind that pass the outlier threshold, which aims at 1 %."""
    rng = np.random.default_rng([3, seed])
    mixing_DD = rng.normal(size=(64, 64)) * np.geomspace(1, 0.02, 64)
    known, new = (rng.normal(size=(n, 64)) @ mixing_DD for n in (300, 2_000))
    reference = outliers.reference(known)
    return float((outliers.outlying(new, reference) > reference.threshold).mean())


IGNORED, SEEDS = "(for comparison) DeLong, patients ignored", "mean over three seeds, as `mrm probe`"
NIH = "3,000 of 1 to 184"
NIH_SOME = f"(for comparison) AUROC, a tenth of the patients unknown, {NIH}"
NIH_IGNORED = f"(for comparison) AUROC, patients ignored, {NIH}"
TARGETS: dict[str, tuple[Callable[[float], bool], str]] = {
    SEEDS: (lambda v: v >= 0.93, "at least 0.93: few seeds, wide interval"),
}


# The table ------------------------------------------------------------------------------------------------


def held(sets: range) -> Iterator[tuple[str, Estimate, dict[str, Any]]]:
    """How often each interval held the truth."""
    inside: dict[str, list[bool]] = {}
    widths: dict[str, list[float]] = {}
    for seed in sets:
        rows = interval_rows(seed) | (nih_rows(seed) if seed % 2 == 0 else {})  # the larger sets half as often
        for name, (e, truth) in rows.items():
            if math.isfinite(e.low):
                inside.setdefault(name, []).append(e.low <= truth <= e.high)
                widths.setdefault(name, []).append(e.high - e.low)
    for name, hits in inside.items():
        share = intervals.proportion(hits, sum(hits))
        yield name, share, {"mean_width": float(np.mean(widths[name]))}


def false_alarms(sets: range) -> Iterator[tuple[str, Estimate, dict[str, Any]]]:
    """How often each test of equal models gave p < 0.05."""
    alarms: dict[str, list[bool]] = {}
    for seed in sets:
        for name, p in p_values(seed).items():
            alarms.setdefault(name, []).append(p < 0.05)
    for name, hits in alarms.items():
        yield name, intervals.proportion(hits, sum(hits)), {}


def agrees(printed: float, value: float) -> bool:
    """Whether a value rounds to what is printed."""
    return round(value, len(str(printed).split(".")[1])) == printed


def run(sets: range) -> dict[str, Any]:
    """All checks, as plain values; each with its target and whether it was met. `sets` are the seeds of the simulated sets."""
    start, busy = time.perf_counter(), time.process_time()
    known, gaps = known_values(), identities()
    rows = [
        *(
            row(f"CT ratings of Hanley and McNeil, {name}", value, partial(agrees, PRINTED[name]), f"{PRINTED[name]}")
            for name, value in known.items()
        ),
        *(row(f"largest difference, {name}", gap, lambda v: v < 1e-12, "below 1e-12") for name, gap in gaps.items()),
    ]
    for name, share, more in held(sets):
        compared = (lambda v: True, "none: for comparison")
        holds, target = (
            compared if name.startswith("(for") else TARGETS.get(name, (lambda v: 0.93 <= v <= 0.97, "0.93 to 0.97"))
        )
        rows.append(row(f"coverage: {name}", share.value, holds, target, share, **more))
    for name, share, more in false_alarms(sets):
        rows.append(
            row(f"false alarms: {name}", share.value, lambda v: 0.03 <= v <= 0.07, "0.03 to 0.07", share, **more)
        )
    shares = [abstained(seed) for seed in sets[: max(10, len(sets) // 20)]]
    rows.append(row(
        f"abstained, mean of {len(shares)} references of 300", float(np.mean(shares)), lambda v: 0.001 <= v <= 0.012,
        "at most about 0.01",
    ))  # fmt: skip
    return {
        "sets": len(sets),
        "first_seed": sets.start,
        "resamples": RESAMPLES,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - busy, 1),
        "rows": rows,
    }


def row(
    name: str, value: float, holds: Callable[[float], bool], target: str, share: Estimate | None = None, **more: Any
) -> dict[str, Any]:
    """A line of the table; prints it."""
    span = [share.low, share.high] if share else None
    text = f"{value:.2e}" if 0 < abs(value) < 1e-4 else f"{value:.3f}"
    width = f", mean width {more['mean_width']:.3f}" if "mean_width" in more else ""
    cell = f"{text} ({span[0]:.3f} to {span[1]:.3f})" if span else text
    print(f"{'ok  ' if holds(value) else 'FAIL'} {name:72} {cell:24} target {target}{width}", flush=True)
    return {"check": name, "value": value, "interval": span, "target": target, "holds": bool(holds(value)), **more}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1_000)
    parser.add_argument("--first-seed", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    report = run(range(arguments.first_seed, arguments.first_seed + arguments.sets))
    write_json(arguments.out, report)
    print(
        f"{arguments.sets} sets, {report['seconds']} s ({report['cpu_seconds']} s of processor time); {arguments.out}"
    )
    sys.exit(not all(r["holds"] for r in report["rows"]))


if __name__ == "__main__":
    main()
