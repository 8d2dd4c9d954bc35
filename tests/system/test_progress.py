"""What long work shows of itself."""

import re

import pytest

from mrm.system import progress
from mrm.system.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_progress_has_count_rate_and_time_left(clock, capsys):
    progress = Progress("packing")
    for done in range(100, 2100, 20):  # a hundred were there before
        progress(done, 10_000)
        clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert [re.match("packing: ([0-9,]+) of 10,000", line)[1] for line in lines] == ["700", "1,300", "1,900"]
    assert "20.0/s, 0:07:45 left" in lines[0]


def test_progress_of_short_work_is_its_end_alone(clock, capsys):
    progress = Progress("testing")
    for done in (1, 2, 3):
        progress(done, 3)
    assert capsys.readouterr().err.rstrip() == "testing: 3 of 3"
