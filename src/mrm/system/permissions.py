"""Who may read what `mrm` writes: by default only the user who runs it, since records and predictions are patient data.

The environment variable MRM_ACCESS gives a folder that a group shares to the group, which is that of the user, or
that of the folder where its setgid bit is set (`chmod g+s`):

    private      files 0600, folders 0700: only the user who runs the command; the default
    group        files 0640, folders 0750: the group may read
    group-write  files 0660, folders 0770: the group may read, change and resume

It replaces the umask of the process while `mrm` writes. A folder that exists keeps its permissions.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mrm.system.errors import ConfigError

VARIABLE = "MRM_ACCESS"
UMASKS = {"private": 0o077, "group": 0o027, "group-write": 0o007}


class _Blocks:
    """How many blocks are open in this process, and the umask to return to when the last one ends."""

    def __init__(self) -> None:
        self.lock, self.open, self.before = threading.Lock(), 0, 0


_blocks = _Blocks()  # a process has one umask, whatever the number of its threads


@contextmanager
def restricted() -> Iterator[None]:
    """Give what is created inside the block the permissions that MRM_ACCESS names; blocks may be nested.

    Processes that start inside the block inherit them. Raises ConfigError for an unknown value of MRM_ACCESS.
    """
    umask = chosen_umask()
    with _blocks.lock:
        before = os.umask(umask)
        if not _blocks.open:
            _blocks.before = before
        _blocks.open += 1
    try:
        yield
    finally:
        with _blocks.lock:
            _blocks.open -= 1
            if not _blocks.open:
                os.umask(_blocks.before)


def chosen_umask() -> int:
    """The umask that MRM_ACCESS names. Raises ConfigError for an unknown value."""
    access = os.environ.get(VARIABLE) or "private"
    if access not in UMASKS:
        raise ConfigError(f"{VARIABLE}: unknown access {access!r}; choose from {', '.join(UMASKS)}")
    return UMASKS[access]
