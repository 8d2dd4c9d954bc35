"""What `--init` may be: a path, or `timm:NAME=PATH`, weights of a timm model that the file does not name."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mrm.system.errors import ConfigError

TIMM = "timm:"


class InitPath(NamedTuple):
    """A file or folder of weights, and the timm model that it is said to be of; empty where the file says it itself."""

    path: Path
    timm_name: str = ""


def init_path(text: Path | str) -> InitPath:
    """What an `--init` names. Raises ConfigError for a timm model without weights."""
    if not str(text).startswith(TIMM):
        return InitPath(Path(text))
    name, equals, path = str(text).removeprefix(TIMM).partition("=")
    if not (name and equals and path):
        raise ConfigError(
            f"{text}: expected timm:NAME=PATH, with the weights in a file or folder; nothing is fetched from the network "
            "(`mrm weights` lists what is known)"
        )
    return InitPath(Path(path), name)
