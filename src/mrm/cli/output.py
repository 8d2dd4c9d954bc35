"""What a command prints at its end."""

from __future__ import annotations

import sys

from mrm.system.errors import UNREAD


def say(*lines: str) -> None:
    """Print lines once, however many ranks there are."""
    from mrm.training.trainer import processes

    if processes().is_main_process:
        print("\n".join(lines))


def end(unreadable: int) -> None:
    """End the command: with exit status 3 if some images could not be read."""
    if unreadable:
        sys.exit(UNREAD)
