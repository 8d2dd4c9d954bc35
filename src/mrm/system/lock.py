"""Locks on files: one process at a time. The system releases a lock when its process ends, however it ends.

A command holds a lock file while it writes: `.lock` in an output folder, `.NAME.lock` beside an output file. The file
says who holds it. One that is free but was left behind is taken over: at once if it is of this machine, whose locks the
system knows; else after watching it for a while, because some network file systems do not tell one machine of the locks
of another. Until then a living process shows itself by touching its lock file.

Of a command that several processes share (`mrm.system.shares`), each share holds a lock file of its own (`.lock.2-of-8`),
and a process that does the whole work, or shares of another number, waits for all of them to end.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from mrm.system.errors import OutputError
from mrm.system.shares import WHOLE, Share

LOCK = ".lock"  # the file in an output folder that a command holds while it writes there
OPENING = f"{LOCK}.opening"  # held by the share of a command that opens the folder, or puts the results together
TOUCH = 10.0  # seconds after which a process touches the lock files that it holds
SILENCE = 60.0  # seconds without a touch after which the process of another machine has ended
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # variables in which launchers put the rank
NOT_SUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_opened: set[IO[bytes]] = set()  # lock files that this process has open


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock file, or left it behind."""

    host: str
    pid: int
    since: str
    machine: str  # of the running system: another one after a restart

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


# Output folders and files ---------------------------------------------------------------------------------


@contextmanager
def only_process(folder: Path, share: Share = WHOLE) -> Iterator[None]:
    """Hold an existing output folder inside the block. Raises OutputError if another process holds it.

    Of the ranks of one run, the first holds it for all. The lock file is removed at the end.
    """
    with _holding(folder / LOCK, folder, share):
        yield


@contextmanager
def only_writer(files: Sequence[Path], share: Share = WHOLE) -> Iterator[None]:
    """Hold output files inside the block, as `only_process` holds a folder. Their folders must exist."""
    with ExitStack() as stack:
        for file in files:
            stack.enter_context(_holding(file.with_name(f".{file.name}{LOCK}"), file, share))
        yield


@contextmanager
def _holding(whole: Path, out: Path, share: Share) -> Iterator[None]:
    """Hold the lock file `whole`, or that of a share, which stands beside it."""
    path = whole if share.count == 1 else whole.with_name(f"{whole.name}.{share.label}")
    if any(os.environ.get(name, "0") != "0" for name in RANKS):
        yield
        return
    with _errors_named(out):
        open(path, "ab").close()  # not `touch`, which would be a sign of life
    with trying(path) as acquired:
        if not acquired:
            raise _in_use(out, holder_of(path))
        _watch_other_machine(path, out)
        try:
            _refuse_other_counts(whole, out, share)
        except OutputError:
            path.unlink(missing_ok=True)
            raise
        ended = threading.Event()
        try:
            with _errors_named(out):
                path.write_text(json.dumps(asdict(_this_process())))
            threading.Thread(target=_touch, args=(path, ended), daemon=True).start()
            yield
        finally:
            ended.set()
            path.unlink(missing_ok=True)


def _refuse_other_counts(whole: Path, out: Path, share: Share) -> None:
    """Raises OutputError while a process lives that does the same work in another number of shares; removes dead locks."""
    for path in whole.parent.glob(f"{glob.escape(whole.name)}*"):
        match = re.fullmatch(r"(?:\.\d+-of-(\d+))?", path.name.removeprefix(whole.name))
        if not match or int(match[1] or 1) == share.count:
            continue
        with trying(path) as free:
            if not free:
                raise _in_use(out, holder_of(path))
            _watch_other_machine(path, out)
            path.unlink(missing_ok=True)


@contextmanager
def _errors_named(out: Path) -> Iterator[None]:
    """Turn an OSError of the lock file, such as that of a full disk, into an OutputError of the output."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written ({error.strerror or error}); nothing was changed. Free disk space, or choose another --out"
        ) from error


def holder_of(path: Path) -> Holder | None:
    """Who holds a lock file, or left it behind, by its content; None where it does not say."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _in_use(out: Path, holder: Holder | None) -> OutputError:
    who = f" ({holder})" if holder else ""
    return OutputError(f"{out}: another process is writing here{who}; wait for it to end, or choose another --out")


def _watch_other_machine(path: Path, out: Path) -> None:
    """Return once the process of another machine that left this lock has ended. Raises OutputError if it lives."""
    earlier = holder_of(path)
    if earlier is None or earlier.machine == _machine():
        return
    warnings.warn(
        f"{out}: the lock of {earlier}, is still there; taken over unless it shows a sign of life within {SILENCE:g} s",
        stacklevel=5,
    )
    before, until = path.stat().st_mtime_ns, time.monotonic() + SILENCE
    while time.monotonic() < until:
        time.sleep(min(1.0, SILENCE / 10))
        with open(path, "rb") as opened:  # opening makes a network file system ask for the present state
            if os.fstat(opened.fileno()).st_mtime_ns != before:
                raise _in_use(out, earlier)


def _this_process() -> Holder:
    return Holder(socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S"), _machine())


def _machine() -> str:
    """A name that no other running system has."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not on Linux
        return socket.gethostname()


def _touch(path: Path, ended: threading.Event) -> None:
    """Show that this process lives until it has `ended`. A share that is gone for a while is no reason to stop."""
    while not ended.wait(TOUCH):
        try:
            os.utime(path)
        except OSError:
            continue


# Any lock file --------------------------------------------------------------------------------------------


@contextmanager
def waiting_for(file: Path) -> Iterator[None]:
    """Hold the lock on `file` inside the block; waits while another process, or another thread, holds it."""
    with open(file, "w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


@contextmanager
def locked(file: IO[bytes], shared: bool = False) -> Iterator[None]:
    """Hold the lock on an open file inside the block; waits while another process, or another thread, holds it.

    A `shared` lock can be held by several. On a file system without locks nothing is held.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Hold a lock file inside a short block, and remove it then; waits while another process, or thread, holds it."""
    while True:
        with trying(path) as acquired:
            if acquired:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        time.sleep(0.02)


def is_held(file: Path) -> bool:
    """Whether any process holds the lock on `file`."""
    with open(file, "w") as opened:
        return not _acquire(opened)


@contextmanager
def trying(path: Path) -> Iterator[bool]:
    """Try to hold the lock on `path` inside the block, without waiting; yields whether it is held."""
    while True:
        with open(path, "ab") as file:
            acquired = _acquire(file)
            if acquired and not is_at(file, path):
                continue  # the process that held it removed it between `open` and the lock
            _opened.add(file)
            try:
                yield acquired
            finally:
                _opened.discard(file)
            return


def _close_in_child() -> None:
    """Close the lock files that a forked process has inherited, or it would hold them when its parent is killed."""
    for file in _opened:
        file.close()
    _opened.clear()


os.register_at_fork(after_in_child=_close_in_child)


def is_at(file: IO[bytes], path: Path) -> bool:
    """Whether `path` still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _acquire(file: IO[bytes] | IO[str]) -> bool:
    """Lock an open file without waiting; whether that succeeded."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        warnings.warn(
            f"{file.name}: this file system has no locks ({error.strerror}), so nothing keeps a second process out; "
            "do not start the same command twice",
            stacklevel=2,
        )
    return True
