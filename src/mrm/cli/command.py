"""What a command of `mrm` is: a line about it, and what it does with the words that follow its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tyro


class Command(NamedTuple):
    """A command of `mrm`."""

    about: str
    run: Callable[[list[str]], None]


def commands(*functions: Callable[..., None]) -> dict[str, Command]:
    """Functions as commands: name, with hyphens, options and help follow from each."""
    return dict(_command(function) for function in functions)


def _command(function: Callable[..., None]) -> tuple[str, Command]:
    name = function.__name__.replace("_", "-")
    about = (function.__doc__ or "").splitlines()[0]
    return name, Command(about, lambda argv: tyro.cli(function, prog=f"mrm {name}", args=argv))
