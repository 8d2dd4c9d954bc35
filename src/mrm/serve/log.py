"""The log of the service: standard error, a few lines a minute, and never a word of what a client sent."""

from __future__ import annotations

import logging
import sys
import traceback
from time import monotonic

LINES_PER_MINUTE = 30
LIBRARIES = ("uvicorn", "asyncio")


class Log:
    """Lines on standard error. A flood of bad requests must not fill a disk, so what exceeds the limit is only counted."""

    def __init__(self, lines_per_minute: int = LINES_PER_MINUTE) -> None:
        self.lines_per_minute = lines_per_minute
        self.left_out = 0  # since the start
        self._minute, self._lines, self._left_out = 0, 0, 0

    def write(self, text: str) -> None:
        """Write a line, unless this minute has had its share."""
        minute = int(monotonic() // 60)
        if minute != self._minute:
            if self._left_out:
                self._print(f"warning: {self._left_out:,} lines of the log were left out, since there were too many")
            self._minute, self._lines, self._left_out = minute, 0, 0
        self._lines += 1
        if self._lines <= self.lines_per_minute:
            self._print(text)
        else:
            self._left_out += 1
            self.left_out += 1

    def failure(self, error: BaseException) -> None:
        """Log the type and place of an error, but not its message, which may quote an image or a report."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        self.write(f"error: a request failed with {type(error).__name__}{place}")

    def take_over(self, libraries: tuple[str, ...] = LIBRARIES) -> None:
        """Send the warnings of the libraries that run the service here too."""
        for name in libraries:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = [_Handler(self)], False
            logger.setLevel(logging.WARNING)

    def _print(self, text: str) -> None:
        print(f"mrm: {text}", file=sys.stderr, flush=True)


class _Handler(logging.Handler):
    """Logs the first line of a library's message, which is fixed text; of an exception, only type and place."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            self._log.failure(error)
        else:
            self._log.write(f"{record.levelname.lower()}: {record.getMessage().partition(chr(10))[0]}")
