"""The words of a command line as the values of its options. What is wrong is a ConfigError that names the option."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from mrm.cli.options import REQUIRED, Option, is_mapping
from mrm.data import archive_address
from mrm.models.init_paths import init_path
from mrm.system import object_store
from mrm.system.errors import ConfigError

WRITTEN = (
    "out",
    "dicom_sr",
    "dicom_out",
    "json",
    "write_description",
)  # paths of these names are written; every other path is read, so it has to exist
PATTERN = re.compile(r"[*?\[{]")  # names that stand for several files


class Parser(argparse.ArgumentParser):
    """argparse with errors that are raised, worded as the rest of the command's."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.removeprefix("argument "))


def parse(options: Sequence[Option], words: Sequence[str]) -> dict[str, Any]:
    """The values that the words of a command line give, by the options' names. Raises ConfigError."""
    parser = Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS, usage="")
    for option in options:
        parser.add_argument(*_names(option), **_settings(option, _namesakes(option, options)))
    namespace, unknown = parser.parse_known_intermixed_args(list(words))
    if unknown:
        raise ConfigError(_unknown(unknown[0], options))
    values = {}
    for option in options:
        value = getattr(namespace, option.name, None)
        if option.name in namespace and not (option.positional and value is None):
            values[option.name] = _collected(option.kind, value)
    return values


def require(options: Sequence[Option], values: Mapping[str, Any]) -> None:
    """Raises ConfigError for options that are missing, and for files that do not exist."""
    if missing := [o.flag for o in options if o.default is REQUIRED and o.name not in values]:
        raise ConfigError(f"missing: {', '.join(missing)}")
    written = {*WRITTEN, "source"} if values.get("download") else WRITTEN  # --download makes the folder of --source
    for option in options:
        value = values.get(option.name, option.default)
        if option.name not in written:
            for path in value if isinstance(value, tuple) else (value,):
                if isinstance(path, Path):
                    require_file(path, option.name.upper() if option.positional else option.flag)


def require_file(path: Path | str, flag: str) -> None:
    """Raises ConfigError for a path that does not exist, ArchiveError for an address of an archive that is none.

    Addresses of object stores and patterns are not checked. Of `timm:NAME=PATH` the path has to exist.
    """
    if archive_address.is_archive(path):
        archive_address.parse(path)
    elif not (PATTERN.search(str(path)) or object_store.address(path) or init_path(path).path.exists()):
        raise ConfigError(f"{flag} {path}: no such file or folder")


def _names(option: Option) -> tuple[str, ...]:
    return (option.name,) if option.positional else (option.flag,)


def _namesakes(option: Option, options: Sequence[Option]) -> list[Option]:
    """The options of the same name in other groups: `--training.lr` and `--lr`."""
    last = option.name.rpartition(".")[2]
    return [other for other in options if other is not option and other.name.rpartition(".")[2] == last]


def _settings(option: Option, namesakes: Sequence[Option]) -> dict[str, Any]:
    """What argparse has to know of an option."""
    settings: dict[str, Any] = {}
    if not option.positional:
        settings["dest"] = option.name
    if option.kind is bool:
        return settings | {"action": argparse.BooleanOptionalAction}
    settings["type"] = partial(_value_of, option, namesakes)
    settings["metavar"] = option.flag if option.positional else None
    if option.variadic:
        if option.positional:
            return settings | {"nargs": "+" if option.default is REQUIRED else "*"}
        return settings | {"nargs": "*", "action": "extend"}
    if get_origin(option.kind) is tuple:
        return settings | {"nargs": len(get_args(option.kind))}
    if option.positional and option.default is not REQUIRED:
        return settings | {"nargs": "?", "default": None}
    return settings


def _value_of(option: Option, namesakes: Sequence[Option], word: str) -> Any:
    """One word as a value of the option. An error names the option of the same name that takes the word, if there is one."""
    try:
        return _value(option.kind, option.optional, word)
    except argparse.ArgumentTypeError as error:
        for other in namesakes:
            try:
                _value(other.kind, other.optional, word)
            except argparse.ArgumentTypeError:
                continue
            raise argparse.ArgumentTypeError(f"{error}; did you mean {other.flag}?") from None
        raise


def _value(kind: Any, optional: bool, word: str) -> Any:
    """One word as a value of a type. Raises ArgumentTypeError, which argparse completes with the option."""
    if optional and word.lower() == "none":
        return None
    if get_origin(kind) is Literal:
        return _choice(get_args(kind), word)
    if is_mapping(kind):
        return _pairs(word, get_args(kind)[1])
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
        return _value(kind, False, word)
    if kind in (int, float):
        return _number(kind, word)
    return kind(word)


def _number(kind: Callable[[str], Any], word: str) -> Any:
    try:
        return kind(word)
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"expected {expected}, found {word!r}") from None


def _choice(choices: tuple[str, ...], word: str) -> str:
    if word not in choices:
        raise argparse.ArgumentTypeError(f"unknown value {word!r}; choose from {', '.join(choices)}")
    return word


def _pairs(word: str, kind: Any) -> dict[str, Any]:
    """`a=1,b=2` as a mapping; values of any type become numbers and truth values where they look like them."""
    pairs = {}
    for part in word.split(","):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {part!r}")
        pairs[key] = value if kind is str else _scalar(value)
    return pairs


def _scalar(word: str) -> Any:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(word.lower(), word)


def _collected(kind: Any, value: Any) -> Any:
    """Values that argparse collects in lists, as tuples and mappings."""
    if is_mapping(kind):
        return {key: item for pairs in value for key, item in pairs.items()}
    return tuple(value) if isinstance(value, list) else value


def _unknown(word: str, options: Sequence[Option]) -> str:
    """The message for a word that no option takes, with the nearest option."""
    if not word.startswith("-"):
        return f"unexpected argument {word!r}"
    flag = word.partition("=")[0]
    flags = [option.flag for option in options if not option.positional]
    nearest = [f for f in flags if f.endswith(f".{flag[2:]}")] or difflib.get_close_matches(flag, flags, n=1)
    return f"unknown option {flag}" + (f"; did you mean {nearest[0]}?" if nearest else "")
