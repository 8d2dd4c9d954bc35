"""Results of long work on many files, kept as they come, so that the same command goes on where it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Journal:
    """Results by key in a file of JSON lines. A line that an interruption cut is done again."""

    def __init__(self, path: Path) -> None:
        self.path, self.known = path, dict[str, Any]()
        if path.is_file():
            for line in path.read_text(errors="replace").splitlines():
                try:
                    key, value = json.loads(line)
                except (ValueError, TypeError):
                    continue
                self.known[key] = value

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("a", buffering=1)  # line by line: a kill closes no file
        if self.path.stat().st_size:
            self.file.write("\n")  # ends a line that was cut
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def add(self, key: str, value: Any) -> None:
        """Keep one result; between `with` and its end."""
        self.known[key] = value
        self.file.write(json.dumps([key, value]) + "\n")

    def forget(self) -> None:
        """Drop the file; what it was for is complete."""
        self.path.unlink(missing_ok=True)


def file_state(file: Path) -> str:
    """A key for what is made of a file: its path, size and time of change."""
    try:
        state = file.stat()
    except OSError:
        return f"{file}|gone"
    return f"{file}|{state.st_size}|{state.st_mtime_ns}"
