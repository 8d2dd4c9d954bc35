"""Results of long work on many files, saved as they arrive, so that an interrupted command can resume."""

from __future__ import annotations

import glob
import json
from pathlib import Path
from typing import Any

from mrm.system.permissions import restricted
from mrm.system.shares import WHOLE, Share


class Journal:
    """Results by key in a file of JSON lines. A result whose line was cut off by an interruption is computed again.

    Of work in shares, each share adds to a file of its own beside it, and knows the results of all.
    """

    def __init__(self, path: Path, share: Share = WHOLE) -> None:
        self.whole, self.known = path, dict[str, Any]()
        self.path = path if share == WHOLE else path.with_name(f"{path.name}.{share.label}")
        self.damaged = 0  # lines that hold no result, such as one that was cut off
        for file in self._files():
            for line in file.read_text(errors="replace").splitlines():
                try:
                    key, value = json.loads(line)
                except (ValueError, TypeError):
                    self.damaged += bool(line.strip())
                    continue
                self.known[key] = value

    def __enter__(self) -> Journal:
        with restricted():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a", buffering=1)  # by lines, since a killed process does not close its files
        if self.path.stat().st_size:
            self.file.write("\n")  # ends a line that was cut off
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def add(self, key: str, value: Any) -> None:
        """Save one result; only inside the `with` block."""
        self.known[key] = value
        self.file.write(json.dumps([key, value]) + "\n")

    def forget(self) -> None:
        """Remove the file, and those of shares, once the work it belongs to is complete."""
        for file in self._files():
            file.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        shares = sorted(self.whole.parent.glob(f"{glob.escape(self.whole.name)}.*-of-*"))
        return [file for file in (self.whole, *shares) if file.is_file()]


def file_state(file: Path) -> str:
    """A key for results that depend on a file: its path, size and modification time."""
    try:
        state = file.stat()
    except OSError:
        return f"{file}|gone"
    return f"{file}|{state.st_size}|{state.st_mtime_ns}"
