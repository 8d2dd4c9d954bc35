"""Configurations as YAML files: written, read back, and compared."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import cattrs
import cattrs.preconf.pyyaml
import cattrs.v
import yaml

from mrm.system.errors import ConfigError, MRMError

MOST_CHARACTERS = 200_000  # of a file of settings
MOST_VALUES = 100_000
_converter = cattrs.preconf.pyyaml.make_converter(forbid_extra_keys=True)
_converter.register_unstructure_hook(Path, str)
_converter.register_structure_hook(Path, lambda value, _: Path(value))


def _exactly(kind: type) -> Callable[[Any, Any], Any]:
    """A hook that accepts values of exactly this type; `int(6.5)` and `bool("false")` would change them silently."""

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{value!r} is not of type {kind.__name__}")
        return value

    return structure


def _choice(value: Any, kind: Any) -> Any:
    """One of the values of a Literal."""
    if value not in get_args(kind):
        raise ConfigError(f"unknown value {value!r}; choose from {', '.join(map(str, get_args(kind)))}")
    return value


def _finite(value: Any, _: Any) -> float:
    """A number; YAML takes `6e-4` for text, which is a number to us."""
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ConfigError(f"{value!r} is not a finite number")
    return number


def _texts(value: Any, _: Any) -> tuple[str, ...]:
    """A list of texts. One text is none, and `no` without quotes is the truth value False to YAML."""
    if not isinstance(value, list):
        raise ConfigError(f"expected a list, found {value!r}")
    if wrong := [item for item in value if not isinstance(item, str)]:
        raise ConfigError(f"expected a list of texts, found {wrong[0]!r} in it; put it in quotes")
    return tuple(value)


_converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _texts)
_converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _choice)
_converter.register_structure_hook(float, _finite)
for _kind in (bool, int):
    _converter.register_structure_hook(_kind, _exactly(_kind))


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain data."""
    return _converter.unstructure(config)


def to_yaml(config: Any) -> str:
    """A configuration as YAML, which `from_yaml` reads back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def from_yaml(kind: type, text: str, source: str = "configuration", base: Any = None) -> Any:
    """The configuration of class `kind` in a YAML text; settings that it leaves out are those of `base`, if given.

    Raises ConfigError that names the setting that is wrong.
    """
    settings: Any = None
    try:
        settings = _loaded(text)
        if not isinstance(settings, dict):
            raise ConfigError(f"{source}: contains no settings; lines such as `seed: 0` are expected")
        if base is not None:
            settings = _over(base, settings)
        return _converter.structure(settings, kind)
    except cattrs.BaseValidationError as error:
        reasons = cattrs.transform_error(error, format_exception=lambda error, part: _reason(error, part, kind))
        raise ConfigError(f"{source}: {'; '.join(_with_namesake(r, kind, settings) for r in reasons)}") from error
    except MRMError:
        raise
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}: line {line}: is not YAML ({error.problem}); correct it") from error
    except (yaml.YAMLError, TypeError, ValueError, OverflowError) as error:  # ValueError: a date or number out of range
        raise ConfigError(f"{source}: {error}") from error
    except RecursionError:
        raise ConfigError(f"{source}: its settings are nested too deeply; see `mrm recipes` for an example") from None


def read_yaml(kind: type, file: Path, name: str = "", base: Any = None) -> Any:
    """The configuration of class `kind` in a YAML file, as `from_yaml` reads it; messages call the file `name`.

    Raises ConfigError.
    """
    name = name or str(file)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{name}: no such file; give a YAML file such as the config.yaml of a run") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: is not a text file in UTF-8 ({error}); give a YAML file") from error
    return from_yaml(kind, text, name, base)


def _loaded(text: str) -> Any:
    """The plain values in a YAML text. Raises YAMLError, and ValueError for a text of more values than settings have.

    A few aliases of aliases stand for millions of values, so these are counted before any is made.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{len(text):,} characters, but a file of settings has at most {MOST_CHARACTERS:,}")
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if _values(root, {}) > MOST_VALUES:
            raise ValueError(
                f"stands for more than {MOST_VALUES:,} values, by aliases or lists; write the settings out"
            )
        return loader.construct_document(root)
    finally:
        loader.dispose()


def composed(text: str) -> yaml.Node:
    """The nodes of a YAML text that `from_yaml` has read, for `line_of`."""
    return yaml.compose(text, yaml.SafeLoader)


def line_of(node: yaml.Node, place: Sequence[str | int]) -> int:
    """The line, counted from 1, on which the value at a place below a node stands; the nearest one above if it is absent."""
    line = 1
    for step in place:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == step), None)
        else:
            pair = (node.value[step],) * 2 if isinstance(node, yaml.SequenceNode) else None
        if pair is None:
            break
        line, node = pair[0].start_mark.line + 1, pair[1]
    return line


def _values(node: yaml.Node, counted: dict[int, int]) -> int:
    """The number of values that a node stands for, aliases counted each time. Raises ValueError for one inside itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counted:
        counted[id(node)] = 0
        if isinstance(node, yaml.MappingNode):
            _check_names(node)
        parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else [pair])]
        counted[id(node)] = 1 + sum(_values(part, counted) for part in parts)
    if not counted[id(node)]:
        raise ValueError("an alias stands inside the value that it names; write the settings out")
    return counted[id(node)]


def _check_names(node: yaml.MappingNode) -> None:
    """Raises ValueError for a name of a setting that is a number, a list, or anything else but text."""
    for name, _ in node.value:
        if name.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise ValueError(f"line {name.start_mark.line + 1}: the name of a setting must be text; put it in quotes")


def _over(base: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` on top of those of the configuration `base`, as plain data."""
    merged = to_dict(base)
    for name, value in settings.items():
        nested = getattr(base, name, None)
        inside = dataclasses.is_dataclass(nested) and isinstance(value, dict)
        merged[name] = _over(nested, value) if inside else value
    return merged


def _reason(error: BaseException, kind: type | None, whole: type) -> str:
    """The message of an error of this package as it is; that of any other error in the words of cattrs."""
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        return "; ".join(_unknown(str(name), error.cl, whole) for name in sorted(error.extra_fields, key=str))
    return str(error) if isinstance(error, MRMError) else cattrs.v.format_exception(error, kind)


def _with_namesake(reason: str, kind: type, settings: dict[str, Any]) -> str:
    """The reason why a value is refused, and the setting of the same name in another part that takes it: `training.lr`."""
    path = reason.rpartition(" @ $.")[2]
    hints = _paths(kind)
    if path not in hints:
        return reason
    value: Any = settings
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:  # a required setting that is missing
            return reason
        value = value[name]
    for other in hints:
        if other != path and other.rpartition(".")[2] == path.rpartition(".")[2]:
            try:
                _converter.structure(value, hints[other])
            except (cattrs.BaseValidationError, MRMError, TypeError, ValueError):
                continue
            return f"{reason}; did you mean {other}?"
    return reason


def _unknown(name: str, kind: type, whole: type) -> str:
    """The message for a setting that `kind`, a part of the configuration `whole`, does not have, with the nearest one."""
    known = [field.name for field in dataclasses.fields(kind)]
    spelling = name.lower().replace("-", "_")
    if "." in name and name in _paths(whole):
        part, _, last = name.rpartition(".")
        return f"unknown setting {name!r}; in a file it is {last} below {part}"
    here = difflib.get_close_matches(spelling, known, n=1, cutoff=0.75)
    elsewhere = [path for path in _paths(whole) if path.rpartition(".")[2] == spelling.rpartition(".")[2]]
    if nearest := here or elsewhere:
        return f"unknown setting {name!r}; did you mean {nearest[0]}?"
    nearest = difflib.get_close_matches(spelling, known, n=1, cutoff=0)
    return f"unknown setting {name!r}; the nearest is {nearest[0]}, and all are {', '.join(known)}"


def _paths(kind: type, prefix: str = "") -> dict[str, Any]:
    """The settings of a configuration and of its parts, `training.lr`, each with its type."""
    paths: dict[str, Any] = {}
    for name, part in get_type_hints(kind).items():
        nested = isinstance(part, type) and dataclasses.is_dataclass(part)
        paths |= _paths(part, f"{prefix}{name}.") if nested else {prefix + name: part}
    return paths


def differences(before: Any, after: Any, at: str = "") -> list[str]:
    """Settings in which two configurations of one class differ: `training.lr: 0.1, now 0.2`."""
    if dataclasses.is_dataclass(before):
        parts = [(f.name, getattr(before, f.name), getattr(after, f.name)) for f in dataclasses.fields(before)]
        return [d for name, a, b in parts for d in differences(a, b, f"{at}.{name}" if at else name)]
    return [] if before == after else [f"{at}: {before}, now {after}"]
