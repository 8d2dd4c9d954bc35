"""Folds: by patient, stratified, from a hash, and what cannot be divided."""

from dataclasses import replace

import numpy as np
import pytest

from mrm.data.folds import folds_of, validation_part
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError

CLASSES = ("common", "rare")


def records_of(patients: int, images: int = 2) -> Records:
    """Every third patient has the common finding, every tenth the rare one."""
    rows = [
        Record(b"", patient=f"p{p}", labels=(float(p % 3 == 0), float(p % 10 == 0)), name=f"{p}-{i}")
        for p in range(patients)
        for i in range(images)
    ]
    return Records(rows, CLASSES, "labels.csv")


def test_a_patient_is_in_one_fold_and_every_fold_has_its_share_of_every_finding():
    records = records_of(100)
    for fold_N in folds_of(records, 5, 3, seed=1):
        of_patient = {}
        for record, fold in zip(records, fold_N, strict=True):
            assert of_patient.setdefault(record.patient, fold) == fold
        shown = {c: [set() for _ in range(5)] for c in (0, 1)}
        for record, fold in zip(records, fold_N, strict=True):
            for c in (0, 1):
                if record.labels[c]:
                    shown[c][fold].add(record.patient)
        assert [len(patients) for patients in shown[1]] == [2] * 5  # 10 patients in 5 folds
        assert {len(patients) for patients in shown[0]} <= {6, 7, 8}  # 34 patients in 5 folds
        assert np.ptp(np.bincount(fold_N, minlength=5)) <= 4


def test_folds_follow_from_the_seed_the_repeat_and_the_patient_alone():
    records = records_of(60)
    folds_RN = folds_of(records, 4, 2, seed=3)
    turned = records.select(range(len(records) - 1, -1, -1))
    assert (folds_of(turned, 4, 2, seed=3)[:, ::-1] == folds_RN).all()
    assert (folds_RN[0] != folds_RN[1]).any()
    assert (folds_of(records, 4, 2, seed=4) != folds_RN).any()
    assert (folds_of(records, 4, 1, seed=3)[0] == folds_RN[0]).all()  # repeats are added without moving the first


def test_records_of_unknown_patient_are_patients_of_their_own():
    records = records_of(40, images=1)
    unknown = replace(records, rows=[replace(r, patient="") for r in records])
    assert set(folds_of(unknown, 4, 1, seed=0)[0].tolist()) == {0, 1, 2, 3}


def test_the_validation_part_is_a_share_by_patient_with_every_finding():
    records = records_of(100)
    held = validation_part(records, 0.2, seed=0)
    assert held.sum() == pytest.approx(40, abs=6)
    assert not {r.patient for r, h in zip(records, held, strict=True) if h} & {
        r.patient for r, h in zip(records, held, strict=True) if not h
    }
    labels_NC = records.labels_NC
    assert (labels_NC[held] == 1).any(axis=0).all()
    assert (labels_NC[~held] == 1).any(axis=0).all()


@pytest.mark.parametrize(
    ("records", "folds", "message"),
    [
        (records_of(30), 5, r"labels\.csv: fewer than the 5 folds: rare has 3 positive patients; take --folds 3"),
        (records_of(9), 5, r"9 patients in 5 folds leave a fold with one patient.*at most --folds 4"),
        (records_of(30), 1, "--folds must be 2 or more"),
    ],
)
def test_what_cannot_be_divided_is_named(records, folds, message):
    with pytest.raises(RecordError, match=message):
        folds_of(records, folds, 1, seed=0)


def test_a_class_without_negatives_and_an_id_that_stands_for_everybody_are_named():
    records = records_of(30)
    only = replace(records, rows=[replace(r, labels=(1.0, r.labels[1])) for r in records])
    with pytest.raises(RecordError, match="common has 0 negative patients; leave the class out with --classes"):
        folds_of(only, 3, 1, seed=0)
    shared = replace(records, rows=[replace(r, patient="ANONYMOUS") for r in records])
    with pytest.raises(RecordError, match="60 of 60 images have the patient 'ANONYMOUS'"):
        folds_of(shared, 3, 1, seed=0)
