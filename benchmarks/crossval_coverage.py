"""Do the intervals of `mrm crossval` hold the truth? 1,000 simulated sets of each kind, with models that are trained on them.

`python benchmarks/crossval_coverage.py` prints a table and writes `benchmarks/crossval_coverage.json`; about ten minutes on one
core. Exit status 1 if an interval of AUROC misses its target, 0.93 to 0.97; differences
are measured beside.

Features are normal in both label values, and a patient's radiographs share half of their variance, so that the true AUROC
of a linear model is known: with weights w, features d apart, it is Phi(w d / sqrt(2 w w)). The models are ridge
regressions. The truth is the mean AUROC of such models over all sets; how often the interval holds the AUROC of the very
models that were trained is printed beside it. "Naive" takes the patients' variance alone, which is what is usually done.
"""

# Shapes: N records, G patients, D features, R repeats
from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri
from scipy.stats import norm

from mrm.data.folds import folds_of
from mrm.data.records import Record, Records
from mrm.statistics import intervals
from mrm.statistics.comparison import delong_interval
from mrm.statistics.cross_validation import cross_validated_auroc
from mrm.statistics.intervals import Estimate
from mrm.system.files import write_json


@dataclass(frozen=True)
class Kind:
    """A kind of set, and how it is cross-validated."""

    name: str
    patients: int
    largest: int  # radiographs of a patient: 1 to this many
    features: int
    auroc: float  # of the best linear model
    prevalence: float
    ridge: float
    repeats: int = 2
    folds: int = 5
    target: tuple[float, float] | None = (0.93, 0.97)


KINDS = (
    Kind("100 patients, 10 features", 100, 1, 10, 0.8, 0.3, 0.1),
    Kind("100 patients, 10 features, 5 repeats", 100, 1, 10, 0.8, 0.3, 0.1, repeats=5),
    Kind("60 patients, 200 features", 60, 1, 200, 0.9, 0.4, 1.0, repeats=3),
    Kind("300 patients, 200 features, 10 folds", 300, 1, 200, 0.95, 0.5, 1.0, folds=10),
    Kind("400 patients of 1 to 3, 50 features", 400, 3, 50, 0.85, 0.15, 0.3),
    Kind("150 patients of 1 to 3, 20 features", 150, 3, 20, 0.85, 0.3, 0.3, repeats=3),
    Kind("100 patients of 1 to 5, 20 features", 100, 5, 20, 0.85, 0.3, 0.3),
    Kind("400 patients, 3 features", 400, 1, 3, 0.85, 0.3, 0.01),
    Kind("150 patients, nothing to learn", 150, 1, 5, 0.5, 0.3, 0.1, repeats=3),
    Kind("(for comparison) 100 patients, 10 features, 1 repeat", 100, 1, 10, 0.8, 0.3, 0.1, repeats=1, target=None),
)


def draw(rng: np.random.Generator, kind: Kind) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (N, D), labels (N,) and patients (N,). One label in ten differs from that of its patient by chance."""
    group_N = np.repeat(np.arange(kind.patients), rng.integers(1, kind.largest + 1, kind.patients))
    n = len(group_N)
    label_G = rng.random(kind.patients) < kind.prevalence
    own_N = rng.random(n) < kind.prevalence
    anew_N = rng.random(n) < (0.1 if kind.largest > 1 else 0.0)
    labels_N = np.where(anew_N, own_N, label_G[group_N]).astype(np.float64)
    shared_ND = rng.normal(size=(kind.patients, kind.features))[group_N]
    noise_ND = (shared_ND + rng.normal(size=(n, kind.features))) / math.sqrt(2)
    return apart(kind) * labels_N[:, None] + noise_ND, labels_N, group_N


def apart(kind: Kind) -> np.ndarray:
    """The distance (D,) of positives from negatives, the same along every feature."""
    return np.full(kind.features, float(ndtri(kind.auroc)) * math.sqrt(2 / kind.features))


def fitted(features_ND: np.ndarray, labels_N: np.ndarray, ridge: float) -> np.ndarray:
    """The weights (D,) of a ridge regression of the labels."""
    centred_ND, centred_N = features_ND - features_ND.mean(axis=0), labels_N - labels_N.mean()
    n, width = features_ND.shape
    if width <= n:
        return np.linalg.solve(centred_ND.T @ centred_ND + ridge * n * np.eye(width), centred_ND.T @ centred_N)
    return centred_ND.T @ np.linalg.solve(centred_ND @ centred_ND.T + ridge * n * np.eye(n), centred_N)


def one_set(kind: Kind, seed: int) -> tuple[Estimate, Estimate, float, Estimate, float]:
    """One simulated set: its estimate, the naive one, the mean true AUROC of its models; and the same difference from
    models that see half of the features."""
    rng = np.random.default_rng([8, seed])
    features_ND, labels_N, group_N = draw(rng, kind)
    rows = [Record(b"", patient=f"p{g}", labels=(y,), name=str(i)) for i, (g, y) in enumerate(zip(group_N, labels_N, strict=True))]  # fmt: skip
    folds_RN = folds_of(Records(rows, ("x",)), kind.folds, kind.repeats, seed)
    scores_MRN = np.zeros((2, kind.repeats, len(labels_N)))
    truths: list[list[float]] = [[], []]
    for repeat, fold_N in enumerate(folds_RN):
        for fold in range(kind.folds):
            inside_N = fold_N == fold
            for m, width in enumerate((kind.features, math.ceil(kind.features / 2))):
                weights = fitted(features_ND[~inside_N, :width], labels_N[~inside_N], kind.ridge)
                scores_MRN[m, repeat, inside_N] = features_ND[inside_N, :width] @ weights
                length = math.sqrt(2 * float(weights @ weights)) or 1.0
                truths[m].append(float(norm.cdf(float(weights @ apart(kind)[:width]) / length)))
    arguments = (labels_N[:, None], scores_MRN[0][:, :, None], folds_RN, ["x"], group_N)
    whole = cross_validated_auroc(*arguments)["x"]
    gap = cross_validated_auroc(*arguments, against=scores_MRN[1][:, :, None])["x"]
    naive = delong_interval(labels_N, scores_MRN[0][0], group_N)
    true, other = (float(np.mean(of_models)) for of_models in truths)
    return whole, naive, true, gap, true - other


def covered(estimates: list[Estimate], truth: np.ndarray) -> Estimate:
    """How often intervals hold the truth; an undefined interval does not count."""
    hits = [e.low <= t <= e.high for e, t in zip(estimates, truth, strict=True) if math.isfinite(e.low)]
    return intervals.proportion(hits, sum(hits))


def rows_of(kind: Kind, sets: int) -> Iterator[dict[str, Any]]:
    """The coverage of one kind of set: of the AUROC, and of the paired difference from a model of half the features."""
    results = [one_set(kind, seed) for seed in range(sets)]
    whole, naive, gaps = ([result[i] for result in results] for i in (0, 1, 3))
    true_S, gap_S = (np.array([result[i] for result in results]) for i in (2, 4))
    for what, estimates, truth_S in (("AUROC", whole, true_S), ("paired difference", gaps, gap_S)):
        general = covered(estimates, np.full(sets, truth_S.mean()))
        of_these = covered(estimates, truth_S)
        target = kind.target if what == "AUROC" else None  # differences are measured beside
        holds = target is None or target[0] <= general.value <= target[1]
        row = {"check": f"{what}: {kind.name}", "coverage": general.value, "interval": [general.low, general.high]}
        row |= {"of_these_models": of_these.value, "target": target, "holds": holds}
        row |= {"truth": float(truth_S.mean()), "mean": float(np.mean([e.value for e in estimates]))}
        row |= {"mean_width": float(np.nanmean([e.high - e.low for e in estimates])), "kind": asdict(kind)}
        if what == "AUROC":
            row["naive"] = covered(naive, np.full(sets, truth_S.mean())).value
        yield row


def run(sets: int) -> dict[str, Any]:
    """All kinds, as plain values; prints each."""
    start, rows = time.process_time(), []
    for kind in KINDS:
        for row in rows_of(kind, sets):
            naive = f", naive {row['naive']:.3f}" if "naive" in row else ""
            print(
                f"{'ok  ' if row['holds'] else 'FAIL'} {row['check']:75} {row['coverage']:.3f} ({row['interval'][0]:.3f} to "
                f"{row['interval'][1]:.3f}), of these models {row['of_these_models']:.3f}{naive}",
                flush=True,
            )
            rows.append(row)
    command = f"python benchmarks/crossval_coverage.py --sets {sets}"
    return {"command": command, "sets": sets, "seeds": f"0 to {sets - 1}", "cpu_seconds": round(time.process_time() - start, 1), "rows": rows}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    report = run(arguments.sets)
    write_json(arguments.out, report)
    print(f"{arguments.sets} sets, {report['cpu_seconds']} s of processor time; {arguments.out}")
    sys.exit(not all(row["holds"] for row in report["rows"]))


if __name__ == "__main__":
    main()
