"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable


class on_signal:
    """Turn SIGTERM and the first SIGINT within a block into a request; the second SIGINT acts as usual.

    SIGTERM comes twice where a scheduler signals every process of a job: once from it, and once from `torchrun`.
    """

    def __init__(self, request: Callable[[], None]) -> None:
        self.request = request

    def __enter__(self) -> None:
        self.before = {s: signal.signal(s, self._answer) for s in (signal.SIGTERM, signal.SIGINT)}

    def _answer(self, number: int, _: object) -> None:
        self.request()
        if number == signal.SIGINT:
            signal.signal(number, self.before[signal.SIGINT])

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
