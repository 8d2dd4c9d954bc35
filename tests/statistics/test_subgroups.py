"""Groups of records against the metric of each group alone; gaps against the pairs they are of."""

import json

import numpy as np
import pytest

from mrm.data.records import Record, Records
from mrm.statistics import ranking
from mrm.statistics.subgroups import UNSTATED, age_band, age_in_years, subgroups, values_of
from mrm.system.errors import RecordError

CLASSES = ("effusion", "nodule")


def scored(n=600, seed=0):
    """Labels and scores (N, 2); the first half of the records is ranked better."""
    rng = np.random.default_rng(seed)
    labels_NC = (rng.random((n, 2)) < 0.3).astype(float)
    apart = np.where(np.arange(n) < n // 2, 3.0, 0.3)[:, None]
    return labels_NC, labels_NC * apart + rng.normal(size=(n, 2))


def test_each_group_has_the_numbers_of_its_records_alone():
    labels_NC, scores_NC = scored()
    value_of_N = ["F" if i < 300 else "M" for i in range(600)]
    groups = [f"p{i // 2}" for i in range(600)]
    found = subgroups("sex", value_of_N, labels_NC, scores_NC, CLASSES, groups, draws=200)
    assert [g.name for g in found.groups] == ["F", "M"]
    for place, group in enumerate(found.groups):
        rows = slice(300 * place, 300 * (place + 1))
        alone = ranking.classification_report(labels_NC[rows], scores_NC[rows], CLASSES, groups[rows], draws=200)
        assert (group.n, group.patients, group.small) == (300, 150, ())
        for name in ("mean", *CLASSES):
            expected = alone[name]["auroc"]
            assert group.auroc[name].value == pytest.approx(expected.value)
            assert group.auroc[name].low == pytest.approx(expected.low, abs=0.03)  # other draws
            assert (group.auroc[name].n, group.auroc[name].positives) == (expected.n, expected.positives)


def test_a_real_gap_is_found_and_none_is_not():
    labels_NC, scores_NC = scored()
    halves = ["F" if i < 300 else "M" for i in range(600)]
    gap = subgroups("sex", halves, labels_NC, scores_NC, CLASSES, draws=500).gaps["mean"]
    assert (gap.better, gap.worse, gap.pairs) == ("F", "M", 1)
    assert gap.difference.low > 0.2
    assert gap.p < 0.05
    mixed = ["AB"[i % 2] for i in range(600)]
    gap = subgroups("site", mixed, labels_NC, scores_NC, CLASSES, draws=500).gaps["mean"]
    assert gap.difference.low < 0 < gap.difference.high


def test_the_gap_of_many_groups_is_corrected_for_the_choice():
    labels_NC, scores_NC = scored()
    names = [f"site {i % 4}" for i in range(600)]
    gap = subgroups("site", names, labels_NC, scores_NC, CLASSES, draws=500).gaps["mean"]
    two = [n if n in (gap.better, gap.worse) else UNSTATED for n in names]
    alone = subgroups("site", two, labels_NC, scores_NC, CLASSES, draws=500).gaps["mean"]
    assert gap.pairs == 6
    assert alone.pairs == 1  # records without a value are no group to compare with
    assert gap.difference.value == pytest.approx(alone.difference.value)
    assert gap.p >= alone.p


def test_a_small_group_is_marked_and_takes_no_part_in_gaps():
    labels_NC, scores_NC = scored()
    names = ["small" if i < 30 else "A" if i % 2 else "B" for i in range(600)]
    found = subgroups("site", names, labels_NC, scores_NC, CLASSES, draws=100)
    small = next(g for g in found.groups if g.name == "small")
    assert small.small == CLASSES
    assert "rough: only" in small.auroc["effusion"].note
    assert all("small" not in (g.better, g.worse) for g in found.gaps.values())
    assert not subgroups("site", names, labels_NC[:600] * 0, scores_NC, CLASSES, draws=10).gaps


def test_a_group_of_one_label_value_is_undefined_in_words():
    labels_NC, scores_NC = scored()
    labels_NC[:300] = 0
    found = subgroups("sex", ["F"] * 300 + ["M"] * 300, labels_NC, scores_NC, CLASSES, draws=50)
    assert not found.groups[0].auroc["mean"].defined
    assert found.groups[0].auroc["effusion"].note == "only negatives"
    assert found.gaps == {}
    json.dumps(found.to_dict(), allow_nan=False)


def test_groups_stand_by_their_numbers_then_by_name_and_last_those_not_stated():
    labels_NC, scores_NC = scored(70)
    names = np.resize(["b", UNSTATED, "100 and older", "a", "18–39", "z", "9"], 70).tolist()
    found = subgroups("band", names, labels_NC, scores_NC, CLASSES, draws=5)
    assert [g.name for g in found.groups] == ["9", "18–39", "100 and older", "a", "b", "z", UNSTATED]


@pytest.mark.parametrize(("rarer", "small"), [(19, CLASSES), (20, ())])
def test_a_group_with_twenty_of_either_label_is_not_small(rarer, small):
    labels_NC, scores_NC = scored(240)
    for value in (0.0, 1.0):  # the first 120 records are one group, the others another
        labels_NC[:120] = 1 - value
        labels_NC[:rarer] = value
        labels_NC[120:160], labels_NC[160:] = 0, 1
        found = subgroups("sex", ["F"] * 120 + ["M"] * 120, labels_NC, scores_NC, CLASSES, draws=20)
        assert [group.small for group in found.groups] == [small, ()]
        assert set(found.gaps) == (set() if small else {"mean", *CLASSES})


@pytest.mark.parametrize(
    ("text", "years"), [("63", 63), ("063Y", 63), ("018M", 1.5), ("42.5", 42.5), (" 7 ", 7), ("052W", 52 / 52.18), ("0730D", 730 / 365.25), ("125", 125), ("126", None), ("999", None), ("old", None), ("", None)]
)  # fmt: skip
def test_ages_are_read_as_they_come(text, years):
    assert age_in_years(text) == years if years is not None else np.isnan(age_in_years(text))


def test_ages_fall_into_bands():
    ages = ("0", "17", "18", "59", "060Y", "97", "x")
    assert [age_band(a) for a in ages] == ["0–17", "0–17", "18–39", "40–59", "60–79", "80 and older", ""]


def records(**columns):
    n = len(next(iter(columns.values())))
    rows = [
        Record(b"", view=columns.get("view", [""] * n)[i], extra={k: v[i] for k, v in columns.items() if k != "view"}, name=f"r{i}")
        for i in range(n)
    ]  # fmt: skip
    return Records(rows, source="test.csv")


def test_any_column_will_do_and_capitals_do_not_matter():
    given = records(view=["PA", ""], Sex=["F", "M"], Age=["50", ""])
    assert values_of(given, "view") == ["PA", UNSTATED]
    assert values_of(given, "sex") == ["F", "M"]
    assert values_of(given, "age") == ["40–59", UNSTATED]


def test_columns_that_cannot_be_grouped_by_are_refused():
    given = records(
        view=["PA"] * 30, site=[""] * 30, ward=[str(i % 20) for i in range(30)], scanner=[str(i) for i in range(30)]
    )
    with pytest.raises(
        RecordError, match=r"test\.csv: no column 'sex' to group by; choose from view, site, ward, scanner"
    ):
        values_of(given, "sex")
    with pytest.raises(RecordError, match="has no value in any tested record"):
        values_of(given, "site")
    with pytest.raises(RecordError, match="has 30 values, more than 20 groups; combine them into bands first"):
        values_of(given, "scanner")
    assert len(set(values_of(given, "ward"))) == 20
