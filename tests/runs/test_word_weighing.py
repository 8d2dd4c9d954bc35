"""Which records the gain of words is measured on."""

import numpy as np
import pytest

from mrm.runs import word_weighing


@pytest.mark.parametrize(
    ("with_report", "records", "expected"),
    [
        ([1, 4, 5, 9], 10, [1, 4, 5, 9]),
        ([0, 1, 2, 3, 5, 8, 9], 3, [0, 2, 5]),  # every second of seven, three at most
        ([], 3, []),
    ],
)
@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_records_with_a_report_are_taken_evenly_over_all(monkeypatch, with_report, records, expected, at_once):
    monkeypatch.setattr(word_weighing, "RECORDS", records)
    monkeypatch.setattr(word_weighing, "AT_ONCE", at_once)
    tokens = [5 if number in with_report else 1 for number in range(10)]  # [CLS] alone, or four more
    assert word_weighing.spread(np.cumsum(tokens)) == expected
