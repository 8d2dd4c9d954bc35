"""What a command prints at its end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mrm.system.errors import UNREAD

if TYPE_CHECKING:
    from mrm.runs.written import Written


def say(*lines: str) -> None:
    """Print lines once, however many ranks there are."""
    from mrm.training.trainer import processes

    if processes().is_main_process:
        print("\n".join(lines))


def end(unreadable: int) -> None:
    """End the command: with exit status 3 if some images could not be read."""
    if unreadable:
        sys.exit(UNREAD)


def end_with(written: Written, *lines: str) -> None:
    """Print what was written, and further lines, or that a share of the work is done; then end the command."""
    print(*([f"wrote {written}", *lines] if written.written else [str(written)]), sep="\n")
    end(written.unreadable)
