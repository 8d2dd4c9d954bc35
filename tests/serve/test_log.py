"""The log: a share of lines for each minute, and nothing of what a client sent."""

import logging

from mrm.serve import log


def test_what_exceeds_the_share_of_a_minute_is_counted_and_said_in_the_next(capsys, monkeypatch):
    now = [60.0]
    monkeypatch.setattr(log, "monotonic", lambda: now[0])
    written = log.Log(lines_per_minute=3)
    for number in range(10):
        written.write(f"line {number}")
    assert capsys.readouterr().err.splitlines() == ["mrm: line 0", "mrm: line 1", "mrm: line 2"]
    assert written.left_out == 7
    now[0] = 121.0
    written.write("later")
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["mrm: warning: 7 lines of the log were left out, since there were too many", "mrm: later"]


def test_a_library_s_error_is_logged_by_type_and_place(capsys):
    log.Log().take_over(("mrm.test_log",))
    logger = logging.getLogger("mrm.test_log")
    try:
        raise ValueError("Secret^Name")
    except ValueError:
        logger.exception("failed\nSecret^Name")
    logger.warning("first line\nSecret^Name")
    logger.info("not a warning")
    written = capsys.readouterr().err
    assert "ValueError at" in written
    assert "first line" in written
    assert "Secret" not in written
    assert "not a warning" not in written
