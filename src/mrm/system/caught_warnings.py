"""The warnings of one piece of work, also where several threads work at the same time.

`warnings.catch_warnings` replaces what the whole process does with warnings, so that one thread would catch those of
another. Here all threads share one replacement, which gives each warning to the thread that raised it.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class _Shared:
    """What the threads share: the replacement, how many of them need it, and what it replaced."""

    def __init__(self) -> None:
        self.lock, self.users = threading.Lock(), 0
        self.saved: warnings.catch_warnings | None = None
        self.show: Callable[..., Any] = warnings.showwarning
        self.own = threading.local()  # .messages: of the thread that is catching

    def enter(self) -> None:
        with self.lock:
            if self.users == 0:
                self.saved = warnings.catch_warnings()
                self.saved.__enter__()
                self.show, warnings.showwarning = warnings.showwarning, self.keep_or_show
                warnings.simplefilter("always")
            self.users += 1

    def leave(self) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0 and self.saved is not None:
                self.saved.__exit__(None, None, None)

    def keep_or_show(self, message: Warning | str, *details: Any, **more: Any) -> None:
        messages = getattr(self.own, "messages", None)
        if messages is None:  # of a thread that is not catching
            self.show(message, *details, **more)
        else:
            messages.append(str(message))


_SHARED = _Shared()


@contextmanager
def caught_warnings() -> Iterator[list[str]]:
    """The messages of the warnings that this thread raises meanwhile, as they come, each once; none of them is shown.

    Within another such block of the same thread, the inner one keeps them.
    """
    outer, messages = getattr(_SHARED.own, "messages", None), _Messages()
    _SHARED.enter()
    _SHARED.own.messages = messages
    try:
        yield messages
    finally:
        _SHARED.own.messages = outer
        _SHARED.leave()


class _Messages(list[str]):
    """A list that a message enters once."""

    def append(self, message: str) -> None:
        if message not in self:
            super().append(message)
