"""The progress line: what it shows, how often, and that it always ends."""

import io
import re
import sys

import pytest

from mrm.system import progress
from mrm.system.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]  # for this module alone: event loops of other tests in this process keep the true time
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    """Standard error of a person who watches."""

    def isatty(self) -> bool:
        return True


def watch(monkeypatch) -> Terminal:
    """A terminal as standard error; in the test itself, since pytest sets its own for each phase."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_progress_has_count_rate_and_time_left(clock, capsys):
    progress = Progress("packing")
    for done in range(100, 2100, 20):  # a hundred were there before
        progress(done, 10_000)
        clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert [re.match("packing: ([0-9,]+) of 10,000", line)[1] for line in lines] == ["700", "1,300", "1,900"]
    assert "20.0/s, 0:07:45 left" in lines[0]


def test_progress_without_a_total_has_the_count_and_the_rate(clock, capsys):
    with Progress("converting") as progress:
        for _ in progress.over(range(900)):
            clock[0] += 0.125
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert lines == [f"converting: {count}, 8.0/s" for count in (240, 480, 720, 900)]


def test_progress_of_short_work_is_its_end_alone(clock, capsys):
    progress = Progress("testing")
    for done in (1, 2, 3):
        progress(done, 3)
    assert capsys.readouterr().err.rstrip() == "testing: 3 of 3"


def test_a_terminal_shows_one_line_that_is_drawn_again_and_ends_once(clock, monkeypatch):
    terminal = watch(monkeypatch)
    with Progress("testing", 4) as progress:
        for _ in progress.over("abcd"):
            clock[0] += 1
    lines = terminal.getvalue().split("\r")
    assert [line.strip()[:15] for line in lines[1:]] == [f"testing: {n} of 4" for n in (1, 2, 3, 4)]
    assert "1.0/s, 0:00:02 left" in lines[2]
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().endswith("\n")


def test_items_that_are_left_out_count_and_the_last_one_ends_the_line(clock, monkeypatch):
    """Where the loop goes on to the next item, as it does at an image that cannot be read."""
    terminal = watch(monkeypatch)
    with Progress("testing", 3) as progress:
        for item in progress.over([1, 2, 3]):
            clock[0] += 1
            if item > 1:
                continue
    assert terminal.getvalue().endswith("testing: 3 of 3   \n")


def test_work_that_fails_ends_the_line_and_says_how_far_it_came(clock, monkeypatch):
    terminal = watch(monkeypatch)

    def work():
        with Progress("testing", 4) as progress:
            for item in progress.over([1, 2, 3, 4]):
                if item == 4:
                    raise KeyboardInterrupt
                clock[0] += 0.05

    with pytest.raises(KeyboardInterrupt):
        work()
    assert terminal.getvalue() == "\rtesting: 3 of 4, 20.0/s, 0:00:00 left   \n"


def test_an_open_line_ends_without_being_repeated(clock, monkeypatch):
    terminal = watch(monkeypatch)
    with Progress("testing", 3) as progress:
        clock[0] += 1
        progress.add(2)
    assert terminal.getvalue() == "\rtesting: 2 of 3   \n"


def test_work_without_items_shows_nothing(clock, capsys):
    with Progress("testing", 0) as progress:
        assert list(progress.over([])) == []
    assert capsys.readouterr().err == ""


def test_batches_count_all_their_items(clock, capsys):
    with Progress("testing", 5) as progress:
        progress.add(3)
        progress.add(2)
    assert capsys.readouterr().err.rstrip() == "testing: 5 of 5"
