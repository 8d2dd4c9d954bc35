"""Lengths of time: read as people write them, shown as a log shows them."""

import pytest

from mrm.system.durations import duration, seconds_of
from mrm.system.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h", 7200), ("1.5h", 5400), ("1h30m", 5400), ("1h1m1s", 3661)]
)
def test_a_length_of_time_is_read_with_its_unit(text, seconds):
    assert seconds_of(text, "--budget") == seconds


@pytest.mark.parametrize("text", ["", "15", "m", "15 m", "-5m", "15min", "30m1h", "1m1m", "1e3s", "1h30"])
def test_other_words_are_refused_with_an_example(text):
    with pytest.raises(ConfigError, match="expected a length of time with its unit, such as 90s, 15m, 2h or 1h30m"):
        seconds_of(text, "--budget")


@pytest.mark.parametrize("text", ["0s", "0h0m", "9000h"])
def test_no_time_and_more_than_a_year_are_refused(text):
    with pytest.raises(ConfigError, match=f"--budget {text}: must be more than 0 and at most a year"):
        seconds_of(text, "--budget")


def test_a_duration_has_hours_minutes_and_seconds():
    assert [duration(seconds) for seconds in (0.4, 59.6, 3723)] == ["0:00:00", "0:01:00", "1:02:03"]
