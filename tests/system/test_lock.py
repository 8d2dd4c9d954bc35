"""Locks: one process at a time on an output, whoever started it; what a killed one left behind is taken over."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mrm.system import lock
from mrm.system.errors import OutputError
from mrm.system.lock import LOCK, holder_of, in_turn, is_held, only_process, only_writer
from mrm.system.output_folder import json_settings, open_folder
from mrm.system.shares import WHOLE, Share

HOLD = """
import sys, time
from pathlib import Path
from mrm.system.lock import only_process
with only_process(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_process_holds_a_folder_and_leaves_no_lock_behind(tmp_path):
    with only_process(tmp_path):
        assert names(tmp_path) == [LOCK]
        with (
            pytest.raises(
                OutputError,
                match=rf"another process is writing here \(process {os.getpid()} on .*, since 20.*\); wait for it to end",
            ),
            only_process(tmp_path),
        ):
            pass
        assert not open_folder(
            tmp_path, json_settings("probe", "probing.json", {})
        )  # the lock is nothing else in the folder
    assert names(tmp_path) == ["probing.json"]
    with only_process(tmp_path):
        assert is_held(tmp_path / LOCK)
    assert names(tmp_path) == ["probing.json"]


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"held\n"
        assert is_held(tmp_path / LOCK)
        process.send_signal(signal.SIGKILL)
    assert names(tmp_path) == [LOCK]
    assert not is_held(tmp_path / LOCK)
    with only_process(tmp_path):
        assert is_held(tmp_path / LOCK)
    assert names(tmp_path) == []


def test_a_lock_that_its_holder_removed_in_between_is_not_taken_for_the_folder(tmp_path, monkeypatch):
    """The file was opened before its holder removed it: locked now, it would keep nobody else out."""
    acquire, removed = lock._acquire, []

    def after_the_holder(file):
        if not removed:
            removed.append(True)
            (tmp_path / LOCK).unlink()
        return acquire(file)

    monkeypatch.setattr(lock, "_acquire", after_the_holder)
    with only_process(tmp_path):
        assert removed
        assert is_held(tmp_path / LOCK)


def test_a_lock_says_who_holds_it(tmp_path):
    with only_process(tmp_path):
        held = json.loads((tmp_path / LOCK).read_text())
        assert (held["pid"], held["host"]) == (os.getpid(), os.uname().nodename)
        assert time.strptime(held["since"], "%Y-%m-%d %H:%M:%S")


def test_files_in_one_folder_are_held_one_by_one(tmp_path):
    with only_writer([tmp_path / "a.npy", tmp_path / "a.csv"]):
        assert names(tmp_path) == [".a.csv.lock", ".a.npy.lock"]
        with (
            pytest.raises(OutputError, match=r"a\.csv: another process is writing here"),
            only_writer([tmp_path / "a.csv"]),
        ):
            pass
        with only_writer([tmp_path / "b.csv"]), only_process(tmp_path):
            pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("variable", ["RANK", "OMPI_COMM_WORLD_RANK"])
def test_the_first_rank_holds_a_folder_for_all(tmp_path, monkeypatch, variable):
    with only_process(tmp_path):
        monkeypatch.setenv(variable, "1")
        with only_process(tmp_path):
            assert names(tmp_path) == [LOCK]
        assert names(tmp_path) == [LOCK]
        monkeypatch.setenv(variable, "0")
        with pytest.raises(OutputError, match="another process"), only_process(tmp_path):
            pass


def test_a_worker_that_outlives_its_killed_parent_does_not_hold_the_lock(tmp_path):
    """A forked process inherits the open file, and a lock lasts until the last of them closes it."""
    ready, finish = os.pipe(), os.pipe()
    parent = os.fork()
    if not parent:
        with only_process(tmp_path):
            if not os.fork():
                os.write(ready[1], str(os.getpid()).encode())
                os.read(finish[0], 1)
                os._exit(0)
            time.sleep(60)
    child = int(os.read(ready[0], 20))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert Path(f"/proc/{child}").exists()
    with only_process(tmp_path):
        assert is_held(tmp_path / LOCK)
    os.write(finish[1], b"x")


def test_shares_of_one_number_hold_a_folder_together_and_keep_out_all_others(tmp_path):
    with only_process(tmp_path, Share(1, 2)), only_process(tmp_path, Share(2, 2)):
        assert names(tmp_path) == [".lock.1-of-2", ".lock.2-of-2"]
        for other in (Share(2, 2), WHOLE, Share(1, 3)):
            with pytest.raises(OutputError, match="another process is writing here"), only_process(tmp_path, other):
                pass
        assert not open_folder(tmp_path, json_settings("probe", "probing.json", {}))
    assert names(tmp_path) == ["probing.json"]
    with (
        only_process(tmp_path),
        pytest.raises(OutputError, match="another process"),
        only_process(tmp_path, Share(1, 2)),
    ):
        pass


def test_locks_that_killed_shares_left_behind_keep_nobody_out(tmp_path):
    left = tmp_path / ".lock.3-of-8"
    left.write_text(json.dumps(asdict(lock._this_process())))
    with only_process(tmp_path, Share(1, 8)):
        assert names(tmp_path) == [".lock.1-of-8", ".lock.3-of-8"]
    with only_process(tmp_path):
        assert names(tmp_path) == [LOCK]


# Of other machines: its file system may not tell of the lock, only of the file


@pytest.fixture
def other_machine(tmp_path, monkeypatch) -> Path:
    """The lock file of a process of another machine, and little patience."""
    monkeypatch.setattr(lock, "SILENCE", 0.5)
    holder = replace(lock._this_process(), host="node7", machine="another")
    (tmp_path / LOCK).write_text(json.dumps(asdict(holder)))
    return tmp_path / LOCK


def test_the_silent_lock_of_another_machine_is_taken_over_with_a_word(tmp_path, other_machine):
    with (
        pytest.warns(UserWarning, match=r"the lock of process \d+ on node7, since .*, is still there"),
        only_process(tmp_path),
    ):
        assert holder_of(other_machine).host == os.uname().nodename
    assert names(tmp_path) == []


def test_the_lock_of_a_living_process_of_another_machine_is_respected(tmp_path, other_machine, monkeypatch):
    monkeypatch.setattr(lock, "TOUCH", 0.1)
    ended = threading.Event()
    threading.Thread(target=lock._touch, args=(other_machine, ended), daemon=True).start()
    with pytest.warns(UserWarning, match="sign of life"), pytest.raises(OutputError, match=r"\(process \d+ on node7"):  # noqa: SIM117
        with only_process(tmp_path):
            pass
    ended.set()
    assert holder_of(other_machine).host == "node7"


def test_a_damaged_lock_file_is_taken_over(tmp_path):
    (tmp_path / LOCK).write_text("{")
    with only_process(tmp_path):
        assert holder_of(tmp_path / LOCK).pid == os.getpid()


@pytest.mark.parametrize("step", ["open", "write_text"])
def test_a_full_disk_is_named_and_leaves_no_lock_behind(tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((lock, "open", full, False) if step == "open" else (Path, step, full)))
    with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\); nothing was changed"):  # noqa: SIM117
        with only_process(tmp_path):
            pass
    assert names(tmp_path) == []


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="this file system has no locks"), only_process(tmp_path):
        pass


def test_short_changes_wait_for_their_turn(tmp_path):
    (tmp_path / "count").write_text("0")

    def add() -> None:
        for _ in range(20):
            with in_turn(tmp_path / ".lock"):
                count = int((tmp_path / "count").read_text())
                time.sleep(0.0005)
                (tmp_path / "count").write_text(str(count + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "count").read_text() == "80"
    assert names(tmp_path) == ["count"]
