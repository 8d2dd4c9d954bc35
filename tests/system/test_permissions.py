"""What is written can be read by its user alone, or by the group where the environment says so."""

import os
import stat
import threading

import pytest

from mrm.system.errors import ConfigError
from mrm.system.files import write_by, write_whole
from mrm.system.journal import Journal
from mrm.system.output_folder import make_folder
from mrm.system.partial_results import Partial
from mrm.system.permissions import restricted
from tests.support.permissions import modes_below

GROUP = [(None, 0o600, 0o700), ("private", 0o600, 0o700), ("group", 0o640, 0o750), ("group-write", 0o660, 0o770)]


@pytest.fixture(autouse=True)
def usual_umask():
    """The umask of most systems: everyone may read."""
    before = os.umask(0o022)
    yield
    assert os.umask(before) == 0o022  # whatever was written, the umask is as it was


@pytest.mark.parametrize(("access", "file", "folder"), GROUP)
def test_files_folders_journals_and_unfinished_tables_are_for_those_whom_the_environment_names(
    tmp_path, monkeypatch, access, file, folder
):
    if access:
        monkeypatch.setenv("MRM_ACCESS", access)
    write_whole(tmp_path / "a" / "b" / "file.json", b"{}")
    make_folder(tmp_path / "c" / "d")
    with Journal(tmp_path / "e" / "journal.jsonl") as journal:
        journal.add("x", 1)
    partial = Partial(tmp_path / "table.csv", width=1)
    partial.begin({})
    partial.add([("x", {})])
    modes = modes_below(tmp_path)
    assert {mode for name, mode in modes.items() if name.endswith("/")} == {folder}
    assert {mode for name, mode in modes.items() if not name.endswith("/")} == {file}
    assert {"a/", "a/b/", "c/", "c/d/", "e/", "table.csv.partial/"} <= set(modes)
    assert {"e/journal.jsonl", "table.csv.partial/part-1-of-1.jsonl", "table.csv.partial/settings.json"} <= set(modes)


def test_temporary_files_are_private_too_even_where_a_killed_process_left_one(tmp_path):
    left = tmp_path / ".a.csv.tmp"
    left.write_bytes(b"left by a kill")
    left.chmod(0o666)
    during = []
    write_by(
        tmp_path / "a.csv",
        lambda temporary: (temporary.write_bytes(b"new"), during.append(stat.S_IMODE(temporary.stat().st_mode))),
    )
    assert during == [0o600]
    assert modes_below(tmp_path) == {"a.csv": 0o600}


def test_a_file_that_others_could_read_is_replaced_by_one_that_they_cannot(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"old")
    (tmp_path / "a.csv").chmod(0o644)
    write_whole(tmp_path / "a.csv", b"new")
    assert modes_below(tmp_path) == {"a.csv": 0o600}


def test_a_folder_that_exists_keeps_its_permissions(tmp_path):
    (tmp_path / "shared").mkdir(mode=0o755)
    make_folder(tmp_path / "shared")
    write_whole(tmp_path / "shared" / "a.csv", b"")
    assert modes_below(tmp_path) == {"shared/": 0o755, "shared/a.csv": 0o600}


def test_folders_inherit_the_group_of_a_shared_folder(tmp_path, monkeypatch):
    tmp_path.chmod(0o2770)
    if not tmp_path.stat().st_mode & stat.S_ISGID:
        pytest.skip("this file system keeps no setgid bit")
    monkeypatch.setenv("MRM_ACCESS", "group-write")
    made = make_folder(tmp_path / "run" / "test")
    assert stat.S_IMODE(made.stat().st_mode) == 0o2770


@pytest.mark.parametrize("access", ["everyone", "0644", "Group", " "])
def test_an_unknown_access_is_refused_before_anything_is_written(tmp_path, monkeypatch, access):
    monkeypatch.setenv("MRM_ACCESS", access)
    with pytest.raises(ConfigError, match=r"MRM_ACCESS: unknown access .*; choose from private, group, group-write"):
        write_whole(tmp_path / "a", b"")
    assert list(tmp_path.iterdir()) == []


def test_the_umask_comes_back_after_nested_blocks_of_several_threads_and_after_an_error():
    inside, ending = threading.Event(), threading.Event()

    def wait_inside():
        with restricted():
            inside.set()
            ending.wait(10)

    thread = threading.Thread(target=wait_inside)
    with restricted(), restricted():
        thread.start()
        assert inside.wait(10)
    assert current_umask() == 0o077  # the other thread still writes
    ending.set()
    thread.join()
    assert current_umask() == 0o022
    with pytest.raises(OSError, match="full"), restricted():
        raise OSError("full")
    assert current_umask() == 0o022


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
