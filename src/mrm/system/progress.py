"""What long work shows of itself: how far it is, its rate, and the time it has left."""

from __future__ import annotations

import sys
import time


class Progress:
    """A line with count, rate and time left: in place on a terminal, else every half minute."""

    def __init__(self, what: str) -> None:
        self.what, self.start, self.last = what, time.monotonic(), time.monotonic()
        self.first: int | None = None

    def __call__(self, done: int, n: int) -> None:
        """Show that `done` of `n` are done."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.start = done, now  # what an earlier command has done says nothing of the rate
        terminal = sys.stderr.isatty()
        if done < n and now - self.last < (0.2 if terminal else 30):
            return
        self.last = now
        rate = (done - self.first) / max(1e-9, now - self.start)
        left = f", {rate:,.1f}/s, {duration((n - done) / rate)} left" if rate and done < n else ""
        end = "" if terminal and done < n else "\n"
        print(
            f"{chr(13) if terminal else ''}{self.what}: {done:,} of {n:,}{left}   ",
            end=end,
            file=sys.stderr,
            flush=True,
        )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03."""
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{left:02d}"
