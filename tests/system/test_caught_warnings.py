"""Warnings belong to the thread that raises them, and everything is as before afterwards."""

import threading
import warnings

import pytest

from mrm.system.caught_warnings import caught_warnings


def test_each_message_is_caught_once_and_in_order():
    with caught_warnings() as messages:
        for text in ("first", "second", "first"):
            warnings.warn(text, stacklevel=1)
    assert messages == ["first", "second"]


def test_an_inner_block_keeps_its_own():
    with caught_warnings() as outer:
        with caught_warnings() as inner:
            warnings.warn("inner", stacklevel=1)
        warnings.warn("outer", stacklevel=1)
    assert (inner, outer) == (["inner"], ["outer"])


def test_threads_that_overlap_catch_their_own_and_the_others_are_shown():
    caught: dict[int, list[str]] = {}
    together = threading.Barrier(4)

    def work(number: int) -> None:
        with caught_warnings() as messages:
            for step in range(50):
                together.wait()
                warnings.warn(f"thread {number}, step {step}", stacklevel=1)
            caught[number] = list(messages)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]

    def warn_meanwhile() -> None:
        for thread in threads:
            thread.start()
        for _ in range(50):
            together.wait()
            warnings.warn("main", stacklevel=1)
        for thread in threads:
            thread.join()

    with pytest.warns(UserWarning, match="main") as shown:
        warn_meanwhile()
    assert caught == {n: [f"thread {n}, step {step}" for step in range(50)] for n in range(3)}
    assert {str(w.message) for w in shown} == {"main"}


def test_filters_and_display_are_restored_also_after_an_error():
    before = warnings.showwarning, list(warnings.filters)
    with pytest.raises(ZeroDivisionError), caught_warnings():
        _ = 1 / 0
    assert (warnings.showwarning, list(warnings.filters)) == before
