"""Output folders: made, resumed with the same settings, refused otherwise; and held by one process at a time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mrm.system import lock, output_folder
from mrm.system.errors import ConfigError, OutputError
from mrm.system.lock import LOCK, is_held, only_process
from mrm.system.output_folder import Settings, json_settings, make_folder, open_folder, writing

HOLD = """
import sys, time
from pathlib import Path
from mrm.system.lock import only_process
with only_process(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def probe(**settings) -> Settings:
    return json_settings("probe", "probing.json", settings, may_change=("workers",))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("place", ["", "new/out"])
def test_a_new_or_empty_folder_is_opened_and_records_the_settings(tmp_path, place):
    assert not open_folder(tmp_path / place, probe(seed=1, init=Path("a/b"), share=float("nan")))
    text = (tmp_path / place / "probing.json").read_text()
    assert text == '{\n  "seed": 1,\n  "init": "a/b",\n  "share": null\n}\n'


def test_the_same_settings_resume_and_some_may_change(tmp_path):
    open_folder(tmp_path, probe(seed=1, classes=("a", "b"), workers=2))
    (tmp_path / "results.csv").write_text("a")
    assert open_folder(tmp_path, probe(seed=1, classes=["a", "b"], workers=8))
    assert '"workers": 2' in (tmp_path / "probing.json").read_text()  # the record of the first command stays


def test_a_record_can_follow_the_latest_command(tmp_path):
    for seeds in ([1], [1, 2]):
        open_folder(
            tmp_path, json_settings("suite", "suite.json", {"seeds": seeds}, may_change=("seeds",), update=True)
        )
    assert "2" in (tmp_path / "suite.json").read_text()


def test_other_settings_are_refused_and_named(tmp_path):
    open_folder(tmp_path, probe(seed=1, sets={"train": "x"}, gone=True))
    before = (tmp_path / "probing.json").read_bytes()
    message = (
        "holds another probe (seed: 1, now 2; different sets; gone: True, now None; new: None, now 3); choose another"
    )
    with pytest.raises(OutputError) as error:
        open_folder(tmp_path, probe(seed=2, sets={"train": "y"}, new=3))
    assert message in str(error.value)
    assert (tmp_path / "probing.json").read_bytes() == before


def test_a_folder_with_anything_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        OutputError, match=r"is not empty and holds no probe \(no probing\.json\); choose another --out"
    ):
        open_folder(tmp_path, probe(seed=1))
    with pytest.raises(OutputError, match=r"notes\.txt: is a file, but a folder is needed"):
        open_folder(tmp_path / "notes.txt", probe(seed=1))
    with pytest.raises(OutputError, match=r"notes\.txt/out: cannot be written \(Not a directory\)"):
        make_folder(tmp_path / "notes.txt" / "out")
    assert names(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize("content", ["{", "[1, 2]", '"text"'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "probing.json").write_text(content)
    with pytest.raises(OutputError, match=r"probing\.json: damaged .*; choose another --out, or remove the folder"):
        open_folder(tmp_path, probe(seed=1))


def test_what_is_wrong_with_a_configuration_is_said_in_its_own_words(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: x")

    def changes(earlier):
        raise ConfigError("config.yaml: seed must be a number")

    with pytest.raises(ConfigError, match="seed must be a number"):
        open_folder(tmp_path, Settings("run", "config.yaml", "seed: 1", changes))


def test_an_error_of_writing_says_where_and_what_to_do(tmp_path):
    message = r"out: cannot be written \(No space left on device\).* choose another --out"
    with pytest.raises(OutputError, match=message), writing(tmp_path / "out"):
        raise OSError(28, "No space left on device")


# Locks --------------------------------------------------------------------------------------------------


def test_one_process_holds_a_folder_and_leaves_no_lock_behind(tmp_path):
    with only_process(tmp_path):
        assert names(tmp_path) == [LOCK]
        with pytest.raises(OutputError, match="another process is writing to this folder"), only_process(tmp_path):
            pass
        assert not open_folder(tmp_path, probe(seed=1))  # the lock is nothing else in the folder
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


def test_a_long_setting_is_not_shown(tmp_path):
    open_folder(tmp_path, probe(text="a" * 100))
    with pytest.raises(OutputError, match=r"\(different text\)"):
        open_folder(tmp_path, probe(text="b" * 100))
    assert output_folder.LONGEST < 100


def test_a_message_names_the_first_of_many_differences(tmp_path):
    open_folder(tmp_path, probe(**{f"s{i}": 1 for i in range(20)}))
    with pytest.raises(OutputError, match=r"\(s0: 1, now 2; .*; s11: 1, now 2; and 8 more\)"):
        open_folder(tmp_path, probe(**{f"s{i}": 2 for i in range(20)}))
