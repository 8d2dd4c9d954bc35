"""Learning to tell lateral from frontal images: `mrm views` (see `mrm.runs.guessed_views` for what it is used for).

Images whose view the table states are divided into folds by patient; each is judged by a classifier that has not seen its
patient, which gives sensitivity and specificity with their intervals. The classifier that is written is fitted to all of them.
"""

# Shapes: N images, F values of HOG
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mrm.data.records import Records
from mrm.evaluation import floors
from mrm.inference.studies import is_lateral
from mrm.inference.view_classifier import ViewClassifier
from mrm.runs.output_lock import alone_on
from mrm.runs.run_folder import spare_inputs, warn_of
from mrm.statistics.calibration import operating_point
from mrm.system.errors import RecordError
from mrm.system.output_folder import writing
from mrm.system.text_table import ESTIMATE_HEAD, estimate_cells, text_table

FOLDS = 5
# scikit-learn's C, of 0.01, 0.1, 1 and 10: the last two missed a lateral of the COVID-19 Image Data Collection
STRENGTH = 0.1


@alone_on("out")
def learn_views(
    records: Path, out: Path, folder: Path | None = None, workers: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Learn to tell lateral from frontal images from the records that state a view, and write it as JSON.

    Returns what is known of it: images, laterals, and held-out sensitivity and specificity for lateral. Raises RecordError
    where too few patients have a lateral or a frontal image, RunError where no image can be read.
    """
    given = Records.load(records, images=folder)
    stated = given.select(np.flatnonzero([bool(record.view.strip()) for record in given]))
    require_views(stated, records)
    spare_inputs([records], stated, [Path(out)])
    features, unreadable = floors.features(stated, workers)
    warn_of([f"left out {name}: {reason}" for name, reason in unreadable.items()])
    readable = np.flatnonzero(~np.isnan(features["HOG"]).any(axis=1))
    used, features_NF = stated.select(readable), features["HOG"][readable].astype(float)
    require_views(used, records)
    lateral_N = laterals(used)
    log_odds_N = held_out(features_NF, lateral_N, used.people, seed)
    point = operating_point(lateral_N.astype(float), log_odds_N, 0.0, used.people)
    facts: dict[str, Any] = {"records": Path(records).name, "n": len(used), "laterals": int(lateral_N.sum())}
    facts |= {"patients": len(set(used.people)), "folds": FOLDS, "seed": seed}
    facts |= {"sensitivity": point.sensitivity.to_dict(), "specificity": point.specificity.to_dict()}
    with writing(Path(out)):
        learned(features_NF, lateral_N).save(Path(out), facts)
    rows = [["lateral called lateral", *estimate_cells(facts["sensitivity"])]]
    rows.append(["frontal called frontal", *estimate_cells(facts["specificity"])])
    print(text_table((f"held out, {FOLDS} folds by patient", *ESTIMATE_HEAD), rows))
    return facts


def laterals(records: Records) -> np.ndarray:
    """Whether each record states a lateral view (N,)."""
    return np.array([is_lateral(record.view) for record in records], dtype=bool)


def require_views(records: Records, path: Path) -> None:
    """Raises RecordError where fewer patients than folds have a lateral image, or a frontal one."""
    lateral_N, people = laterals(records), np.array(records.people)
    counts = {name: len(set(people[which])) for name, which in (("lateral", lateral_N), ("frontal", ~lateral_N))}
    for name, count in counts.items():
        if count < FOLDS:
            raise RecordError(
                f"{path}: {count} patients have an image whose view is stated as {name}, and {FOLDS} are needed; state views in "
                "a column `view` (PA, AP, lateral)"
            )


def learned(features_NF: np.ndarray, lateral_N: np.ndarray) -> ViewClassifier:
    """Fitted to HOG (N, F) and whether each image is lateral (N,); both views count alike, however many there are."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=STRENGTH, max_iter=1_000, class_weight="balanced").fit(features_NF, lateral_N)
    return ViewClassifier(fitted.coef_[0].astype(float), float(fitted.intercept_[0]))


def held_out(features_NF: np.ndarray, lateral_N: np.ndarray, people: list[str], seed: int) -> np.ndarray:
    """Log-odds (N,) of each image by a classifier that has not seen its patient: `FOLDS` folds, stratified."""
    from sklearn.model_selection import StratifiedGroupKFold

    log_odds_N = np.empty(len(lateral_N))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(features_NF, lateral_N, people):
        log_odds_N[test] = learned(features_NF[train], lateral_N[train]).log_odds(features_NF[test])
    return log_odds_N
