"""The progress of long work: how much is done, how fast, and the time left."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TypeVar

from mrm.system.durations import duration

Item = TypeVar("Item")
REDRAW = 0.2  # seconds between two updates of the line on a terminal
LOG = 30.0  # seconds between two lines anywhere else


class Progress:
    """A line on standard error with count, rate and time left: in place on a terminal, else every half minute.

    A total of 0 is unknown: the line then has no time left.

    A block guarantees that the line ends, whatever ends the work::

        with Progress("restoring", len(records)) as progress:
            for record in progress.over(records):
                ...  # `continue` counts too

    The work may also call `add`, or call the progress itself with (number done, total) as a callback.
    """

    def __init__(self, what: str, total: int = 0) -> None:
        self.what, self.total, self.done = what, total, 0
        self.start = self.updated = monotonic()
        self.first: int | None = None  # the count at the first update; an earlier command may have done that much
        self.shown = 0  # the count that was shown last
        self.line_is_open = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done, if that is news and an update is due."""
        self.done, self.total = done, total
        now = monotonic()
        if self.first is None:
            self.first, self.start = done, now
        due = now - self.updated >= (REDRAW if sys.stderr.isatty() else LOG)
        complete = 0 < total <= done
        if due or (complete and done != self.shown):
            self.updated = now
            self._show(now, ends=complete)

    def add(self, count: int = 1) -> None:
        """Count more as done."""
        self(self.done + count, self.total)

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items; each counts as done when the next one is asked for."""
        for item in items:
            yield item
            self.add()

    def end(self) -> None:
        """End the line; shows how far the work came if it stopped early."""
        if self.done != self.shown:
            self._show(monotonic(), ends=True)
        elif self.line_is_open:
            print(file=sys.stderr, flush=True)
        self.line_is_open = False

    def _show(self, now: float, ends: bool) -> None:
        terminal = sys.stderr.isatty()
        of_all = f" of {self.total:,}" if self.total else ""
        text = f"{self.what}: {self.done:,}{of_all}{self._speed(now)}"
        self.shown, self.line_is_open = self.done, terminal and not ends
        start, end = ("\r" if terminal else ""), ("" if self.line_is_open else "\n")
        print(f"{start}{text}   ", end=end, file=sys.stderr, flush=True)  # the blanks cover a longer line before

    def _speed(self, now: float) -> str:
        """Rate and time left; empty before the second update and at the end."""
        count = self.done - (self.first or 0)
        if count <= 0 or 0 < self.total <= self.done:
            return ""
        rate = count / max(1e-9, now - self.start)
        if not self.total:
            return f", {rate:,.1f}/s"
        return f", {rate:,.1f}/s, {duration((self.total - self.done) / rate)} left"
