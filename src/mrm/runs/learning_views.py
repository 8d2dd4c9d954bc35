"""Learning to tell lateral from frontal images: `mrm views`, and what `--view-classifier` does with it.

Images whose view the table states are divided into folds by patient; each is judged by a classifier that has not seen its
patient, which gives sensitivity and specificity with their intervals. The classifier that is written is fitted to all of them.
"""

# Shapes: N images, F values of HOG
from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mrm.data import images
from mrm.data.reading_ahead import work_ahead
from mrm.data.records import Record, Records
from mrm.evaluation import floors, view_classifier
from mrm.evaluation.view_classifier import FOLDS, ViewClassifier
from mrm.inference.studies import GUESSED, is_lateral
from mrm.runs.output_lock import alone_on
from mrm.runs.reading_options import Reading
from mrm.runs.run_folder import spare_inputs, warn_of
from mrm.statistics.calibration import operating_point
from mrm.system import hardware
from mrm.system.errors import ImageError, RecordError, RunError
from mrm.system.output_folder import writing
from mrm.system.progress import Progress
from mrm.system.text_table import ESTIMATE_HEAD, estimate_cells, text_table

LATERAL, FRONTAL = f"lateral {GUESSED}", f"frontal {GUESSED}"


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
    log_odds_N = view_classifier.held_out(features_NF, lateral_N, used.people, seed)
    point = operating_point(lateral_N.astype(float), log_odds_N, 0.0, used.people)
    facts: dict[str, Any] = {"records": Path(records).name, "n": len(used), "laterals": int(lateral_N.sum())}
    facts |= {"patients": len(set(used.people)), "folds": FOLDS, "seed": seed}
    facts |= {"sensitivity": point.sensitivity.to_dict(), "specificity": point.specificity.to_dict()}
    with writing(Path(out)):
        view_classifier.learned(features_NF, lateral_N).save(Path(out), facts)
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


# What is done with it ---------------------------------------------------------------------------------------


def digest_of(reading: Reading) -> str | None:
    """What changes with the view classifier of a command; None without one."""
    if reading.view_classifier is None:
        return None
    return hashlib.blake2b(reading.view_classifier.read_bytes(), digest_size=8).hexdigest()


def with_guessed_views(records: Records, reading: Reading) -> Records:
    """The records, with a guess where neither they nor the header of their image state a view. Says how many there are.

    Images in an archive are not guessed, since their headers state it. What cannot be read stays without a view. Raises
    ConfigError for a file that is no view classifier.
    """
    if reading.view_classifier is None:
        return records
    classifier = view_classifier.load(reading.view_classifier)
    asked = [n for n, record in enumerate(records) if not record.view.strip() and isinstance(record.image, Path)]
    rows, guessed = list(records), []
    workers = hardware.cores() - 1 if reading.workers is None else reading.workers
    with Progress("guessing views", len(asked)) as progress:
        views = work_ahead((records[n] for n in asked), lambda record: guess(classifier, record), workers)
        for n, view in zip(asked, views, strict=True):
            rows[n] = replace(rows[n], view=view)
            guessed += [view] if view in (LATERAL, FRONTAL) else []
            progress.add(1)
    if guessed:
        warn_of([
            f"{len(guessed):,} of {len(records):,} images state no view; {reading.view_classifier} takes "
            f"{guessed.count(LATERAL):,} of them for lateral, which are left out"
        ])  # fmt: skip
    return replace(records, rows=rows)


def guess(classifier: ViewClassifier, record: Record) -> str:
    """The view that a header states, else the one that the image looks like; empty where it cannot be read."""
    try:
        opened = images.open_image(record.image)
        stated = images.identity(opened).get("view", "")
        return stated or (LATERAL if classifier.is_lateral(opened) else FRONTAL)
    except (ImageError, OSError):
        return ""


def require_frontal(reading: Reading) -> None:
    """Raises RunError for a view classifier without a reason to guess views."""
    if reading.view_classifier is not None and reading.views != "frontal":
        raise RunError("--view-classifier guesses which images are lateral, to leave them out: add --views frontal")
