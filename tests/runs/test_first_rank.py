"""Ranks that wait for the first one: as long as it lives, and no longer."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from mrm.runs import first_rank
from mrm.runs.first_rank import first_rank_first, wait_for
from mrm.system import lock
from mrm.system.errors import RunError


@pytest.fixture
def short(monkeypatch) -> None:
    """A rank is taken for dead after 0.4 s."""
    monkeypatch.setattr(lock, "SILENCE", 0.4)
    monkeypatch.setattr(first_rank, "PAUSE", 0.02)


def test_one_rank_waits_for_nobody(tmp_path):
    with first_rank_first(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_rank_waits_longer_than_the_silence_while_the_first_one_lives(tmp_path, short):
    done, sign = tmp_path / "done", tmp_path / lock.LOCK
    sign.touch()

    def live() -> None:
        for _ in range(15):
            time.sleep(0.08)
            os.utime(sign)
        done.touch()

    thread, start = threading.Thread(target=live), time.monotonic()
    thread.start()
    wait_for(done, sign)
    thread.join()
    assert time.monotonic() - start > 1.1


@pytest.mark.parametrize("locked", [True, False])
def test_a_rank_that_sees_no_sign_of_the_first_one_says_so(tmp_path, short, locked):
    """The lock of a process that was killed, or a node on which the folder is another one."""
    if locked:
        (tmp_path / lock.LOCK).touch()
    with pytest.raises(RunError, match=r"no sign of life here for 0\.4 s.*on storage that all nodes share"):
        wait_for(tmp_path / "done", tmp_path / lock.LOCK)


RANKS = """
import sys, time
from pathlib import Path
from mrm.runs.first_rank import first_rank_first
from mrm.training.trainer import processes
run = Path(sys.argv[1])
for turn in range(3):
    with first_rank_first(run):
        if processes().is_main_process:
            time.sleep(0.3)
            (run / f"made-{turn}").touch()
        print((run / f"made-{turn}").exists())
"""


@pytest.mark.slow  # half a minute of starting processes
def test_two_ranks_go_one_after_the_other(tmp_path):
    from tests.support.commands import run_ranks

    (tmp_path / lock.LOCK).touch()
    said = run_ranks([sys.executable, "-c", RANKS, str(tmp_path)], 2)
    assert said == ["True\n" * 3] * 2
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == [lock.LOCK, "made-0", "made-1", "made-2"]
