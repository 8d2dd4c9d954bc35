"""Processes that work for a command: what they raise, and their death, end the command in one line."""

import os

import pytest

from mrm.system.errors import RecordError, UnexpectedError
from mrm.system.worker_pool import each, named_faults


def fails(item):
    raise KeyError(f"no {item}")


def dies(item):
    os._exit(1)


@pytest.mark.parametrize("per_process", [1, 100])  # in two processes, and in this one
def test_an_unforeseen_exception_of_a_worker_ends_the_work_with_its_message(per_process):
    with pytest.raises(UnexpectedError, match=r"inspecting: reading failed .*KeyError: 'no a'"):
        list(each(fails, ["a", "b"], 2, "inspecting", per_process))


def test_a_killed_worker_ends_the_work_with_what_to_do():
    with pytest.raises(UnexpectedError, match=r"inspecting: a process was killed, .*fewer --workers, and it resumes"):
        list(each(dies, ["a", "b"], 2, "inspecting", 1))


@pytest.mark.parametrize("error", [RecordError("as it is"), OSError(28, "No space left"), KeyboardInterrupt()])
def test_expected_errors_pass_unchanged(error):
    with pytest.raises(type(error)) as raised, named_faults("work"):
        raise error
    assert raised.value is error
