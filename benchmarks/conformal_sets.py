"""Do conformal sets hold the truth for held-out patients of real radiographs, with pneumonia and without it?

`python benchmarks/conformal_sets.py --data ../shared/data/pneumonia-cxr` prints the coverage and writes
`benchmarks/results/conformal_sets.json`; about a minute on one core. A logistic regression on HOG is fitted on half of the
patients. The others are divided 200 times into patients that fit the cuts for 90 % and patients that test them, and coverage is the
mean over test patients of each kind.
"""

# Shapes: N records, G patients
from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.folds import folds_of
from mrm.data.records import Records
from mrm.evaluation import floors, probes
from mrm.evaluation.probes import Labelled
from mrm.statistics import calibration, conformal
from mrm.system.files import write_json

COVERAGE, DIVISIONS = 0.9, 200


def scored(records: Records) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (N,), probabilities (N,) and patients (N,) of the half of the patients that trained nothing."""
    features_NF = floors.features(records)[0]["HOG"].astype(np.float64)
    fold_N = folds_of(records, 4, 1, seed=0)[0]
    parts = [Labelled(features_NF[fold_N == fold], records.labels_NC[fold_N == fold]) for fold in (2, 3)]
    train = Labelled(features_NF[fold_N < 2], records.labels_NC[fold_N < 2])
    others = Labelled(
        np.concatenate([part.features_ND for part in parts]), np.concatenate([part.labels_NC for part in parts])
    )
    logits_NC = probes.linear(train, parts[0], others).scores_NC
    probabilities_NC = calibration.calibrated_probabilities(logits_NC, np.array([math.nan]))
    patients = np.array(records.patients)
    return others.labels_NC[:, 0], probabilities_NC[:, 0], np.concatenate([patients[fold_N == f] for f in (2, 3)])


def by_patient(held_N: np.ndarray, patients_N: np.ndarray) -> tuple[float, int]:
    """The mean over patients of the share of their records whose set holds the label, and the number of patients."""
    _, group_N = np.unique(patients_N, return_inverse=True)
    per_patient_G = np.bincount(group_N, held_N) / np.bincount(group_N)
    return float(per_patient_G.mean()), len(per_patient_G)


def run(data: Path) -> dict[str, Any]:
    """Coverage by kind of patient over all divisions, as plain values."""
    records = Records.load(data / "labels.csv", ("pneumonia",))
    labels_N, probabilities_N, patients_N = scored(records)
    people_G = np.unique(patients_N)
    coverages: dict[str, list[float]] = {"with": [], "without": []}
    sizes: dict[str, list[int]] = {"with": [], "without": []}
    for seed in range(DIVISIONS):
        fitting = np.random.default_rng(seed).permutation(people_G)[: len(people_G) // 2]
        fits_N = np.isin(patients_N, fitting)
        cuts = conformal.fit_cuts(labels_N[fits_N], probabilities_N[fits_N], patients_N[fits_N].tolist(), COVERAGE)
        held_N = cuts.contains(labels_N, probabilities_N)
        for kind, value in (("with", 1), ("without", 0)):
            mask_N = ~fits_N & (labels_N == value)
            coverage, size = by_patient(held_N[mask_N], patients_N[mask_N])
            coverages[kind].append(coverage)
            sizes[kind].append(size)
    rows = {
        kind: {
            "mean": float(np.mean(values)),
            "deviation": float(np.std(values)),
            "test_patients": float(np.mean(sizes[kind])),
            "binomial_error": math.sqrt(COVERAGE * (1 - COVERAGE) / float(np.mean(sizes[kind]))),
        }
        for kind, values in coverages.items()
    }
    command = "python benchmarks/conformal_sets.py"
    return {"command": command, "coverage": COVERAGE, "divisions": DIVISIONS, "n": len(records), "patients": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/pneumonia-cxr"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "conformal_sets.json")
    arguments = parser.parse_args()
    report = run(arguments.data)
    write_json(arguments.out, report)
    for kind, row in report["patients"].items():
        print(f"{kind} pneumonia: {row['mean']:.3f} of {row['test_patients']:.0f} test patients, target {COVERAGE}")


if __name__ == "__main__":
    main()
