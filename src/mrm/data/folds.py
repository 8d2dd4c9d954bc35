"""Folds of a cross-validation: by patient, stratified by finding, drawn anew for every repeat.

Patients are dealt out one after the other, those with the rarest finding first, each to the fold that lacks most of what
the patient shows (iterative stratification; Sechidis et al. 2011, doi:10.1007/978-3-642-23808-6_10). Patients without a
finding come last and level the sizes. The order follows from a hash of (seed, repeat, patient), never from the order of
the records.
"""

# Shapes: N records, C classes, K folds, R repeats
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mrm.data.dividing import Patient, patients_in
from mrm.data.records import Records
from mrm.system.errors import RecordError


def folds_of(records: Records, folds: int, repeats: int, seed: int) -> np.ndarray:
    """The fold (R, N) of every record in every repeat, 0 to K-1; records of one patient are in one fold.

    Raises RecordError for fewer than two folds or one repeat, for fewer patients than folds, and for a class with fewer
    positive or negative patients than folds.
    """
    check_folds(records, folds, repeats)
    people = records.people
    rows = []
    for repeat in range(repeats):
        fold_of = dealt(patients_in(records, people, f"{seed}:fold:{repeat}"), folds)
        rows.append([fold_of[person] for person in people])
    return np.array(rows, dtype=np.intp)


def check_folds(records: Records, folds: int, repeats: int) -> None:
    """Raises RecordError where the records cannot be divided so (see `folds_of`)."""
    if folds < 2 or repeats < 1:
        raise RecordError(f"--folds must be 2 or more and --repeats 1 or more, not {folds} and {repeats}")
    people = records.people
    count = len(set(people))
    if shared := records.known_patients.placeholder():
        raise RecordError(
            f"{records.source}: {shared[1]:,} of {len(records):,} images have the patient {shared[0]!r}, so they cannot be "
            "divided by patient; give a table with ids of the patients (patient_id)"
        )
    if count < 2 * folds:
        raise RecordError(
            f"{records.source}: {count:,} patients in {folds} folds leave a fold with one patient or none, and a fold of one "
            f"patient ranks nobody; take at most --folds {max(count // 2, 2)}, or add records"
        )
    labels_NC = records.labels_NC
    short = []
    for c, name in enumerate(records.classes):
        for value, kind in ((1, "positive"), (0, "negative")):
            patients = len({people[i] for i in np.flatnonzero(labels_NC[:, c] == value)})
            if patients < folds:
                short.append((patients, f"{name} has {patients} {kind} patient{'s' * (patients != 1)}"))
    if short:
        fewest, lines = min(short)[0], "; ".join(text for _, text in short)
        lower = f"take --folds {fewest}, or " if fewest >= 2 else ""
        raise RecordError(
            f"{records.source}: fewer than the {folds} folds: {lines}; {lower}leave the class out with --classes, or add "
            "records"
        )


def dealt(patients: Sequence[Patient], folds: int) -> dict[str, int]:
    """The fold of each patient, by the key of the patient (see the module)."""
    commonness = Counter(c for patient in patients for c in patient.shows)
    rarest_first = sorted(commonness, key=lambda c: (commonness[c], c))
    of_class = {c: np.zeros(folds, dtype=np.intp) for c in commonness}
    images_K = np.zeros(folds, dtype=np.intp)
    fold_of: dict[str, int] = {}
    for stratum in (*rarest_first, None):
        for patient in patients:
            if patient.key in fold_of or (stratum is not None and stratum not in patient.shows):
                continue
            counts = [of_class[c] for c in rarest_first if c in patient.shows]
            fold = min(range(folds), key=lambda k: (*(int(count[k]) for count in counts), int(images_K[k]), k))
            fold_of[patient.key] = fold
            images_K[fold] += patient.images
            for count in counts:
                count[fold] += 1
    return fold_of


def validation_part(records: Records, share: float, seed: int) -> np.ndarray:
    """Which records (N,) of a training part are held out to choose a checkpoint: about a share of them, by patient.

    The records are dealt into 1 / share folds, as above; the first of those with positives of most classes is held out.
    """
    people = records.people
    fold_of = dealt(patients_in(records, people, f"{seed}:validation"), max(2, round(1 / share)))
    fold_N, positive_NC = np.array([fold_of[person] for person in people]), records.labels_NC == 1
    held = max(range(max(fold_of.values()) + 1), key=lambda k: (int(positive_NC[fold_N == k].any(axis=0).sum()), -k))
    return fold_N == held
