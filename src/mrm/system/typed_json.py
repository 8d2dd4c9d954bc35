"""Files that a command keeps for its next start: JSON of a dataclass, read back only if version and types are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import cattrs

from mrm.system.files import read_json

Kept = TypeVar("Kept")
_converter = cattrs.Converter(forbid_extra_keys=True)


def _exactly(*kinds: type) -> Callable[[Any, Any], Any]:
    """A hook that accepts values of exactly these types."""

    def structure(value: Any, _: Any) -> Any:
        if type(value) not in kinds:
            raise ValueError(f"{value!r} is not of type {kinds[0].__name__}")
        return value

    return structure


for _kind in (bool, int, str):
    _converter.register_structure_hook(_kind, _exactly(_kind))
_converter.register_structure_hook(float, _exactly(float, int))


def read_as(kind: type[Kept], file: Path, version: int) -> Kept:
    """The dataclass that `write_json` wrote to a file, whose field `version` has this value.

    Raises ValueError, which says what is wrong with any other file, and OSError.
    """
    try:
        values = read_json(file)
        other = values["version"]
        if other == version:
            return _converter.structure(values, kind)
    except (cattrs.BaseValidationError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"{file.name} is damaged ({type(error).__name__})") from None
    raise ValueError(f"{file.name} is of version {str(other)[:20]}, and this mrm writes version {version}")
