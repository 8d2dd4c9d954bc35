"""What a command prints at its end."""

from __future__ import annotations


def say(*lines: str) -> None:
    """Print lines once, however many ranks there are."""
    from mrm.training.trainer import processes

    if processes().is_main_process:
        print("\n".join(lines))
