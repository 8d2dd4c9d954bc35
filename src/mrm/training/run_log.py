"""What a training run records as it goes: the log that a resumed run continues, and the clock of its steps."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

from mrm.system.files import write_csv


class Log:
    """A CSV that a resumed run continues: rows beyond the step it resumes from are dropped first."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        for file in (path, path.with_name("validation.csv")):
            if file.is_file():
                text = file.read_text(errors="replace")
                whole = text[: text.rfind("\n") + 1]  # a kill, or a full disk, may have cut the last line
                header, *rows = [*csv.reader(whole.splitlines())] or [[]]
                rows = [row for row in rows if len(row) == len(header) and row[0].isdigit() and int(row[0]) <= step]
                if header:
                    write_csv(file, header, rows)

    def write(self, row: dict[str, Any], path: Path | None = None) -> None:
        """Append a row; the first one writes the header."""
        path = path or self.path
        new = not path.is_file() or path.stat().st_size == 0
        with open(path, "a", newline="") as text:
            writer = csv.writer(text, lineterminator="\n")
            if new:
                writer.writerow(row)
            writer.writerow(row.values())


class Clock:
    """Steps a second since this process began, validation left out."""

    def __init__(self, step: int) -> None:
        self.step, self.start = step, time.perf_counter()

    def seconds(self) -> float:
        """Seconds since this process began, validation left out."""
        return time.perf_counter() - self.start

    def rate(self, step: int) -> float:
        """Steps a second."""
        return max(step - self.step, 1) / self.seconds()

    def paused(self) -> Any:
        """A block whose time does not count."""
        return Pause(self)


class Pause:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.clock.start += time.perf_counter() - self.began
