"""Sets by time: the earlier patients train, the later ones test, and nobody is in two sets."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrm.corpora.contract import Options, Release
from mrm.corpora.temporal import UNDATED, cut_by_date
from mrm.data.records import Record, Records
from mrm.system.errors import RecordError

BY_DATE = Options(split_by="date", test_from="2024-01-01", val=0.0)


def release(*patients_and_days: tuple[str, str], **changes) -> Release:
    """Images of patients on days, labelled 1 and 0 in turns."""
    rows = [
        Record(Path(f"{n}.png"), patient=patient, labels=(float(n % 2),), extra={"date": day} if day else {})
        for n, (patient, day) in enumerate(patients_and_days)
    ]
    return Release(**{"records": Records(rows, ("finding",), "export"), "inputs": [], "version": "1", **changes})


def names(records: Records) -> list[str]:
    return [record.name for record in records]


def test_days_decide_and_a_patient_on_both_sides_is_in_the_earlier_set_with_all_images():
    cut, sets = cut_by_date(
        release(
            ("a", "2023-05-01"), ("a", "2024-05-01"), ("b", "2023-12-31"), ("c", "2024-01-01"), ("d", "2025-01-01")
        ),
        BY_DATE,
    )
    assert {k: names(v) for k, v in sets.items() if k in ("train", "val", "test")} == {
        "train": ["0.png", "1.png", "2.png"],
        "test": ["3.png", "4.png"],
    }
    assert "without 1 patients who have images before that day too" in cut.notes[1]
    assert "with 1 images of later days" in cut.notes[1]


def test_the_validation_can_have_a_first_day_too():
    _, sets = cut_by_date(
        release(("a", "2022-01-01"), ("b", "2023-06-01"), ("b", "2024-06-01"), ("c", "2024-02-01")),
        replace(BY_DATE, val_from="2023-01-01"),
    )
    assert [names(sets[k]) for k in ("train", "val", "test")] == [["0.png"], ["1.png", "2.png"], ["3.png"]]


def test_without_a_first_day_the_validation_is_a_share_of_the_earlier_patients():
    days = [(f"p{n}", "2020-01-01") for n in range(100)] + [("late", "2024-02-01")]
    cut, sets = cut_by_date(release(*days), replace(BY_DATE, val=0.2))
    assert (len(sets["train"]), len(sets["val"]), len(sets["test"])) == (80, 20, 1)
    assert any("val is 20% of the earlier images, by patient" in note for note in cut.notes)


def test_images_without_a_date_are_in_no_set_and_are_counted():
    cut, sets = cut_by_date(release(("a", "2022-01-01"), ("a", ""), ("b", ""), ("c", "2024-02-01")), BY_DATE)
    assert [names(sets[k]) for k in ("train", "test")] == [["0.png"], ["3.png"]]
    assert [(e.name, e.reason) for e in cut.excluded] == [("1.png", UNDATED), ("2.png", UNDATED)]
    assert "2 images have no date, so they are in no set and in records.csv only" in cut.notes
    assert len(cut.records) == 4


def test_a_set_that_a_day_leaves_empty_is_refused_with_the_days_that_there_are():
    early = release(("a", "2022-01-01"), ("b", "2022-12-31"))
    with pytest.raises(
        RecordError, match=r"--test-from 2024-01-01 leaves no images for test: .* from 2022-01-01 to 2022-12-31"
    ):
        cut_by_date(early, BY_DATE)
    with pytest.raises(RecordError, match="leaves no images for train"):
        cut_by_date(early, replace(BY_DATE, test_from="2021-01-01"))
    with pytest.raises(RecordError, match="--test-from 2022-06-01 with --val-from 2022-03-01 leaves no images for val"):
        cut_by_date(early, replace(BY_DATE, test_from="2022-06-01", val_from="2022-03-01"))


def test_a_split_by_date_without_dates_is_refused():
    with pytest.raises(
        RecordError, match=r"no image of export has a date, .* name the column with --columns date=COLUMN"
    ):
        cut_by_date(release(("a", ""), ("b", "")), BY_DATE)


def test_one_patient_for_everybody_cannot_be_split_by_date_either():
    days = [("ANONYMOUS", f"202{n % 5}-01-01") for n in range(30)]
    with pytest.raises(RecordError, match="30 of 30 images have the patient 'ANONYMOUS'"):
        cut_by_date(release(*days), BY_DATE)


def test_the_publishers_sets_give_way_and_those_of_other_names_do_not():
    dated = release(("a", "2022-01-01"), ("b", "2024-02-01"))
    cut, _ = cut_by_date(replace(dated, splits={"test": dated.records}), BY_DATE)
    assert "split by date, as asked: the publisher's sets (test) are not used" in cut.notes
    with pytest.raises(RecordError, match=r"export has sets of its own \(covid1/train\)"):
        cut_by_date(replace(dated, splits={"covid1/train": dated.records}), BY_DATE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_from": "2024-01-01"}, "--test-from need --split-by date"),
        ({"split_by": "date"}, "needs the first day of the test set"),
        (
            {"split_by": "date", "test_from": "01/02/2024"},
            "--test-from 01/02/2024: expected a day written as 2024-01-31",
        ),
        ({"split_by": "date", "test_from": "20240131"}, "expected a day written as"),
        (
            {"split_by": "date", "test_from": "2024-01-01", "val_from": "2024-01-01"},
            "--val-from 2024-01-01 must be before --test-from 2024-01-01",
        ),
        ({"split_by": "date", "test_from": "2024-01-01", "splits": Path("lists")}, "exclude each other"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(options, message):
    with pytest.raises(RecordError, match=message):
        Options(**options)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_no_patient_is_in_two_sets_and_every_test_image_is_late(seed):
    rng = np.random.default_rng(seed)
    first = date(2020, 1, 1)
    days = [(f"p{rng.integers(40)}", str(first + timedelta(days=int(rng.integers(2000))))) for _ in range(120)]
    days += [("early", "2020-01-01"), ("middle", "2023-01-02"), ("late", "2025-12-31")]
    _, sets = cut_by_date(release(*days), replace(BY_DATE, val_from="2023-01-01"))
    whose = [set(sets[k].patients) for k in ("train", "val", "test")]
    assert not whose[0] & (whose[1] | whose[2])
    assert not whose[1] & whose[2]
    assert sum(len(sets[k]) for k in ("train", "val", "test")) == len(days)
    assert all(r.extra["date"] >= "2024-01-01" for r in sets["test"])
    assert all(min(d for p, d in days if p == r.patient) < "2023-01-01" for r in sets["train"])
