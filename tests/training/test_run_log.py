"""The log that a resumed run continues."""

from pathlib import Path

import pytest

from mrm.system import files
from mrm.training.run_log import Log

LOG = "step,image,gradient\n1,0.5,2.0\n2,0.25,1.5\n12,0.125,1.0\n"


@pytest.fixture
def log(tmp_path) -> Path:
    (tmp_path / "log.csv").write_text(LOG)
    return tmp_path / "log.csv"


def test_rows_beyond_the_step_are_dropped(log):
    Log(log, 2)
    assert log.read_text() == "step,image,gradient\n1,0.5,2.0\n2,0.25,1.5\n"


@pytest.mark.parametrize("cut", ["1", "1,", "12,0.1", "12,0.125,1.", "\0\0\0", "x,1,2\n", "3,1\n"])
def test_a_row_that_was_cut_off_is_dropped(log, cut):
    log.write_text(LOG + cut)
    Log(log, 20)
    assert log.read_text() == LOG


def test_a_stop_while_the_log_is_written_anew_leaves_the_old_one(log, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        Log(log, 2)
    assert log.read_text() == LOG


def test_an_empty_log_gets_its_header(log):
    log.write_text("")
    opened = Log(log, 0)
    opened.write({"step": 1, "image": None, "skipped": 1})
    assert log.read_text() == "step,image,skipped\n1,,1\n"
