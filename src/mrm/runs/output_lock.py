"""One process at a time on the output of a command: a second start is refused before it writes anything."""

from __future__ import annotations

import errno
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import reduce, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from mrm.system.lock import only_process, only_writer
from mrm.system.output_folder import make_folder, writing
from mrm.system.shares import WHOLE, Share

Given = ParamSpec("Given")
Result = TypeVar("Result")
NOTHING: Mapping[str, Sequence[str]] = {}


def alone_in(argument: str, share: str = "") -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Decorate a command: it holds the folder that `argument` names ("out", "config.out") while it works.

    The command then raises OutputError where another process holds the folder. Of a command that several processes may
    share, `share` names the argument that says which share this one does ("reading.share").
    """
    return _held_while(argument, share, held_folder)


def alone_on(
    argument: str, beside: Mapping[str, Sequence[str]] = NOTHING, share: str = ""
) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Decorate a command: it holds the file that `argument` names, unless it is None, while it works.

    `beside` has, for a suffix of that file, the suffixes of the files that are written beside it; `share` as in `alone_in`.
    """
    return _held_while(
        argument,
        share,
        lambda file, part: held_files([file, *(file.with_suffix(s) for s in beside.get(file.suffix, ()))], part),
    )


@contextmanager
def held_folder(out: Path, share: Share = WHOLE) -> Iterator[None]:
    """Make an output folder and hold it inside the block. A command that fails before it writes leaves no new folder."""
    with _made(out), only_process(out, share):
        yield


@contextmanager
def held_files(files: Sequence[Path], share: Share = WHOLE) -> Iterator[None]:
    """Hold output files inside the block; their folder is made."""
    with _made(files[0].absolute().parent), only_writer([file.absolute() for file in dict.fromkeys(files)], share):
        yield


def _held_while(
    argument: str, share: str, hold: Callable[[Path, Share], AbstractContextManager[None]]
) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:

    def decorate(command: Callable[Given, Result]) -> Callable[Given, Result]:
        signature = inspect.signature(command)

        @wraps(command)
        def held(*positional: Given.args, **named: Given.kwargs) -> Result:
            given = signature.bind(*positional, **named)
            given.apply_defaults()
            out = _argument(given.arguments, argument)
            if out is None:
                return command(*positional, **named)
            with hold(Path(out), _argument(given.arguments, share) if share else WHOLE):
                return command(*positional, **named)

        return held

    return decorate


def _argument(given: Mapping[str, Any], path: str) -> Any:
    """The argument of that name, or what is in it ("config.out")."""
    name, *attributes = path.split(".")
    return reduce(getattr, attributes, given[name])


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; what was made and is still empty at the end is removed."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    try:
        with writing(folder):
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        yield
    finally:
        for path in missing:
            try:
                path.rmdir()
            except OSError:  # in use now, which is what it was made for
                break
