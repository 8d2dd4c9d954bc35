"""Options of a command, read from the parameters of its function and the fields of its configuration.

The texts come from where a reader of the code finds them: a function's docstring has a line for each parameter, in
sections that the help shows as groups; a configuration's fields have comments, under comments that name their group.
What several commands share is in `shared_options`.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

ENTRY = re.compile(r"(\w+): (.*)")  # of a docstring's section
FIELD = re.compile(r"    (\w+): .*?  # (.*)")  # of a dataclass, with its comment
HEADING = re.compile(r"    # (.*)")  # above the fields of a group


class _Required:
    """The value of an option that has to be given."""

    def __repr__(self) -> str:
        return "<required>"


REQUIRED: Any = _Required()


class Shared(NamedTuple):
    """The group and the text of an option that several commands have; it annotates the option's type."""

    group: str
    help: str


@dataclass(frozen=True)
class Option:
    """One option, or one positional argument."""

    name: str  # `training.lr`
    kind: Any  # its type, without None
    default: Any
    group: str
    help: str = ""
    positional: bool = False
    optional: bool = False  # None is a value of it

    @property
    def flag(self) -> str:
        """As it is typed, `--training.lr` or, of `from_`, `--from`; for a positional argument its name in the help, `PATHS ...`."""
        if not self.positional:
            return f"--{self.name.removesuffix('_').replace('_', '-')}"
        metavar = self.name.upper() + (" ..." if self.variadic else "")
        return metavar if self.default is REQUIRED else f"[{metavar}]"

    @property
    def variadic(self) -> bool:
        """Whether it takes any number of values."""
        arguments = get_args(self.kind)
        return (get_origin(self.kind) is tuple and arguments[-1] is Ellipsis) or is_mapping(self.kind)


def is_mapping(kind: Any) -> bool:
    """Whether values of this type are pairs, `KEY=VALUE`."""
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


# Functions ----------------------------------------------------------------------------------------------


class Docstring(NamedTuple):
    """The parts of a command's docstring."""

    about: str  # the first line
    text: str  # what follows, up to the sections
    example: str
    entries: dict[str, Shared]  # by parameter


def read_docstring(function: Callable[..., Any]) -> Docstring:
    """The docstring of a command: a summary, a text, and sections of `name: text` entries; `Example:` is kept whole."""
    blocks: dict[str, list[str]] = {"": []}
    section = ""
    for line in (inspect.getdoc(function) or "").splitlines():
        if re.fullmatch(r"[A-Z][\w ]*:", line):
            section = line.removesuffix(":")
            blocks[section] = []
        else:
            blocks[section].append(line.removeprefix("    ") if section else line)
    about, *text = blocks.pop("")
    example = "\n".join(blocks.pop("Example", [])).strip()
    entries = {}
    for group, lines in blocks.items():
        for name, entry in _entries(lines):
            entries[name] = Shared(group, entry)
    return Docstring(about, "\n".join(text).strip(), example, entries)


def _entries(lines: list[str]) -> Iterator[tuple[str, str]]:
    """The `name: text` entries of a section; further lines of an entry are indented."""
    texts: dict[str, list[str]] = {}
    name = ""
    for line in lines:
        if match := ENTRY.fullmatch(line):
            name = match[1]
            texts[name] = [match[2]]
        elif line.strip():
            texts[name].append(line.strip())
    for name, parts in texts.items():
        yield name, " ".join(parts).removesuffix(".")


def options_of(function: Callable[..., Any]) -> list[Option]:
    """The options of a function. A parameter that is a dataclass stands for its fields."""
    hints = get_type_hints(function, include_extras=True)
    entries = read_docstring(function).entries
    options: list[Option] = []
    for parameter in inspect.signature(function).parameters.values():
        kind, shared = _split(hints[parameter.name])
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        if dataclasses.is_dataclass(kind):
            base = None if default is REQUIRED else default
            options += fields_of(kind, base, group=parameter.name.capitalize())  # type: ignore[arg-type]
            continue
        group, text = entries.get(parameter.name) or shared or Shared("Options", "")
        kind, optional = _without_none(kind)
        positional = parameter.kind is parameter.POSITIONAL_ONLY
        options.append(Option(parameter.name, kind, default, group, text, positional, optional))
    return options


def arguments_of(function: Callable[..., Any], values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the named arguments that call a function with the values of its options."""
    hints = get_type_hints(function)
    positional, named = [], {}
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if dataclasses.is_dataclass(kind):
            base = kind() if parameter.default is parameter.empty else parameter.default  # type: ignore[operator]
            named[parameter.name] = build(base, values)
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(values.get(parameter.name, parameter.default))
        elif parameter.name in values:
            named[parameter.name] = values[parameter.name]
    return positional, named


def _split(hint: Any) -> tuple[Any, Shared | None]:
    """A type and what it is annotated with."""
    if get_origin(hint) is not Annotated:
        return hint, None
    kind, *notes = get_args(hint)
    return kind, next((note for note in notes if isinstance(note, Shared)), None)


def _without_none(kind: Any) -> tuple[Any, bool]:
    """`int | None` is `int`, and optional."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind, False
    (inner,) = (part for part in get_args(kind) if part is not type(None))
    return inner, True


# Dataclasses --------------------------------------------------------------------------------------------


def fields_of(kind: type, base: Any = None, prefix: str = "", group: str = "Options") -> list[Option]:
    """The options of a dataclass, with the defaults of `base` if given; fields of a nested one have its name before."""
    hints, comments = get_type_hints(kind), read_comments(kind)
    options: list[Option] = []
    for field in dataclasses.fields(kind):
        default = default_of(field) if base is None else getattr(base, field.name)
        heading, text = comments.get(field.name, Shared("", ""))
        if dataclasses.is_dataclass(default):
            options += fields_of(type(default), default, f"{prefix}{field.name}.", heading or group)
            continue
        inner, optional = _without_none(hints[field.name])
        options.append(Option(prefix + field.name, inner, default, heading or group, text, optional=optional))
    return options


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field, REQUIRED where it has none."""
    if field.default is not dataclasses.MISSING:
        return field.default
    return REQUIRED if field.default_factory is dataclasses.MISSING else field.default_factory()


def read_comments(kind: type) -> dict[str, Shared]:
    """The comment of each field of a dataclass, and the heading it stands under."""
    comments, heading = {}, ""
    for line in inspect.getsource(kind).splitlines():
        if match := HEADING.fullmatch(line):
            heading = match[1]
        elif match := FIELD.fullmatch(line):
            comments[match[1]] = Shared(heading, match[2])
        elif match := re.match(r"    (\w+): ", line):
            comments[match[1]] = Shared(heading, "")
    return comments


def build(base: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """The dataclass `base` with the values given on the command line, by their names."""
    changes = {}
    for field in dataclasses.fields(base):
        name, value = prefix + field.name, getattr(base, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = build(value, values, f"{name}.")
        else:
            changes[field.name] = values.get(name, value)
    return type(base)(**changes)
