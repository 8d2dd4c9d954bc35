"""The checkpoints of a run on the disk: which are kept, which are linked, and what a kill leaves behind."""

import os
import shutil
from pathlib import Path

import pytest

from mrm.system.errors import TrainingError
from mrm.training.checkpoints import Checkpoints


def written(run: Path, keep: int, *steps: int, best: tuple[int, ...] = ()) -> Checkpoints:
    """Checkpoints of these steps in this order, each a folder with its step in a file."""
    run.mkdir(exist_ok=True)
    checkpoints = Checkpoints(run, keep)
    for step in steps:

        def fill(folder: Path, step: int = step) -> None:
            folder.mkdir(parents=True)
            (folder / "step.txt").write_text(str(step))

        checkpoints.write(step, fill, best=step in best)
    return checkpoints


def steps_in(run: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in (run / "checkpoints").iterdir())


def linked(run: Path, name: str) -> int | None:
    """The step that a link leads to."""
    return int((run / name / "step.txt").read_text()) if (run / name).is_symlink() else None


@pytest.mark.parametrize(("keep", "kept"), [(1, [40]), (2, [30, 40]), (4, [10, 20, 30, 40]), (9, [10, 20, 30, 40])])
def test_the_newest_are_kept(tmp_path, keep, kept):
    checkpoints = written(tmp_path, keep, 10, 20, 30, 40)
    assert steps_in(tmp_path) == kept
    assert checkpoints.newest() == checkpoints.path(40) == tmp_path / "checkpoints" / "step-00000040"
    assert (linked(tmp_path, "last"), linked(tmp_path, "best")) == (40, None)


def test_the_best_is_kept_until_another_is_better(tmp_path):
    written(tmp_path, 1, 10, 20, 30, best=(10,))
    assert (steps_in(tmp_path), linked(tmp_path, "best")) == ([10, 30], 10)
    written(tmp_path, 1, 40, best=(40,))
    assert (steps_in(tmp_path), linked(tmp_path, "best")) == ([40], 40)


def test_a_run_that_is_moved_keeps_its_links(tmp_path):
    written(tmp_path / "run", 2, 10, 20, best=(10,))
    (tmp_path / "run").rename(tmp_path / "moved")
    assert (linked(tmp_path / "moved", "last"), linked(tmp_path / "moved", "best")) == (20, 10)
    assert os.readlink(tmp_path / "moved" / "last") == "checkpoints/step-00000020"


def test_without_a_checkpoint_there_is_none_and_no_link(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.relink_last()
    checkpoints.tidy(best=0)
    assert checkpoints.newest() is None
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_keeps_the_last_and_leaves_nothing(tmp_path):
    checkpoints = written(tmp_path, 2, 10)
    for error, begun in ((OSError("disk full"), False), (OSError("disk full"), True), (RuntimeError("bad pos"), True)):

        def fail(folder: Path, error: Exception = error, begun: bool = begun) -> None:
            if begun:
                folder.mkdir()
                (folder / "half").write_text("half")
            raise error

        with pytest.raises(
            TrainingError, match=f"step-00000020: cannot write a checkpoint .*{error}.* last one is kept"
        ):
            checkpoints.write(20, fail)
        assert (steps_in(tmp_path), linked(tmp_path, "last")) == ([10], 10)


def test_what_a_kill_left_is_completed(tmp_path):
    """Killed after the name and before the links of 30, in an older form of keeping, and while 40 was written."""
    checkpoints = written(tmp_path, 9, 10, 20, best=(10,))
    shutil.copytree(checkpoints.path(20), checkpoints.path(30))
    (checkpoints.path(30) / "step.txt").write_text("30")
    (tmp_path / "checkpoints" / ".step-00000040.tmp").mkdir()
    again = Checkpoints(tmp_path, 1)
    assert again.newest() == again.path(30)
    again.relink_last()
    assert linked(tmp_path, "last") == 30
    again.tidy(best=30)
    assert (linked(tmp_path, "best"), steps_in(tmp_path)) == (30, [30])


def test_a_best_that_is_not_there_is_not_linked(tmp_path):
    checkpoints = written(tmp_path, 1, 10)
    for best in (0, 7):
        checkpoints.tidy(best)
        assert linked(tmp_path, "best") is None


def test_a_checkpoint_that_is_there_already_is_taken_as_it_is(tmp_path):
    """Left whole by a run that was killed before it could link it: the same step gives the same bits."""
    checkpoints = written(tmp_path, 2, 10, 20)
    (tmp_path / "last").unlink()
    (checkpoints.path(20) / "mark").write_text("first")
    written(tmp_path, 2, 20)
    assert (checkpoints.path(20) / "mark").read_text() == "first"
    assert (steps_in(tmp_path), linked(tmp_path, "last")) == ([10, 20], 20)
