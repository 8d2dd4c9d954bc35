"""What a command of `mrm` is: a line about it, and what it does with the words that follow its name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Annotated, NamedTuple, TypeVar, get_origin, get_type_hints

import tyro

Options = TypeVar("Options", bound=type)
EMPTY = (None, "", ())  # defaults that say nothing, so the help does not name them


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
    function.__annotations__ = _named(function)
    return name, Command(
        about, lambda argv: tyro.cli(function, prog=f"mrm {name}", args=argv, config=(tyro.conf.DisallowNone,))
    )


def _named(function: Callable[..., None]) -> dict[str, object]:
    """The types of a function's arguments, as the help shows them.

    What goes without an option's name is called by its own, `[NAME]` if it may be left out, `NAME ...` if there may be
    several.
    """
    types = get_type_hints(function, include_extras=True)
    shown = {}
    for p in inspect.signature(function).parameters.values():
        several = get_origin(types[p.name]) is tuple
        metavar, hint = None, None
        if p.kind is p.POSITIONAL_ONLY:
            metavar = p.name.upper() + (" ..." if several else "")
            metavar = metavar if p.default is p.empty else f"[{metavar}]"
            hint = "" if several else None
        if p.default in EMPTY:
            hint = ""
        shown[p.name] = Annotated[types[p.name], tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)]
    return types | shown


def without_empty_defaults(options: Options) -> Options:
    """A dataclass of options whose help names no default that says nothing."""
    types = get_type_hints(options, include_extras=True)
    quiet = [f.name for f in dataclasses.fields(options) if f.default in EMPTY]
    options.__annotations__ = types | {n: Annotated[types[n], tyro.conf.arg(help_behavior_hint="")] for n in quiet}
    return options
