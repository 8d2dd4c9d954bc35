"""The output folder of a command: made, or resumed where the same command was stopped before.

A command that can resume records its settings in a file of the folder, as YAML or JSON. The same command finds the
record and resumes; other settings, or a folder with anything else in it, are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrm.system.errors import MRMError, OutputError
from mrm.system.files import as_json, parse_json, write_whole
from mrm.system.lock import LOCK
from mrm.system.permissions import restricted

LONGEST = 80  # characters of a setting that a message shows
CHANGES = 12  # differences that a message names


@dataclass(frozen=True)
class Settings:
    """The settings of a command, as its output folder records them."""

    what: str  # that the folder holds, for messages: "run", "probe"
    record: str  # name of the file
    text: str  # its content
    changes: Callable[[str], Sequence[str]]  # how the text of an earlier record differs: ["seed: 0, now 1"]
    update: bool = False  # whether the record of a folder that is resumed is written anew
    advice: str = "choose another --out, or repeat the command with the settings of this folder"
    beside: Collection[str] = ()  # files that may be in the folder before the record is


def json_settings(
    what: str, record: str, settings: Mapping[str, Any], may_change: Collection[str] = (), **options: Any
) -> Settings:
    """Settings that are recorded as JSON. Those in `may_change` may differ when the command resumes."""
    text = as_json(settings)
    current = json.loads(text)

    def changes(earlier: str) -> list[str]:
        before = parse_json(earlier)
        if not isinstance(before, dict):
            raise ValueError("not a mapping of settings")
        keys = [key for key in {**before, **current} if key not in may_change]
        return [_change(key, before.get(key), current.get(key)) for key in keys if before.get(key) != current.get(key)]

    return Settings(what, record, text, changes, **options)


def _change(key: str, before: Any, now: Any) -> str:
    if any(isinstance(value, dict | list) or len(str(value)) > LONGEST for value in (before, now)):
        return f"different {key}"
    return f"{key}: {before}, now {now}"


def open_folder(out: Path, settings: Settings) -> bool:
    """Make the output folder, or resume what it holds; returns whether it resumes.

    Raises OutputError if the folder holds the results of other settings or anything else, or cannot be written to.
    """
    resumes = require_own(out, settings)
    make_folder(out)
    with writing(out):
        if settings.update or not resumes:
            write_whole(out / settings.record, settings.text.encode())
    return resumes


def require_own(out: Path, settings: Settings) -> bool:
    """Whether the output folder holds what this command began there; False for one that is new or empty.

    Raises OutputError if it holds the results of other settings or anything else.
    """
    file = out / settings.record
    if file.is_file():
        _refuse_changes(out, settings, file)
        return True
    if out.is_dir() and any(
        not path.name.startswith(LOCK) and path.name not in settings.beside for path in out.iterdir()
    ):
        raise OutputError(
            f"{out}: is not empty and holds no {settings.what} (no {settings.record}); choose another --out"
        )
    return False


def _refuse_changes(out: Path, settings: Settings, file: Path) -> None:
    try:
        changes = settings.changes(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON; a damaged configuration is an MRMError, which says more
        if isinstance(error, MRMError):
            raise
        raise OutputError(f"{file}: damaged ({error}); choose another --out, or remove the folder") from None
    if changes:
        more = [f"and {len(changes) - CHANGES} more"] if len(changes) > CHANGES else []
        differences = "; ".join([*changes[:CHANGES], *more])
        raise OutputError(f"{out}: holds another {settings.what} ({differences}); {settings.advice}")


def make_folder(out: Path) -> Path:
    """Make the output folder unless it is there, for those to read whom `mrm.system.permissions` names. Returns it.

    Raises OutputError where that is impossible.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file, but a folder is needed; choose another --out")
    with writing(out), restricted():
        out.mkdir(parents=True, exist_ok=True)
    return out


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn an OSError inside the block into an OutputError that says where it was and what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written ({error.strerror or error}); no file was left half-written. Free disk space or "
            "choose another --out, then run the same command again"
        ) from error
