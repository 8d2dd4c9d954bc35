"""Waiting for what happens in another thread or process."""

import subprocess
import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float = 60.0, running: subprocess.Popen | None = None) -> None:
    """Wait until the condition is true: at most so many seconds, and while the process in which it comes true runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert running is None or running.poll() is None, f"it ended with {running.returncode}"
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
