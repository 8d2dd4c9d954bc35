"""The processes that decode uploads. A file that takes too long, or ends its process, costs that process and nothing else.

A thread cannot be stopped while a library decodes, a process can. Each has a pipe of its own, and shares no lock or queue
with the others, so it may be killed at any moment. They are forked from a small process that has imported the decoders
and nothing of PyTorch (`forkserver`), so that a new one is there within milliseconds and shares its memory.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, TypeVar

from mrm.serve.admission import Refused
from mrm.serve.log import Log
from mrm.system.errors import RunError
from mrm.system.worker_pool import start_worker

T = TypeVar("T")
START_SECONDS = 60  # for a process to start; it takes milliseconds, the first one a second
TOO_SLOW = "took more than {seconds:g} s to decode, the maximum of this service; save it as an ordinary PNG or JPEG"
ENDED = "ended the process that decoded it; it is damaged, or too large to be decoded here"


def prepare() -> None:
    """Start the process that the others are forked from. It imports the decoders meanwhile."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["mrm.serve.uploads", "mrm.data.dicom"])
    forkserver.ensure_running()


class DecodeProcesses:
    """A few processes that decode images; one that is given up is killed and replaced. Used by one event loop."""

    def __init__(self, count: int, seconds: float, memory_bytes: int, log: Log) -> None:
        self.count, self.seconds, self.memory_bytes = count, seconds, memory_bytes
        self.replaced = 0
        self._closed = False
        self._log = log
        self._free: asyncio.LifoQueue[_Decoder] = asyncio.LifoQueue()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="mrm-decode")
        self._decoders: set[_Decoder] = set()
        self._tasks: set[asyncio.Task] = set()

    async def start(self) -> None:
        """Start the processes. Raises RunError if they do not start."""
        prepare()
        for _ in range(self.count):
            await self._add()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns or the Refused it raises, called in a process that is free, for at most `seconds`.

        Raises Refused (422) if it takes longer or ends its process. A request that is given up ends the process too.
        """
        decoder = await self._free.get()
        try:
            result = await asyncio.get_running_loop().run_in_executor(
                self._threads, decoder.call, work, arguments, self.seconds
            )
        except TimeoutError:
            self._replace(decoder, f"after {self.seconds:g} s")
            raise Refused(422, "the file " + TOO_SLOW.format(seconds=self.seconds)) from None
        except (EOFError, OSError):
            self._replace(decoder, "when it had ended by itself")
            raise Refused(422, "the file " + ENDED) from None
        except BaseException:
            self._replace(decoder, "since its request was given up")
            raise
        self._free.put_nowait(decoder)
        if isinstance(result, Refused):
            raise result
        return result

    def _replace(self, decoder: _Decoder, reason: str) -> None:
        decoder.kill()
        self._decoders.discard(decoder)
        self.replaced += 1
        self._log.write(f"warning: a decoding process was replaced {reason}")
        task = asyncio.get_running_loop().create_task(self._add_again())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _add(self) -> None:
        decoder = await asyncio.to_thread(_Decoder, self.memory_bytes)
        self._decoders.add(decoder)
        self._free.put_nowait(decoder)

    async def _add_again(self) -> None:
        """Add a process, as soon as the system allows it: it may be short of memory just then."""
        while not self._closed:
            try:
                await self._add()
                return
            except (OSError, EOFError, RunError) as error:
                self._log.failure(error)
                await asyncio.sleep(1)

    async def close(self) -> None:
        """Stop the processes."""
        self._closed = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for decoder in self._decoders:
            decoder.kill()
        self._threads.shutdown()


class _Decoder:
    """One process and the pipe to it."""

    def __init__(self, memory_bytes: int) -> None:
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_decode, args=(theirs, memory_bytes), name="mrm-decode", daemon=True)
        self._process.start()
        theirs.close()
        Finalize(self, self._process.kill, exitpriority=10)  # however this process ends; they ignore SIGTERM
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        try:
            if self._pipe.poll(START_SECONDS) and self._pipe.recv():
                return
        except (EOFError, OSError):
            pass
        self.kill()
        raise RunError(
            "the processes that decode images do not start; a script that starts the service must do so under "
            "`if __name__ == '__main__':`"
        )

    def call(self, work: Callable[..., Any], arguments: tuple, seconds: float) -> Any:
        """What the process answers. Raises TimeoutError; EOFError or OSError if it has ended."""
        self._pipe.send((work, arguments))
        if not self._pipe.poll(seconds):
            raise TimeoutError
        return self._pipe.recv()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


# In the process -----------------------------------------------------------------------------------------


def _decode(pipe: Connection, memory_bytes: int) -> None:
    start_worker()
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # sent to the whole group; the requests in progress are to be finished
    _silence()
    _limit_memory(memory_bytes)
    pipe.send(True)  # ready
    while True:
        try:
            work, arguments = pipe.recv()
        except EOFError:  # the service has ended
            return
        pipe.send(_result(work, arguments))
        del work, arguments  # keep no image while waiting for the next


def _result(work: Callable[..., T], arguments: tuple) -> T | Refused:
    try:
        return work(*arguments)
    except Refused as refused:
        return refused
    except BaseException as error:  # a decoder in Rust that panics raises no Exception
        return Refused(422, f"the file is damaged and cannot be decoded ({type(error).__name__})")


def _silence() -> None:
    """Close the mouths of the libraries that print: libpng quotes the file it reads."""
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)


def _limit_memory(count: int) -> None:
    """Let this process take `count` bytes more than it has now. Only Linux counts what a process can write to."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    (data,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(data) + count,) * 2)
