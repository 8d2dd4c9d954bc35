"""Which share of the work a process does: given, by a SLURM job array, by the ranks of torchrun."""

import pytest

from mrm.system.errors import ConfigError
from mrm.system.shares import WHOLE, Share, share_of, torchrun_rank


def array(task: int, count: int, first: int, last: int, step: int = 1) -> dict[str, str]:
    """The variables that SLURM sets for a task of a job array."""
    values = {"ID": task, "COUNT": count, "MIN": first, "MAX": last, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_unit_belongs_to_one_share(count):
    for unit in range(20):
        assert sum(Share(number, count).has(unit) for number in range(1, count + 1)) == 1


def test_the_parts_of_a_share_are_the_share():
    parts = [Share(2, 3).among(rank, 4) for rank in range(4)]
    assert [str(part) for part in parts] == ["5/12", "6/12", "7/12", "8/12"]
    assert {Share(1, 1).among(rank, 2) for rank in range(2)} == {Share(1, 2), Share(2, 2)}


def test_a_share_is_named_by_number_and_count():
    assert share_of(None) == share_of("") == WHOLE == Share(1, 1)
    assert share_of("2/8") == Share(2, 8)
    assert str(share_of(" 8/8 ")) == "8/8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0/8", "there is no share 0/8; shares count from 1/N to N/N"),
        ("9/8", "there is no share 9/8"),
        ("1/0", "there is no share 1/0"),
        ("2", "--share 2: expected a number and a count such as 2/8, or array"),
        ("a/b", "expected a number and a count"),
        ("-1/8", "expected a number and a count"),
    ],
)
def test_anything_else_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        share_of(text)


def test_a_task_of_a_slurm_array_has_its_place_among_the_tasks():
    assert share_of("array", array(0, 8, 0, 7)) == Share(1, 8)
    assert share_of("array", array(7, 8, 0, 7)) == Share(8, 8)
    assert share_of("array", array(5, 3, 1, 9, step=4)) == Share(2, 3)  # --array=1-9:4 is 1, 5, 9
    assert share_of("array", array(5, 3, 1, 11, step=4)) == Share(2, 3)  # 1, 5, 9 of --array=1-11:4
    assert share_of("array", array(6, 1, 6, 6)) == WHOLE  # alone: all that is left


def test_an_array_with_gaps_and_no_array_are_refused():
    with pytest.raises(ConfigError, match=r"the 3 tasks of this job array, 2 to 7, are not evenly spaced"):
        share_of("array", array(5, 3, 2, 7))
    with pytest.raises(ConfigError, match=r"no task of a SLURM job array \(SLURM_ARRAY_TASK_ID is not set\)"):
        share_of("array", {})


def test_the_rank_is_that_of_torchrun():
    assert torchrun_rank({}) == (0, 1)
    assert torchrun_rank({"RANK": "3", "WORLD_SIZE": "4"}) == (3, 4)
