"""Configurations as YAML files: written, read back, and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cattrs
import cattrs.preconf.pyyaml
import cattrs.v
import yaml

from mrm.system.errors import ConfigError, MRMError

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
    try:
        settings = yaml.safe_load(text)
        if not isinstance(settings, dict):
            raise ConfigError(f"{source}: contains no settings; lines such as `seed: 0` are expected")
        if base is not None:
            settings = _over(base, settings)
        return _converter.structure(settings, kind)
    except cattrs.BaseValidationError as error:
        reasons = cattrs.transform_error(error, format_exception=_reason)
        raise ConfigError(f"{source}: {'; '.join(reasons)}") from error
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"{source}: {error}") from error


def _over(base: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` on top of those of the configuration `base`, as plain data."""
    merged = to_dict(base)
    for name, value in settings.items():
        nested = getattr(base, name, None)
        inside = dataclasses.is_dataclass(nested) and isinstance(value, dict)
        merged[name] = _over(nested, value) if inside else value
    return merged


def _reason(error: BaseException, kind: type | None) -> str:
    """The message of an error of this package as it is; that of any other error in the words of cattrs."""
    return str(error) if isinstance(error, MRMError) else cattrs.v.format_exception(error, kind)


def differences(before: Any, after: Any, at: str = "") -> list[str]:
    """Settings in which two configurations of one class differ: `training.lr: 0.1, now 0.2`."""
    if dataclasses.is_dataclass(before):
        parts = [(f.name, getattr(before, f.name), getattr(after, f.name)) for f in dataclasses.fields(before)]
        return [d for name, a, b in parts for d in differences(a, b, f"{at}.{name}" if at else name)]
    return [] if before == after else [f"{at}: {before}, now {after}"]
