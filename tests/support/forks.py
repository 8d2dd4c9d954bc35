"""Work in processes of its own that can be killed, without the seconds that a new interpreter takes to import."""

import os
import signal
import socket
import traceback
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch


class Ended(NamedTuple):
    """How a process ended: its exit status, or the signal that killed it as a negative number; and its processor time."""

    status: int
    seconds: float


def start(work: Callable[[], object], kill_after: float = 0.0) -> int:
    """Do `work` in a process of its own, which is killed after so many seconds of its processor time, if any. Returns its id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        torch.set_num_threads(1)  # the threads of the parent do not exist here
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which kills
        signal.setitimer(signal.ITIMER_PROF, kill_after)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(pid: int) -> Ended:
    """Wait for the end of a process."""
    _, status, usage = os.wait4(pid, 0)
    return Ended(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime)


def ranks(work: Callable[[], object], count: int) -> list[int]:
    """Do `work` as so many ranks of one run, with what torchrun tells them. Returns their exit statuses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}

    def as_rank(rank: int) -> None:
        from accelerate.state import AcceleratorState

        os.environ.update(launch, RANK=str(rank), LOCAL_RANK=str(rank))
        AcceleratorState._reset_state(
            reset_partial_state=True
        )  # an earlier run of the parent was the only rank of its own
        work()

    started = [start(partial(as_rank, rank)) for rank in range(count)]
    return [wait(pid).status for pid in started]
